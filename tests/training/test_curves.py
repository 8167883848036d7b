"""The picture of a training run's logs."""

import json

import numpy as np
import pytest
from training.curves import draw_curves, main, read_curves


@pytest.fixture
def run(tmp_path):
    heldout = [
        {
            "step": s,
            "seen": 100 * s,
            "weights": {"all": 9},
            "averaged": {"all": v, "dylan": v / 2},
        }
        for s, v in ((0, 0.4), (100, 0.2))
    ]
    losses = [{"step": s, "seen": 100 * s, "loss": 0.1 + s / 1000} for s in (20, 40, 60, 80, 100)]
    for name, records in (("heldout", heldout), ("loss", losses)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def test_curves_are_of_the_averaged_weights_over_samples(run):
    curves = read_curves(run)
    assert curves["held out, all"] == [(0, 0.4), (10_000, 0.2)]
    assert curves["dylan"] == [(0, 0.2), (10_000, 0.1)]
    assert curves["training"] == [(5000, pytest.approx(0.15)), (10_000, pytest.approx(0.2))]


def test_a_lower_loss_is_lower_in_the_picture(run):
    image = np.asarray(draw_curves({"a": [(0, 0.4), (10_000, 0.2)]}, "title").convert("L"))
    dark = image[34:370, 61:700] < 80
    first, last = (np.nonzero(part)[0].mean() for part in (dark[:, :60], dark[:, -60:]))
    assert first < last


def test_the_command_writes_a_picture(run):
    main(["--run", str(run), "--to", str(run / "curves.png")])
    assert (run / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("curves", "message"), [({}, "no points"), ({str(i): [] for i in range(9)}, "at most 8")]
)
def test_what_cannot_be_drawn_is_refused(curves, message):
    with pytest.raises(ValueError, match=message):
        draw_curves(curves, "title")
