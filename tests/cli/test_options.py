"""Each option of ``generate`` stands in one place, from which all else follows."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from smoothed_energy.cli import app, generate_settings, resolve, stored
from smoothed_energy.cli.generate import command
from smoothed_energy.cli.generate_settings import OPTIONS, GenerateSettings
from smoothed_energy.cli.option import ByModel, Option, option_signature, options_of
from smoothed_energy.cli.resolve import read_options, resolve_settings
from smoothed_energy.cli.setting_kinds import NUMBER, TEXT, Kind, integer_from

NAMES = [field.name for field in fields(GenerateSettings)]


def test_every_field_is_an_option_of_the_command_and_no_other_is():
    assert list(inspect.signature(command).parameters) == NAMES
    parameters = typer.main.get_command(app).commands["generate"].params
    assert [parameter.name for parameter in parameters if parameter.name != "help"] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_kind_and_a_description(name):
    option = OPTIONS[name]
    assert isinstance(option.kind, Kind)
    assert option.kind.words
    assert option.description.endswith(".")


def test_an_image_remembers_all_but_what_does_not_change_it():
    forgotten = {name for name in NAMES if not OPTIONS[name].is_remembered}
    assert forgotten == {
        "batch_size",
        "device",
        "out",
        "canny",
        "source",
        "trust",
        "overwrite",
        "json",
    }
    settings = resolve_settings({"control": "a.png"}, {})
    assert settings.to_dict().keys() == set(NAMES) - forgotten


@pytest.mark.parametrize("name", [name for name in NAMES if OPTIONS[name].is_remembered])
@pytest.mark.parametrize("model", ["avatars", "owner/name"])
def test_every_default_can_be_remembered_and_read_again(name, model):
    option = OPTIONS[name]
    default = option.default_for(model)
    value = json.loads(json.dumps(default))
    assert option.kind.accepts(value)
    assert value is None or option.kind.from_json(value) == default


@pytest.mark.parametrize("name", [name for name in NAMES if OPTIONS[name].is_remembered])
def test_a_remembered_option_that_is_left_out_is_told_from_one_that_is_given(name):
    assert inspect.signature(command).parameters[name].default is None


def test_the_help_tells_a_default_by_model():
    assert str(ByModel(3.0, avatars=0.7)) == "0.7 for avatars, else 3.0"
    assert str(ByModel(None, avatars="canny")) == "canny for avatars"


@dataclass(frozen=True, kw_only=True)
class MoreSettings(GenerateSettings):
    sharpness: Annotated[
        int, Option(integer_from(1), "How sharp it is.", default=ByModel(3, avatars=5))
    ]


class TestOneMoreField:
    """All that a further option needs is a field."""

    @pytest.fixture(autouse=True)
    def _in_place(self, monkeypatch):
        monkeypatch.setattr(resolve, "GenerateSettings", MoreSettings)
        for module in (generate_settings, resolve, stored):
            monkeypatch.setattr(module, "OPTIONS", options_of(MoreSettings))

    def given(self, *arguments):
        """The result of a command line, and the settings that it gives."""
        found = {}

        def further(**options):
            found.update(read_options(options))

        further.__signature__ = option_signature(MoreSettings)
        small = typer.Typer()
        small.command()(further)
        return CliRunner(env={"COLUMNS": "200"}).invoke(small, arguments), found

    def test_is_an_option_with_help_and_range(self):
        result, found = self.given("--sharpness", "7")
        assert (result.exit_code, found["sharpness"]) == (0, 7)
        result, _ = self.given("--sharpness", "0")
        assert result.exit_code == 2
        result, _ = self.given("--help")
        assert "--sharpness" in result.output
        assert "Default: 5 for avatars, else 3." in result.output

    def test_has_its_default(self):
        _, given = self.given()
        assert resolve_settings(given, {}).sharpness == 5
        _, given = self.given("--model", "owner/name")
        assert resolve_settings(given, {}).sharpness == 3

    def test_is_remembered_and_read_again(self):
        _, given = self.given("--sharpness", "7")
        remembered = json.loads(json.dumps(resolve_settings(given, {}).to_dict()))
        assert remembered["sharpness"] == 7
        _, given = self.given()
        assert resolve_settings(given, remembered).sharpness == 7

    def test_is_refused_as_another_kind(self):
        with pytest.raises(ValueError, match=r"sharpness='7' cannot be read.*an integer >= 1"):
            resolve_settings({}, {"sharpness": "7"})


@pytest.mark.parametrize(
    ("option", "default"),
    [
        (Option(TEXT, "It."), None),
        (Option(TEXT, "It.", default="a"), None),
        (Option(TEXT, "It.", default="a", is_remembered=False), None),
        (Option(TEXT, "It.", default="a", default_words="", is_remembered=False), "a"),
        (Option(NUMBER, "It.", default=ByModel(1, avatars=2), is_remembered=False), None),
    ],
)
def test_typer_knows_a_default_only_where_it_tells_it(option, default):
    assert option.parameter("it").default == default
