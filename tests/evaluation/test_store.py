"""The feature store: what it computes, what it keeps, and what it does not trust."""

import multiprocessing

import numpy as np
import pytest
import torch
from fake_extractor import MeanColour
from PIL import Image

import smoothed_energy.evaluation.store as store_module
from smoothed_energy.evaluation import FeatureStore, Pictures, moments, pictures_in


def picture(seed, height=6, width=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, **options)
    return path


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / "pictures" / f"{seed:02}.png", picture(seed)) for seed in range(10)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def expected(seeds):
    return MeanColour()(torch.stack([picture(seed) for seed in seeds]))


def shards(folder):
    return sorted(folder.rglob("*.npz"))


def test_features_come_in_the_order_of_pictures_and_duplicates_are_computed_once(files, folder):
    extractor, done = MeanColour(), []
    order = [3, 1, 3, 9, 0, 1]
    found = FeatureStore(folder).features(
        [files[i] for i in order], extractor, batch_size=3, progress=done.append
    )
    assert torch.equal(found, expected(order))
    assert extractor.batches == [3, 1]
    assert sum(done) == 6


def test_what_was_computed_is_read_by_the_same_store_and_by_another(files, folder):
    first = FeatureStore(folder).features(files[:6], MeanColour())
    extractor = MeanColour()
    other = FeatureStore(folder)
    assert torch.equal(other.features(files[5::-1], extractor), first.flip(0))
    assert extractor.count == 0
    assert torch.equal(other.features(files, extractor), expected(range(10)))
    assert extractor.count == 4
    assert torch.equal(other.features(files, extractor), expected(range(10)))
    assert extractor.count == 4


def test_a_picture_is_known_by_its_pixels_alone(files, folder, tmp_path):
    store, extractor = FeatureStore(folder), MeanColour()
    store.features(files[:1], extractor)
    same = [
        write(tmp_path / "other.png", picture(0), compress_level=0),
        write(tmp_path / "other.bmp", picture(0)),
        Image.open(files[0]),
        picture(0),
    ]
    assert len({path.read_bytes() for path in [files[0], *same[:2]]}) == 3
    assert torch.equal(store.features(same, extractor), expected([0, 0, 0, 0]))
    assert extractor.count == 1


def test_a_changed_picture_extractor_or_weights_have_new_features(files, folder):
    store = FeatureStore(folder)
    store.features(files[:2], MeanColour())
    write(files[0], picture(70))
    changed = MeanColour()
    assert torch.equal(store.features(files[:2], changed), expected([70, 1]))
    assert changed.count == 1
    for other in (MeanColour(name="mean-colour-64-none"), MeanColour(digest="0" * 63 + "1")):
        store.features(files[:2], other)
        assert other.count == 2
    # The same bytes in another shape are another picture.
    turned = picture(5).reshape(3, 5, 6)
    seen = MeanColour()
    store.features([picture(5), turned], seen)
    assert seen.count == 2


def test_pictures_of_many_sizes_go_through_in_batches_of_one_size(folder):
    sizes = [(6, 5), (4, 4), (6, 5), (4, 4), (6, 5)]
    images = [picture(seed, *size) for seed, size in enumerate(sizes)]
    extractor = MeanColour()
    found = FeatureStore(folder).features(images, extractor, batch_size=2)
    assert sorted(extractor.batches) == [1, 2, 2]
    for image, features in zip(images, found, strict=True):
        assert torch.equal(features, MeanColour()(image[None])[0])


def test_many_vectors_lie_in_one_file(folder):
    images = [torch.full((3, 1, 2), value, dtype=torch.uint8) for value in range(256)]
    FeatureStore(folder).features(images, MeanColour())
    assert len(shards(folder)) == 1
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".npz"]


def test_a_full_shard_is_written_while_the_rest_is_computed(folder, monkeypatch):
    monkeypatch.setattr(store_module, "_CHUNK", 4)
    monkeypatch.setattr(store_module, "_SHARD", 6)
    images = [picture(seed) for seed in range(20)]
    found = FeatureStore(folder).features(images, MeanColour())
    assert torch.equal(found, expected(range(20)))
    assert len(shards(folder)) == 3
    reader = MeanColour()
    assert torch.equal(FeatureStore(folder).features(images, reader), found)
    assert reader.count == 0


def test_what_was_computed_before_an_error_is_kept(files, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_CHUNK", 4)
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"broken\.png is no whole picture"):
        FeatureStore(folder).features([*files[:8], broken], MeanColour())
    extractor = MeanColour()
    FeatureStore(folder).features(files, extractor)
    assert extractor.count == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "keys", "features", "text"])
def test_damaged_files_are_computed_again_and_never_trusted(files, folder, damage):
    FeatureStore(folder).features(files, MeanColour())
    (shard,) = shards(folder)
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = b""
    elif damage == "text":
        content = b"no archive"
    else:
        with np.load(shard) as archive:
            part = archive[damage].tobytes()
        content[content.index(part) + len(part) // 2] ^= 1
    shard.write_bytes(content)
    extractor = MeanColour()
    store = FeatureStore(folder)
    with pytest.warns(UserWarning, match="damaged and are computed again"):
        assert torch.equal(store.features(files, extractor), expected(range(10)))
    assert extractor.count == 10
    assert shard not in shards(folder)
    again = MeanColour()
    assert torch.equal(FeatureStore(folder).features(files, again), expected(range(10)))
    assert again.count == 0


def test_vectors_of_another_extractor_in_the_folder_are_not_trusted(files, folder):
    FeatureStore(folder).features(files, MeanColour())
    (shard,) = shards(folder)
    other = MeanColour(digest="0" * 16 + "1" * 48)
    with pytest.warns(UserWarning, match="damaged"):
        FeatureStore(folder).features(files, other)
    assert other.count == 10
    assert not shard.exists()


def test_a_shard_that_another_process_removed_is_computed_again(files, folder):
    store, extractor = FeatureStore(folder), MeanColour()
    store.features(files, extractor)
    for shard in shards(folder):
        shard.unlink()
    store = FeatureStore(folder)
    store.features(files[:1], extractor)
    (shard,) = shards(folder)
    shard.unlink()
    assert torch.equal(store.features(files, extractor), expected(range(10)))


def work(folder, seeds, results):
    images = [picture(seed) for seed in seeds]
    results.put(FeatureStore(folder).features(images, MeanColour(), batch_size=2).tolist())


def test_two_processes_use_one_folder_at_once(folder):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=work, args=(folder, range(start, start + 40), results))
        for start in (0, 20)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    by_end = sorted(found, key=lambda features: features == expected(range(20, 60)).tolist())
    assert by_end == [expected(range(40)).tolist(), expected(range(20, 60)).tolist()]
    reader = MeanColour()
    everything = FeatureStore(folder).features([picture(seed) for seed in range(60)], reader)
    assert reader.count == 0
    assert torch.equal(everything, expected(range(60)))


def test_without_a_folder_nothing_is_kept(files):
    extractor = MeanColour()
    store = FeatureStore(None)
    for _ in range(2):
        assert torch.equal(store.features(files, extractor), expected(range(10)))
    assert extractor.count == 20


def test_statistics_are_those_of_the_features(files, folder, monkeypatch):
    monkeypatch.setattr(store_module, "_CHUNK", 3)
    found = FeatureStore(folder).statistics(files, MeanColour(digest="ab"))
    one = moments(expected(range(10)))
    assert (found.extractor, found.digest, found.count) == ("mean-colour-any-none", "ab", 10)
    assert (found.moments().covariance - one.covariance).abs().max() < 1e-12


class Wrong(MeanColour):
    def __init__(self, features):
        super().__init__()
        self.features = features

    def __call__(self, images):
        return self.features


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(1, 5), r"gave \(1, 5\).*expected \(1, 6\)"),
        (torch.full((1, 6), torch.nan), "finite"),
    ],
)
def test_an_extractor_that_gives_something_else_is_refused(files, folder, features, message):
    with pytest.raises(ValueError, match=message):
        FeatureStore(folder).features(files[:1], Wrong(features))
    assert not shards(folder)


def test_a_name_that_is_no_folder_is_refused(files, folder):
    with pytest.raises(ValueError, match=r"extractor name '\.\./up'"):
        FeatureStore(folder).features(files, MeanColour(name="../up"))


class TestPictures:
    def test_those_of_a_folder_come_by_name(self, files, tmp_path):
        write(tmp_path / "pictures" / "more" / "a.JPG", picture(3))
        write(tmp_path / "pictures" / ".hidden.png", picture(4))
        (tmp_path / "pictures" / "notes.txt").write_text("x")
        found = pictures_in(tmp_path / "pictures")
        assert found == [*files, tmp_path / "pictures" / "more" / "a.JPG"]

    def test_a_folder_without_any_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="has no pictures; expected files that end"):
            pictures_in(tmp_path)
        with pytest.raises(ValueError, match="is no folder"):
            pictures_in(tmp_path / "none")

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
    def test_other_modes_are_read_as_rgb(self, mode, tmp_path):
        grey = torch.full((3, 4, 4), 128, dtype=torch.uint8)
        image = Image.fromarray(grey.permute(1, 2, 0).numpy())
        image = image.quantize(4) if mode == "P" else image.convert(mode)
        assert image.mode == mode
        image.save(tmp_path / "a.tif")
        assert torch.equal(Pictures([tmp_path / "a.tif"])[0], grey)

    def test_what_has_no_meaning_as_rgb_is_refused(self, tmp_path):
        Image.new("RGBA", (2, 2), (1, 2, 3, 9)).save(tmp_path / "alpha.png")
        Image.new("I;16", (2, 2), 40000).save(tmp_path / "deep.png")
        for name, message in (("alpha", "transparent in places"), ("deep", "the mode I")):
            with pytest.raises(ValueError, match=message):
                Pictures([tmp_path / f"{name}.png"])[0]
        with pytest.raises(ValueError, match=r"picture 0 is \(3, 2, 2\) torch\.float32"):
            Pictures([torch.zeros(3, 2, 2)])[0]
        with pytest.raises(ValueError, match="no such file"):
            Pictures([tmp_path / "none.png"])[0]

    def test_middle_squares_are_resized_by_pil(self):
        image = picture(0, height=20, width=30)
        square = Image.fromarray(image[..., 5:25].permute(1, 2, 0).numpy())
        square = square.resize((8, 8), Image.Resampling.BICUBIC)
        found = Pictures([image], square=8)[0]
        assert np.array_equal(found.permute(1, 2, 0).numpy(), np.array(square))

    def test_one_of_another_size_is_refused_where_one_is_expected(self, files, tmp_path):
        write(tmp_path / "wide.png", picture(0, width=9))
        pictures = Pictures([*files, tmp_path / "wide.png"])
        assert pictures[10].shape == (3, 6, 9)
        same = pictures.of_one_size()
        assert torch.equal(same[9], picture(9))
        with pytest.raises(ValueError, match=r"00\.png has 6x5 pixels and .*wide\.png 6x9"):
            same[10]
        assert Pictures([*files, tmp_path / "wide.png"], square=4).of_one_size()[10].shape[1] == 4
