"""Tables of traces: written and read, added up, plotted."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from tiny_pipelines import latents_of, prompts, sd, size

import smoothed_energy.trace.metric as metric_module
from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.trace import (
    TRACE_METRICS,
    MapMetric,
    Measurements,
    Trace,
    register_trace_metric,
)


@pytest.fixture(scope="module")
def trace():
    """Two runs of two pictures, the second one guided in its first steps."""
    pipe = sd()
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=5.0, num_inference_steps=4)
    metrics = ["frobenius_norm", "laplacian_variance", "gradient_entropy", "energy"]
    with Trace(pipe, "all", metrics) as found:
        run()
        with SmoothedEnergyGuidance(layers="mid", steps="begin").attach(pipe):
            run()
    return found


def test_parquet_gives_back_the_same_tables(trace, tmp_path):
    folder = trace.to_parquet(tmp_path / "new" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == ["layers.parquet", "steps.parquet"]
    for cls in (Trace, Measurements):
        read = cls.read(folder)
        assert_frame_equal(read.steps, trace.steps)
        assert_frame_equal(read.layers, trace.layers)
        assert_frame_equal(read.per_picture(), trace.per_picture())
        assert_frame_equal(read.summary(), trace.summary())
    # Other programs read them.
    layers = pd.read_parquet(folder / "layers.parquet")
    assert set(layers["branch"]) == {"conditional", "unconditional"}
    with pytest.raises(FileNotFoundError, match=r"steps\.parquet is not there; expected a folder"):
        Trace.read(tmp_path)


def test_an_empty_trace_has_empty_tables_that_are_written_and_read(tmp_path):
    empty = Trace(sd())
    read = Trace.read(empty.to_parquet(tmp_path))
    assert list(read.steps) == list(empty.steps)
    assert read.steps.empty and read.layers.empty
    with pytest.raises(ValueError, match="nothing to plot"):
        empty.plot()


def test_rows_are_those_of_runs_steps_samples_layers_and_branches(trace):
    assert len(trace.steps) == 2 * 4 * 2
    assert not trace.steps.duplicated(["run", "step", "sample"]).any()
    assert len(trace.layers) == len(trace.steps) * 4 * 2
    assert not trace.layers.duplicated(["run", "step", "sample", "layer", "branch"]).any()
    assert trace.layers.groupby("layer")["code"].nunique().eq(1).all()
    guided = trace.steps["correction_norm"] > 0
    assert set(map(tuple, trace.steps.loc[guided, ["run", "step"]].to_numpy())) == {(1, 0), (1, 1)}


def test_a_table_is_not_made_again_until_there_is_more(trace):
    assert trace.steps is trace.steps
    pipe = sd()
    with Trace(pipe, (), ()) as growing:
        run = latents_of(pipe, **prompts(1), **size(), num_inference_steps=1)
        run()
        assert len(growing.steps) == 1
        run()
        assert len(growing.steps) == 2


def test_plots_have_a_panel_for_each_quantity_and_a_line_for_each_layer(trace, tmp_path):
    figure = trace.plot()
    titles = [panel.get_title(loc="left") for panel in figure.axes if panel.get_visible()]
    assert titles == [
        "effective CFG scale",
        "correction relative norm",
        "seg: cosine",
        "latents: Frobenius norm",
        "latents: Laplacian variance",
        "latents: gradient entropy",
    ]
    line = figure.axes[0].get_lines()[0]
    means = trace.steps.groupby("step")["effective_cfg_scale"].mean()
    np.testing.assert_allclose(line.get_ydata(), means)
    (one,) = [panel for panel in trace.plot("text_norm").axes if panel.get_visible()]
    assert one.get_xlabel() == "step"
    by_layer = trace.plot("energy", "frobenius_norm", layers="all")
    assert [len(panel.get_lines()) for panel in by_layer.axes] == [4, 4]
    assert [text.get_text() for text in by_layer.legends[0].get_texts()] == ["d0", "m0", "u0", "u1"]
    rows = trace.layers.query("code == 'u0' and branch == 'conditional'")
    np.testing.assert_allclose(
        by_layer.axes[0].get_lines()[2].get_ydata(), rows.groupby("step")["energy"].mean()
    )
    assert len(trace.plot("energy", layers=["m0"]).axes[0].get_lines()) == 1
    by_layer.savefig(tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 5000


def test_plots_of_what_is_not_there_are_refused(trace):
    with pytest.raises(ValueError, match=r"no column 'fid'; there are index, count"):
        trace.plot("fid")
    with pytest.raises(ValueError, match=r"layer 'm5' was not measured; there are d0, m0, u0, u1"):
        trace.plot(layers="m5")


@pytest.fixture
def own_registry():
    before = dict(metric_module._metrics)
    yield
    metric_module._metrics.clear()
    metric_module._metrics.update(before)


def test_a_metric_is_registered_by_its_name(own_registry):
    mean = register_trace_metric(MapMetric("mean", lambda maps: maps.mean((1, 2, 3))))
    assert TRACE_METRICS["mean"] is mean
    pipe = sd()
    with Trace(pipe, "mid", "mean,frobenius_norm") as trace:
        latents_of(pipe, **prompts(), **size(), num_inference_steps=1)()
    assert {"mean", "frobenius_norm"} <= set(trace.layers)
    with pytest.raises(ValueError, match="both the metric 'energy'"):
        register_trace_metric(MapMetric("energy", np.mean))
    with pytest.raises(TypeError, match="no metric of a trace"):
        register_trace_metric(np.mean)
    with pytest.raises(TypeError):
        TRACE_METRICS["other"] = mean


def test_the_package_and_its_traces_are_imported_without_what_tables_need():
    code = (
        "import sys, smoothed_energy.trace; "
        "heavy = {'pandas', 'pyarrow', 'matplotlib', 'scipy', 'diffusers', 'transformers'}; "
        "sys.exit(str(sorted(heavy & {*sys.modules})) if heavy & {*sys.modules} else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_missing_is_named_with_the_extra_that_has_it(trace, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"need matplotlib: pip install 'smoothed-energy\[measu"):
        trace.plot()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="need pandas: pip install"):
        _ = Trace(sd()).steps
