"""Pages in a browser: no complaint and no request, and all that a reader can do with them.

They need Chromium; see `browser_pages`.
"""

from __future__ import annotations

import itertools
import re
import socket

import pytest
from sample_page import HOSTILE, LAYERS, SCALES, SEEDS, grid, hostile_page, sample_page, table

from browser_pages import DESKTOP, PHONE
from smoothed_energy.report.page import Page, Section, table_text, write_page

CLIPBOARD = (
    "Object.defineProperty(navigator, 'clipboard', {value: "
    "{writeText: async (text) => { window.copied = text; }}});"
)
NO_CLIPBOARD = (
    "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
    "addEventListener('copy', () => { window.copied = document.activeElement.value; });"
)


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "sample.html"
    write_page(sample_page(), path)
    return path


def names(page, number=1):
    """The names of the pictures of a grid, row by row, with the heads of rows and columns."""
    return page.evaluate(
        """(id) => {
            const table = document.querySelector(`#${id} .pictures table`);
            const of = (row) => [...row.cells].filter((cell) => cell.tagName === "TD");
            return {
                columns: [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent),
                rows: [...table.tBodies[0].rows].map((row) => row.querySelector("th")?.textContent),
                pictures: [...table.tBodies[0].rows].map((row) =>
                    of(row).map((cell) => cell.querySelector("img")?.alt ?? null)),
            };
        }""",
        f"_grid-{number}",
    )


def expected(rows, columns, **chosen):
    """The same as `names`, from the sample's cells alone."""
    values = {"scale": SCALES, "layers": LAYERS, "seed": SEEDS}
    there = [cell.axes for cell in grid().cells]

    def name(row, column):
        axes = {**chosen, **({rows: row} if rows else {}), columns: column}
        axes = {axis: axes[axis] for axis in values}
        return ", ".join(f"{k} {v}" for k, v in axes.items()) if axes in there else None

    heads = values[rows] if rows else [None]
    return {
        "columns": list(values[columns]),
        "rows": list(heads),
        "pictures": [[name(row, column) for column in values[columns]] for row in heads],
    }


def assign(page, role, axis, number=1):
    page.locator(f"#_grid-{number} [data-role={role}]").select_option(label=axis)


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def rows_of(page, selector="figure.table"):
    """First cells of a table's rows, without those of its groups."""
    return texts(page.locator(selector).first, "tbody tr:not(.group) > th")


class TestPage:
    @pytest.mark.parametrize("size", [DESKTOP, PHONE])
    @pytest.mark.parametrize("make", [sample_page, hostile_page])
    def test_nothing_is_wider_than_the_screen(self, visit, tmp_path, make, size):
        write_page(make(), tmp_path / "page.html")
        page = visit(tmp_path / "page.html", size)
        assert page.evaluate(
            "[document.documentElement.scrollWidth, document.body.scrollWidth]"
        ) == [size[0], size[0]]
        page.locator("button.cell").first.click()
        assert page.evaluate("document.querySelector('dialog').scrollWidth") <= size[0]

    def test_hostile_texts_are_read_as_they_are_and_run_nothing(self, visit, tmp_path):
        write_page(hostile_page(), tmp_path / "page.html")
        page = visit(tmp_path / "page.html")
        page.locator("button.cell").first.click()
        assert page.evaluate("window.hacked") is None
        assert page.title() == HOSTILE
        for selector in ("h1", ".source", "h3", "#_viewer-title", ".provenance dd >> nth=0"):
            assert page.locator(selector).first.text_content().strip("#") == HOSTILE
        settings = page.locator("dl.settings dt").all_text_contents()
        assert settings == [HOSTILE]
        svg = page.locator("svg text").all_text_contents()
        assert "".join(svg).replace(" ", "").count(HOSTILE.replace(" ", "")) >= 4

    def test_colours_have_contrast_in_both_themes(self, visit, sample):
        for scheme in ("light", "dark"):
            page = visit(sample, color_scheme=scheme)
            colours = page.evaluate(
                """() => {
                    const probe = document.body.appendChild(document.createElement("i"));
                    const names = ["paper", "raised", "ink", "quiet", "link", "yes", "no", "open",
                        ...[0, 1, 2, 3, 4, 5].map((place) => `series-${place}`)];
                    return Object.fromEntries(names.map((name) => {
                        probe.style.color = `var(--${name})`;
                        return [name, getComputedStyle(probe).color.match(/\\d+/g).map(Number)];
                    }));
                }"""
            )
            assert (sum(colours["paper"]) > 600) == (scheme == "light")
            for name in ("ink", "quiet", "link", "yes", "no", "open"):
                for ground in ("paper", "raised"):
                    assert contrast(colours[name], colours[ground]) >= 4.5, (scheme, name)
            for place in range(6):
                assert contrast(colours[f"series-{place}"], colours["paper"]) >= 3, (scheme, place)

    def test_the_theme_is_the_reader_s_if_chosen(self, visit, sample):
        page = visit(sample)
        ground = "getComputedStyle(document.body).backgroundColor"
        line = "getComputedStyle(document.querySelector('.drawing [id$=line2d_1] path')).stroke"
        light, light_line = page.evaluate(ground), page.evaluate(line)
        button = page.get_by_role("button", name="Dark theme")
        button.click()
        dark = page.evaluate(ground)
        assert dark != light
        assert page.evaluate(line) != light_line
        page.reload()
        assert page.evaluate(ground) == dark
        page.get_by_role("button", name="Light theme").click()
        assert page.evaluate(ground) == light

    def test_contents_lead_to_the_sections(self, visit, sample):
        page = visit(sample)
        links = page.locator("#_list a").all_inner_texts()
        assert links == ["Summary", "Pictures", "Numbers", "Plots", "More", "Provenance"]
        page.get_by_role("link", name="Plots", exact=True).click()
        wait_for(page, "document.querySelector('[href=\"#plots\"]').ariaCurrent === 'true'")
        top = page.evaluate("document.querySelector('#plots').getBoundingClientRect().top")
        assert 0 <= top < 200

    def test_on_a_phone_contents_open_and_close(self, visit, sample):
        page = visit(sample, PHONE)
        entries, button = page.locator("#_list"), page.get_by_role("button", name="Contents")
        assert not entries.is_visible()
        button.focus()
        page.keyboard.press("Enter")
        assert entries.is_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Escape")
        assert not entries.is_visible()
        assert button.evaluate("(button) => button === document.activeElement")
        button.click()
        page.get_by_role("link", name="Numbers", exact=True).click()
        assert not entries.is_visible()

    def test_the_first_tabulator_stop_skips_to_the_text(self, visit, sample):
        page = visit(sample)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "_main"

    def test_all_verdicts_are_listed_with_their_sections(self, visit, sample):
        page = visit(sample)
        assert page.locator(".tally").inner_text() == "1 holds, 1 does not hold, 1 can't be told"
        entries = page.locator(".overview li")
        assert entries.nth(0).inner_text().split("\n")[0].startswith("It is better.")
        assert texts(page, ".overview .badge") == ["Holds", "Does not hold", "Can't be told"]
        targets = page.locator(".overview a").evaluate_all("(all) => all.map((a) => a.hash)")
        assert targets == ["#pictures", "#numbers", "#plots"]
        assert page.locator("#pictures .rests").inner_text().endswith("px bicubic: −24 [−30, −19]")

    def test_its_policy_keeps_the_browser_from_fetching_anything(self, browser, sample):
        page = browser.new_page()
        page.goto(sample.as_uri())
        server = socket.create_server(("127.0.0.1", 0))
        blocked = page.evaluate(
            """(port) => new Promise((done) => {
                const found = [];
                addEventListener("securitypolicyviolation", (event) => {
                    found.push(event.effectiveDirective);
                    if (found.length === 3) done(found.sort());
                });
                const make = (tag, properties) =>
                    document.body.append(Object.assign(document.createElement(tag), properties));
                make("img", { src: `http://127.0.0.1:${port}/a` });
                make("script", { textContent: "window.hacked = 1" });
                fetch(`http://127.0.0.1:${port}/b`).catch(() => {});
            })""",
            server.getsockname()[1],
        )
        assert blocked == ["connect-src", "img-src", "script-src-elem"]
        assert page.evaluate("window.hacked") is None
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()  # nobody called
        server.close()
        page.close()

    def test_without_javascript_text_tables_and_plots_remain(self, visit, sample):
        page = visit(sample, PHONE, java_script_enabled=False)
        for selector in ("#_list", ".text", ".table table >> nth=0", ".drawing svg >> nth=0"):
            assert page.locator(selector).first.is_visible()
        assert "shown by JavaScript" in page.locator("noscript").first.inner_text()

    def test_on_paper_all_is_shown_and_controls_are_not(self, visit, sample):
        page = visit(sample, color_scheme="dark")
        assert page.locator("img[src]").count() < page.locator("figure.grid img").count()
        page.emulate_media(media="print")
        for selector in ("#_nav", ".controls", ".skip", "summary", ".anchor"):
            for element in page.locator(selector).all():
                assert not element.is_visible(), selector
        for table_shown in page.locator("figure.table table").all():
            assert table_shown.is_visible()
        wait_for(
            page,
            "[...document.querySelectorAll('figure.grid img')].every((img) => img.naturalWidth)",
        )
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        page.emulate_media(media="screen")
        assert page.locator("details[open]").count() == 0

    def test_a_pdf_has_every_picture_though_none_was_scrolled_to(self, visit, sample):
        page = visit(sample)
        pdf = page.pdf(format="A4")
        shown = {image.get_attribute("data-picture") for image in page.locator(".cell img").all()}
        assert len(re.findall(rb"/Subtype\s*/Image", pdf)) >= len(shown)


class TestGrid:
    def test_pictures_far_below_are_decoded_when_they_come_near(self, visit, sample):
        page = visit(sample)
        above, below = page.locator("#_grid-1 img"), page.locator("#more img")
        wait_for(page, "document.querySelector('#_grid-1 img').naturalWidth === 96")
        assert above.first.get_attribute("src").startswith("data:image/png")
        assert [image.get_attribute("src") for image in below.all()] == [None] * 3
        box = below.first.bounding_box()
        page.locator("#more").scroll_into_view_if_needed()
        wait_for(page, "document.querySelector('#more img').naturalWidth === 300")
        after = below.first.bounding_box()
        assert (after["width"], after["height"]) == (box["width"], box["height"])

    def test_every_assignment_of_axes_shows_the_cells_that_belong_there(self, visit, sample):
        page = visit(sample)
        values = {"scale": SCALES, "layers": LAYERS, "seed": SEEDS}
        assert names(page) == expected("scale", "seed", layers="mid")
        for rows, columns in itertools.permutations(values, 2):
            assign(page, "rows", "none")
            assign(page, "columns", columns)
            assign(page, "rows", rows)
            (other,) = {*values} - {rows, columns}
            for value in values[other]:
                page.locator("#_grid-1 [data-role=chosen] select").select_option(label=value)
                assert names(page) == expected(rows, columns, **{other: value})

    def test_an_axis_that_goes_to_the_other_side_changes_places(self, visit, sample):
        page = visit(sample)
        assign(page, "rows", "seed")
        assert names(page) == expected("seed", "scale", layers="mid")

    def test_without_rows_the_pictures_stand_in_one_line_that_wraps(self, visit, sample):
        page = visit(sample)
        assign(page, "rows", "none")
        page.locator("#_grid-1 select[data-axis='0']").select_option(label="3")
        page.locator("#_grid-1 select[data-axis='1']").select_option(label="down")
        shown = page.locator("#_grid-1 .flow img").evaluate_all("(all) => all.map((i) => i.alt)")
        row = expected("scale", "seed", layers="down")["pictures"][2]
        assert shown == [name for name in row if name]
        assert texts(page, "#_grid-1 .flow .head") == [f"seed {seed}" for seed in SEEDS]
        assert texts(page, "#_grid-1 .nothing") == ["no picture"]

    def test_size_and_pixels_are_the_reader_s_choice(self, visit, sample):
        page = visit(sample)
        image = page.locator("#_grid-1 img").first
        assert image.bounding_box()["width"] % 96 == 0  # a whole multiple
        rendering = "(image) => getComputedStyle(image).imageRendering"
        assert image.evaluate(rendering) == "pixelated"
        page.get_by_label("Crisp pixels").first.uncheck()
        assert image.evaluate(rendering) == "auto"
        size = page.locator("#_grid-1 [data-role=size]")
        size.focus()
        page.keyboard.press("Home")
        assert image.bounding_box()["width"] == 48
        assert page.locator("#more .for-small").is_hidden()

    def test_a_cell_tells_its_settings_to_mouse_and_keyboard(self, visit, sample):
        page = visit(sample)
        cells, tip = page.locator("#_grid-1 button.cell"), page.locator("#_tip")
        assert tip.is_hidden()
        cells.nth(5).hover()
        assert tip.locator("dt").all_inner_texts() == [
            *("scale", "layers", "seed", "steps", "prompt", "sigma", "rescale")
        ]
        assert tip.locator("dd").all_text_contents() == [
            *("1.5", "mid", "1", "8", HOSTILE, "∞", "0.5")
        ]
        page.mouse.move(5, 5)
        assert tip.is_hidden()
        cells.nth(0).focus()
        assert tip.locator("dd").first.inner_text() == "0"
        assert cells.nth(0).get_attribute("aria-describedby") == "_tip"
        page.keyboard.press("Escape")
        assert tip.is_hidden()

    def test_a_grid_is_one_tabulator_stop_and_arrows_go_through_it(self, visit, sample):
        page = visit(sample)
        cells = page.locator("#_grid-1 button.cell")
        stops = cells.evaluate_all("(all) => all.filter((cell) => cell.tabIndex === 0).length")
        assert stops == 1
        cells.first.focus()
        focused = "document.activeElement.querySelector('img').alt"
        for key, name in {
            "ArrowRight": "scale 0, layers mid, seed 1",
            "ArrowDown": "scale 1.5, layers mid, seed 1",
            "ArrowLeft": "scale 1.5, layers mid, seed 0",
            "ArrowUp": "scale 0, layers mid, seed 0",
        }.items():
            page.keyboard.press(key)
            assert page.evaluate(focused) == name
        page.keyboard.press("ArrowLeft")  # there is nothing
        assert page.evaluate(focused) == "scale 0, layers mid, seed 0"


class TestViewer:
    @pytest.fixture
    def viewed(self, visit, sample):
        """A page with the cell of scale 1.5, layers mid and seed 1 open, by keyboard."""
        page = visit(sample)
        page.locator("#_grid-1 button.cell").nth(5).focus()
        page.keyboard.press("Enter")
        assert page.locator("#_viewer").is_visible()
        return page

    def shown(self, page):
        """The alternative texts of the pictures that can be seen."""
        images = page.locator(".stage img")
        return [image.get_attribute("alt") for image in images.all() if image.is_visible()]

    def test_escape_closes_and_the_focus_returns(self, viewed):
        assert viewed.locator("#_viewer-title").inner_text() == "scale 1.5, layers mid, seed 1"
        viewed.keyboard.press("Escape")
        assert viewed.locator("#_viewer").is_hidden()
        alt = viewed.evaluate("document.activeElement.querySelector('img').alt")
        assert alt == "scale 1.5, layers mid, seed 1"
        viewed.keyboard.press("Space")
        viewed.get_by_role("button", name="Close").click()
        assert viewed.locator("#_viewer").is_hidden()

    def test_the_unguided_one_stands_beside(self, viewed):
        pair = ["scale 0, layers mid, seed 1", "scale 1.5, layers mid, seed 1"]
        assert self.shown(viewed) == pair
        left, right = [image.bounding_box() for image in viewed.locator(".stage img").all()]
        assert left["x"] + left["width"] <= right["x"]
        assert left["width"] == right["width"]
        assert left["width"] % 96 == 0
        sources = viewed.locator(".stage img").evaluate_all("(all) => all.map((i) => i.src)")
        for source, number in zip(sources, (1, 9), strict=True):
            assert source == viewed.locator(f"#_picture-{number}").text_content()
        assert texts(viewed, ".stage figcaption") == ["scale 0", "scale 1.5"]
        assert "1.5 against 0" in texts(viewed, ".settings dd")

    def test_the_slider_cuts_where_it_stands(self, viewed):
        viewed.get_by_role("button", name="Slider").click()
        boxes = [frame.bounding_box() for frame in viewed.locator(".stage .frame").all()]
        assert boxes[0] == boxes[1]
        slider = viewed.locator(".slider input")
        clip = "getComputedStyle(document.querySelector('[data-role=after] .frame')).clipPath"
        assert viewed.evaluate(clip) == "inset(0px 0px 0px 50%)"
        slider.focus()
        viewed.keyboard.press("End")
        assert viewed.evaluate(clip) == "inset(0px 0px 0px 100%)"
        viewed.keyboard.press("ArrowLeft")  # moves the slider, not to another picture
        assert viewed.evaluate(clip) == "inset(0px 0px 0px 99%)"
        assert viewed.locator("#_viewer-title").inner_text() == "scale 1.5, layers mid, seed 1"
        viewed.keyboard.press("Home")
        assert viewed.evaluate(clip) == "inset(0px 0px 0px 0%)"

    def test_flicker_shows_the_other_while_held(self, viewed):
        viewed.get_by_role("button", name="Flicker").click()
        guided, unguided = ["scale 1.5, layers mid, seed 1"], ["scale 0, layers mid, seed 1"]
        assert self.shown(viewed) == guided
        hold = viewed.get_by_role("button", name="Hold to see scale 0")
        hold.hover()
        viewed.mouse.down()
        assert self.shown(viewed) == unguided
        viewed.mouse.up()
        assert self.shown(viewed) == guided
        hold.focus()
        viewed.keyboard.down("Space")
        assert self.shown(viewed) == unguided
        viewed.keyboard.up("Space")
        assert self.shown(viewed) == guided

    def test_a_key_flickers_from_any_mode(self, viewed):
        viewed.keyboard.down("f")
        assert self.shown(viewed) == ["scale 0, layers mid, seed 1"]
        viewed.keyboard.up("f")
        assert self.shown(viewed) == ["scale 1.5, layers mid, seed 1"]

    def test_arrow_keys_and_buttons_go_on_and_the_focus_follows(self, viewed):
        title, place = viewed.locator("#_viewer-title"), viewed.locator(".walk span")
        assert place.inner_text() == "6 of 12"
        for key, name in {
            "ArrowRight": "scale 1.5, layers mid, seed 2",
            "ArrowDown": "scale 3, layers mid, seed 2",
            "ArrowLeft": "scale 3, layers mid, seed 1",
            "ArrowUp": "scale 1.5, layers mid, seed 1",
        }.items():
            viewed.keyboard.press(key)
            assert title.inner_text() == name
        viewed.get_by_role("button", name="Previous picture").click()
        assert title.inner_text() == "scale 1.5, layers mid, seed 0"
        viewed.get_by_role("button", name="Next picture").click()
        viewed.keyboard.press("ArrowRight")
        viewed.keyboard.press("Escape")
        alt = viewed.evaluate("document.activeElement.querySelector('img').alt")
        assert alt == "scale 1.5, layers mid, seed 2"

    def test_the_ends_of_the_grid_are_ends(self, viewed):
        viewed.keyboard.press("Escape")
        viewed.locator("#_grid-1 button.cell").first.click()
        assert viewed.get_by_role("button", name="Previous picture").is_disabled()
        viewed.keyboard.press("ArrowLeft")
        assert viewed.locator(".walk span").inner_text() == "1 of 12"

    def test_one_without_a_baseline_stands_alone(self, visit, tmp_path):
        cells = [grid().cells[0]]
        alone = type(grid())([type(cells[0])(cells[0].picture, cells[0].axes)], "One")
        write_page(Page("p", sections=[Section("s", blocks=[alone])]), tmp_path / "page.html")
        page = visit(tmp_path / "page.html")
        page.locator("button.cell").click()
        assert self.shown(page) == ["scale 0, layers mid, seed 0"]
        assert page.locator(".modes").is_hidden()
        page.keyboard.press("f")
        assert self.shown(page) == ["scale 0, layers mid, seed 0"]

    def test_a_baseline_from_outside_the_grid_has_its_name(self, visit, sample):
        page = visit(sample)
        page.locator("#more button.cell").nth(1).click()
        assert self.shown(page) == ["unguided", "sigma 10"]
        assert texts(page, ".stage figcaption") == ["unguided", "sigma 10"]
        assert "3 against 0" in texts(page, ".settings dd")

    def test_it_says_of_a_reduced_picture_how_large_it_was(self, visit, tmp_path):
        write_page(sample_page(), tmp_path / "page.html", picture_limit=200)
        page = visit(tmp_path / "page.html")
        page.locator("#more button.cell").first.click()
        assert "300 × 300, reduced to 200 × 200" in texts(page, ".settings dd")


class TestTable:
    def test_sorts_by_keyboard_within_groups_and_back(self, visit, sample):
        page = visit(sample)
        first = ["vanilla", "blur_10 & more", "blur | all", "CFG 1.8", "momentum"]
        head = page.locator("figure.table th[aria-sort]").nth(3)
        assert rows_of(page) == first
        page.get_by_role("button", name="Distance").first.focus()
        for order, rows in {
            "ascending": ["blur_10 & more", "blur | all", "vanilla", "CFG 1.8", "momentum"],
            "descending": ["vanilla", "blur | all", "blur_10 & more", "momentum", "CFG 1.8"],
            "none": first,
        }.items():
            page.keyboard.press("Enter")
            assert head.get_attribute("aria-sort") == order
            assert rows_of(page) == rows
        assert page.locator("#_said").inner_text() == "Rows in their first order"

    def test_numbers_sort_as_numbers_and_what_is_missing_comes_last(self, visit, sample):
        page = visit(sample)
        button = page.get_by_role("button", name="sigma").first
        button.click()
        assert rows_of(page)[:3] == ["blur_10 & more", "blur | all", "vanilla"]
        button.click()
        assert rows_of(page)[:3] == ["blur | all", "blur_10 & more", "vanilla"]
        page.get_by_role("button", name="Settings").first.click()
        assert rows_of(page)[:3] == ["blur | all", "blur_10 & more", "vanilla"]

    @pytest.mark.parametrize("script", [CLIPBOARD, NO_CLIPBOARD])
    @pytest.mark.parametrize("form", ["csv", "markdown", "latex"])
    def test_copies_what_python_writes(self, visit, sample, form, script):
        page = visit(sample, script=script)
        page.locator(f"figure.table [data-format={form}]").first.click()
        wait_for(page, "document.querySelector('#_said').textContent.startsWith('Copied')")
        assert page.evaluate("window.copied") == str(table_text(table(), form))
        assert page.locator("textarea").count() == 0

    def test_copies_in_the_order_that_is_shown(self, visit, sample):
        page = visit(sample, script=CLIPBOARD)
        page.get_by_role("button", name="Distance").first.click()
        page.locator("figure.table [data-format=csv]").first.click()
        wait_for(page, "window.copied")
        text = table_text(table(), "csv")
        (_, one), (_, two) = text.groups
        assert page.evaluate("window.copied") == text.head + one[1] + one[2] + one[0] + "".join(two)

    def test_where_nothing_can_be_copied_the_text_is_selected(self, visit, sample):
        page = visit(sample, script=NO_CLIPBOARD + "document.execCommand = () => false;")
        page.locator("figure.table [data-format=latex]").first.click()
        area = page.locator("textarea")
        text = str(table_text(table(), "latex"))
        assert area.input_value() == text
        selected = "(area) => area.value.slice(area.selectionStart, area.selectionEnd)"
        assert area.evaluate(selected) == text
        assert "press Ctrl+C" in page.locator("#_said").inner_text()

    def test_shows_intervals_units_kinds_and_the_best(self, visit, sample):
        page = visit(sample)
        figure = page.locator("figure.table").first
        assert texts(figure, "tbody strong .value") == ["377.7", "72.5", "26.169", "388.8"]
        assert texts(figure, "tr.group") == ["Guidance", "Controls"]
        row = texts(figure.locator("tbody tr:not(.group)").nth(1), "th, td")
        assert row == ["blur_10 & more", "10", "29.325", "377.7 [371.5, 384.1]", "72.5"]
        assert texts(figure, "thead tr >> nth=0 >> th")[-2:] == ["Published", "Ours"]
        assert figure.locator(".unit").inner_text() == "%"

    def test_the_numbers_of_a_plot_open_and_sort_and_copy(self, visit, sample):
        page = visit(sample, script=CLIPBOARD)
        figure = page.locator("figure.plot").nth(2)
        figure.locator("summary").focus()
        page.keyboard.press("Enter")
        assert texts(figure, "tbody tr") == ["a\t1 [0, 2]", "b\t3"]
        figure.locator("[data-format=csv]").click()
        wait_for(page, "window.copied")
        assert page.evaluate("window.copied") == "name,x,x low,x high\na,1,0,2\nb,3,,\n"


def wait_for(page, condition):
    """Waits for a condition in JavaScript; the page's policy forbids to do it inside the page."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"it never came true: {condition}")


def contrast(one, other):
    """The ratio of luminances of two colours, as the WCAG defines it."""

    def luminance(colour):
        parts = [part / 255 for part in colour[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
