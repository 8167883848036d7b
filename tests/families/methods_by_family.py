"""The table of methods and families in the docs, from real runs of the tests' tiny pipelines.

    python tests/families/methods_by_family.py > docs/methods-by-family.md

Every method is attached to every pipeline. It *works* if the result is finite and another one than
without it; it is *refused* if there is an error, and *warns* if the run was not guided.
"""

import copy
import inspect
import re
import sys
import warnings
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "pipelines")]

from as_ordinary import guided_by  # noqa: E402
from comparison import run_of  # noqa: E402
from older_versions import tiny_cases  # noqa: E402
from tiny_pipelines import difference  # noqa: E402

from smoothed_energy import Autoguidance, GuidanceWarning  # noqa: E402
from smoothed_energy.families import family_of  # noqa: E402
from smoothed_energy.guidance import LayerGuidance  # noqa: E402
from smoothed_energy.methods import METHODS, SelfAttentionGuidance  # noqa: E402

EFFECT = 1e-3
STEPS = 3
_unguided = {}
REFUSALS = (ValueError, TypeError, RuntimeError)


def cases():
    """All tiny pipelines, those of U-Nets first."""
    names = sorted(path.stem for path in HERE.glob("tiny_*.py"))
    names.sort(key=lambda name: name != "tiny_unet")
    return tiny_cases(*names)


def weaker(denoiser):
    """A denoiser of the same shape with other weights."""
    other = copy.deepcopy(denoiser)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 0.9
    return other


def other_text(case, denoiser):
    """What the denoiser is given for a prompt in a run, and noise in its place."""
    given = {}

    def note(module, args, kwargs):
        names = inspect.signature(type(module).forward).parameters
        given.update(zip(list(names)[1:], args, strict=False), **kwargs)

    handle = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run_of(case.pipeline(), case)()
    finally:
        handle.remove()

    def noisy(value):
        if isinstance(value, list):
            return list(map(noisy, value))
        return value + torch.randn(value.shape, generator=torch.Generator().manual_seed(3))

    names = family_of(denoiser).text_arguments
    found = {name: given[name] for name in names if given.get(name) is not None}
    return {name: value if "mask" in name else noisy(value) for name, value in found.items()}


def guidance_of(method, case, denoiser):
    """A guidance of the method for the case: its layers, and all it needs."""
    cls = METHODS[method]
    if issubclass(cls, LayerGuidance):
        return cls(layers=list(case.images))
    if cls is SelfAttentionGuidance:
        # All there is of the first step is noise, in which an epsilon tells nothing.
        return cls(layers=list(case.images)[:1], steps="0.1:1")
    if cls is Autoguidance:
        return cls(weak=weaker(denoiser))
    if method == "nag":
        return cls(negative_embeds=other_text(case, denoiser), tau=9.0, alpha=0.5)
    if method == "sg":
        return cls(shift=200)
    if method == "interval":
        return cls(steps="0.4:1")
    return cls()


def unguided(case, cfg):
    """The result of a case without guidance, made once for all methods."""
    if (case.family, cfg) not in _unguided:
        run = run_of(case.pipeline(), case, cfg=cfg, num_inference_steps=STEPS)
        _unguided[case.family, cfg] = run()
    return _unguided[case.family, cfg]


def outcome(method, case):
    """`"works"`, or `"refused"` or `"warns"` and the message.

    Raises:
        AssertionError: If there is no error and no effect either.
    """
    pipe = case.pipeline()
    cls = METHODS[method]
    of_cfg = cls.limits_cfg or getattr(cls, "needs_cfg", False)
    cfg = of_cfg and case.cfg is not None
    run = run_of(pipe, case, cfg=cfg, num_inference_steps=STEPS)
    plain = unguided(case, cfg)
    try:
        guidance = guidance_of(method, case, getattr(pipe, case.denoiser))
        with warnings.catch_warnings():
            warnings.simplefilter("error", GuidanceWarning)
            with guided_by(guidance, pipe):
                guided = run()
    except REFUSALS as error:
        message = str(error).strip().splitlines()[0]
        # Messages that differ only by the size of the tiny latents are one.
        return "refused", re.sub(r", and this denoiser's are of shape \(.*\)", "", message)
    except GuidanceWarning as warning:
        return "warns", str(warning)
    changed = difference(guided, plain)
    assert changed > EFFECT, f"{method} does nothing to {case.family}: {changed:.1e}"
    return "works", ""


def table():
    """The page, in Markdown."""
    reasons: list[str] = []
    lines = [
        "# Methods by family",
        "",
        "Made by `python tests/families/methods_by_family.py` from runs of the tests' tiny",
        "pipelines (random weights, three steps). A method *works* if the result is finite and",
        f"differs from the one without it by more than {EFFECT:g} of its largest value; what it",
        "computes is compared with brute force and with `diffusers` in the tests. Numbers lead to",
        "the messages of refusals and warnings.",
        "",
        f"| | {' | '.join(f'`{method}`' for method in METHODS)} |",
        f"|---|{'---|' * len(METHODS)}",
    ]
    for case in cases():
        cells = []
        for method in METHODS:
            result, reason = outcome(method, case)
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{result} [{reasons.index(reason) + 1}]" if reason else result)
            print(f"{case.family}, {method}: {cells[-1]}", file=sys.stderr, flush=True)
        lines.append(f"| {case.family} | {' | '.join(cells)} |")
    lines += ["", "Messages:", ""]
    for number, reason in enumerate(reasons, 1):
        quoted = re.sub(r"([*_<>|\[\]])", r"\\\1", reason)
        lines.append(f"{number}. {quoted}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(), end="")
