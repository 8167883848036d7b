"""Numbers of folders, features and statistics, and how they are called."""

import json
from dataclasses import replace

import pytest
import torch
from fake_extractor import MeanColour
from PIL import Image

from smoothed_energy.evaluation import (
    METRICS,
    FeatureStatistics,
    FeatureStore,
    Pictures,
    Resampling,
    Value,
    ValueTable,
    evaluate,
    feature_set,
    frechet_distance,
    moments,
)


def pictures(count, seed, low=0, height=6):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, height, 5)
    return torch.randint(low, 256, shape, generator=generator, dtype=torch.uint8)


def folder_of(path, images):
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path / f"{number:03}.png")
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluate")
    return folder_of(place / "samples", pictures(12, 0)), folder_of(
        place / "real", pictures(15, 1, low=60)
    )


@pytest.fixture(scope="module")
def features():
    return MeanColour()(pictures(12, 0)), MeanColour()(pictures(15, 1, low=60))


def test_every_form_of_the_same_pictures_gives_the_same_numbers(folders, features, tmp_path):
    extractor, names = MeanColour(), list(METRICS)
    expected = {name: METRICS[name](*features) for name in names}
    lists = [sorted(folder.iterdir()) for folder in folders]
    sets = [feature_set(folder, extractor) for folder in folders]
    for samples, real in (
        folders,
        map(str, folders),
        lists,
        [Pictures(paths) for paths in lists],
        (pictures(12, 0), pictures(15, 1, low=60)),
        sets,
        (folders[0], sets[1]),
    ):
        values = evaluate(samples, real, names, extractor=extractor)
        assert {value.metric: value.value for value in values} == pytest.approx(expected)
        assert [value.metric for value in values] == names
        assert {value.count for value in values} == {12}
        assert {value.extractor for value in values} == {"mean-colour-any-none"}
    assert [value.value for value in evaluate(*features, names)] == pytest.approx(
        [*expected.values()]
    )


def test_statistics_do_for_the_frechet_distance_only(folders, features, tmp_path):
    extractor, path = MeanColour(), tmp_path / "real.npz"
    feature_set(folders[1], extractor).statistics().save(path)
    expected = frechet_distance(*map(moments, features))
    samples = FeatureStatistics.load(path)
    samples_path = tmp_path / "samples.npz"
    feature_set(folders[0], extractor).statistics().save(samples_path)
    for first, second in ((folders[0], path), (samples_path, path), (samples_path, folders[1])):
        (value,) = evaluate(first, second, ["frechet"], extractor=extractor)
        assert value.value == pytest.approx(expected)
        assert value.against.startswith("real: 15 pictures, ")
    assert evaluate(folders[0], path, ["vendi"], extractor=extractor)[0].against == ""
    with pytest.raises(ValueError, match=r"kernel needs features, and real: 15.*do for frechet"):
        evaluate(folders[0], path, ["kernel"], extractor=extractor)
    with pytest.raises(ValueError, match="interval of frechet needs features of the samples"):
        evaluate(samples, path, ["frechet"], resamples=20)


def test_features_are_read_from_the_store(folders, tmp_path):
    store, extractor = FeatureStore(tmp_path), MeanColour()
    first = evaluate(*folders, extractor=extractor, store=store)
    assert extractor.count == 27
    assert evaluate(*folders, extractor=extractor, store=store) == first
    assert extractor.count == 27


def test_intervals_do_not_leave_what_the_number_can_be(features):
    samples, real = features[1][:, :2], features[1][:, :2]
    for value in evaluate(samples, real, ["precision", "recall", "coverage"], resamples=40):
        assert value.value == value.high == 1
    (value,) = evaluate(samples, real, ["frechet"], resamples=40)
    assert value.low == 0


@pytest.mark.parametrize("name", METRICS)
def test_intervals_lie_around_the_number_and_say_how_they_were_made(features, name):
    features = [part[:, :2] for part in features]
    (plain,) = evaluate(*features, [name])
    (value,) = evaluate(*features, [name], resamples=40)
    assert value.value == plain.value
    assert value.low <= value.value <= value.high
    assert value.intervals == "95 % interval, 40 random halves of the seeds, seed 0"
    assert (plain.low, plain.high, plain.intervals) == (None, None, "")
    least, most = METRICS[name].bounds
    assert least <= value.low < value.high <= most
    (narrow,) = evaluate(*features, [name], resamples=Resampling(40, level=0.5))
    assert narrow.high - narrow.low < value.high - value.low


def test_the_reference_is_known_by_its_content(folders, tmp_path):
    images = pictures(15, 1, low=60)
    extractor = MeanColour()
    again = folder_of(tmp_path / "real", images.flip(0))
    (tmp_path / "more").mkdir()
    other = folder_of(tmp_path / "more" / "real", pictures(15, 2, low=60))
    labels = [feature_set(folder, extractor).source for folder in (folders[1], again, other)]
    assert labels[0] == labels[1] != labels[2]
    assert all(label.startswith("real: 15 pictures, ") for label in labels)
    squares = Pictures(sorted(again.iterdir()), label="real", square=4)
    assert feature_set(squares, extractor).source.startswith("real, middle squares of 4: 15")


class TestRefusals:
    def test_of_pictures(self, folders, tmp_path):
        extractor = MeanColour()
        with pytest.raises(ValueError, match="need an extractor"):
            evaluate(*folders)
        with pytest.raises(ValueError, match="no pictures to measure"):
            evaluate([], folders[1], extractor=extractor)
        mixed = folder_of(tmp_path / "mixed", pictures(3, 0))
        Image.new("RGB", (9, 9)).save(mixed / "z.png")
        with pytest.raises(ValueError, match=r"000\.png has 6x5 pixels and .*z\.png 9x9"):
            evaluate(mixed, folders[1], extractor=extractor)
        one = folder_of(tmp_path / "one", pictures(1, 0))
        with pytest.raises(ValueError, match=r"frechet: features have shape \(1, 6\)"):
            evaluate(one, folders[1], extractor=extractor)
        (tmp_path / "file.txt").write_text("x")
        with pytest.raises(ValueError, match=r"file\.txt is a file; expected a folder"):
            evaluate(tmp_path / "file.txt", folders[1], extractor=extractor)

    def test_of_other_extractors(self, folders, tmp_path):
        path = tmp_path / "real.npz"
        feature_set(folders[1], MeanColour(name="other-64-pil")).statistics().save(path)
        with pytest.raises(ValueError, match=r"of the extractor 'other-64-pil'.*'mean-colour"):
            evaluate(folders[0], path, extractor=MeanColour())
        samples = feature_set(folders[0], MeanColour())
        with pytest.raises(ValueError, match=r"weights '000.*' and real images '100"):
            evaluate(samples, feature_set(folders[1], MeanColour(digest="1" + "0" * 63)))

    @pytest.mark.parametrize("metrics", [[], "frechet", ["fid"]])
    def test_of_metrics(self, features, metrics):
        with pytest.raises(ValueError, match=r"metric.*frechet.*kernel.*vendi"):
            evaluate(*features, metrics)

    def test_of_intervals_of_too_few(self, features):
        with pytest.raises(ValueError, match="11 samples; an interval of recall needs at least 12"):
            evaluate(features[0][:11], features[1], ["recall"], resamples=20)

    def test_of_tensors(self, features):
        with pytest.raises(ValueError, match=r"shape \(12,\); expected features \(N, D\)"):
            evaluate(features[0][:, 0], features[1])


def value(metric="frechet", extractor="net-64-pil", number=1.0, **others):
    fields = {"low": None, "high": None, "count": 10, "against": "real", "better": "lower"}
    return Value(metric, extractor, number, **(fields | others))


class TestValue:
    @pytest.mark.parametrize(
        ("metric", "extractor", "short"),
        [
            ("frechet", "inception-v3-299-bilinear-tf1", "FID"),
            ("kernel", "inception-v3-299-bilinear-tf1", "KID"),
            ("frechet", "dinov2-vitl14-224-pil-bicubic", "FD-DINOv2"),
            ("cmmd", "clip-vitl14-336-square-pil-bicubic", "CMMD"),
            ("frechet", "efficientnet-lite0-224-bicubic", "Frechet distance"),
            ("frechet", "dinov2-vits14-224-pil-bicubic", "Frechet distance"),
            ("cmmd", "clip-vitl14-224-square-pil-bicubic", "Gaussian kernel distance"),
            ("precision", "net-64-pil", "precision"),
        ],
    )
    def test_its_name_says_extractor_and_resize(self, metric, extractor, short):
        assert value(metric, extractor).name == f"{short} ({extractor})"

    def test_it_is_written_as_json_and_read(self):
        one = value(low=0.5, high=1.5, weights="ab", intervals="halves")
        text = json.dumps(one.to_dict())
        assert "Frechet distance (net-64-pil)" in text
        assert Value.from_dict(json.loads(text)) == one
        with pytest.raises(ValueError, match="mean is no field of a value; expected metric"):
            Value.from_dict({"mean": 1})
        with pytest.raises(ValueError, match=r"lacks fields.*extractor"):
            Value.from_dict({"metric": "frechet"})

    @pytest.mark.parametrize(
        ("number", "low", "high", "text"),
        [
            (457.63512, 450.1, 464.93, "458 [450, 465]"),
            (0.012345, 0.0115, 0.0132, "0.0123 [0.0115, 0.0132]"),
            (0.5, 0.5, 0.5, "0.50 [0.50, 0.50]"),
            (457.63512, None, None, "457.6"),
        ],
    )
    def test_its_text_has_the_digits_that_the_interval_allows(self, number, low, high, text):
        assert value(number=number, low=low, high=high).text == text


class TestTable:
    def test_it_has_a_column_for_each_metric(self):
        table = ValueTable()
        table.add("unguided", [value(), value("vendi", against="", number=3.0)])
        table.add("guided", [value(number=0.5)])
        assert table.columns == {
            "frechet": "Frechet distance (net-64-pil)",
            "vendi": "Vendi score (net-64-pil)",
        }
        assert table.rows["guided"] == {"frechet": value(number=0.5)}

    @pytest.mark.parametrize(
        ("field", "other"),
        [("extractor", "net-299-pil"), ("against", "other"), ("weights", "cd"), ("count", 11)],
    )
    def test_values_of_another_kind_never_stand_in_one_column(self, field, other):
        table = ValueTable()
        table.add("unguided", [value()])
        with pytest.raises(ValueError, match=rf"guided: .*{field} .*{other}.*can't be compared"):
            table.add("guided", [value("kernel"), replace(value(), **{field: other})])
        assert list(table.rows) == ["unguided"]
        assert list(table.columns) == ["frechet"]

    def test_a_place_that_is_taken_is_refused(self):
        table = ValueTable()
        table.add("unguided", [value()])
        with pytest.raises(ValueError, match="there is a Frechet distance"):
            table.add("unguided", [value()])

    def test_a_row_has_no_two_kinds_of_one_metric(self):
        with pytest.raises(ValueError, match="can't be compared"):
            ValueTable().add("row", [value(), value(extractor="net-299-pil")])
