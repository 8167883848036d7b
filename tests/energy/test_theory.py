"""The claims of `docs/theory.md` as searches for counterexamples, and its numbers."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smoothed_energy.energy import (
    analyse,
    entrywise_hessian,
    smoothed_hessian,
    softmax_hessian,
)
from smoothed_energy.smoothing import BoxBlur, EMASmoothing, GaussianBlur

F64 = torch.float64
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "theory.py"
GRID = (3, 4)
LIMITED = ("sigma1", "sigma10")  # operators that never let the variance grow on 12 x 12 tokens

logits = hnp.arrays("float64", 12, elements=st.floats(-20, 20)).map(torch.as_tensor)
matrices_of_logits = hnp.arrays("float64", (12, 5), elements=st.floats(-20, 20)).map(
    torch.as_tensor
)
doubly_stochastic = st.one_of(
    st.builds(GaussianBlur, st.floats(0.2, 30), padding=st.sampled_from(["symmetric", "circular"])),
    st.builds(BoxBlur, st.sampled_from([3, 5]), st.floats(0.1, 1), padding=st.just("symmetric")),
    st.just(GaussianBlur(math.inf)),
)
row_stochastic = st.one_of(
    doubly_stochastic,
    st.builds(GaussianBlur, st.floats(0.2, 30), padding=st.sampled_from(["reflect", "replicate"])),
    st.builds(EMASmoothing, st.floats(0, 1)),
)


def spread(x):
    return x.max() - x.min()


@given(doubly_stochastic, logits)
def test_lemma_3_1_holds_for_doubly_stochastic_blurs(blur, a):
    blurred = blur.matrix(GRID) @ a
    assert blurred.mean() == pytest.approx(float(a.mean()), abs=1e-12)
    assert blurred.var(correction=0) <= a.var(correction=0) * (1 + 1e-12) + 1e-12


def test_lemma_3_1_fails_for_reflected_borders():
    matrix = GaussianBlur(1.0).matrix((1, 32))
    heaviest = torch.eye(32, dtype=F64)[matrix.sum(0).argmax()]
    assert (matrix @ heaviest).mean() > 1.2 * heaviest.mean()
    centred = matrix - matrix.mean(0)
    worst = torch.linalg.svd(centred - centred.mean(1, keepdim=True)).Vh[0]
    assert (matrix @ worst).var() > 1.01 * worst.var()


@given(doubly_stochastic, logits)
def test_lemma_3_2_holds_without_an_approximation(blur, a):
    assert (blur.matrix(GRID) @ a).logsumexp(0) <= a.logsumexp(0) + 1e-9


@given(doubly_stochastic, matrices_of_logits)
def test_lemma_3_2_holds_for_what_a_layer_computes(blur, a):
    # Rows are queries; the blur mixes them, and each is normalised over its keys.
    assert (blur.matrix(GRID) @ a).logsumexp(1).sum() <= a.logsumexp(1).sum() + 1e-9


def test_lemma_3_2_fails_for_single_queries_of_a_layer():
    a = torch.zeros(12, 5, dtype=F64)
    a[0] = 8
    blurred = GaussianBlur(1.0, padding="symmetric").matrix(GRID) @ a
    assert (blurred.logsumexp(1) > a.logsumexp(1) + 0.1).any()


@given(logits)
def test_lse_is_least_where_all_logits_are_equal(a):
    assert a.logsumexp(0) >= a.mean() + math.log(12) - 1e-9


def test_the_second_order_says_little_of_large_logits():
    a = torch.zeros(12, dtype=F64)
    a[0] = 20
    excess = a.logsumexp(0) - a.mean() - math.log(12)
    second_order = (1 + a.var(correction=0) / 2).log()
    assert excess > 15
    assert second_order < 3


@given(doubly_stochastic, logits)
def test_the_second_inequality_of_theorem_3_1_goes_the_other_way(blur, a):
    products = [x.log_softmax(0).sum() for x in (a, blur.matrix(GRID) @ a)]
    assert products[1] >= products[0] - 1e-8


def test_the_conclusion_of_theorem_3_1_can_fail():
    # One key gets all attention: blurring makes all others' shares larger by more than b_ii.
    matrix = GaussianBlur(1.0, padding="symmetric").matrix(GRID)
    a = 20 * torch.eye(12, dtype=F64)[5]
    left = (matrix @ a).log_softmax(0).sum() + matrix.diag().log().sum()
    assert left > a.log_softmax(0).sum() + 50


@given(doubly_stochastic, logits)
def test_exact_determinants_are_zero_before_and_after(blur, a):
    for hessian in (softmax_hessian(a), smoothed_hessian(a, blur.matrix(GRID))):
        assert hessian.sum(1).abs().max() < 1e-13
        assert torch.linalg.eigvalsh(hessian).abs().min() < 1e-13


def test_the_determinant_of_the_paper_s_matrix_is_larger_than_the_exact_zero():
    matrix = GaussianBlur(1.0, padding="symmetric").matrix(GRID)
    a = torch.linspace(-1, 1, 12, dtype=F64)
    before = torch.linalg.det(softmax_hessian(a)).abs()
    after = torch.linalg.det(entrywise_hessian(a, matrix)).abs()
    assert after > 1e4 * before


@given(row_stochastic, logits, logits)
def test_the_largest_curvature_in_a_direction_never_grows(blur, a, v):
    # v' (-H) v is the variance of v under p: at most a quarter of its squared range.
    matrix = blur.matrix(GRID)
    bound = spread(v) ** 2 / 4
    composed = -v @ smoothed_hessian(a, matrix) @ v
    assert composed <= spread(matrix @ v) ** 2 / 4 + 1e-9 * (1 + bound)
    assert spread(matrix @ v) <= spread(v) + 1e-12


def test_the_bound_in_a_direction_is_reached():
    v = torch.linspace(-1, 3, 12, dtype=F64)
    a = torch.full((12,), -60.0, dtype=F64)
    a[[0, -1]] = 0.0
    assert -v @ softmax_hessian(a) @ v == pytest.approx(spread(v) ** 2 / 4)


@given(doubly_stochastic, logits)
def test_the_curvature_is_at_most_that_at_the_smoothed_logits(blur, a):
    matrix = blur.matrix(GRID)
    composed = torch.linalg.eigvalsh(-smoothed_hessian(a, matrix))[-1]
    inner = torch.linalg.eigvalsh(-softmax_hessian(matrix @ a))[-1]
    assert composed <= analyse(blur, GRID).spectral_norm ** 2 * inner + 1e-12


def test_the_curvature_at_one_place_can_grow():
    matrix = GaussianBlur(1.0, padding="symmetric").matrix((1, 12))
    a = 8 * torch.eye(12, dtype=F64)[5]
    before, after = -softmax_hessian(a), -smoothed_hessian(a, matrix)
    assert after.trace() > 10 * before.trace()
    assert torch.linalg.eigvalsh(after)[-1] > 10 * torch.linalg.eigvalsh(before)[-1]


@given(st.floats(0.3, 0.8), hnp.arrays("float64", 12, elements=st.floats(-3, 3)))
def test_the_pseudo_determinant_of_a_composition_factors(sigma, values):
    a = torch.as_tensor(values)
    matrix = GaussianBlur(sigma, padding="symmetric").matrix((1, 12))
    eigenvalues = torch.linalg.eigvalsh(-smoothed_hessian(a, matrix))
    inner = math.log(12) + (matrix @ a).log_softmax(0).sum()
    of_blur = torch.linalg.eigvalsh(matrix).abs().log().sum()  # 1 is one of them
    torch.testing.assert_close(
        eigenvalues[1:].log().sum(), 2 * of_blur + inner, rtol=1e-5, atol=1e-5
    )


@given(matrices_of_logits, hnp.arrays("float64", 5, elements=st.floats(-5, 5)))
def test_an_attention_step_lowers_the_hopfield_energy(memories, values):
    keys, query = memories / 10, torch.as_tensor(values)

    def energy(q):
        return -(keys @ q).logsumexp(0) + q @ q / 2

    assert energy(keys.T @ (keys @ query).softmax(0)) <= energy(query) + 1e-9


def theory():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("theory", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        sys.modules["theory"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def assert_alike(found, stored, tolerance, path=""):
    if isinstance(stored, dict):
        assert found.keys() == stored.keys(), path
        for name in stored:
            assert_alike(found[name], stored[name], tolerance, f"{path}.{name}")
    elif isinstance(stored, list):
        assert len(found) == len(stored), path
        for each in zip(found, stored, strict=True):
            assert_alike(*each, tolerance, path)
    else:
        expected = stored if stored is None else pytest.approx(stored, rel=tolerance, abs=1e-9)
        assert found == expected, path


def test_the_page_says_the_numbers_of_its_file():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check", ROOT / "docs"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_with_another_number_is_found_out(tmp_path):
    page = theory().page
    numbers = json.loads((ROOT / "docs" / "theory.json").read_text())
    text = (ROOT / "docs" / "theory.md").read_text()
    (tmp_path / "theory.md").write_text(text)
    assert "no image" in page.check(tmp_path, numbers)
    numbers["operators"]["sdxl"]["sigma10"]["spectral_norm"] += 0.01
    assert "operators" in page.check(ROOT / "docs", numbers)
    assert "unknown" in page.rendered("<!--=run.nothing|.2f-->1<!--/-->", numbers)[1][0]


def test_numbers_of_operators_are_what_the_page_has():
    stored = json.loads((ROOT / "docs" / "theory.json").read_text())
    module = theory()
    found = module.page.rounded(module.operators(module.GRIDS["avatars"]))
    assert_alike(found, stored["operators"]["avatars"], 1e-5)
    assert_alike(module.page.rounded(module.axis_facts()), stored["axis"], 1e-5)


def test_words_of_the_page_that_are_numbers():
    stored = json.loads((ROOT / "docs" / "theory.json").read_text())
    seen = stored["run"]["attention"]["all"]
    assert all(one["proposition_error"] == 0 for one in seen.values())  # below 1e-12
    for name in ("sigma1_symmetric", "sigma10_symmetric", "infinite", "box_symmetric"):
        exact = ("variance_grows", "lse_grows", "rows_head_energy_falls", "second_inequality_holds")
        assert all(seen[name][each] == 0 for each in exact)
    assert all(stored["operators"]["avatars"][name]["deviation_norm"] < 1 for name in LIMITED)
    spectral = stored["axis"]["grown"]["reflect"]["spectral"]
    assert min(spectral) > 1
    cosines = stored["run"]["predictions"]
    assert min(one["velocity"]["mean"] for one in cosines.values() if isinstance(one, dict)) > 0.7
    late = cosines["inf"]["momentum"]["last"]["by_step"]
    assert min(late[:8]) > 0.2
    assert abs(sum(late[-4:])) < 0.2 and max(map(abs, late[13:])) < 0.2


def test_numbers_of_the_embedded_model_are_what_the_page_has():
    stored = json.loads((ROOT / "docs" / "theory.json").read_text())
    module = theory()
    with torch.no_grad():
        found = module.small(module.model())
    # The page's were computed on another machine, perhaps: rounding grows over the steps.
    assert_alike(found, stored["small"], 1e-3)
