"""Files that are whole or not there."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothed_energy.files import whole_file


def write(path, data, **options):
    with whole_file(path, **options) as file:
        file.write(data)


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_file_that_is_there_is_replaced_or_kept_as_asked(tmp_path):
    path = tmp_path / "new" / "a"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    with pytest.raises(FileExistsError):
        write(path, b"three", replace=False)
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["a"]


def test_without_links_nothing_is_replaced_either(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError("this file system has no links")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "a", b"one", replace=False)
    with pytest.raises(FileExistsError):
        write(tmp_path / "a", b"two", replace=False)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


def test_what_fails_leaves_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "a").read_bytes() == b"before"
    assert names(tmp_path) == ["a"]


def test_of_many_writers_at_once_one_wins_and_the_others_are_told(tmp_path):
    """A writer's file is whole, and it is that of the one writer who was not refused."""
    lost, barrier = [], threading.Barrier(8)

    def compete(number):
        barrier.wait()
        try:
            write(tmp_path / "a", bytes([number]) * 100_000, replace=False)
        except FileExistsError:
            lost.append(number)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = {*range(8)} - {*lost}
    assert (tmp_path / "a").read_bytes() == bytes([winner]) * 100_000
    assert names(tmp_path) == ["a"]


@given(length=st.integers(1, 255))
def test_names_of_any_length_that_a_file_may_have(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("names") / ("x" * length)
    write(path, b"whole", replace=False)
    assert path.read_bytes() == b"whole"


def test_the_user_s_mask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
