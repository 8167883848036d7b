"""Tables of a page: what they refuse, how numbers are written, and their texts."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from sample_page import FD, table

from smoothed_energy.report.page import Column, Number, RowGroup, Table, table_text
from smoothed_energy.report.page.number import choose_decimals, format_number

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
words = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1)


class TestNumber:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ((math.nan,), "missing from a table is None"),
            ((1, 0), "expected both ends"),
            ((1, None, 2), "expected both ends"),
            ((1, 2, 0), "from low to high"),
            ((math.inf, 0, 1), "expected finite"),
            ((1, -math.inf, 1), "expected finite"),
            (("1",), "expected a number"),
            ((True,), "expected a number"),
        ],
    )
    def test_what_is_no_number_with_an_interval_is_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            Number(*values)

    def test_an_estimate_may_lie_outside_its_interval(self):
        assert Number(1, 2, 3).interval == (2, 3)

    @pytest.mark.parametrize(
        ("numbers", "decimals"),
        [
            ([Number(1), Number(20)], 0),
            ([Number(0)], 0),
            ([], 0),
            ([Number(math.inf), Number(2)], 0),
            ([Number(0.271), Number(0.29)], 3),  # as many as they have
            ([Number(53.423), Number(48.284)], 2),  # four digits
            ([Number(402.13, 395.2, 409.4)], 1),  # half of the interval is 7.1
            ([Number(0.61234, 0.6, 0.62468)], 3),  # 0.012
            ([Number(1234.5, 1000.5, 1500.5)], 0),
            ([Number(1e-9)], -1),
            ([Number(1e12)], 0),
        ],
    )
    def test_as_many_decimals_as_the_interval_justifies(self, numbers, decimals):
        assert choose_decimals(numbers) == decimals

    def test_numbers_are_written_without_a_negative_zero(self):
        assert format_number(-0.04, 1) == "0.0"
        assert format_number(-0.06, 1) == "-0.1"
        assert format_number(math.inf, 2) == "∞"
        assert format_number(1.5e-9, -1) == "1.500e-09"

    @given(finite, finite, finite)
    def test_what_is_shown_is_near_what_was_measured(self, value, one, other):
        number = Number(value, min(one, other), max(one, other))
        decimals = choose_decimals([number])
        shown = float(format_number(value, decimals))
        if decimals < 0:
            assert shown == pytest.approx(value, rel=1e-3)
        else:
            assert abs(shown - value) <= 0.5 * 10**-decimals + abs(value) * 1e-12


class TestRefusals:
    def test_text_among_numbers(self):
        with pytest.raises(ValueError, match=r"'a' has numbers and the text '1\.5'"):
            Table([Column("a")], [(1,), ("1.5",)], "")

    def test_numbers_of_two_kinds_in_one_column(self):
        rows = [(Number(1, kind="FID"),), (Number(1, kind=FD),)]
        with pytest.raises(ValueError, match=f"several kinds: FID, {FD}; expected one kind"):
            Table([Column("distance")], rows, "")
        with pytest.raises(ValueError, match="several kinds"):
            Table([Column("distance", "FID")], rows[1:], "")

    def test_a_column_takes_the_kind_of_its_numbers(self):
        columns = Table([Column("distance")], [(Number(1, kind="FID"),), (2,)], "").columns
        assert columns[0].kind == "FID"

    @pytest.mark.parametrize("fields", [{"kind": "FID"}, {"unit": "s"}, {"better": "lower"}])
    def test_text_where_numbers_were_announced(self, fields):
        with pytest.raises(ValueError, match="which are of numbers, and the text 'x'"):
            Table([Column("a", **fields)], [("x",)], "")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([], [(1,)]), "at least one column"),
            (([Column("a")], []), "at least one column and one row"),
            (([Column("a"), Column("a")], [(1, 2)]), "two columns are named 'a'"),
            (([Column("a")], [(1,), (1, 2)]), "row 1 has 2 values for 1 columns"),
            (([Column("a")], [(True,)]), "expected a number"),
            (([Column("a")], [(math.nan,)]), "missing from a table is None"),
            (([Column("a")], [(1,)], "", "", [RowGroup("g", 2)]), "groups have 2 rows together"),
        ],
    )
    def test_what_makes_no_table(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Table(*arguments, *[""] * (3 - len(arguments)))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"name": " "}, "expected a name"),
            ({"name": "a", "better": "smaller"}, "expected one of 'lower', 'higher'"),
            ({"name": "a", "decimals": -1}, "expected an integer >= 0"),
            ({"name": "a", "decimals": 30}, "expected at most 6"),
        ],
    )
    def test_what_makes_no_column(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Column(**fields)

    def test_a_group_without_rows(self):
        with pytest.raises(ValueError, match="expected an integer >= 1"):
            RowGroup("g", 0)

    def test_a_form_that_is_not_known(self):
        with pytest.raises(ValueError, match="expected one of 'csv', 'markdown', 'latex'"):
            table_text(table(), "html")


class TestBest:
    def test_the_best_of_every_group_is_marked_in_columns_that_say_what_is_better(self):
        assert table().best() == {(2, 2), (1, 3), (1, 4), (3, 3)}

    def test_equals_are_all_best_and_one_alone_is_not(self):
        columns = [Column("a", better="higher"), Column("b", better="lower")]
        assert Table(columns, [(2, None), (2, 1), (1, None)], "").best() == {(0, 0), (1, 0)}


class TestTexts:
    def test_csv_has_all_digits_and_intervals_in_columns_of_their_own(self):
        rows = list(csv.reader(io.StringIO(str(table_text(table(), "csv")))))
        distance = f"Ours: Distance ({FD})"
        assert rows == [
            [
                *("group", "Settings", "sigma", "Published: FID (Inception, 299 px)"),
                *(distance, f"{distance} low", f"{distance} high", "Ours: Accuracy [%]"),
            ],
            ["Guidance", "vanilla", "", "53.423", "402.13", "395.2", "409.4", "61"],
            ["Guidance", "blur_10 & more", "10", "29.325", "377.71", "371.5", "384.1", "72.5"],
            ["Guidance", "blur | all", "inf", "26.169", "379.35", "372.6", "386.2", "71.5"],
            ["Controls", "CFG 1.8", "", "", "388.84", "382.1", "394.8", "69.5"],
            ["Controls", "momentum", "", "", "399.9", "393.5", "406.3", ""],
        ]

    def test_markdown_is_what_the_page_shows(self):
        assert str(table_text(table(), "markdown")) == (
            "| Settings | sigma | Published: FID (Inception, 299 px) "
            f"| Ours: Distance ({FD}) | Ours: Accuracy \\[%\\] |\n"
            "| --- | ---: | ---: | ---: | ---: |\n"
            "| *Guidance* |  |  |  |  |\n"
            "| vanilla |  | 53.423 | 402.1 \\[395.2, 409.4\\] | 61.0 |\n"
            "| blur\\_10 \\& more | 10 | 29.325 | **377.7** \\[371.5, 384.1\\] | **72.5** |\n"
            "| blur \\| all | ∞ | **26.169** | 379.4 \\[372.6, 386.2\\] | 71.5 |\n"
            "| *Controls* |  |  |  |  |\n"
            "| CFG 1.8 |  |  | **388.8** \\[382.1, 394.8\\] | 69.5 |\n"
            "| momentum |  |  | 399.9 \\[393.5, 406.3\\] |  |\n"
        )

    def test_latex_is_escaped_and_has_rules_of_booktabs(self):
        columns = [Column("50% of_it"), Column("d", better="lower")]
        rows = [("a & b #1", Number(-1.25, -2, -0.5)), ("~^\\{x}$", None), ("c", math.inf)]
        text = str(table_text(Table(columns, rows, "", groups=[RowGroup("g & h", 3)]), "latex"))
        assert text == (
            "\\begin{tabular}{lr}\n"
            "\\toprule\n"
            "50\\% of\\_it & d \\\\\n"
            "\\midrule\n"
            "\\multicolumn{2}{l}{\\emph{g \\& h}} \\\\\n"
            "a \\& b \\#1 & \\textbf{$-1.25$} {\\scriptsize [$-2.00$, $-0.50$]} \\\\\n"
            "\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\{x\\}\\$ &  \\\\\n"
            "c & $\\infty$ \\\\\n"
            "\\bottomrule\n"
            "\\end{tabular}\n"
        )

    def test_latex_writes_exponents_as_powers(self):
        text = str(table_text(Table([Column("a")], [(1.5e-9,)], ""), "latex"))
        assert r"$1.500 \cdot 10^{-9}$" in text

    @given(words, words)
    def test_csv_gives_any_text_back(self, name, value):
        text = str(table_text(Table([Column(f"a{name}")], [(value,)], ""), "csv"))
        assert list(csv.reader(io.StringIO(text))) == [[f"a{name}"], [value]]

    @given(words)
    def test_markdown_gives_any_text_back(self, value):
        text = str(table_text(Table([Column("a"), Column("b")], [(value, "x")], ""), "markdown"))
        markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
        cells = [token.children for token in markdown.parse(text) if token.type == "inline"]
        assert len(cells) == 4
        assert {child.type for child in cells[2]} <= {"text", "text_special"}
        found = "".join(child.content for child in cells[2])
        assert found == re.sub(r"\s+", " ", value).strip()
