"""Batches made ahead: the same as without, in the order of the steps, and their errors."""

import threading

import pytest
from training.ahead import Ahead


def test_answers_are_those_of_the_function_in_any_order():
    ahead = Ahead(lambda step, size: (step, size), threads=2, steps=3)
    asked = [(0, 4), (1, 4), (2, 4), (7, 4), (8, 4), (8, 2), (3, 2), (4, 2)]
    assert [ahead(*each) for each in asked] == asked


def test_the_next_ones_are_made_before_they_are_asked_for():
    made, all_made = [], threading.Event()

    def batch(step, size):
        made.append(step)
        if len(made) == 4:
            all_made.set()
        return step

    ahead = Ahead(batch, threads=1, steps=4)
    assert ahead(5, 1) == 5
    assert all_made.wait(10)
    assert made == [5, 6, 7, 8]
    assert [ahead(step, 1) for step in (6, 7)] == [6, 7]
    assert made.count(6) == 1


def test_an_error_comes_with_the_step_it_belongs_to():
    def batch(step, size):
        if step == 2:
            raise ValueError("no batch for 2")
        return step

    ahead = Ahead(batch, threads=2, steps=4)
    assert [ahead(0, 1), ahead(1, 1)] == [0, 1]
    with pytest.raises(ValueError, match="no batch for 2"):
        ahead(2, 1)
    assert ahead(3, 1) == 3
