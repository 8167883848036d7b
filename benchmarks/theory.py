r"""What of the theory holds: the numbers, tables and plots of `docs/theory.md`.

    python benchmarks/theory.py                     # measures, and prints the tables
    python benchmarks/theory.py --out docs          # also writes theory.json, page and plots
    python benchmarks/theory.py --page docs         # renders the page again from theory.json
    python benchmarks/theory.py --check docs        # whether the page says what theory.json does
    python benchmarks/theory.py --quick             # one sample, two steps: whether it runs

The embedded model draws without a prompt, in float64, so that the numbers are those of the
mathematics. Queries and keys are looked at in all self-attention layers, on the spot: numbers are
kept of them, and nothing else. In the same steps the prediction is made again with smoothed queries
in the middle layers; the run itself stays unguided.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import _theory_page as page
from _theory_observers import OPERATORS, Attention, Numbers, Predictions, norms
from smoothed_energy import SmoothedEnergyGuidance
from smoothed_energy.denoisers.attention_layer import SelfAttentionLayer
from smoothed_energy.energy import analyse
from smoothed_energy.families.layer_selection import select_layers
from smoothed_energy.guidance.attention_perturbation import AttentionCall, AttentionPerturbation
from smoothed_energy.guidance.guidance import About
from smoothed_energy.guidance.negative_guidance import NegativeGuidance
from smoothed_energy.guidance.perturbation import LayerCall
from smoothed_energy.guidance.plan import NegativeContext, Plan
from smoothed_energy.methods.seg import BlurQueries
from smoothed_energy.models import load
from smoothed_energy.smoothing import Smoothing

#: The grid of the embedded model's layers, and that of SDXL's middle ones.
GRIDS = {"avatars": (12, 12), "sdxl": (32, 32)}
SIGMAS = (0.5, 1.0, 2.0, 5.0, 10.0, math.inf)
#: How far apart two runs begin, relative to the noise that they begin with.
EPSILON = 1e-6


def operators(grid: tuple[int, ...]) -> dict[str, Any]:
    """The analysis of all operators on a grid, as JSON values."""
    found = {}
    for name, text in OPERATORS.items():
        one = analyse(text, grid)
        values = {
            field.name: getattr(one, field.name)
            for field in dataclasses.fields(one)
            if field.name not in ("operator", "grid")
        }
        found[name] = {
            key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            for key, value in values.items()
        }
        found[name]["requirements"] = {
            each.name: {"margin": each.margin, "holds": each.holds} for each in one.requirements
        }
    return found


def axis_facts() -> dict[str, Any]:
    """One axis of 32 tokens: column sums at sigma = 10, and what may grow, by sigma."""
    paddings = ("reflect", "symmetric", "zeros")
    sigmas = [0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0]
    columns = {
        padding: Smoothing.parse(f"gaussian:sigma=10,padding={padding}").matrix((1, 32)).sum(0)
        for padding in paddings
    }
    grown: dict[str, Any] = {"sigmas": sigmas}
    for padding in ("reflect", "symmetric"):
        found = [analyse(f"gaussian:sigma={sigma},padding={padding}", (1, 32)) for sigma in sigmas]
        grown[padding] = {
            "spectral": [one.spectral_norm for one in found],
            "deviation": [one.deviation_norm for one in found],
        }
    # Twice sigma = 1 would be sigma = sqrt(2), were it not for borders and kernels' ends.
    semigroup = {}
    for padding in paddings:
        once, both = (
            Smoothing.parse(f"gaussian:sigma={sigma},padding={padding}").matrix((1, 32))
            for sigma in (1.0, math.sqrt(2))
        )
        semigroup[padding] = float((once @ once - both).abs().max() / both.max())
    return {
        "columns": {name: sums.tolist() for name, sums in columns.items()},
        "grown": grown,
        "semigroup_error": semigroup,
    }


class Switch(AttentionPerturbation):
    """Attention with queries that are smoothed, or only looked at."""

    def __init__(self, attention: Attention, blurred: frozenset[str]) -> None:
        self.attention, self.blurred = attention, blurred
        self.smoothing: Smoothing | None = None
        self.looking_at: int | None = None
        self.layer = ""

    def run(self, call: LayerCall) -> Any:
        self.layer = call.name
        return super().run(call)

    def attend(self, call: AttentionCall) -> Tensor:
        if self.smoothing is None:
            if self.looking_at is not None:
                self.attention.observe(self.looking_at, self.layer, call.query, call.key)
            return call()
        if self.layer in self.blurred:
            return BlurQueries(self.smoothing).attend(call)
        return call()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Watching(NegativeGuidance):
    """No guidance: what is predicted is compared with what smoothed queries would predict."""

    method: ClassVar[str] = "watching"
    about: ClassVar[About] = About("Watching", "nothing", "a pass for each blur", "this script")

    attention: Attention
    predictions: Predictions
    layers: str = "all"
    every_nth: int = 1

    def select(self, denoiser: nn.Module) -> tuple[SelfAttentionLayer, ...]:
        return select_layers(denoiser, self.layers)

    def plan(self, denoiser: nn.Module, *, replay: bool = True) -> Plan:
        middle = frozenset(layer.name for layer in select_layers(denoiser, "mid"))
        switch = Switch(self.attention, middle)

        def compare(second: NegativeContext) -> Tensor:
            step = second.position().index
            if step % self.every_nth == 0:
                switch.smoothing, switch.looking_at = None, step
                second.predict(second.call)
                switch.looking_at = None
            predicted = {}
            for sigma in SIGMAS:
                switch.smoothing = Smoothing.parse(f"gaussian:{sigma}")
                predicted[f"{sigma:g}"] = second.predict(second.call)
            self.predictions.observe(second, predicted)
            return second.clean

        edits = {layer.module: layer.name for layer in self.select(denoiser)}
        return self._plan(perturbation=switch, edits=edits, negative=compare)


def noise(samples: int) -> Tensor:
    """The starting noise of seeds 0, 1, ..."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(samples)]
    shape = (4, 24, 24)
    return torch.stack([torch.randn(shape, generator=each).double() for each in generators])


def draw(pipe: Any, latents: Tensor, steps: int) -> list[Tensor]:
    """The latents of an unprompted run: at the start and after each step."""
    trajectory = [latents]

    def keep(pipe: Any, step: int, time: Any, kept: dict[str, Any]) -> dict[str, Any]:
        trajectory.append(kept["latents"].clone())
        return kept

    pipe(
        "",
        num_images_per_prompt=len(latents),
        guidance_scale=1.0,
        num_inference_steps=steps,
        latents=latents.clone(),
        output_type="latent",
        callback_on_step_end=keep,
    )
    return trajectory


def watch(
    pipe: Any, samples: int, steps: int, every_nth: int, layers: str = "all"
) -> dict[str, Any]:
    """What is seen in one run: attention at every n-th step, and predictions."""
    attention, predictions = Attention(GRIDS["avatars"]), Predictions()
    watching = Watching(
        scale=1.0,
        attention=attention,
        predictions=predictions,
        layers=layers,
        every_nth=every_nth,
    )
    plain = draw(pipe, noise(samples), steps)
    with watching.attach(pipe):
        watched = draw(pipe, noise(samples), steps)
    assert torch.equal(plain[-1], watched[-1]), "watching changed the picture"

    def middle(layer: str) -> bool:
        return layer.startswith("mid_block")

    names = [
        "columns_energy_rise",
        "rows_energy_rise",
        "columns_trace",
        "columns_trace_smoothed",
        "composed_trace_ratio",
    ]
    return {
        "attention": {"all": attention.means(), "mid": attention.means(middle)},
        "by_step": attention.by_step(middle, names),
        "predictions": predictions.as_json(),
    }


def small(pipe: Any) -> dict[str, Numbers]:
    """What a test measures again: the middle layers at the first step of one sample."""
    found: dict[str, Numbers] = watch(pipe, 1, 2, 2, "mid")["attention"]["mid"]
    return found


def divergence(pipe: Any, samples: int, steps: int) -> dict[str, Any]:
    """How far apart runs end that begin a little apart, unguided and guided."""
    start = noise(samples)
    nudge = torch.randn(start.shape, generator=torch.Generator().manual_seed(99)).double()
    nudge *= EPSILON * norms(start)[:, None, None, None] / norms(nudge)[:, None, None, None]
    found: dict[str, Any] = {}
    runs: dict[str, list[Tensor]] = {}
    for name, scale in {"unguided": 0.0, "scale 0.7": 0.7, "scale 3": 3.0}.items():
        guidance = SmoothedEnergyGuidance(blur="gaussian:inf", scale=scale, layers="mid")
        with guidance.attach(pipe):
            runs[name] = draw(pipe, start, steps)
            twin = draw(pipe, start + nudge, steps)
        growth = torch.stack([
            norms(b - a) / norms(twin[0] - start) for a, b in zip(runs[name], twin, strict=True)
        ])  # fmt: skip
        apart = torch.stack([
            norms(b - a) / norms(a) for a, b in zip(runs["unguided"], runs[name], strict=True)
        ])  # fmt: skip
        found[name] = {
            "growth": growth.log().mean(1).exp().tolist(),
            "exponent": float(growth[-1].log().mean() / steps),
            "from_unguided": apart.mean(1).tolist(),
        }
    return found


def model() -> Any:
    """The embedded model in float64, silent."""
    pipe = load("avatars", dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def measure(samples: int, steps: int, every_nth: int) -> dict[str, Any]:
    """All numbers of the page."""
    pipe = model()
    started = time.perf_counter()
    numbers = {
        "settings": {
            "samples": samples,
            "steps": steps,
            "looked_at": len(range(0, steps, every_nth)),
            "torch": torch.__version__,
            "machine": platform.machine(),
        },
        "operators": {name: operators(grid) for name, grid in GRIDS.items()},
        "axis": axis_facts(),
        "run": watch(pipe, samples, steps, every_nth),
        "divergence": divergence(pipe, samples, steps),
        "small": small(pipe),
    }
    numbers["settings"]["seconds"] = round(time.perf_counter() - started)
    return numbers


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the folder of theory.md, to write to")
    parser.add_argument("--page", type=Path, help="the same; only the page and its plots")
    parser.add_argument("--check", type=Path, help="the same; nothing is written")
    parser.add_argument("--quick", action="store_true", help="one sample, two steps")
    options = parser.parse_args()
    if options.check or options.page:
        folder = options.check or options.page
        numbers = json.loads((folder / "theory.json").read_text())
        if options.page:
            page.write(folder, numbers)
        # A text is printed and exits with 1; no text would, too.
        raise SystemExit(page.check(folder, numbers) or 0)
    numbers = page.rounded(measure(1, 2, 1) if options.quick else measure(4, 25, 6))
    if options.out:
        text = json.dumps(numbers, indent=1, allow_nan=False)
        (options.out / "theory.json").write_text(text + "\n")
        page.write(options.out, numbers)
    for title, table in page.tables(numbers).items():
        print(f"\n### {title}\n\n{table}")


if __name__ == "__main__":
    main()
