"""The folder of pictures: whole files, or none."""

import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from smoothed_energy.report import read_settings
from smoothed_energy.sweeps.pictures import Drawn, PictureFolder

ID = "0123456789abcdef01234567"


@pytest.fixture(scope="module")
def noise():
    return Image.frombytes("RGB", (20, 10), bytes(i * 37 % 256 for i in range(600)))


@pytest.fixture
def folder(tmp_path, noise):
    folder = PictureFolder(tmp_path)
    folder.write(ID, noise, {"seed": 7, "facts": {"guided_steps": 3}})
    return folder


def test_a_picture_is_found_with_its_facts(folder, noise, tmp_path):
    assert folder.read(ID) == folder.glance(ID) == Drawn(20, 10, {"guided_steps": 3})
    path = tmp_path / "pictures" / "01" / f"{ID}.png"
    assert [*tmp_path.rglob("*.*")] == [path]
    assert read_settings(path) == {"id": ID, "seed": 7, "facts": {"guided_steps": 3}}
    with Image.open(path) as image:
        assert image.tobytes() == noise.tobytes()


def test_the_same_picture_has_the_same_bytes(folder, noise, tmp_path):
    before = folder.path(ID).read_bytes()
    folder.write(ID, noise, {"facts": {"guided_steps": 3}, "seed": 7})
    assert folder.path(ID).read_bytes() == before


def test_no_beginning_of_a_file_is_a_picture(folder):
    data = folder.path(ID).read_bytes()
    for length in range(len(data)):
        folder.path(ID).write_bytes(data[:length])
        assert folder.read(ID) is None and folder.glance(ID) is None


@given(where=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_in_which_a_bit_flipped_is_no_picture(folder, noise, where, bit):
    folder.write(ID, noise, {"seed": 7})
    data = bytearray(folder.path(ID).read_bytes())
    data[where % len(data)] ^= 1 << bit
    folder.path(ID).write_bytes(data)
    assert folder.read(ID) is None


def test_other_files_are_no_pictures(folder, noise, tmp_path):
    other = "f" * 24
    path = folder.path(other)
    path.parent.mkdir()
    for data in (b"", b"words" * 10, folder.path(ID).read_bytes()):
        path.write_bytes(data)
        assert folder.read(other) is None
    noise.save(path)
    assert folder.read(other) is None
    noise.save(path, format="JPEG")
    assert folder.read(other) is None
    path.unlink()
    path.mkdir()
    assert folder.read(other) is None
    assert folder.read("e" * 24) is None


def test_a_file_whose_memory_is_no_memory_is_no_picture(folder, noise):
    from PIL.PngImagePlugin import PngInfo

    for text in ("{", "[]", "5", json.dumps({"id": ID}), json.dumps({"id": ID, "version": 99})):
        info = PngInfo()
        info.add_text("smoothed-energy", text)
        noise.save(folder.path(ID), pnginfo=info)
        assert folder.read(ID) is None


def test_a_write_that_fails_leaves_what_was_there(folder, noise, monkeypatch):
    before = folder.path(ID).read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        folder.write(ID, Image.new("RGB", (9, 9)), {})
    assert folder.path(ID).read_bytes() == before
    assert [*folder.path(ID).parent.iterdir()] == [folder.path(ID)]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, noise, monkeypatch):
    folder, order = PictureFolder(tmp_path), []
    fsync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: order.append("fsync") or fsync(fd))
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda self, to: order.append("replace") or replace(self, to)
    )
    folder.write(ID, noise, {})
    assert order == ["fsync", "replace", "fsync"]


def test_old_unfinished_files_are_forgotten(folder):
    place = folder.path(ID).parent
    old, young = place / ".a.1.unfinished", place / ".b.2.unfinished"
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    folder.forget_unfinished()
    assert not old.exists() and young.exists() and folder.path(ID).exists()
