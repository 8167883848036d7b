"""Pages as files: refusals, escaping, pictures and plots inside, the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sample_page import HOSTILE, grid, hostile_page, picture, sample_page

import smoothed_energy.report.page.write as write
from smoothed_energy.report.page import (
    PALETTE,
    Cell,
    Line,
    Number,
    Page,
    PictureGrid,
    Plot,
    PlotAxes,
    Points,
    Section,
    Verdict,
    interval_plot,
    line_plot,
    literal,
    point_plot,
    render_page,
    write_page,
)
from smoothed_energy.report.page.picture_data import embed
from smoothed_energy.report.page.svg import page_svg
from smoothed_energy.report.page.text import inline_html, text_html
from smoothed_energy.report.page.view import script_json

lines_of_text = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1)


@pytest.fixture(scope="module")
def sample():
    return render_page(sample_page())


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


class TestRefusals:
    def test_of_sections_and_pages(self):
        with pytest.raises(TypeError, match="expected one of PictureGrid, Table, Plot, Verdict"):
            Section("a", blocks=["text"])
        with pytest.raises(ValueError, match="expected a title for the section"):
            Section(" ")
        with pytest.raises(ValueError, match="expected a title for the page"):
            Page("")
        with pytest.raises(ValueError, match="anchor='_a': expected a letter"):
            Section("a", anchor="_a")
        with pytest.raises(ValueError, match="'A' and the section 'a' both have the anchor 'a'"):
            Page("p", sections=[Section("A"), Section("a")])
        with pytest.raises(ValueError, match="the summary and the section 'Summary'"):
            Page("p", sections=[Section("Summary")])

    def test_of_verdicts(self):
        with pytest.raises(ValueError, match="expected one of 'holds', 'does not hold', \"can't"):
            Verdict("c", "s", "maybe", "b")

    def test_of_grids(self):
        image = picture(0)
        with pytest.raises(ValueError, match="has no cells"):
            PictureGrid([], "g")
        with pytest.raises(ValueError, match=r"with the axes \['a'\] and \['b'\]"):
            PictureGrid([Cell(image, {"a": "1"}), Cell(image, {"b": "1"})], "g")
        with pytest.raises(ValueError, match=r"two cells at \{'a': '1'\}"):
            PictureGrid([Cell(image, {"a": "1"}), Cell(image, {"a": "1"})], "g")
        with pytest.raises(ValueError, match="rows='b': the grid 'g' has no such axis; it has a"):
            PictureGrid([Cell(image, {"a": "1"})], "g", rows="b")
        with pytest.raises(ValueError, match="expected two axes"):
            PictureGrid([Cell(image, {"a": "1"})], "g", rows="a", columns="a")
        with pytest.raises(ValueError, match=r"no cell at \{'a': '0'\}, the baseline of"):
            PictureGrid([Cell(image, {"a": "1"}, baseline={"a": "0"})], "g")

    def test_of_cells(self):
        image = picture(0)
        with pytest.raises(TypeError, match="'a' has the value 1; expected texts"):
            Cell(image, {"a": 1})
        with pytest.raises(TypeError, match="expected a PIL image or the path"):
            Cell(b"")
        with pytest.raises(ValueError, match="no axis 'b'; it has a"):
            Cell(image, {"a": "1"}, baseline={"b": "0"})
        with pytest.raises(ValueError, match="a baseline of its own"):
            Cell(image, baseline=Cell(image, baseline=Cell(image)))

    def test_of_pictures_that_cannot_be_read(self, tmp_path):
        (tmp_path / "text.png").write_text("text")
        for name, message in {"missing.png": "no such picture", "text.png": "not a pict"}.items():
            page = Page("p", sections=[Section("s", blocks=[_one(tmp_path / name)])])
            with pytest.raises(ValueError, match=f"{name}: .*{message}"):
                write_page(page, tmp_path / "page.html")
        assert [path.name for path in tmp_path.iterdir()] == ["text.png"]

    def test_without_jinja2_the_error_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "jinja2", None)
        write._environment.cache_clear()
        with pytest.raises(ImportError, match=r"pip install 'smoothed-energy\[measure\]'"):
            render_page(Page("p"))


class TestText:
    def test_a_small_part_of_markdown(self):
        found = text_html(
            "One *two* **three** `four <b>`\nfive.\n\n- [six](https://a.example/?a&b)"
        )
        assert found == (
            "<p>One <em>two</em> <strong>three</strong> <code>four &lt;b&gt;</code>\nfive.</p>\n"
            '<ul>\n<li><a href="https://a.example/?a&amp;b">six</a></li>\n</ul>'
        )

    @pytest.mark.parametrize(
        "address", ["javascript:x", "data:text/html,x", "vbscript:x", "file:/x"]
    )
    def test_links_that_may_run_code_stay_text(self, address):
        assert "<a" not in inline_html(f"[a]({address})")

    def test_pictures_html_and_headings_are_no_markup(self):
        text = "# a ![b](https://c.example/d.png) <img src=e>"
        assert re.findall("<[a-z]+", inline_html(text)) == ["<a"]

    @given(lines_of_text)
    def test_a_literal_text_is_read_as_it_is(self, text):
        for source, words in {
            f"x {literal(text)}": f"x {text}",
            f"{literal(text)} x": f"{text} x",
        }.items():
            found = text_html(source)
            assert re.findall("<[^>]*>", found) == ["<p>", "</p>"]
            read = html.unescape(found.removeprefix("<p>").removesuffix("</p>"))
            assert read.split() == words.split()

    @given(st.recursive(st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
    def test_json_in_a_script_is_the_same_json_and_cannot_end_the_script(self, data):
        text = str(script_json(data))
        assert json.loads(text) == data
        assert not re.search("[<>&\u2028\u2029]", text)


class TestPictures:
    def test_small_ones_keep_every_pixel_and_no_metadata(self, tmp_path):
        info = PngInfo()
        info.add_text("secret", "x" * 100)
        picture(1).save(tmp_path / "a.png", pnginfo=info)
        for source in (picture(1), tmp_path / "a.png", str(tmp_path / "a.png")):
            found = embed(source, 768)
            image = opened(found.uri)
            assert (image.format, found.size, found.original) == ("PNG", (96, 96), (96, 96))
            assert image.info == {}
            assert np.array_equal(np.asarray(image), np.asarray(picture(1)))

    def test_large_ones_are_reduced_to_the_limit_and_stay_near_the_original(self):
        source = picture(2, size=400).resize((400, 200))
        found = embed(source, 300)
        image = opened(found.uri)
        assert (image.format, image.size) == ("WEBP", (300, 150))
        assert (found.size, found.original) == ((300, 150), (400, 200))
        reduced = np.asarray(source.resize((300, 150), Image.Resampling.LANCZOS), float)
        assert np.abs(np.asarray(image.convert("RGB"), float) - reduced).mean() < 3

    def test_ones_within_the_limit_keep_their_size(self):
        assert embed(picture(2, size=300), 300).size == (300, 300)

    def test_transparency_stays(self):
        image = picture(3).convert("RGBA")
        image.putalpha(77)
        assert opened(embed(image, 768).uri).getpixel((5, 5))[3] == 77
        palette = picture(3).quantize(4)
        assert opened(embed(palette, 768).uri).mode == "RGB"

    def test_the_same_picture_is_in_a_page_once(self, sample):
        cells = len(grid().cells) + 3 + 1  # the large ones share their baseline
        assert len(re.findall('id="_picture-', sample)) == cells
        twice = [_one(picture(1)), _one(picture(1))]
        text = render_page(Page("p", sections=[Section("s", blocks=twice)]))
        assert text.count("data:image/png") == 1

    def test_cells_tell_place_settings_and_baseline(self, sample):
        data = json.loads(re.search(r'id="_grid-1".*?json">(.*?)</script>', sample, re.S)[1])
        cell, baseline = data["cells"][9], data["cells"][1]
        assert cell["axes"] == [["scale", "1.5"], ["layers", "mid"], ["seed", "1"]]
        assert cell["settings"] == [
            *(["steps", "8"], ["prompt", HOSTILE], ["sigma", "∞"], ["rescale", "0.5"])
        ]
        assert (cell["at"], cell["baseline"]) == ([1, 0, 1], 1)
        assert (baseline["at"], baseline["baseline"]) == ([0, 0, 1], None)


class TestPlots:
    line = Line("a $x$ _y <b>", (1, 2, 3), (1, Number(2, 1, 3), 1.5))

    def test_the_same_data_give_the_same_bytes_whatever_the_user_s_style(self):
        import matplotlib

        plots = []
        for style in ({}, {"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "x"}):
            with matplotlib.rc_context(style):
                plots.append(line_plot([self.line], PlotAxes("x", "y"), "c"))
                assert all(matplotlib.rcParams[key] == value for key, value in style.items())
        assert plots[0].svg == plots[1].svg
        assert "<dc:date>" not in plots[0].svg

    def test_labels_are_text_as_they_were_given(self):
        svg = line_plot([self.line, Line("_b", (1,), (2,))], PlotAxes("$x_1$", "寿司"), "c").svg
        texts = [html.unescape(text) for text in re.findall(r"<text [^>]*>([^<]*)</text>", svg)]
        assert {"a $x$ _y <b>", "_b", "$x_1$", "寿司"} <= set(texts)

    def test_long_texts_along_x_do_not_run_into_each_other(self):
        texts = [f"SEG sigma {sigma}, scale 0.7" for sigma in (1, 2, 5, 10, "inf")]
        svg = line_plot([Line("a", texts, (1, 2, 3, 4, 5))], PlotAxes("row", "y"), "c").svg
        written = re.findall(r">([^<>]+)</text>|>([^<>]+)</tspan>", svg)
        pieces = {one for pair in written for one in pair if one}
        assert not pieces & set(texts)
        assert {"SEG sigma 1,", "scale 0.7"} <= pieces

    def test_lines_bands_and_points_are_where_the_numbers_are(self):
        svg = line_plot([Line("a", (0, 10), (Number(0, -1, 1), 5))], PlotAxes("x", "y"), "c").svg
        d = re.search(r'id="line2d_\d+">\s*<path d="([^"]*)"[^>]*stroke: #0b69a3', svg)
        xy = re.findall(r"[ML] ([\d.]+) ([\d.]+)", d[1])
        (left, low), (right, high) = [tuple(map(float, pair)) for pair in xy]
        assert left < right
        assert low > high  # y points down
        name = r"(?:FillBetween|PolyCollection)\w*"  # before matplotlib 3.10
        band = re.search(rf'id="{name}".*? d="([^"]*)".*?<use [^>]*y="([\d.]+)"', svg, re.S)
        points = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", band[1])
        ys = [float(y) + float(band[2]) for _, y in points]
        unit = (low - high) / 5
        assert max(ys) == pytest.approx(low + unit, abs=1e-3)
        assert min(ys) == pytest.approx(high, abs=1e-3)

    def test_the_numbers_come_along_as_a_table(self):
        lines = [Line("a", (1, 2), (5, Number(6, 5, 7))), Line("b", (2, 3), (7, 8))]
        table = line_plot(lines, PlotAxes("x", "y"), "c").data
        assert [column.name for column in table.columns] == ["x", "a", "b"]
        assert table.rows == (
            (Number(1), Number(5), None),
            (Number(2), Number(6, 5, 7), Number(7)),
            (Number(3), None, Number(8)),
        )
        points = Points("p", (1, 2), (3, 4), ("m", "n"))
        assert point_plot([points], PlotAxes("x", "y"), "c").data.rows == (
            ("p", "m", Number(1), Number(3)),
            ("p", "n", Number(2), Number(4)),
        )
        found = interval_plot({"m": Number(1, 0, 2)}, PlotAxes("x"), "c").data
        assert found.rows == (("m", Number(1, 0, 2)),)

    def test_texts_may_be_along_x(self):
        plot = line_plot([Line("a", ("1", "∞"), (1, 2))], PlotAxes("sigma", "y"), "c")
        assert plot.data.rows == (("1", Number(1)), ("∞", Number(2)))

    def test_numbers_of_two_kinds_never_share_an_axis(self):
        one, other = Number(1, kind="FID"), Number(1, kind="KID")
        axes = PlotAxes("x", "y")
        for draw in (
            lambda: line_plot([Line("a", (1,), (one,)), Line("b", (1,), (other,))], axes, "c"),
            lambda: point_plot([Points("a", (one, other), (1, 2))], axes, "c"),
            lambda: point_plot([Points("a", (1, 2), (one, other))], axes, "c"),
            lambda: interval_plot({"a": one, "b": other}, axes, "c"),
        ):
            with pytest.raises(ValueError, match="several kinds along one axis: FID, KID"):
                draw()

    def test_other_refusals(self):
        axes = PlotAxes("x", "y")
        with pytest.raises(ValueError, match="has 1 values at 2 places"):
            Line("a", (1, 2), (1,))
        with pytest.raises(ValueError, match="inf can't be drawn; expected finite numbers, or tex"):
            Line("a", (1, math.inf), (1, 2))
        with pytest.raises(ValueError, match="2 x, 2 y and 1 names"):
            Points("a", (1, 2), (1, 2), ("m",))
        with pytest.raises(ValueError, match="got nothing"):
            line_plot([], axes, "c")
        with pytest.raises(ValueError, match="'a' is there twice"):
            line_plot([Line("a", (1,), (1,))] * 2, axes, "c")
        with pytest.raises(ValueError, match="texts and numbers along x"):
            line_plot([Line("a", (1,), (1,)), Line("b", ("1",), (1,))], axes, "c")

    def test_without_matplotlib_the_error_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"pip install 'smoothed-energy\[measure\]'"):
            line_plot([self.line], PlotAxes("x", "y"), "c")

    @pytest.mark.parametrize(
        ("inside", "message"),
        [
            ("<script>x</script>", "element <script>"),
            ("<foreignObject/>", "element <foreignObject>"),
            ("<a href='https://a.example'/>", "element <a>"),
            ("<path onclick='x'/>", "attribute onclick"),
            ("<use href='https://a.example/x.svg#a'/>", "refers to 'https://a.example"),
            ("<image href='https://a.example/x.png'/>", "refers to 'https://a.example"),
            ("<image href='data:image/svg+xml;base64,x'/>", "refers to 'data:image/svg"),
            ("<path style='fill: url(https://a.example/x)'/>", "refers to 'fill: url"),
            ("<style>@import 'x'</style>", "style sheet"),
            ("<x:y xmlns:x='http://www.w3.org/1999/xhtml'/>", "element <y>"),
            ("<path>", "no SVG"),
        ],
    )
    def test_svg_that_does_more_than_draw_is_refused(self, inside, message):
        with pytest.raises(ValueError, match=message):
            Plot(f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 1 1'>{inside}</svg>", "c")

    def test_svg_with_entities_or_of_another_root_is_refused(self):
        with pytest.raises(ValueError, match="defines entities"):
            Plot("<!DOCTYPE svg [<!ENTITY a 'b'>]><svg/>", "c")
        with pytest.raises(ValueError, match="the plot is <g>; expected <svg>"):
            Plot("<g xmlns='http://www.w3.org/2000/svg'/>", "c")

    def test_in_a_page_its_ids_are_its_own_and_its_colours_the_theme_s(self):
        found = page_svg(line_plot([self.line], PlotAxes("x", "y"), "c").svg, "p1-", 'a "b"')
        ids = re.findall(r'\bid="([^"]*)"', found)
        assert ids
        assert all(name.startswith("p1-") for name in ids)
        uses = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', found)
        assert {one or other for one, other in uses} <= set(ids)
        assert "var(--series-0)" in found
        assert PALETTE[0] not in found
        assert 'aria-label="a &quot;b&quot;"' in found
        assert "metadata" not in found


class Elements(HTMLParser):
    """The elements of a page, and whether they are closed as they were opened."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def elements(text):
    parser = Elements()
    parser.feed(text)
    parser.close()
    return parser


class TestFile:
    def test_is_well_formed_with_one_of_each_id(self, sample):
        found = elements(sample)
        assert found.open == []
        assert len(found.ids) == len(set(found.ids))
        targets = {v for _, n, v in found.attributes if n in ("aria-labelledby", "aria-controls")}
        assert targets <= {*found.ids}

    def test_refers_to_nothing_outside(self, sample):
        found = elements(sample)
        addresses = [
            v for tag, n, v in found.attributes if n in ("src", "href", "srcset", "action")
        ]
        assert {v.partition(":")[0] + ":" for v in addresses if not v.startswith("#")} == {"data:"}
        assert "url(" not in re.sub(r"url\(#_plot-", "", sample)
        assert "@import" not in sample

    def test_hostile_texts_add_no_element_and_no_attribute(self):
        hostile, harmless = hostile_page(), HOSTILE.replace("<", "").replace("[a](", "(")
        found = elements(render_page(hostile))
        assert found.open == []
        assert found.tags.count("script") == 2 + 2 + 3  # code, pictures, JSON of grid and tables
        assert not [pair for pair in found.attributes if pair[1].startswith("on")]
        addresses = [v for _, n, v in found.attributes if n in ("src", "href")]
        assert not [v for v in addresses if "javascript" in v or "example.com" in v]
        assert harmless != HOSTILE

    def test_the_same_page_gives_the_same_bytes_in_every_process(self, sample):
        script = (
            "import hashlib, sys, smoothed_energy.report.page as p;"
            "print(sorted({'matplotlib', 'jinja2', 'markdown_it', 'torch'} & {*sys.modules}));"
            "import sample_page;"
            "text = p.render_page(sample_page.sample_page());"
            "print(hashlib.sha256(text.encode()).hexdigest())"
        )
        here = str(Path(__file__).parent)
        environment = {
            **os.environ,
            "PYTHONHASHSEED": "12345",
            "PYTHONPATH": os.pathsep.join([here, *sys.path]),
            "TZ": "Asia/Tokyo",
        }
        found = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, check=True
        )
        heavy, digest = found.stdout.decode().split()
        assert heavy == "[]"  # nothing slow before it is needed
        assert digest == hashlib.sha256(sample.encode()).hexdigest()

    def test_is_written_whole_or_not_at_all(self, tmp_path, monkeypatch, sample):
        path = tmp_path / "new" / "page.html"
        write_page(sample_page(), path)
        assert path.read_text(encoding="utf-8") == sample
        assert [file.name for file in path.parent.iterdir()] == ["page.html"]

        def stop(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            write_page(Page("other"), path)
        assert path.read_text(encoding="utf-8") == sample
        assert [file.name for file in path.parent.iterdir()] == ["page.html"]

    def test_an_empty_page_has_no_summary_and_no_provenance(self):
        text = render_page(Page("p"))
        assert 'id="summary"' not in text
        assert 'id="provenance"' not in text

    def test_a_limit_of_pictures_is_a_count(self):
        with pytest.raises(ValueError, match="picture_limit=0: expected an integer >= 1"):
            render_page(Page("p"), picture_limit=0)

    def test_the_date_is_there_only_if_given(self, sample):
        assert not re.search(r"\b20\d\d-\d\d", sample)

    def test_settings_are_written_as_they_are(self):
        cell = Cell(picture(1), {}, {"a": 3.0, "b": 0.1, "c": None, "d": True, "e": math.inf})
        text = render_page(Page("p", sections=[Section("s", blocks=[PictureGrid([cell], "g")])]))
        data = json.loads(re.search(r'id="_grid-1".*?json">(.*?)</script>', text, re.S)[1])
        assert dict(data["cells"][0]["settings"]) == {
            **{"a": "3", "b": "0.1", "c": "none", "d": "True", "e": "∞"}
        }


def _one(source):
    return PictureGrid([Cell(source, {"a": "1"})], "g", columns="a")


def test_ticks_of_logarithmic_axes_are_plain_text():
    plot = line_plot(
        [Line("distance", [1, 10, 1000], [1e-12, 1e-3, 1.0])],
        PlotAxes("step", "distance", x_log=True, y_log=True),
        "a caption",
    )
    assert "mathdefault" not in plot.svg
    for tick in ("1", "10", "100", "10³"):
        assert f">{tick}<" in plot.svg
    # Which of the lower ones are there depends on the version of matplotlib.
    assert {"10⁻⁶", "10⁻⁷"} & set(re.findall(r">([^<]*)<", plot.svg))
