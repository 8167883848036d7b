"""Statistics of features: batches, shards and files."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothed_energy.evaluation import FeatureStatistics, moments


def features(count=200, size=12, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mixing + shift


def statistics_of(*batches, **about):
    statistics = FeatureStatistics(**about)
    for batch in batches:
        statistics.update(batch)
    return statistics


@settings(max_examples=40)
@given(
    shards=st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=6),
    size=st.integers(1, 9),
    shift=st.floats(-1e3, 1e3),
    seed=st.integers(0, 1000),
)
def test_shards_that_are_merged_equal_one_pass(shards, size, shift, seed):
    count = sum(map(sum, shards))
    x = features(count + 2, size, seed, shift)
    merged, start = statistics_of(x[count:]), 0
    for shard in shards:
        part = FeatureStatistics()
        for length in shard:
            part.update(x[start : start + length])
            start += length
        merged.merge(part)
    found = merged.moments()
    covariance = np.cov(x.numpy(), rowvar=False).reshape(size, size)
    scale = np.abs(covariance).max()
    assert found.count == count + 2
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.covariance, covariance, rtol=0, atol=1e-10 * scale)
    one = moments(x)
    np.testing.assert_allclose(found.covariance, one.covariance, rtol=0, atol=1e-10 * scale)


def test_thousands_of_wide_vectors_in_shards_equal_one_pass():
    x = torch.randn(3000, 256, generator=torch.Generator().manual_seed(3)) * 3 + 50
    merged = FeatureStatistics()
    for shard in x.split(700):
        merged.merge(statistics_of(*shard.split(64)))
    one = moments(x)
    assert (merged.moments().mean - one.mean).abs().max() < 1e-10
    assert (merged.moments().covariance - one.covariance).abs().max() < 1e-10


def test_a_merge_leaves_its_parts_as_they_were():
    first, second = statistics_of(features(seed=1)), statistics_of(features(seed=2))
    before = second.moments().covariance
    total = FeatureStatistics()
    total.merge(second)
    total.merge(first)
    assert torch.equal(second.moments().covariance, before)
    assert total.count == 400


def test_they_are_saved_and_read(tmp_path):
    about = {"extractor": "net-224-bicubic", "digest": "ab12", "source": "drawings"}
    statistics = statistics_of(features(), **about)
    statistics.save(tmp_path / "new" / "drawings.npz")
    found = FeatureStatistics.load(tmp_path / "new" / "drawings.npz", extractor="net-224-bicubic")
    assert {name: getattr(found, name) for name in about} == about
    assert torch.equal(found.moments().mean, statistics.moments().mean)
    assert torch.equal(found.moments().covariance, statistics.moments().covariance)
    found.merge(statistics)
    assert found.count == 400
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["drawings.npz"]


def test_those_of_another_extractor_are_refused(tmp_path):
    path = tmp_path / "drawings.npz"
    statistics_of(features(), extractor="net-224-bicubic", digest="a").save(path)
    with pytest.raises(ValueError, match=r"drawings\.npz.*'net-224-bicubic'.*'net-299-bilinear'"):
        FeatureStatistics.load(path, extractor="net-299-bilinear")
    with pytest.raises(ValueError, match="with weights 'a'; expected those with weights 'b'"):
        FeatureStatistics.load(path, extractor="net-224-bicubic", digest="b")
    with pytest.raises(ValueError, match=r"'net-224-bicubic'.*'other'"):
        FeatureStatistics("other").merge(FeatureStatistics.load(path))


def test_what_is_no_file_of_statistics_is_refused(tmp_path):
    path = tmp_path / "drawings.npz"
    with pytest.raises(ValueError, match="no such file"):
        FeatureStatistics.load(path)
    path.write_text("mean 3")
    with pytest.raises(ValueError, match="no file of statistics"):
        FeatureStatistics.load(path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="holds mu, sigma; expected statistics"):
        FeatureStatistics.load(path)


@pytest.mark.parametrize("place", ["cut", "flipped"])
def test_a_damaged_file_is_refused(tmp_path, place):
    path = tmp_path / "drawings.npz"
    statistics_of(features()).save(path)
    content = bytearray(path.read_bytes())
    if place == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        FeatureStatistics.load(path)


def test_useless_features_are_refused():
    statistics = statistics_of(features(size=4))
    with pytest.raises(ValueError, match="of 4 features can't take vectors of 3"):
        statistics.update(features(size=3))
    with pytest.raises(ValueError, match="not finite"):
        statistics.update(torch.full((2, 4), torch.nan))
    with pytest.raises(ValueError, match=r"expected \(B, D\)"):
        statistics.update(torch.zeros(4))
    with pytest.raises(ValueError, match="of 1 vectors; a covariance needs at least 2"):
        statistics_of(features(1)).moments()
