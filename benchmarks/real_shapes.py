r"""Runs of whole pipelines at real shapes on a GPU, eager and compiled, beside diffusers' PAG.

    python benchmarks/real_shapes.py [--device cuda] [--models sdxl flux] [--batch 4] [--tiny]

SDXL's U-Net and Flux's transformer with random weights in bfloat16 at 1024 x 1024 pixels, called by
the pipelines of diffusers with embeddings for the text and latents for the result, `--batch`
pictures at once. All ways to draw take turns, and ratios are to the unguided run of the same turn.
"compiled" is `compile_repeated_blocks()` of the denoiser.

Peak memory is that of the allocator above the weights. `--tiny` rehearses on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from sdxl_shape import sdxl_unet
from smoothed_energy import PerturbedAttentionGuidance, SmoothedEnergyGuidance

PAG_MID = "diffusers' PAG, mid"


@dataclass
class Way:
    """One way to draw: what is set up around a run, and the run."""

    name: str
    run: Callable[[], Any]
    set_up: Callable[[], AbstractContextManager[Any]] = nullcontext


@contextmanager
def built_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """New modules are made there, and of that type: tens of gigabytes are not copied."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def random(*shape: int, seed: int, like: torch.nn.Module) -> Tensor:
    """Standard normal numbers on the device and of the type of a module."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    parameter = next(like.parameters())
    return numbers.to(parameter.device, parameter.dtype)


def small_vae() -> AutoencoderKL:
    """An autoencoder that is never called: results are latents."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        norm_num_groups=4,
        latent_channels=4,
        shift_factor=0.1,
    )


def sdxl(options: argparse.Namespace, dtype: torch.dtype) -> tuple[Any, list[list[Way]]]:
    """SDXL's U-Net, and the ways to run it without CFG and with it."""
    device, steps, tiny, batch = options.device, options.steps, options.tiny, options.batch
    width, text, pixels = (32, 64, 256) if tiny else (320, 2048, 1024)
    torch.manual_seed(0)
    with built_on(device, dtype):
        unet = sdxl_unet(width, (1, 2, 4) if tiny else (5, 10, 20), text, pixels // 8)
    parts: dict[str, Any] = {
        "vae": small_vae().to(device, dtype),
        "unet": unet,
        "scheduler": EulerDiscreteScheduler(),
        "add_watermarker": False,
    }
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    parts |= dict.fromkeys(names)
    ours = StableDiffusionXLPipeline(**parts)
    groups = []
    for cfg in (1.0, 5.0):
        arguments = {
            "prompt_embeds": random(batch, 77, text, seed=1, like=unet),
            "pooled_prompt_embeds": random(batch, 1280, seed=2, like=unet),
            "negative_prompt_embeds": random(batch, 77, text, seed=3, like=unet),
            "negative_pooled_prompt_embeds": random(batch, 1280, seed=4, like=unet),
            "guidance_scale": cfg,
            "num_inference_steps": steps,
            "height": pixels,
            "width": pixels,
            "output_type": "latent",
        }
        run = runner(ours, arguments)

        # Its processors replace those of the U-Net for good, so they are put back.
        @contextmanager
        def their_pag(arguments: dict[str, Any] = arguments) -> Iterator[Callable[[], Any]]:
            before = dict(unet.attn_processors)
            theirs = StableDiffusionXLPAGPipeline(**parts, pag_applied_layers=["mid"])
            try:
                yield runner(theirs, {**arguments, "pag_scale": 3.0})
            finally:
                unet.set_attn_processor(before)

        mid = {"layers": "mid"}
        groups.append(
            [
                Way("unguided", run),
                Way("ours: SEG, mid", run, attached(ours, SmoothedEnergyGuidance(**mid))),
                Way(
                    "ours: SEG, mid, without replay",
                    run,
                    attached(ours, SmoothedEnergyGuidance(**mid), replay=False),
                ),
                Way(
                    "ours: SEG, mid, joined",
                    run,
                    attached(ours, SmoothedEnergyGuidance(**mid), joined=True),
                ),
                Way(
                    "ours: SEG, every layer",
                    run,
                    attached(ours, SmoothedEnergyGuidance(layers="all")),
                ),
                Way("ours: PAG, mid", run, attached(ours, PerturbedAttentionGuidance(**mid))),
                Way(PAG_MID, run, their_pag),
            ]
        )
        for way in groups[-1]:
            way.name += ", CFG" if cfg > 1 else ""
    return unet, groups


def flux(options: argparse.Namespace, dtype: torch.dtype) -> tuple[Any, list[list[Way]]]:
    """Flux's transformer, and the ways to run it."""
    device, steps, tiny, batch = options.device, options.steps, options.tiny, options.batch
    sizes: dict[str, Any] = {"guidance_embeds": True}
    width, pooled, pixels = 4096, 768, 1024
    if tiny:
        width, pooled, pixels = 32, 16, 128
        sizes |= {
            "num_layers": 4,
            "num_single_layers": 4,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": width,
            "pooled_projection_dim": pooled,
            "axes_dims_rope": (4, 14, 14),
        }
    torch.manual_seed(0)
    with built_on(device, dtype):
        transformer = FluxTransformer2DModel(**sizes).eval()
    pipe = FluxPipeline(
        vae=small_vae().to(device, dtype),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
    )
    run = runner(
        pipe,
        {
            "prompt_embeds": random(batch, 512, width, seed=1, like=transformer),
            "pooled_prompt_embeds": random(batch, pooled, seed=2, like=transformer),
            "guidance_scale": 3.5,
            "num_inference_steps": steps,
            "height": pixels,
            "width": pixels,
            "output_type": "latent",
        },
    )
    double, single = ("b2", "s2") if tiny else ("b9", "s19")
    ways = [Way("unguided", run)]
    for layer in (double, single):
        guidance = SmoothedEnergyGuidance(layers=layer)
        ways.append(Way(f"ours: SEG, {layer}", run, attached(pipe, guidance)))
    ways += [
        Way(
            f"ours: SEG, {double}, without replay",
            run,
            attached(pipe, SmoothedEnergyGuidance(layers=double), replay=False),
        ),
        Way(
            f"ours: SEG, {double}, joined",
            run,
            attached(pipe, SmoothedEnergyGuidance(layers=double), joined=True),
        ),
        Way(
            f"ours: PAG, {double}",
            run,
            attached(pipe, PerturbedAttentionGuidance(layers=double)),
        ),
    ]
    return transformer, [ways]


def runner(pipe: Any, arguments: dict[str, Any]) -> Callable[[], Any]:
    """A run of a pipeline from the same noise every time."""
    pipe.set_progress_bar_config(disable=True)

    def run() -> Any:
        generator = torch.Generator().manual_seed(7)
        return pipe(**arguments, generator=generator).images

    return run


def attached(
    pipe: Any, guidance: Any, **settings: Any
) -> Callable[[], AbstractContextManager[Any]]:
    """Attaches a guidance for one run."""
    return lambda: guidance.attach(pipe, **settings)


def measured(way: Way, device: str, steps: int) -> tuple[float, int]:
    """Milliseconds of a step of one run, and its peak of memory above what was there before."""
    with way.set_up() as given:
        run = given if way.name.startswith(PAG_MID) else way.run
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        latents = run()
        if device == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
    if not torch.isfinite(latents).all():
        raise RuntimeError(f"{way.name}: the latents are not finite")
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    return 1e3 * spent / steps, peak


def table(model: str, mode: str, ways: list[Way], options: argparse.Namespace) -> None:
    """Print the times of some ways that take turns."""
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    peaks: dict[str, int] = {}
    begun = time.perf_counter()
    for turn in range(options.turns + 1):
        for way in ways:
            spent, peaks[way.name] = measured(way, options.device, options.steps)
            if turn:  # the first one warms up and compiles
                times[way.name].append(spent)
        if not turn:
            warm = time.perf_counter() - begun
    plain = times[ways[0].name]
    for way in ways:
        values = times[way.name]
        ratio = statistics.median(a / b for a, b in zip(values, plain, strict=True))
        cells = (
            f"{statistics.median(values):.1f} | {ratio:.2f} | {min(values):.1f} | "
            f"{min(values) / min(plain):.2f} | {peaks[way.name] / 2**20:.0f}"
        )
        print(f"| {model} | {mode} | {way.name} | {cells} |", flush=True)
    print(f"[{model}, {mode}: the first turn took {warm:.0f} s]", flush=True)


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=["sdxl", "flux"], choices=["sdxl", "flux"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--eager", action="store_true", help="nothing compiled")
    parser.add_argument("--tiny", action="store_true", help="small models, to rehearse")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    machine = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    print(
        f"{machine}, {dtype}, torch {torch.__version__}, diffusers {diffusers.__version__}; "
        f"runs of {options.steps} steps, {options.turns} turns, batch {options.batch}\n"
    )
    print("| model | mode | way | ms a step | / unguided | least | / unguided | peak, MiB |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for name in options.models:
        build = sdxl if name == "sdxl" else flux
        denoiser, groups = build(options, dtype)
        with torch.no_grad():
            for ways in groups:
                table(name, "eager", ways, options)
            if options.eager:
                continue
            torch.compiler.reset()
            denoiser.compile_repeated_blocks()
            for ways in groups[-1:]:
                chosen = [way for way in ways if "without replay" not in way.name]
                chosen = [way for way in chosen if "every layer" not in way.name]
                table(name, "compiled", chosen, options)
        del denoiser, groups
        if options.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
