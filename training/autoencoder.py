"""Trains the autoencoder (f4, four latent channels) and encodes the data set with it.

Loss: L1 on pixels, L1 on finite differences (edges, which L1 alone leaves soft), the distance of
early EfficientNet-Lite0 features, and a very small Kullback-Leibler term.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import load_checkpoint, save_checkpoint
from .clock import Clock, cosine_rate
from .places import default_folder
from .recipes import RECIPES, Recipe
from .start import adopt, latents_std

__all__ = [
    "build_autoencoder",
    "encode_split",
    "reconstruction_loss",
    "refine_decoder",
    "train_autoencoder",
]


#: Share of the time budget that is spent on drawings of half the size.
HALF_SIZE = 0.6


def build_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """An untrained autoencoder of the recipe's size."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=recipe.autoencoder_channels,
        layers_per_block=recipe.autoencoder_layers,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=recipe.image_size,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    # The posterior starts narrow: with unit noise, the first hundreds of steps would only go into
    # raising the means above it.
    with torch.no_grad():
        mean, logvar = model.quant_conv.bias.chunk(2)
        logvar.fill_(-6.0)
        model.quant_conv.weight[len(mean) :].zero_()
    return model


class EarlyFeatures(nn.Module):
    """Features of the first blocks of EfficientNet-Lite0, at strides 2, 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        from smoothed_energy.evaluation.features import load_network

        network = load_network()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(network._blocks[:5])
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of images ``(B, 3, H, W)`` in ``[-1, 1]``."""
        x = self.stem(images)
        found = [x]
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return [found[0], found[3], found[5]]


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(output: Tensor, target: Tensor, features: nn.Module | None) -> Tensor:
    """The training loss of reconstructions ``(B, 3, H, W)`` in ``[-1, 1]``; a scalar."""
    loss = F.l1_loss(output, target)
    loss = loss + 0.5 * sum(
        F.l1_loss(a, b) for a, b in zip(_edges(output), _edges(target), strict=True)
    )
    if features is not None:
        with torch.no_grad():
            wanted = features(target)
        for got, want in zip(features(output), wanted, strict=True):
            scale = want.std() + 1e-3
            loss = loss + 0.05 * F.l1_loss(got / scale, want / scale)
    return loss


def to_images(pixels: np.ndarray) -> Tensor:
    """uint8 ``(B, H, W, 3)`` to float ``(B, 3, H, W)`` in ``[-1, 1]``."""
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    return images.contiguous().float().div_(127.5).sub_(1.0)


def train_autoencoder(
    recipe: Recipe, pixels: np.ndarray, folder: Path, *, minutes: float, device: str = "cpu"
) -> AutoencoderKL:
    """Trains for a time budget, resuming from ``folder/autoencoder.pt`` where it exists."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    model = build_autoencoder(recipe).to(device)
    features = EarlyFeatures().to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.autoencoder_rate, betas=(0.9, 0.99), weight_decay=1e-4
    )
    step, elapsed, path = 0, 0.0, folder / "autoencoder.pt"
    if path.exists():
        state = load_checkpoint(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed = state["step"], state["elapsed"]
    clock = Clock(minutes * 60, elapsed)
    saved = clock.elapsed

    def save() -> None:
        save_checkpoint(
            path,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "elapsed": clock.elapsed,
            },
        )

    while clock.fraction < 1:
        rows = np.random.default_rng(step).integers(0, len(pixels), recipe.autoencoder_batch)
        target = to_images(pixels[np.sort(rows)]).to(device)
        if clock.fraction < HALF_SIZE:
            target = F.avg_pool2d(target, 2)
        else:
            target = target[: len(target) // 2]
        for group in optimizer.param_groups:
            group["lr"] = recipe.autoencoder_rate * cosine_rate(clock.fraction, step)
        with torch.autocast(device, dtype=torch.bfloat16):
            posterior = model.encode(target).latent_dist
            output = model.decode(posterior.sample()).sample
            loss = reconstruction_loss(output.float(), target, features)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        total = loss + 1e-5 * divergence
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            error = F.l1_loss(output.float(), target).item()
            print(
                f"step {step}  {clock.elapsed:.0f} s  loss {loss.item():.4f}  L1 {error:.4f}"
                f"  KL {divergence.item():.1f}",
                flush=True,
            )
        if clock.elapsed - saved > 60:
            saved = clock.elapsed
            save()
    save()
    return model


def refine_decoder(
    model: AutoencoderKL,
    recipe: Recipe,
    pixels: np.ndarray,
    latents: np.ndarray,
    *,
    minutes: float,
    noise: float = 0.05,
    device: str = "cpu",
) -> None:
    """Goes on training the decoder alone, on latents that stay as they are.

    The latents of the diffusion model's data set, and so a U-Net trained on them, keep their
    meaning. A little noise is added, since the decoder will see the U-Net's latents.

    Args:
        model: The trained autoencoder; changed in place.
        recipe: Its sizes.
        pixels: ``(N, H, W, 3)`` uint8.
        latents: ``(M, 4, h, w)`` float16 of the first M drawings.
        minutes: Time budget.
        noise: Standard deviation of the noise, relative to that of the latents.
        device: Where to train.
    """
    torch.manual_seed(0)
    model.to(device)
    features = EarlyFeatures().to(device)
    parameters = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    clock, step = Clock(minutes * 60), 0
    deviation = noise * float(np.asarray(latents[:1000], dtype=np.float32).std())
    while clock.fraction < 1:
        rows = np.random.default_rng([3, step]).integers(0, len(latents), recipe.autoencoder_batch)
        target = to_images(pixels[rows]).to(device)
        z = torch.from_numpy(latents[rows].astype(np.float32))
        z = (z + deviation * torch.randn_like(z)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * cosine_rate(clock.fraction, step, warmup=20)
        with torch.autocast(device, dtype=torch.bfloat16):
            output = model.decode(z).sample
            loss = reconstruction_loss(output.float(), target, features)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            error = F.l1_loss(output.float(), target).item()
            print(f"decoder step {step}  {clock.elapsed:.0f} s  L1 {error:.4f}", flush=True)


@torch.inference_mode()
def encode_split(
    model: AutoencoderKL, pixels: np.ndarray, path: Path, *, batch: int = 128, device: str = "cpu"
) -> dict[str, float]:
    """Encodes a split to ``path``: float16 ``(N, 4, h, w)``, the posterior means.

    Returns:
        The mean and the standard deviation of the latents; the reciprocal of the latter is the
        scaling factor that brings them to unit variance.
    """
    side = pixels.shape[1] // 4
    temporary = path.with_suffix(".partial")
    latents = np.lib.format.open_memmap(
        temporary, mode="w+", dtype=np.float16, shape=(len(pixels), 4, side, side)
    )
    model.eval()
    for start in range(0, len(pixels), batch):
        images = to_images(pixels[start : start + batch]).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            mean = model.encode(images).latent_dist.mean
        latents[start : start + len(images)] = mean.float().cpu().numpy().astype(np.float16)
    latents.flush()
    part = np.asarray(latents[:: max(1, len(latents) // 5000)], dtype=np.float64)
    os.replace(temporary, path)  # noqa: PTH105
    return {"mean": float(part.mean()), "std": float(part.std())}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: ``python -m training.autoencoder --recipe cpu --minutes 10``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--encode", type=int, default=0, help="training portraits to encode")
    parser.add_argument("--from-pipeline", type=Path, help="encode with this folder's autoencoder")
    parser.add_argument("--refine", type=float, default=0.0, help="minutes for the decoder alone")
    options = parser.parse_args(arguments)
    recipe = RECIPES[options.recipe]
    pixels = np.load(options.folder / f"train-{recipe.image_size}.npy")
    run = options.folder / options.recipe
    if options.refine:
        latents = np.load(run / "latents.npy")
        trained = AutoencoderKL.from_pretrained(run / "vae")
        refine_decoder(
            trained, recipe, pixels, latents, minutes=options.refine, device=options.device
        )
        trained.cpu().save_pretrained(run / "vae")
        return
    if options.from_pipeline is not None:
        adopt(options.from_pipeline, run)
        trained = AutoencoderKL.from_pretrained(run / "vae").to(options.device)
        kept = pixels[: options.encode or len(pixels)]
        found = encode_split(trained, kept, run / "latents.npy", device=options.device)
        # The U-Net knows latents of this scale; a new one would be another noise schedule to it.
        statistics = found | {"std": latents_std(options.from_pipeline), "measured": found["std"]}
        print(statistics)
        (run / "latents.json").write_text(json.dumps(statistics))
        return
    model = train_autoencoder(recipe, pixels, run, minutes=options.minutes, device=options.device)
    if options.encode:
        kept = pixels[: options.encode]
        statistics = encode_split(model, kept, run / "latents.npy", device=options.device)
        print(statistics)
        model.register_to_config(scaling_factor=1.0 / statistics["std"])
        (run / "latents.json").write_text(json.dumps(statistics))
        model.cpu().save_pretrained(run / "vae")


if __name__ == "__main__":
    main(sys.argv[1:])
