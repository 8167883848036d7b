"""Nodes and workflows in ComfyUI's own graph executor, with tiny models for those it loads."""

import asyncio
import copy
import importlib
import inspect
import json
import types
from pathlib import Path

import pytest
import torch
from tiny_comfy import IS_REAL, PACK, of_this_version, prompt, transformer, unet

pytestmark = pytest.mark.skipif(not IS_REAL, reason="needs ComfyUI: set COMFYUI_PATH to a checkout")

WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
#: The tiny model that stands for what a workflow loads, and its latents.
MODELS = {
    "seg_with_nine_passes": ("unet", (1, 4, 12, 8)),
    "stack_with_schedules": ("unet", (1, 4, 12, 8)),
    "nag_for_flux_schnell": ("Flux", (1, 16, 12, 8)),
    "slg_for_sd35_medium": ("SD3", (1, 16, 12, 8)),
    "pag_for_wan": ("WAN21", (1, 16, 3, 12, 8)),
}
LOADERS = ("CheckpointLoaderSimple", "UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader")
KEPT = {}


def node(returns, run, **inputs):
    """A node of ComfyUI's first kind, whose function is `run`."""
    made = {
        "INPUT_TYPES": classmethod(lambda cls: {"required": inputs}),
        "RETURN_TYPES": returns,
        "FUNCTION": "run",
        "CATEGORY": "tests",
        "OUTPUT_NODE": not returns,
        "run": staticmethod(run),
    }
    return type("Node", (), made)


def kept(samples):
    KEPT["samples"] = samples["samples"]
    return {"ui": {}}


def shown(text):
    KEPT["text"] = text
    return {"ui": {}}


@pytest.fixture(scope="module")
def executor():
    """ComfyUI's executor with this pack, loaded as ComfyUI loads packs."""
    try:
        nodes, execution = (importlib.import_module(name) for name in ("nodes", "execution"))
    except ImportError as error:
        pytest.skip(f"ComfyUI has not all that it requires: {error}")
    loaded = asyncio.run(nodes.load_custom_node(str(PACK)))
    assert loaded
    extras = Path(nodes.__file__).parent / "comfy_extras"
    for name in ("nodes_sd3", "nodes_hunyuan", "nodes_images"):
        # Older versions want more for some of them.
        path = str(extras / f"{name}.py")
        asyncio.run(nodes.load_custom_node(path, module_parent="comfy_extras"))

    def model(name):
        return (unet() if name == "unet" else transformer(name),)

    def text(seed):
        return (prompt(seed, pooled_output=torch.ones(1, 16)),)

    def latents(shape):
        sizes = [int(size) for size in shape.split("x")]
        return ({"samples": torch.zeros(sizes)},)

    nodes.NODE_CLASS_MAPPINGS |= {
        "TestModel": node(("MODEL",), model, name=("STRING", {})),
        "TestText": node(("CONDITIONING",), text, seed=("INT", {})),
        "TestLatents": node(("LATENT",), latents, shape=("STRING", {})),
        "TestKeep": node((), kept, samples=("LATENT",)),
        "TestShow": node((), shown, text=("STRING", {"forceInput": True})),
    }
    server = types.SimpleNamespace(client_id=None, last_node_id=None, last_prompt_id=None)
    server.send_sync = lambda *args: None
    settings = {}
    if "cache_args" in inspect.signature(execution.PromptExecutor).parameters:
        settings["cache_args"] = {"lru": 0, "ram": 0, "ram_inactive": 0}
    made = execution.PromptExecutor(server, **settings)

    def run(graph):
        KEPT.clear()
        outputs = [
            key for key, one in graph.items() if one["class_type"] in ("TestKeep", "TestShow")
        ]
        checked = asyncio.run(execution.validate_prompt("test", graph, None))
        assert checked[0], checked
        made.reset()
        made.execute(graph, "test", {}, outputs)
        failed = [data for event, data in made.status_messages if event == "execution_error"]
        assert made.success, failed
        return dict(KEPT)

    run.kinds = nodes.NODE_CLASS_MAPPINGS
    return run


def sampled_by(model, name="unet", shape="1x4x12x8", **nodes):
    """A graph that samples with a node's model."""
    return {
        "model": {"class_type": "TestModel", "inputs": {"name": name}},
        "positive": {"class_type": "TestText", "inputs": {"seed": 1}},
        "negative": {"class_type": "TestText", "inputs": {"seed": 2}},
        "latent": {"class_type": "TestLatents", "inputs": {"shape": shape}},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": [model, 0],
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["latent", 0],
                "seed": 0,
                "steps": 4,
                "cfg": 4.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "keep": {"class_type": "TestKeep", "inputs": {"samples": ["sampler", 0]}},
        **nodes,
    }


def inputs_of(kind):
    """The inputs of a node with their defaults: as ComfyUI's frontend fills them in."""
    found = {}
    given = kind.INPUT_TYPES()
    for name, (what, *options) in {**given["required"], **given.get("optional", {})}.items():
        known = options[0] if options else {}
        choices = what if isinstance(what, list) else known.get("options", [None])
        found[name] = known.get("default", choices[0])
    return found


def test_every_node_is_executed(executor):
    """Every node of the pack, so that a new one can't be left out."""
    ours = [name for name in executor.kinds if name.startswith("SmoothedEnergy")]
    assert len(ours) >= 25
    plain = executor(sampled_by("model"))["samples"]
    for name in ours:
        kind = executor.kinds[name]
        inputs = inputs_of(kind)
        if "negative" in inputs:
            inputs["negative"] = ["avoided", 0]
        if name == "SmoothedEnergySAG":
            inputs["steps"] = "0.2:1"
        if name == "SmoothedEnergyInterval":
            inputs["steps"] = "0:0.5"
        given = {
            "avoided": {"class_type": "TestText", "inputs": {"seed": 5}},
            "node": {"class_type": name, "inputs": inputs},
        }
        if "model" in inputs:
            inputs["model"] = ["model", 0]
        if kind.RETURN_TYPES == ["MODEL"]:
            found = executor(sampled_by("node", **given))["samples"]
            assert found.isfinite().all(), name
            assert (found - plain).norm() > 1e-3 * plain.norm(), name
        else:
            model = {"class_type": "TestModel", "inputs": {"name": "unet"}}
            show = {"class_type": "TestShow", "inputs": {"text": ["node", 0]}}
            assert executor({"model": model, **given, "show": show})["text"], name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run(executor, path):
    name, shape = MODELS[path.stem]
    if name not in ("unet", "Flux", "WAN21", *of_this_version(name)):
        pytest.skip("this ComfyUI has no such model")
    graph = json.loads(path.read_text())
    for one in graph.values():
        kind = executor.kinds.get(one["class_type"])
        if kind is None and one["class_type"].startswith("Save"):
            continue
        given = kind.INPUT_TYPES()
        known = {*given["required"], *given.get("optional", {})}
        assert {*given["required"]} <= {*one["inputs"]} <= known, one
    tiny = tiny_graph(graph, name, shape)
    guided = executor(tiny)["samples"]
    ours = {key for key, one in tiny.items() if one["class_type"].startswith("SmoothedEnergy")}
    plain = copy.deepcopy(tiny)
    plain["sampler"]["inputs"]["model"] = ["model", 0]
    for key in ours:
        del plain[key]
    unguided = executor(plain)["samples"]
    assert guided.isfinite().all()
    assert (guided - unguided).norm() > 1e-3 * unguided.norm()


def tiny_graph(graph, name, shape):
    """A workflow with a tiny model and texts for what it loads, few steps, and latents kept."""
    found = {"model": {"class_type": "TestModel", "inputs": {"name": name}}}
    seeds = iter(range(1, 9))
    for key, one in copy.deepcopy(graph).items():
        kind = one["class_type"]
        if kind in LOADERS:
            continue
        if kind == "CLIPTextEncode":
            one = {"class_type": "TestText", "inputs": {"seed": next(seeds)}}
        elif kind.startswith("Empty"):
            sizes = "x".join(map(str, shape))
            one = {"class_type": "TestLatents", "inputs": {"shape": sizes}}
        elif kind == "VAEDecode":
            one = {"class_type": "TestKeep", "inputs": {"samples": one["inputs"]["samples"]}}
        elif kind.startswith("Save"):
            continue
        elif kind == "KSampler":
            one["inputs"]["steps"] = 6
        inputs = one["inputs"]
        for argument, value in inputs.items():
            if isinstance(value, list) and graph[value[0]]["class_type"] in LOADERS:
                inputs[argument] = ["model", 0]
        # The tiny models have fewer layers.
        if inputs.get("layers") == "b7,b8,b9":
            inputs["layers"], inputs["steps"] = "b1", "0:0.5"
        found[key] = one
    return found
