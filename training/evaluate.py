"""The measured table: Frechet distance of samples to fresh drawings, unguided against guided.

    python -m training.evaluate --count 2000 --table table

Beside the distance to the drawings stands the kernel distance to other held-out drawings after
the autoencoder has encoded and decoded them: what is left there is the diffusion model's own.

Samples have no prompt. The drawings are of the held-out split, whose seeds were never trained on.
Sample ``i`` starts from the seed ``i`` in every configuration. Features are kept in the cache, by
configuration and by a hash of the weights, a chunk at a time: an interrupted run goes on where it
stopped, and a larger ``--count`` only draws what is missing.

A model of more styles than a set of drawings has is compared to it with ``--prompts``, which name
the styles; sample ``i`` takes the prompt ``i mod n``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance
from smoothed_energy.evaluation import (
    METRICS,
    FeatureExtractor,
    Interval,
    frechet_distance,
    kernel_distance,
    moments,
    paired_interval,
)
from smoothed_energy.evaluation.metric import SubsetValue
from smoothed_energy.models import load

from .places import default_folder

__all__ = ["GROUPS", "Configuration", "Evaluation", "markdown"]

CHUNK = 50
#: Held-out drawings that samples are compared to; the rest goes through the autoencoder.
REFERENCE = 10_000
#: Drawings that the kernel distance is taken to: it needs no more, and costs their square.
KERNEL_REFERENCE = 2000


#: The widths and the scales of the table.
SIGMAS = (1.0, 2.0, 5.0, 10.0, math.inf)
SCALES = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Configuration:
    """How samples are drawn.

    Attributes:
        sigma: Width of the Gaussian blur in tokens; ``None`` is unguided.
        scale: Guidance scale.
        layers: Layers, joined by ``+``.
        steps: When guidance is active.
        inference_steps: DDIM steps.
        combine: How the correction is combined, as text; see `smoothed_energy.combination`.
        refresh: Which guided steps have a second pass, as text; see
            `smoothed_energy.schedule.refresh`.
    """

    sigma: float | None = None
    scale: float = 0.0
    layers: str = ""
    steps: str = "all"
    inference_steps: int = 25
    combine: str = ""
    refresh: str = ""

    @property
    def label(self) -> str:
        """A short name, for files and tables."""
        if self.sigma is None:
            return f"unguided, {self.inference_steps} steps"
        sigma = "inf" if math.isinf(self.sigma) else f"{self.sigma:g}"
        return (
            f"sigma={sigma} scale={self.scale:g} layers={self.layers} active={self.steps}, "
            f"{self.inference_steps} steps"
            + (f" combine={self.combine}" if self.combine else "")
            + (f" refresh={self.refresh}" if self.refresh else "")
        )

    def guidance(self) -> SmoothedEnergyGuidance | None:
        """The guidance to attach, if any."""
        if self.sigma is None:
            return None
        return SmoothedEnergyGuidance(
            blur=GaussianBlur(sigma=self.sigma),
            scale=self.scale,
            layers=self.layers.split("+"),
            steps=self.steps,
            combine=self.combine,
            refresh=self.refresh or 1,
        )


def weights_hash(folder: Path) -> str:
    """Twelve digits that change with the U-Net's, autoencoder's or text encoder's weights."""
    digest = hashlib.sha256()
    # A ControlNet is a level deeper, and has no part in these samples.
    for path in sorted(folder.glob("*/*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Evaluation:
    """Samples, features and distances of one model.

    Args:
        model: A pipeline's folder.
        folder: The training folder with the held-out drawings.
        device: Where sampling and features run.
        input_size: Pixels a side for the feature network.
        prompts: What the samples are of, in turn.
    """

    prompts: tuple[str, ...] = ("",)

    def __init__(
        self,
        model: Path,
        folder: Path,
        *,
        device: str = "cpu",
        input_size: int = 224,
        prompts: Sequence[str] = ("",),
    ) -> None:
        self.prompts = tuple(prompts)
        self.pipe: Any = load(model, device=device, dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        self.device, self.folder, self.input_size = device, folder, input_size
        self.size = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        self.place = folder / "evaluation" / weights_hash(model)
        self.place.mkdir(parents=True, exist_ok=True)
        self.extractor = FeatureExtractor(device, input_size=input_size)

    def reference(self, count: int) -> Tensor:
        """Features of ``count`` held-out drawings, ``(count, 1280)``; computed once."""
        name = f"heldout-{self.size}-features-{self.input_size}.npy"
        path = self.folder / "evaluation" / name
        known = np.load(path) if path.exists() else np.empty((0, 1280), np.float32)
        pixels = np.load(self.folder / f"heldout-{self.size}.npy", mmap_mode="r")
        if count > len(pixels):
            raise ValueError(f"{count} held-out drawings wanted, but only {len(pixels)} are drawn")
        while len(known) < count:
            part = np.array(pixels[len(known) : min(len(known) + 500, count)])
            images = torch.from_numpy(part).permute(0, 3, 1, 2)
            found = torch.cat([self.extractor(images[i : i + 25]) for i in range(0, len(part), 25)])
            known = np.concatenate([known, found.numpy()])
            np.save(path, known)
            print(f"held-out features: {len(known)} of {count}", flush=True)
        return torch.from_numpy(known[:count])

    @torch.inference_mode()
    def reconstructions(self) -> Tensor:
        """Features of held-out drawings through the autoencoder, ``(N, 1280)``; computed once.

        These are the drawings after the first 10,000, to which samples are compared directly.
        """
        path = self.place / f"reconstructions-{self.input_size}.npy"
        if not path.exists():
            pixels = np.load(self.folder / f"heldout-{self.size}.npy", mmap_mode="r")
            found = []
            for start in range(REFERENCE, len(pixels), CHUNK):
                part = torch.from_numpy(np.array(pixels[start : start + CHUNK]))
                images = part.permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1
                latents = self.pipe.vae.encode(images).latent_dist.mode()
                decoded = self.pipe.vae.decode(latents).sample
                found.append(self.extractor((decoded / 2 + 0.5).clamp(0, 1)))
            np.save(path, torch.cat(found).numpy())
        return torch.from_numpy(np.load(path))

    @torch.inference_mode()
    def sample(self, configuration: Configuration, start: int, stop: int) -> Tensor:
        """Samples of the seeds ``start`` to ``stop``, ``(N, 3, H, W)`` in ``[0, 1]``."""
        guidance = configuration.guidance()
        attached = guidance.attach(self.pipe) if guidance else contextlib.nullcontext()
        # bfloat16 computation on float32 weights, as in training.
        with attached, torch.autocast(self.device, dtype=torch.bfloat16):
            images: Tensor = self.pipe(
                [self.prompts[i % len(self.prompts)] for i in range(start, stop)],
                guidance_scale=1.0,
                num_inference_steps=configuration.inference_steps,
                generator=[torch.Generator().manual_seed(i) for i in range(start, stop)],
                output_type="pt",
            ).images
        return images.float()

    def label(self, configuration: Configuration) -> str:
        """The configuration's name, and a hash of the prompts where there are any."""
        if self.prompts == ("",):
            return configuration.label
        digest = hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()[:8]
        return f"{configuration.label} prompts={digest}"

    def features(self, configuration: Configuration, count: int) -> Tensor:
        """Features of the first ``count`` samples, ``(count, 1280)``."""
        name = f"{self.label(configuration)}, {self.input_size} px.npy".replace(" ", "_")
        path = self.place / name
        known = np.load(path) if path.exists() else np.empty((0, 1280), np.float32)
        started, drawn = time.monotonic(), 0
        while len(known) < count:
            stop = min(len(known) + CHUNK, count)
            found = self.extractor(self.sample(configuration, len(known), stop))
            drawn += len(found)
            known = np.concatenate([known, found.numpy()])
            np.save(path, known)
        if drawn:
            rate = drawn / (time.monotonic() - started)
            print(f"{self.label(configuration)}: {rate:.2f} samples/s", flush=True)
        return torch.from_numpy(known[:count])

    def measure(
        self, configurations: Sequence[Configuration], count: int, reference: int
    ) -> Iterator[dict[str, Any]]:
        """The distances of each configuration, from the cache where they are known."""
        path = self.place / "results.json"
        drawings = self.reference(reference)
        target, decoded = moments(drawings), self.reconstructions()
        for configuration in configurations:
            results = json.loads(path.read_text()) if path.exists() else {}
            key = (
                f"{self.label(configuration)}, N={count}, against {reference}, {self.input_size} px"
            )
            if key not in results:
                found = self.features(configuration, count)
                # Another process may have measured something in the meantime.
                results = json.loads(path.read_text()) if path.exists() else {}
                results[key] = asdict(configuration) | {
                    "sigma": None if configuration.sigma is None else str(configuration.sigma),
                    "count": count,
                    "reference": reference,
                    "frechet": frechet_distance(moments(found), target),
                    "kernel": 1000 * kernel_distance(found, drawings[:KERNEL_REFERENCE]),
                    "kernel_decoded": 1000 * kernel_distance(found, decoded),
                }
                path.write_text(json.dumps(results, indent=2) + "\n")
                print(f"{key}: {results[key]['frechet']:.1f}", flush=True)
            yield results[key]

    def differences(
        self, configurations: Sequence[Configuration], count: int
    ) -> list[tuple[Configuration, Interval]]:
        """How much each configuration's kernel distance, times 1000, is above the first one's.

        The same seeds are in both, so what a seed does to both cancels in the interval.
        """
        drawings = self.reference(KERNEL_REFERENCE)
        kernel = METRICS["kernel"]
        values = [
            kernel.subsets(self.features(configuration, count), drawings)
            for configuration in configurations
        ]

        first, *others = values
        return [
            (configuration, paired_interval(_times_1000(other), _times_1000(first), count))
            for configuration, other in zip(configurations[1:], others, strict=True)
        ]


def _times_1000(value: SubsetValue) -> SubsetValue:
    return lambda indices: 1000 * value(indices)


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """A table of results, with the numbers of samples and of drawings in its caption."""
    if not results:
        raise ValueError("there are no results to show")
    first = results[0]
    lines = [
        f"Frechet distance of {first['count']} samples to {first['reference']} held-out drawings "
        f"and, times 1000, kernel distance to {min(KERNEL_REFERENCE, first['reference'])} of them "
        "and to others that went through the autoencoder (EfficientNet-Lite0 features; lower is "
        "better).",
        "",
        "| sigma | scale | layers | active steps | combined | DDIM steps | Frechet | kernel "
        "| decoded |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        if r["count"] != first["count"] or r["reference"] != first["reference"]:
            raise ValueError("distances of different numbers of samples cannot share a table")
        guided = r["sigma"] is not None
        active = r["steps"] + (f", {r['refresh']}" if r.get("refresh") else "")
        cells = [(r["sigma"] or "").removesuffix(".0"), f"{r['scale']:g}", r["layers"], active]
        # Older results know of no combination.
        cells.append(r.get("combine") or "-")
        if not guided:
            cells = ["unguided", *["-"] * 4]
        cells += [str(r["inference_steps"]), f"{r['frechet']:.1f}"]
        cells += [f"{r['kernel']:.2f}", f"{r['kernel_decoded']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def layer_group(steps: int) -> list[Configuration]:
    """Unguided, and uniform blur at scale 2 in each part and in combinations of them."""
    parts = ["down", "mid", "up", "down+mid", "mid+up", "down+mid+up"]
    guided = [Configuration(math.inf, 2.0, part, inference_steps=steps) for part in parts]
    return [Configuration(inference_steps=steps), *guided]


def alone_group(steps: int) -> list[Configuration]:
    """Unguided, and the perturbed prediction alone: what does each part's attention carry?"""
    found = [
        Configuration(sigma, -1.0, part, inference_steps=steps)
        for part in ("down", "mid", "up")
        for sigma in (1.0, math.inf)
    ]
    return [Configuration(inference_steps=steps), *found]


def table_group(
    steps: int,
    layers: str,
    *,
    sigmas: Sequence[float] = SIGMAS,
    scales: Sequence[float] = SCALES,
    active: str = "all",
) -> list[Configuration]:
    """Unguided, and every width with every scale."""
    guided = [Configuration(s, g, layers, active, steps) for g in scales for s in sigmas]
    return [Configuration(inference_steps=steps), *guided]


def acting_group(steps: int) -> list[Configuration]:
    """Unguided, and a uniform blur that acts more mildly, at other steps or in other layers."""
    guided = [
        Configuration(math.inf, 0.3, "mid", inference_steps=steps),
        Configuration(math.inf, 0.7, "mid", inference_steps=steps),
        *(Configuration(math.inf, 1.0, "mid", third, steps) for third in ("begin", "mid", "end")),
        Configuration(math.inf, 2.0, "mid", "begin", steps),
        *(Configuration(math.inf, 0.7, "mid", "all", steps, c) for c in ("rescale:1", "project")),
        *(Configuration(math.inf, 0.7, part, "all", steps) for part in ("down", "up")),
    ]
    return [Configuration(inference_steps=steps), *guided]


def few_group(steps: int) -> list[Configuration]:
    """Unguided, and the mildest blur in layers where it helps samples of few steps."""
    guided = [Configuration(1.0, 0.7, layers, inference_steps=steps) for layers in ("mid", BOTH)]
    return [Configuration(inference_steps=steps), *guided]


def refresh_group(steps: int) -> list[Configuration]:
    """The same in the path down and the middle, with fewer second passes."""
    first, _, every_step = few_group(steps)
    ways = [{"steps": "begin"}, *({"refresh": text} for text in ("every:2", "early:3", "early:5"))]
    return [first, every_step, *(replace(every_step, **way) for way in ways)]


#: The path down and the middle.
BOTH = "down+mid"

#: What can be measured by name, for so many DDIM steps; `table` has more options.
_BY_STEPS: dict[str, Callable[[int], list[Configuration]]] = {
    "unguided": lambda steps: [Configuration(inference_steps=steps)],
    "layers": layer_group,
    "alone": alone_group,
    "acting": acting_group,
    "few": few_group,
    "refresh": refresh_group,
}
GROUPS = (*_BY_STEPS, "table")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).parents[1]
    avatars = here / "src" / "smoothed_energy" / "models" / "avatars"
    parser.add_argument("--model", type=Path, default=avatars)
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--reference", type=int, default=REFERENCE)
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--layers", default="mid", help="layers of the table")
    parser.add_argument("--table", choices=GROUPS, default="table")
    parser.add_argument("--sigmas", type=float, nargs="+", default=list(SIGMAS))
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    parser.add_argument("--active", default="all", help="steps at which guidance is active")
    parser.add_argument("--prompts", nargs="+", default=[""], help="of the samples, in turn")
    parser.add_argument(
        "--differences", action="store_true", help="to the first row, with intervals over seeds"
    )
    options = parser.parse_args(arguments)
    evaluation = Evaluation(
        options.model, options.folder, device=options.device, prompts=options.prompts
    )
    if options.table in _BY_STEPS:
        group = _BY_STEPS[options.table](options.steps)
    else:
        group = table_group(
            options.steps,
            options.layers,
            sigmas=options.sigmas,
            scales=options.scales,
            active=options.active,
        )
    results = list(evaluation.measure(group, options.count, options.reference))
    print(markdown(results))
    if options.differences:
        print("\nKernel distance above the first row's, times 1000, with its 95 % interval:\n")
        for configuration, found in evaluation.differences(group, options.count):
            print(
                f"- {configuration.label}: {found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
