r"""How much of the package takes part in a step: its files, functions and calls.

    python benchmarks/call_counts.py
    python benchmarks/call_counts.py --list 20                    # the most called functions
    python benchmarks/call_counts.py --before OTHER_CHECKOUT      # beside those of other code

`sys.setprofile` reports each call of a Python function; those whose code lies in the package's
folder are counted. A function is a name in a file (`GuidedRun.call` in `step.py`), and a
comprehension or a generator is one, too: each value that a generator gives is a call. Functions
that are made from text, as the `__init__` of a dataclass, have no file and don't count. A step is
one call of the denoiser by its pipeline, from entry to return.

The setting: an SDXL pipeline of 32 x 32 pictures with random weights, Euler's scheduler, CFG 5,
three steps, `SmoothedEnergyGuidance(blur="gaussian:10", layers="mid", steps="0:0.5")`. Two steps
are guided and the third is not. Attaching is counted where this blur has no kernels yet, but
whatever is imported late was imported for another blur. The steps are those of a second run, on a
new pipeline: kernels are at hand, and attaching has found the layers. The numbers of
before are what this script counts at commit a376798 with Python 3.11. Later versions make no
function of a list comprehension, so they count fewer.

Bounds that the table is held to: each of its numbers is less than it was before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

import smoothed_energy
from smoothed_energy import SmoothedEnergyGuidance

PACKAGE = Path(smoothed_energy.__file__).parent
TEXT_WIDTH = 16
ATTACH, FIRST, LATER, WITHOUT = "attach", "first guided step", "later guided step", "unguided step"
PHASES = (ATTACH, FIRST, LATER, WITHOUT)
COLUMNS = ("files", "functions", "calls")
BEFORE = {
    ATTACH: (14, 56, 569),
    FIRST: (27, 232, 2632),
    LATER: (26, 184, 999),
    WITHOUT: (16, 51, 109),
}
MOST = BEFORE

Calls = Counter[tuple[str, str]]


def build() -> StableDiffusionXLPipeline:
    """A tiny SDXL pipeline, prompts given as embeddings."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 4,
    ).eval()
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        latent_channels=4,
    ).eval()
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: StableDiffusionXLPipeline) -> None:
    """Three steps."""
    torch.manual_seed(1)
    pipe(
        prompt_embeds=torch.randn(1, 5, TEXT_WIDTH),
        pooled_prompt_embeds=torch.randn(1, TEXT_WIDTH),
        negative_prompt_embeds=torch.randn(1, 5, TEXT_WIDTH),
        negative_pooled_prompt_embeds=torch.randn(1, TEXT_WIDTH),
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=5.0,
        output_type="latent",
    )


@contextmanager
def counted() -> Iterator[Calls]:
    """A block in which the calls of the package's functions are counted."""
    calls: Calls = Counter()
    folder = f"{PACKAGE}{os.sep}"

    def note(frame, event, argument) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(folder):
            name = getattr(code, "co_qualname", code.co_name)  # Python 3.10 has no qualified names
            calls[code.co_filename[len(folder) :], name] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@contextmanager
def counted_steps(model: UNet2DConditionModel) -> Iterator[list[Calls]]:
    """A block in which the calls are counted for each call of a U-Net."""
    steps: list[Calls] = []
    whole = torch.nn.Module.__call__

    def call(self, *args, **kwargs) -> object:
        if self is not model:
            return whole(self, *args, **kwargs)
        with counted() as calls:
            output = whole(self, *args, **kwargs)
        steps.append(calls)
        return output

    UNet2DConditionModel.__call__ = call
    try:
        yield steps
    finally:
        del UNet2DConditionModel.__call__


def count() -> dict[str, Calls]:
    """The calls of each phase."""
    settings = {"layers": "mid", "steps": "0:0.5"}
    SmoothedEnergyGuidance(blur="gaussian:5", **settings).attach(build()).detach()
    guidance = SmoothedEnergyGuidance(blur="gaussian:10", **settings)
    pipe = build()
    with counted() as attach:
        attachment = guidance.attach(pipe)
    generate(pipe)
    attachment.detach()

    pipe = build()
    with guidance.attach(pipe) as attachment, counted_steps(pipe.unet) as steps:
        generate(pipe)
    assert len(steps) == 3, "one call of the U-Net a step"
    assert attachment.last_run.guided_calls == 2, "two of three steps are guided"
    return dict(zip(PHASES, [attach, *steps], strict=True))


def numbers(calls: Calls) -> tuple[int, int, int]:
    """Files, functions and calls."""
    return len({file for file, _ in calls}), len(calls), calls.total()


def count_elsewhere(folder: Path) -> dict[str, Calls]:
    """What this script counts in another checkout, or in its `src`."""
    source = (folder / "src" if (folder / "src").is_dir() else folder).resolve()
    found = json.loads(
        subprocess.run(
            [sys.executable, __file__, "--json"],
            env={**os.environ, "PYTHONPATH": str(source)},
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
    )
    if not Path(found["package"]).is_relative_to(source):
        raise SystemExit(f"{source} has no smoothed_energy; found that of {found['package']}")
    return read(found["phases"])


def written(phases: dict[str, Calls]) -> dict[str, list]:
    return {phase: [[*key, n] for key, n in calls.items()] for phase, calls in phases.items()}


def read(phases: dict[str, list]) -> dict[str, Calls]:
    return {
        phase: Counter({(file, name): n for file, name, n in calls})
        for phase, calls in phases.items()
    }


def cell(found: tuple[int, ...]) -> str:
    return " / ".join(f"{number:,}" for number in found)


def print_table(ways: dict[str, dict[str, Calls]]) -> None:
    """Print what was counted, and whether the bounds hold for the last way."""
    print(f"Each cell: {' / '.join(COLUMNS)} of the package.\n")
    print(f"| phase | published, before | {' | '.join(ways)} | bound | |")
    print(f"|---|---:|{'---:|' * len(ways)}---:|---|")
    for phase in PHASES:
        columns = [numbers(found[phase]) for found in ways.values()]
        over = [
            name
            for name, n, most in zip(COLUMNS, columns[-1], MOST[phase], strict=True)
            if n >= most
        ]
        verdict = f"does not hold: {', '.join(over)}" if over else "holds"
        cells = [cell(BEFORE[phase]), *map(cell, columns), cell(MOST[phase])]
        print(f"| {phase} | {' | '.join(cells)} | {verdict} |")


def print_most_called(phases: dict[str, Calls], most: int) -> None:
    for phase, calls in phases.items():
        print(f"\n### {phase}\n\n| calls | share | function | file |\n|---:|---:|---|---|")
        for (file, name), n in calls.most_common(most):
            print(f"| {n} | {n / calls.total():.0%} | `{name}` | `{file}` |")


def main() -> None:
    """Count, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="PATH", help="another checkout, or its src")
    parser.add_argument("--list", type=int, default=0, metavar="N", help="the N most called")
    parser.add_argument("--json", action="store_true", help="each function's calls, as JSON")
    parser.add_argument("--quick", action="store_true", help="no difference: it is quick")
    options = parser.parse_args()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phases = count()
    if options.json:
        print(json.dumps({"package": str(PACKAGE), "phases": written(phases)}))
        return
    ways = {"this run": phases}
    if options.before is not None:
        ways = {str(options.before): count_elsewhere(options.before), **ways}
    print_table(ways)
    if options.list:
        print_most_called(phases, options.list)


if __name__ == "__main__":
    main()
