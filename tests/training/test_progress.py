"""The held-out loss is the same number for the same weights, whatever was trained in between."""

import json

import pytest
import torch
from training.progress import HeldOut
from training.recipes import RECIPES
from training.trainer import Trainer, train


class Constant(Trainer):
    """Predicts one number everywhere, which is trained."""

    def __init__(self):
        self.network = torch.nn.Linear(1, 1)
        super().__init__(RECIPES["cpu"], {"network": self.network}, learning_rate=1e-2)

    def predict(self, noisy, timesteps, *conditions):
        return torch.zeros_like(noisy) + self.network.bias


@pytest.fixture
def heldout():
    latents = torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    latents[1::2] *= 5
    return HeldOut(latents, torch.zeros(10, 4, dtype=torch.int64), ["dylan", "micah"] * 5)


def test_the_measure_is_fixed_and_told_by_style(heldout):
    trainer = Constant()
    first = heldout.measure(trainer)
    torch.manual_seed(99)
    assert heldout.measure(trainer, batch=3) == first
    assert first.keys() == {"all", "dylan", "micah"}
    assert first["all"] == pytest.approx((first["dylan"] + first["micah"]) / 2, abs=1e-4)
    assert first["micah"] > first["dylan"], "its latents are larger"


def batch(step, size):
    return torch.randn(size, 4, 8, 8), torch.zeros(size, 4, dtype=torch.int64)


def test_a_run_logs_it_for_the_weights_and_for_their_averages(heldout, tmp_path):
    trainer = Constant()
    before = heldout.measure(trainer)
    train(trainer, batch, tmp_path, minutes=0.01, measure=heldout.measure)
    lines = [json.loads(line) for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0
    assert lines[0]["weights"] == lines[0]["averaged"] == before
    assert lines[-1]["step"] == trainer.step
    assert lines[-1]["weights"] == heldout.measure(trainer)
    trainer.average.swap()
    assert lines[-1]["averaged"] == heldout.measure(trainer)


def test_a_piece_ends_before_the_budget_and_the_next_goes_on(tmp_path):
    trainer = Constant()
    train(trainer, batch, tmp_path, minutes=60, piece=0.3)
    assert 0.3 <= trainer.elapsed < 10
    steps = trainer.step
    train(trainer, batch, tmp_path, minutes=60, piece=0.3)
    assert trainer.step > steps
    assert 0.6 <= trainer.elapsed < 20
    assert not (tmp_path / "plateau.pt").exists(), "the rate has not begun to fall"
