"""What a guidance remembers from one step to the next."""

import pytest
import torch

from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.engine.participant import History as Memory
from smoothed_energy.schedule.steps import StepPosition

SHAPE = torch.Size((1, 3))


def never():
    raise AssertionError("asked for nothing")


def at(index, count=10):
    return lambda: StepPosition(index, count)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_difference_is_used_in_as_many_steps_as_said(every):
    memory = Memory(SmoothedEnergyGuidance(every=every))
    difference = torch.randn(1, 3)
    assert not memory.holds()
    memory.keep(difference)
    uses = 1
    while memory.holds():
        assert memory.use() is difference
        uses += 1
    assert uses == every


def test_a_difference_of_another_shape_is_not_used():
    memory = Memory(SmoothedEnergyGuidance(every=2))
    memory.keep(torch.randn(1, 3), SHAPE)
    assert not memory.holds(torch.Size((2, 3)))
    assert memory.holds(SHAPE)
    memory.forget()
    assert not memory.holds(SHAPE)


def test_the_position_is_asked_only_if_it_matters():
    assert Memory(SmoothedEnergyGuidance(scale=0, steps="begin")).scale(never) == 0
    assert Memory(SmoothedEnergyGuidance(scale=2)).scale(never) == 2
    early = Memory(SmoothedEnergyGuidance(scale=2, steps="begin"))
    assert [early.scale(at(index)) for index in (0, 9)] == [2, 0]


def test_the_highest_similarity_ends_the_guidance_until_it_is_forgotten():
    memory = Memory(SmoothedEnergyGuidance(scale=2, steps="adaptive:0.9"))
    for similarity, scale in [(0.5, 2), (0.95, 0), (0.6, 0)]:
        memory.note(lambda similarity=similarity: similarity)
        assert memory.scale(at(3)) == scale
    memory.forget()
    assert memory.scale(at(3)) == 2


def test_a_similarity_that_nothing_depends_on_is_not_worked_out():
    Memory(SmoothedEnergyGuidance()).note(never)
