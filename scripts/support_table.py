"""The table of every pipeline of the installed `diffusers`: guided, refused and why, or no case.

    python scripts/support_table.py > docs/support.md
    python scripts/support_table.py --check     # does the page know every exported pipeline?

A pipeline is guided if a family knows its denoiser and nothing refuses it. It is *compared* if one
of the files in `tests/` that compare with an independent computation draws with it.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers

from smoothed_energy.families import families
from smoothed_energy.integrations.refused import why_no_guider, why_refused

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "support.md"
COMPARED = [*ROOT.glob("tests/families/*.py"), *ROOT.glob("tests/pipelines/*.py")]
#: SDXL and Stable Diffusion 3 are made in the first, for `test_guider.py`.
MODULAR = [
    ROOT / "tests/modular/modular_pipelines.py",
    *sorted(ROOT.glob("tests/families/tiny_*.py")),
    *sorted(ROOT.glob("tests/modular/test_*.py")),
]
#: Parameters of a pipeline's constructor that are what is called at every step.
DENOISERS = ("transformer", "unet", "unconditional_transformer", "decoder", "prior", "image_unet")
#: Why there is nothing to guide, by what their names or base classes have.
NO_CASE = {
    "Auto": "chooses another pipeline",
    "Onnx": "runs in ONNX, where nothing can be perturbed",
    "LatentUpsample": "one pass without steps",
    "FluxPriorRedux": "makes embeddings, without steps",
    "DiffusionGemma": "text",
    "LLaDA2": "text",
}
NO_ATTENTION = {
    "PriorTransformer": "its prior denoises one embedding, which has no places",
    "UVit2DModel": "draws tokens of a codebook: what it predicts are their logits",
    "Transformer2DModel": "draws tokens of a codebook: what it predicts are their logits",
    "UniDiffuserModel": "denoises a picture and a text in one sequence, with one prediction",
    "RFD4ProteinaTransformer": "draws proteins, whose tokens are in no grid",
    "KandinskyPrior": "its prior denoises one embedding, which has no places",
    "UNet1DModel": "computes attention by a formula of its own, which nobody can look into",
}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        pipeline: The name of the class.
        denoiser: The names of its denoisers' classes.
        result: `"guided"`, `"refused"`, `"modular"` or `"no case"`.
        remark: The family, or the reason.
        compared: The test file.
    """

    pipeline: str
    denoiser: str
    result: str
    remark: str
    compared: str = ""

    def __str__(self) -> str:
        denoiser = f"`{self.denoiser}`" if self.denoiser else ""
        compared = f"`{self.compared}`" if self.compared else ""
        return f"| `{self.pipeline}` | {denoiser} | {self.remark} | {compared} |"


def exported() -> dict[str, type]:
    """The pipeline classes that `diffusers` exports, by name."""
    found = {}
    for name in dir(diffusers):
        if "Pipeline" not in name or name.endswith(("Output", "Blocks", "Config")):
            continue
        cls = getattr(diffusers, name)
        if inspect.isclass(cls) and name not in ("DiffusionPipeline", "ModularPipeline"):
            found[name] = cls
    return found


def denoisers_of(cls: type) -> list[str]:
    """The names of the classes of its denoisers, from the constructor's annotations."""
    found: list[str] = []
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in DENOISERS:
            text = re.sub(r"[\w.]+\.", "", str(parameter.annotation))
            found += re.findall(
                r"\b(?:[A-Z]\w*(?:Model|Prior|UNet|DiT\w*|DiffNeXt|Transformer\w*))\b", text
            )
    return list(dict.fromkeys(found))


def family_by_name(denoiser: str) -> str:
    """The name of the family that knows a class of denoisers; empty if none does."""
    cls = getattr(diffusers, denoiser, None)
    names = [base.__name__ for base in inspect.getmro(cls)] if cls else [denoiser]
    for name in names:
        for family in families():
            if name in family.denoisers:
                return family.name
    return ""


def compared_in(name: str) -> str:
    """The test file that draws with a pipeline, if there is one."""
    for path in sorted(COMPARED):
        if path.stem.startswith(("tiny_", "test_")) and re.search(
            rf"\b{name}\b", path.read_text("utf-8")
        ):
            return path.name
    return ""


def row(name: str, cls: type) -> Row:
    """What happens with one pipeline."""
    if "Modular" in name:
        return modular_row(name, cls)
    for part, reason in NO_CASE.items():
        if part in name:
            return Row(name, "", "no case", reason)
    denoisers = denoisers_of(cls)
    text = "`, `".join(denoisers)
    reason = why_refused(cls)
    if reason:
        return Row(name, text, "refused", reason)
    if not denoisers:
        return Row(name, "", "refused", "no denoiser that guidance knows how to find")
    # The more special class first: AnimateDiff and ControlNet-XS make theirs of a U-Net.
    denoisers.sort(key=lambda denoiser: not re.search("Motion|ControlNetXS", denoiser))
    known = [family_by_name(denoiser) for denoiser in denoisers]
    if not any(known):
        why = next((NO_ATTENTION[kind] for kind in denoisers if kind in NO_ATTENTION), "")
        return Row(name, text, "refused", why or "no family knows its denoiser")
    remark = next(filter(None, known))
    if "PAG" in name:
        remark += "; with `pag_scale=0`, since it runs PAG by itself"
    return Row(name, text, "guided", remark, compared_in(name))


def modular_row(name: str, cls: Any) -> Row:
    """How a pipeline of Modular Diffusers is guided, by what its blocks ask for."""
    blocks = getattr(diffusers, cls.default_blocks_name)()
    kinds = {spec.name: spec.type_hint.__name__ for spec in blocks.expected_components}
    denoisers = [
        kind for part, kind in kinds.items() if re.match(r"(transformer|unet)", part) and kind
    ]
    denoisers = list(dict.fromkeys(denoisers))
    family = next(filter(None, map(family_by_name, denoisers)), "")
    slots = [slot for slot in kinds if slot.startswith("guider")]
    reason = "" if slots else why_no_guider(blocks)
    if not family:
        remark = "refused: no family knows its denoiser"
    elif slots:
        remark = f"{family}; by {' and '.join(f'`{slot}`' for slot in slots)}"
        remark += " (its sound by `LTX2Guidance`)" if "audio_guider" in kinds else ""
        remark += " (no attention)" if family == "Wan Animate 2" else ""
    else:
        remark = f"{family}; no guider, since it has no CFG: attach to it"
    if reason:
        remark = f"refused: its blocks {reason}"
    compared = "" if remark.startswith("refused") else modular_compared_in(type(blocks).__module__)
    return Row(name, "`, `".join(denoisers), "modular", remark, compared)


def modular_compared_in(module: str) -> str:
    """The test file that draws with the blocks of a module of `diffusers.modular_pipelines`."""
    package, own = module.split(".")[-2:]
    names = [own, f"modular_pipelines.{package}"] if own == f"modular_blocks_{package}" else [own]
    for path in MODULAR:
        text = path.read_text("utf-8")
        if any(re.search(rf"{re.escape(name)}(\.| import)", text) for name in names):
            return "test_guider.py" if path is MODULAR[0] else path.name
    return ""


def rows() -> Iterator[Row]:
    """The rows of all exported pipelines."""
    for name, cls in sorted(exported().items()):
        yield row(name, cls)


HEADS = {
    "guided": "Guided\n\nA family knows the denoiser. Where a test is named, the result was "
    "compared with an independent\ncomputation; where none is, the family was, with another "
    "pipeline.",
    "refused": "Refused\n\nAn error says so when guidance is attached, or when the pipeline runs. "
    "Where no family knows the denoiser,\n[guidance that needs no layers](families.md) may still "
    "work.",
    "modular": "Modular pipelines\n\nBy the components that are guiders: "
    "`SmoothedEnergyGuider(guidance).put_into(pipe)`. Those without\nCFG have none: "
    "`guidance.attach(pipe)`. See [modular](modular.md).",
    "no case": "Nothing to guide",
}


def page() -> str:
    """The page."""
    every = list(rows())
    counts = {kind: sum(one.result == kind for one in every) for kind in HEADS}
    lines = [
        "# Support",
        "",
        "Does it work with my pipeline? Every pipeline that "
        f"`diffusers` {diffusers.__version__} exports: {counts['guided']} guided,",
        f"{counts['refused']} refused, {counts['modular']} modular, "
        f"{counts['no case']} with nothing to guide. Made by `scripts/support_table.py`.",
    ]
    for kind, head in HEADS.items():
        lines += ["", f"## {head}", "", "| pipeline | denoiser | family or reason | compared in |"]
        lines.append("|---|---|---|---|")
        lines += [str(one) for one in every if one.result == kind]
    return "\n".join(lines) + "\n"


def unknown() -> list[str]:
    """Exported pipelines that the page does not name."""
    known = set(re.findall(r"^\| `(\w+)`", PAGE.read_text("utf-8"), re.MULTILINE))
    return sorted(exported().keys() - known)


def main() -> None:
    """Print the page, or check the one that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if one is not on the page")
    if not parser.parse_args().check:
        print(page(), end="")
        return
    missing = unknown()
    if missing:
        sys.exit(
            f"docs/support.md does not know {', '.join(missing)} of diffusers "
            f"{diffusers.__version__}; make it anew: python scripts/support_table.py"
        )


if __name__ == "__main__":
    main()
