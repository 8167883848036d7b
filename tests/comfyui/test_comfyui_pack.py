"""The nodes: their settings, their help, and what they do to a model."""

import asyncio
import importlib.util
import json
import re
import sys
from dataclasses import fields

import pytest
from tiny_comfy import PACK, prompt, sampled, unet

from smoothed_energy.integrations.comfyui.guide import guidances_of
from smoothed_energy.methods import METHODS

if sys.version_info >= (3, 11):
    import tomllib


def _pack():
    """The pack, imported as ComfyUI does: as a folder with a name of its own."""
    path = PACK / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_smoothed_energy", path, submodule_search_locations=[str(PACK)]
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pack = _pack()
NODES = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
SCHEMAS = {node: node.GET_SCHEMA() for node in NODES}
OF_METHODS = [node for node in NODES if hasattr(node, "METHOD")]


def defaults(node):
    inputs = [one for one in SCHEMAS[node].inputs if one.id not in ("model", "negative")]
    found = {one.id: one.default for one in inputs}
    return found | ({"negative": prompt(5)} if getattr(node, "METHOD", "") == "nag" else {})


def test_every_method_has_a_node():
    # Autoguidance needs a second model, sg and tsg the timestep that a network is told.
    without = {"autoguidance", "sg", "tsg"}
    assert [node.METHOD for node in OF_METHODS] == [name for name in METHODS if name not in without]


def test_ids_and_names_are_unique():
    for attribute in ("node_id", "display_name"):
        names = [getattr(schema, attribute) for schema in SCHEMAS.values()]
        assert len(set(names)) == len(names)
    assert all(schema.node_id.startswith("SmoothedEnergy") for schema in SCHEMAS.values())
    assert all(schema.category.startswith("smoothed energy") for schema in SCHEMAS.values())


@pytest.mark.parametrize("node", OF_METHODS, ids=lambda node: node.METHOD)
def test_nodes_have_all_settings_of_their_methods(node):
    settings = {field.name for field in fields(METHODS[node.METHOD])}
    own = set(defaults(node))
    if node.METHOD == "nag":  # a conditioning says both
        own |= {"negative_prompt", "negative_embeds"}
        own -= {"negative"}
    # `refresh` says what `every` does; two inputs write another one.
    assert own - {"scale_schedule", "blur_sigma"} == settings - {"every"}


@pytest.mark.parametrize("node", OF_METHODS, ids=lambda node: node.METHOD)
def test_defaults_are_those_of_the_methods(node):
    guided = node.execute(unet(), **defaults(node)).args[0]
    expected = METHODS[node.METHOD]()
    (found,) = guidances_of(guided)
    if node.METHOD == "nag":
        expected = METHODS["nag"](negative_embeds=found.negative_embeds)
    if node.METHOD == "apg":  # ComfyUI's own, and the paper's, are of pictures
        expected = METHODS["apg"](space="picture")
    if node.METHOD == "interval":  # that of all steps does nothing
        expected = METHODS["interval"](steps="sigma:0.3:5")
    assert found == expected


@pytest.mark.parametrize("node", OF_METHODS, ids=lambda node: node.METHOD)
def test_every_node_changes_pictures(node):
    values = defaults(node)
    if node.METHOD == "interval":
        values["steps"] = "0:0.5"
    if node.METHOD == "sag":
        values["steps"] = "0.1:1"
    model = unet()
    plain, guided = sampled(model), sampled(node.execute(model, **values).args[0])
    assert guided.isfinite().all()
    assert (guided - plain).norm() > 1e-3 * plain.norm()
    assert guidances_of(model) == ()


def test_what_other_nodes_write():
    by_id = {schema.node_id: node for node, schema in SCHEMAS.items()}
    steps = by_id["SmoothedEnergySteps"].execute("noise level", 0.5, 5.0, 2).args[0]
    scale = by_id["SmoothedEnergyScale"].execute("cosine", 3.0, 0.0).args[0]
    refresh = by_id["SmoothedEnergyRefresh"].execute("early", 9.0, 0.5).args[0]
    node = by_id["SmoothedEnergySEG"]
    values = defaults(node) | {
        "blur_sigma": 10.0,
        "steps": steps,
        "scale_schedule": scale,
        "refresh": refresh,
    }
    (found,) = guidances_of(node.execute(unet(), **values).args[0])
    assert found == METHODS["seg"](
        blur="gaussian:10",
        steps="sigma:0.5:5&every:2",
        scale="cosine:3:0",
        refresh="early:9,extrapolate=0.5",
    )
    other = node.execute(unet(), **values | {"blur": "box:5"}).args[0]
    assert str(guidances_of(other)[0].blur) == "box:5"


def test_guidance_from_text_and_the_list_of_layers():
    by_id = {schema.node_id: node for node, schema in SCHEMAS.items()}
    text = by_id["SmoothedEnergyText"]
    (both,) = text.execute(unet(), "seg; layers=m0\n\n pag; layers=u0").args
    assert [one.method for one in guidances_of(both)] == ["seg", "pag"]
    (same,) = text.execute(unet(), " \n").args
    assert same is unet()
    rows = by_id["SmoothedEnergyLayers"].execute(unet()).args[0].splitlines()
    assert rows[0].split()[:3] == ["d0", "d0.0", "down"]
    assert [row.split()[0] for row in rows if " mid " in row] == ["m0"]


def test_nodes_keep_nothing():
    """A node's class is all there is, and it has no state that executing changes."""
    for node in NODES:
        before = dict(vars(node))
        if node in OF_METHODS:
            node.execute(unet(), **defaults(node))
        assert dict(vars(node)) == before


@pytest.mark.parametrize("node", NODES, ids=lambda node: SCHEMAS[node].node_id)
def test_every_node_has_a_page_of_help_about_its_inputs(node):
    schema = SCHEMAS[node]
    page = (PACK / pack.WEB_DIRECTORY / "docs" / f"{schema.node_id}.md").read_text()
    assert page.startswith(f"# {schema.display_name}\n")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [one.id for one in schema.inputs]


def test_there_is_no_other_help():
    pages = {path.stem for path in (PACK / "web" / "docs").glob("*.md")}
    assert pages == {schema.node_id for schema in SCHEMAS.values()}


def test_the_example_workflows_have_these_nodes():
    ids = {schema.node_id: schema for schema in SCHEMAS.values()}
    found = list((PACK / "example_workflows").glob("*.json"))
    assert found
    for path in found:
        nodes = json.loads(path.read_text())["nodes"]
        own = [node for node in nodes if node["type"].startswith("SmoothedEnergy")]
        assert own
        for node in own:
            widgets = [one for one in ids[node["type"]].inputs if one.id != "model"]
            assert len(node["widgets_values"]) == len(widgets)


def test_workflows_give_these_nodes_all_their_inputs():
    ids = {schema.node_id: schema for schema in SCHEMAS.values()}
    found = list((PACK / "workflows").glob("*.json"))
    assert found
    page = (PACK / "README.md").read_text()
    for path in found:
        graph = json.loads(path.read_text())
        own = [one for one in graph.values() if one["class_type"].startswith("SmoothedEnergy")]
        assert own
        for one in own:
            assert {*one["inputs"]} == {given.id for given in ids[one["class_type"]].inputs}
        assert f"`{path.name}`" in page


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")
def test_what_the_registry_reads():
    told = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert {"PublisherId", "DisplayName"} <= told["tool"]["comfy"].keys()
    required = (PACK / "requirements.txt").read_text().split()
    assert told["project"]["dependencies"] == required
