"""Published numbers are the papers'."""

from smoothed_energy.experiments.published import RE_TABLE_3, SEG_TABLE_1, SEG_TABLE_2
from smoothed_energy.experiments.published_table import published_table


def test_seg_table_1():
    assert [row.fid for row in SEG_TABLE_1] == [129.496, 106.683, 105.271, 95.316, 88.215]
    assert [row.lpips_vgg for row in SEG_TABLE_1] == [None, 0.706, 0.542, 0.522, 0.536]
    assert [row.lpips_alex for row in SEG_TABLE_1] == [None, 0.644, 0.472, 0.454, 0.472]


def test_seg_table_2():
    assert [row.fid for row in SEG_TABLE_2] == [53.423, 48.284, 41.784, 33.819, 29.325, 26.169]
    assert [row.clip for row in SEG_TABLE_2] == [0.271, 0.273, 0.278, 0.285, 0.290, 0.292]
    assert [row.lpips_vgg for row in SEG_TABLE_2[1:]] == [0.361, 0.410, 0.449, 0.472, 0.493]
    assert [row.lpips_alex for row in SEG_TABLE_2[1:]] == [0.295, 0.347, 0.390, 0.416, 0.440]


def test_re_table_3():
    found = {row.label: row.fid for row in RE_TABLE_3}
    assert len(found) == 14
    assert found["none"] == 129.4418
    assert found["EMA 0.85"] == 105.3184
    assert found["Gaussian, sigma 10, kernel 3"] == 116.1634
    assert found["Gaussian, sigma 10, full kernel"] == 107.8214
    assert found["Gaussian, sigma inf"] == 107.6913
    assert found["box, alpha 0.9, kernel 31"] == 107.1481


def test_a_published_table_says_what_it_is_of_and_has_no_empty_column():
    table = published_table(SEG_TABLE_1, "as published")
    assert [column.name for column in table.columns] == [
        "row",
        "FID",
        "LPIPS (vgg)",
        "LPIPS (alex)",
    ]
    assert all(column.kind.startswith("published") for column in table.columns[1:])
    assert "Stable Diffusion XL" in table.note
