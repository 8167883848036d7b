"""The page of pipelines knows every one that diffusers exports, and says of each what happens."""

import importlib
from pathlib import Path

import diffusers
import pytest
from diffusers import FluxPipeline, StableDiffusionSAGPipeline, VisualClozePipeline
from older_versions import are_older

ROOT = Path(__file__).parents[1]
#: Which pipelines diffusers exports, and whether these can be imported, depends on both.
WHOLE = pytest.mark.skipif(are_older(), reason="not all pipelines can be imported")


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("support_table")


@WHOLE
def test_every_exported_pipeline_is_on_the_page(table):
    assert len(table.exported()) > 200
    assert table.unknown() == []


@WHOLE
def test_a_pipeline_that_the_page_does_not_name_fails_the_check(table, monkeypatch, tmp_path):
    page = tmp_path / "support.md"
    page.write_text(table.PAGE.read_text("utf-8").replace("| `FluxPipeline` |", "| `Fl` |"))
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["support_table.py", "--check"])
    with pytest.raises(SystemExit, match="does not know FluxPipeline of diffusers"):
        table.main()


def test_the_page_is_what_the_script_prints(table):
    page = table.PAGE.read_text("utf-8")
    if f"`diffusers` {diffusers.__version__} " not in page:
        pytest.skip("the page was made with another version")
    assert page == table.page()


@pytest.mark.parametrize(
    ("cls", "result", "remark"),
    [
        (FluxPipeline, "guided", "Flux"),
        (StableDiffusionSAGPipeline, "refused", "runs self-attention guidance by itself"),
        (VisualClozePipeline, "refused", "grid of pictures of several sizes"),
        (diffusers.AmusedPipeline, "refused", "draws tokens of a codebook"),
        (diffusers.Wan22ModularPipeline, "modular", "Wan; by `guider` and `guider_2`"),
        (diffusers.FluxModularPipeline, "modular", "Flux; no guider, since it has no CFG"),
        (diffusers.Ideogram4ModularPipeline, "modular", "refused: its blocks combine two"),
    ],
)
def test_results(table, cls, result, remark):
    row = table.row(cls.__name__, cls)
    assert row.result == result
    assert remark in row.remark


def test_kinds_of_denoisers(table):
    assert table.denoisers_of(FluxPipeline) == ["FluxTransformer2DModel"]
    assert table.compared_in("FluxPipeline") == "tiny_flux.py"
    assert table.compared_in("NoPipeline") == ""
