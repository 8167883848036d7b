"""A node for each method: its settings, and a model that is guided by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from smoothed_energy.integrations.comfyui.guide import guide
from smoothed_energy.integrations.comfyui.negative import NegativeText

from .settings import (
    CATEGORY,
    choice,
    count,
    layers,
    model,
    negative_settings,
    number,
    scale,
    steps,
    text,
)


@dataclass(frozen=True)
class _Method:
    """What a node says of a method.

    Args:
        method: Its name.
        node: The id of the node after `SmoothedEnergy`.
        title: What the node is called.
        group: Where it is in the menu.
        about: What it does.
        settings: Makes its inputs.
    """

    method: str
    node: str
    title: str
    group: str
    about: str
    settings: Callable[[], Sequence[Any]]


def settings_of(method: str, values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a guidance, from what a node was given.

    Args:
        method: Its name.
        values: The values of the inputs.
    """
    settings = {"method": method, **values}
    if "negative" in settings:
        settings["negative_embeds"] = NegativeText(settings.pop("negative"))
    schedule = str(settings.pop("scale_schedule", "")).strip()
    if schedule:
        settings["scale"] = schedule
    if "blur_sigma" in settings:
        sigma, blur = settings.pop("blur_sigma"), str(settings.get("blur", "")).strip()
        settings["blur"] = blur or f"gaussian:{'inf' if sigma >= ALL else sigma}"
    return settings


#: From this sigma on all tokens are averaged.
ALL = 9999.0


def _node(told: _Method) -> type[io.ComfyNode]:
    """The node of a method."""

    def define_schema(cls: type[io.ComfyNode]) -> io.Schema:
        return io.Schema(
            node_id=f"SmoothedEnergy{told.node}",
            display_name=told.title,
            category=f"{CATEGORY}/{told.group}",
            description=told.about,
            inputs=[model(), *told.settings()],
            outputs=[io.Model.Output(display_name="model", tooltip="The guided model.")],
        )

    def execute(cls: type[io.ComfyNode], model: Any, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(guide(model, settings_of(told.method, values)))

    methods = {"define_schema": classmethod(define_schema), "execute": classmethod(execute)}
    return type(f"SmoothedEnergy{told.node}", (io.ComfyNode,), {"METHOD": told.method, **methods})


_PERTURBED, _RULES, _HISTORY = "perturbed pass", "CFG rules", "result"
_TEXT = "attention to the text"

METHOD_NODES: list[type[io.ComfyNode]] = [
    _node(one)
    for one in (
        _Method(
            "seg",
            "SEG",
            "Smoothed Energy Guidance (SEG)",
            _PERTURBED,
            "Away from a prediction whose self-attention has blurred queries. NeurIPS 2024, "
            "arXiv 2408.00760.",
            lambda: [
                scale(3.0),
                layers("mid"),
                number(
                    "blur_sigma",
                    10000.0,
                    0,
                    10000,
                    "The blur in tokens. From 9999 on all tokens are averaged, as in the paper.",
                ),
                choice("on", ["query", "key"], "What is blurred."),
                *negative_settings(),
                text("blur", "", "Another blur, in place of the sigma: box:5, ema:0.9 and so on."),
            ],
        ),
        _Method(
            "pag",
            "PAG",
            "Perturbed-Attention Guidance (PAG)",
            _PERTURBED,
            "Away from a prediction whose tokens attend to themselves alone. ECCV 2024, "
            "arXiv 2403.17377.",
            lambda: [
                scale(3.0),
                layers("mid"),
                number(
                    "adaptive_scale",
                    0.0,
                    0,
                    1,
                    "How much the scale falls with each of 1000 time steps; 0 keeps it constant.",
                    step=0.0001,
                ),
                *negative_settings(),
            ],
        ),
        _Method(
            "sag",
            "SAG",
            "Self-Attention Guidance (SAG)",
            _PERTURBED,
            "Away from a prediction for a picture that is blurred where attention looks. ICCV "
            "2023, arXiv 2210.00939. Its steps must not begin where there is only noise.",
            lambda: [
                scale(0.75),
                layers("m0"),
                text("blur", "gaussian:sigma=1,kernel=9", "The blur of the picture."),
                number(
                    "threshold", 1.0, 0.01, 100, "Which tokens count as looked at; 1 is the mean."
                ),
                *negative_settings("unconditional"),
            ],
        ),
        _Method(
            "erg",
            "ERG",
            "Entropy Rectifying Guidance (ERG)",
            _PERTURBED,
            "Away from a prediction with attention of a higher temperature. arXiv 2504.13987.",
            lambda: [
                scale(3.0),
                layers("mid"),
                number("temperature", 4.0, 0.01, 1000, "The temperature of attention."),
                *negative_settings(),
            ],
        ),
        _Method(
            "slg",
            "SLG",
            "Skip-Layer Guidance (SLG)",
            _PERTURBED,
            "Away from a prediction in which layers are skipped. arXiv 2411.18664.",
            lambda: [
                scale(3.0),
                layers("mid"),
                choice("skip", ["block", "attention", "feed-forward"], "What is skipped."),
                *negative_settings(),
            ],
        ),
        _Method(
            "s2",
            "S2",
            "Stochastic Self-Guidance (S2)",
            _PERTURBED,
            "Away from a prediction in which random blocks are skipped, others at every step. "
            "arXiv 2508.12880.",
            lambda: [
                number("scale", 0.25, -1, 100, "How strongly it acts. 0 is off."),
                layers("all"),
                number(
                    "share", 0.1, 0.01, 1, "The share of these layers whose blocks are skipped."
                ),
                count("seed", 0, 0, 2**31 - 1, "Of the choice. It is not that of the noise."),
                *negative_settings(),
            ],
        ),
        _Method(
            "tpg",
            "TPG",
            "Token Perturbation Guidance (TPG)",
            _PERTURBED,
            "Away from a prediction whose tokens enter layers in a random order. arXiv 2506.10036.",
            lambda: [
                scale(3.0),
                layers("down"),
                count("seed", 0, 0, 2**31 - 1, "Of the orders. It is not that of the noise."),
                *negative_settings(),
            ],
        ),
        _Method(
            "swg",
            "SWG",
            "Sliding Window Guidance (SWG)",
            _PERTURBED,
            "Away from predictions that see one window of the picture at a time. BMVC 2025, "
            "arXiv 2411.10257.",
            lambda: [
                scale(1.0),
                number("window", 0.625, 0.05, 1, "The part of each side that a window has."),
                count("count", 2, 2, 16, "Windows along each side."),
                io.Boolean.Input(
                    "masked",
                    default=True,
                    tooltip="Whether only places that several windows see are corrected.",
                ),
                *negative_settings(),
            ],
        ),
        _Method(
            "nag",
            "NAG",
            "Normalized Attention Guidance (NAG)",
            _TEXT,
            "A negative prompt inside of attention, for models that run without CFG, and beside "
            "it. NeurIPS 2025, arXiv 2505.21179.",
            lambda: [
                io.Conditioning.Input("negative", tooltip="What is not to be drawn: one text."),
                number(
                    "scale",
                    4.0,
                    0,
                    100,
                    "How strongly it acts. 0 is off. Other packs call this plus 1 the scale.",
                ),
                number("tau", 2.5, 0.01, 100, "The most that attention may grow."),
                number("alpha", 0.25, 0, 1, "How much of it is taken: 0.5 for SDXL."),
                layers("all"),
                steps(),
            ],
        ),
        _Method(
            "pladis",
            "PLADIS",
            "Sparse Attention to the Text (PLADIS)",
            _TEXT,
            "Attention to the text, extrapolated towards sparse attention. ICCV 2025, arXiv "
            "2503.07677.",
            lambda: [
                number("scale", 2.0, 0, 100, "0 is off, 1 sparse attention, 2 the authors'."),
                layers("all"),
                steps(),
            ],
        ),
        _Method(
            "momentum",
            "Momentum",
            "Momentum Guidance",
            _HISTORY,
            "Away from what was predicted before, without a second pass. arXiv 2602.20360.",
            lambda: [
                scale(0.5),
                number("decay", 0.5, 0, 0.99, "How long earlier predictions are remembered."),
                choice("of", ["picture", "prediction"], "What is remembered."),
                *negative_settings(),
            ],
        ),
        _Method(
            "higs",
            "HiGS",
            "History-Guided Sampling (HiGS)",
            _HISTORY,
            "More of the details that are new against earlier steps. arXiv 2509.22300.",
            lambda: [
                number("scale", 1.75, 0, 100, "How strongly it acts. 0 is off."),
                number("eta", 1.0, 0, 1, "How much of what is along the prediction is kept."),
                number("alpha", 0.75, 0, 1, "The weight of the newest prediction in the history."),
                number("cutoff", 0.05, 0, 1, "Where details begin; 0 keeps nearly all."),
                number("least", 0.4, 0, 1, "The share of noise below which it ends."),
                number("most", 1.0, 0, 1, "The share of noise from which on it acts."),
                steps(),
            ],
        ),
        _Method(
            "tag",
            "TAG",
            "Tangential Amplifying Guidance (TAG)",
            _HISTORY,
            "More of the part of a step that is across the latents. arXiv 2510.04533.",
            lambda: [
                number("eta", 1.05, 0, 10, "The factor of that part. 1 changes nothing."),
                steps(),
            ],
        ),
        _Method(
            "apg",
            "APG",
            "Adaptive Projected Guidance (APG)",
            _RULES,
            "CFG whose difference is limited and projected, against too much contrast. arXiv "
            "2410.02416.",
            lambda: [
                number("eta", 0.0, 0, 1, "How much of what is along the prediction is kept."),
                number("momentum", -0.5, -0.99, 0.99, "Below 0 it pushes away from before."),
                number("norm", 15.0, 0, 1000, "The largest norm of the difference; 0 is no limit."),
                choice("base", ["conditional", "unconditional"], "What it is added to."),
                choice("space", ["picture", "prediction"], "What is projected and limited."),
                steps(),
            ],
        ),
        _Method(
            "cfg-zero",
            "CFGZeroStar",
            "CFG-Zero*",
            _RULES,
            "CFG with the best factor of the negative prediction; made for flow models. arXiv "
            "2503.18886.",
            lambda: [
                count("zero_steps", 1, 0, 100, "First steps that predict 0; 0 for SD and SDXL."),
                steps(),
            ],
        ),
        _Method(
            "tcfg",
            "TCFG",
            "Tangential Damping of CFG (TCFG)",
            _RULES,
            "CFG without the part of the negative prediction that both don't share. arXiv "
            "2503.18137.",
            lambda: [steps()],
        ),
        _Method(
            "fdg",
            "FDG",
            "Frequency-Decoupled Guidance (FDG)",
            _RULES,
            "CFG with a scale for each level of detail. arXiv 2506.19713.",
            lambda: [
                text("scales", "10:5", "A scale for each level, the finest first."),
                number("parallel", 1.0, 0, 1, "How much of what is along the prediction is kept."),
                steps(),
            ],
        ),
        _Method(
            "mambo-g",
            "MAMBOG",
            "Magnitude-Aware Guidance (MAMBO-G)",
            _RULES,
            "CFG that is weaker where the two predictions differ much. arXiv 2508.03442.",
            lambda: [
                number("alpha", 8.0, 0, 100, "How fast it gets weaker."),
                steps(),
            ],
        ),
        _Method(
            "cfgpp",
            "CFGPlusPlus",
            "CFG++",
            _RULES,
            "CFG that renoises with the negative prediction. Under the samplers euler and ddim. "
            "arXiv 2406.08070.",
            lambda: [
                number("scale", 0.6, 0.01, 10, "Its scale, in place of CFG's."),
                steps(),
            ],
        ),
        _Method(
            "interval",
            "Interval",
            "Guidance Interval",
            _RULES,
            "CFG at some steps only, for half of the time at the others. arXiv 2404.07724.",
            lambda: [steps("sigma:0.3:5")],
        ),
    )
]
