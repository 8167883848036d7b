"""Contact sheets, and images that carry their settings."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from smoothed_energy.report import Series, contact_sheet, read_settings, save_image


def image(colour="#123456", size=(64, 64)):
    return Image.new("RGB", size, colour)


class TestSettingsInImages:
    def test_settings_come_back_as_they_were_written(self, tmp_path):
        settings = {"prompt": "naïve “quotes” 寿司", "scale": 3.0, "size": [64, 96], "none": None}
        path = tmp_path / "new folder" / "a.png"
        save_image(image(), path, settings)
        assert read_settings(path) == settings
        with Image.open(path) as reopened:
            assert reopened.tobytes() == image().tobytes()
        assert [file.name for file in path.parent.iterdir()] == ["a.png"]

    def test_an_interrupted_write_leaves_nothing(self, tmp_path, monkeypatch):
        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(Image.Image, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            save_image(image(), tmp_path / "a.png", {})
        assert list(tmp_path.iterdir()) == []

    def test_what_holds_no_settings_is_refused_in_one_line(self, tmp_path):
        image().save(tmp_path / "plain.png")
        image().save(tmp_path / "photo.jpg")
        (tmp_path / "text.png").write_text("not an image")
        for name, message in {
            "plain.png": "no settings",
            "photo.jpg": "no settings",
            "text.png": "not an image",
            "missing.png": "no such file",
        }.items():
            with pytest.raises(ValueError, match=message) as caught:
                read_settings(tmp_path / name)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (json.dumps({"version": 2}), "version 2; this program reads version 1"),
            ("{", "cannot be read"),
            ("[1]", "cannot be read"),
            ("{}", "cannot be read"),
        ],
    )
    def test_settings_of_another_version_or_form_are_refused(self, tmp_path, text, message):
        info = PngInfo()
        info.add_text("smoothed-energy", text)
        image().save(tmp_path / "a.png", pnginfo=info)
        with pytest.raises(ValueError, match=message):
            read_settings(tmp_path / "a.png")


class TestContactSheet:
    def sheet(self, columns=3, size=(64, 64), colours=("#ff0000", "#0000ff"), title="Title"):
        rows = [
            Series(f"row {colour}", [image(colour, size)] * columns, "detail") for colour in colours
        ]
        return contact_sheet(rows, [f"seed {i}" for i in range(columns)], title, "subtitle")

    def count(self, sheet, colour):
        return sum(number for number, pixel in sheet.getcolors(2**20) if pixel == colour)

    def test_every_image_is_on_it_enlarged_by_a_whole_factor(self):
        sheet = self.sheet()
        assert self.count(sheet, (255, 0, 0)) == 3 * (3 * 64) ** 2
        assert self.count(sheet, (0, 0, 255)) == 3 * (3 * 64) ** 2

    def test_large_images_are_reduced_and_keep_their_shape(self):
        sheet = self.sheet(columns=1, size=(1024, 512))
        assert self.count(sheet, (255, 0, 0)) == 384 * 192

    def test_many_columns_continue_below_in_bands_of_like_length(self):
        narrow, wide = self.sheet(columns=6), self.sheet(columns=12)
        assert wide.width == narrow.width
        assert wide.height > 1.8 * narrow.height
        assert self.count(wide, (255, 0, 0)) == 12 * (3 * 64) ** 2

    def test_a_long_title_stays_inside(self):
        sheet = self.sheet(columns=1, title="word " * 200)
        margin = sheet.crop((sheet.width - 20, 0, sheet.width, sheet.height))
        assert margin.getcolors() == [(20 * sheet.height, (255, 255, 255))]

    def test_a_title_without_spaces_is_cut(self):
        sheet = self.sheet(columns=1, title="m" * 500)
        margin = sheet.crop((sheet.width - 20, 0, sheet.width, sheet.height))
        assert margin.getcolors() == [(20 * sheet.height, (255, 255, 255))]

    def test_series_of_the_wrong_length_are_refused(self):
        with pytest.raises(ValueError, match="'a' has 1 images for 2 columns"):
            contact_sheet([Series("a", [image()])], ["x", "y"], "title")
        with pytest.raises(ValueError, match="at least one"):
            contact_sheet([], [], "title")
