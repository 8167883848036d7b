"""Trains the U-Net and the text encoder jointly; resumable, with a schedule by the clock.

    python -m training.train --recipe cpu --time-budget 75

The learning rate is constant and falls to zero in the last quarter of the budget. The checkpoint
from before the fall is kept as ``plateau.pt``. To train longer, run the command again with
``--from plateau.pt`` and a larger budget. Without checkpoints, ``--from-pipeline`` starts from the
weights of a pipeline folder, and ``--weights`` from others that fit it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from .checkpoint import load_checkpoint
from .dataset import Portraits, read_captions, tokenize
from .diffusion import text_conditioning
from .networks import build_text_encoder, build_unet, save_tokenizer, train_tokenizer
from .parallel import Exchange, Team
from .places import default_folder
from .progress import heldout_split
from .recipes import RECIPES, Recipe
from .start import adopt, read_weights
from .trainer import Trainer, train

__all__ = ["JointTrainer", "prepare"]


def prepare(folder: Path, recipe_name: str) -> tuple[Portraits, CLIPTokenizer]:
    """The encoded training split and the tokenizer, which is trained when there is none."""
    recipe = RECIPES[recipe_name]
    run = folder / recipe_name
    lines = folder / f"train-{recipe.image_size}.jsonl"
    place = run / "tokenizer_2"
    if not place.exists():
        some = itertools.islice(read_captions(lines), 20_000)
        spoken = (text for texts in some for text in texts)
        save_tokenizer(train_tokenizer(spoken), place)
    tokenizer = CLIPTokenizer.from_pretrained(place)
    latents = np.load(run / "latents.npy")
    tokens_path = run / "tokens.npy"
    if not tokens_path.exists():
        captions = list(itertools.islice(read_captions(lines), len(latents)))
        flat = tokenize(tokenizer, [text for texts in captions for text in texts])
        np.save(tokens_path, flat.reshape(len(captions), -1, flat.shape[-1]))
    statistics = json.loads((run / "latents.json").read_text())
    portraits = Portraits(
        latents,
        np.load(tokens_path),
        tokenize(tokenizer, [""])[0],
        std=statistics["std"],
    )
    return portraits, tokenizer


class JointTrainer(Trainer):
    """The U-Net and the text encoder, from nothing.

    Args:
        recipe: The configuration.
        tokenizer: Of the captions.
        device: Where it trains.
        seed: Of the random start.
        compiled: Whether steps run a compiled U-Net; measurements never do, since they have
            another size of batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: CLIPTokenizer,
        *,
        device: str = "cpu",
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        self.unet = build_unet(recipe).to(device, memory_format=torch.channels_last)
        self.text_encoder = build_text_encoder(recipe, tokenizer).to(device)
        if device == "cpu":
            # Plain attention: for so few tokens the fused kernel's backward pass is slower here.
            self.unet.set_attn_processor(AttnProcessor())
            self.text_encoder.set_attn_implementation("eager")
        networks = {"unet": self.unet, "text_encoder": self.text_encoder}
        self.compiled = torch.compile(self.unet, dynamic=False) if compiled else None
        super().__init__(recipe, networks, learning_rate=recipe.learning_rate, device=device)

    def predict(self, noisy: Tensor, timesteps: Tensor, *conditions: Tensor) -> Tensor:
        """See `Trainer.predict`; the condition is tokenized captions `(B, L)`."""
        (tokens,) = conditions
        states, pooled = text_conditioning(self.text_encoder, tokens)
        whole = torch.is_grad_enabled() and self.compiled is not None
        unet = self.compiled if whole else self.unet
        assert unet is not None
        found: Tensor = unet(
            noisy,
            timesteps,
            encoder_hidden_states=states,
            added_cond_kwargs={
                "text_embeds": pooled,
                "time_ids": self.time_ids.expand(len(noisy), -1),
            },
        ).sample
        return found


def _work(rank: int, team: Team | None, options: argparse.Namespace) -> None:
    """One process of a training run."""
    run = options.folder / options.recipe
    if team is not None:
        torch.set_num_threads(1)
    recipe = RECIPES[options.recipe]
    portraits, tokenizer = prepare(options.folder, options.recipe)
    trainer = JointTrainer(recipe, tokenizer, device=options.device)
    trainer.exchange = None if team is None else Exchange(team, rank)
    if (run / options.start).exists():
        trainer.load_state(load_checkpoint(run / options.start))
        print(f"resumed at step {trainer.step}, {trainer.elapsed / 60:.1f} minutes", flush=True)
    elif options.from_pipeline is not None:
        source = options.weights or options.from_pipeline
        trainer.start_from(read_weights(source))
        print(f"started from the weights in {source}", flush=True)
    heldout = None
    if options.measure and trainer.leads:
        heldout = heldout_split(
            options.folder,
            run,
            recipe.image_size,
            tokenizer,
            std=portraits.std,
            count=options.measure,
        )
    train(
        trainer,
        portraits.batch,
        run,
        minutes=options.time_budget,
        decay=options.decay,
        # Weights that are trained already need no long warm-up, only the optimizer's averages do.
        warmup=300 if options.from_pipeline is None else 100,
        measure=None if heldout is None else heldout.measure,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--time-budget", type=float, default=75.0, help="minutes in all")
    parser.add_argument("--from", dest="start", default="latest.pt", help="checkpoint to resume")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=1, help="of one thread each, on a CPU")
    parser.add_argument("--from-pipeline", type=Path, help="start from this folder's weights")
    parser.add_argument("--weights", type=Path, help="other weights for --from-pipeline")
    parser.add_argument("--decay", type=float, default=0.25, help="last share of the budget")
    parser.add_argument("--measure", type=int, default=0, help="held-out drawings to measure by")
    options = parser.parse_args(arguments)
    if options.weights is not None and options.from_pipeline is None:
        parser.error("--weights needs --from-pipeline, the folder of tokenizer and autoencoder")
    if options.from_pipeline is not None:
        adopt(options.from_pipeline, options.folder / options.recipe)
    if options.processes == 1:
        _work(0, None, options)
        return
    _, tokenizer = prepare(options.folder, options.recipe)
    trainer = JointTrainer(RECIPES[options.recipe], tokenizer)
    team = Team(options.processes, sum(p.numel() for p in trainer.parameters))
    del trainer
    torch.multiprocessing.spawn(_work, (team, options), nprocs=options.processes)


if __name__ == "__main__":
    main(sys.argv[1:])
