"""Trains the classifier that tells what a portrait shows: how often does it have what it should?

    python -m training.attributes --minutes 20

It learns from the drawings of the training split. A part of them goes through the model's
autoencoder first, with noise on the latents, and the others are shifted, blurred and noised at
random: what a diffusion model draws is never as clean as a drawing.

The vocabulary is that of the captions, in one set of attributes for all styles: a phrase belongs to
one attribute whatever the style, as captions often leave the style unsaid.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from smoothed_energy.evaluation.attributes import NONE, AttributeVocabulary
from smoothed_energy.evaluation.attributes_classifier import AttributeClassifier
from smoothed_energy.evaluation.attributes_network import AttributeNetwork
from smoothed_energy.models.loading import dtype_argument
from smoothed_energy.sweeps.weights import folder_digest

from .checkpoint import load_checkpoint, save_checkpoint
from .clock import Clock, cosine_rate
from .places import default_folder
from .styles import BACKGROUNDS, CLOTHES, HAIR, SKIN, STYLES

__all__ = ["augment", "export", "labels", "measure", "reconstruct", "train", "vocabulary"]

#: DiceBear's attributes of the shapes to those of the classifier.
_SHAPES: Mapping[str, str] = {
    "hair": "hair",
    "rearHair": "rear hair",
    "eyes": "eyes",
    "eyebrows": "eyebrows",
    "mouth": "mouth",
    "mood": "expression",
    "facialHair": "facial hair",
    "beard": "facial hair",
    "mustache": "facial hair",
    "glasses": "eyewear",
    "body": "clothing",
    "clothes": "clothing",
    "shirt": "clothing",
    "accessories": "accessory",
    "earrings": "accessory",
    "blushes": "cheeks",
}
#: Phrases that one style has under another attribute than the others, or with one fixed colour.
_PHRASES: Mapping[str, tuple[str, str, str]] = {
    "glasses": ("eyewear", "glasses", NONE),
    "sunglasses": ("eyewear", "sunglasses", NONE),
    "a brown moustache": ("facial hair", "a {} moustache", "brown"),
}
_COLORS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "hair": ("hair color", HAIR),
    "facial hair": ("facial hair color", HAIR),
    "clothing": ("clothing color", CLOTHES),
}
#: Share of each batch that went through the autoencoder.
DECODED = 0.35
BATCH = 64


def _shape(attribute: str, phrase: str) -> tuple[str, str, str]:
    """The classifier's attribute of a phrase, its value, and its colour if that is fixed."""
    return _PHRASES.get(phrase, (_SHAPES.get(attribute, ""), phrase, NONE))


def vocabulary() -> AttributeVocabulary:
    """The attributes that captions of all styles have words for."""
    values: dict[str, list[str]] = {"style": [style.word for style in STYLES.values()]}
    for style in STYLES.values():
        for drawn, phrases in style.phrases.items():
            for phrase in phrases.values():
                if phrase:
                    attribute, value, _ = _shape(drawn, phrase)
                    known = values.setdefault(attribute, [NONE])
                    if value not in known:
                        known.append(value)
    for color, palette in _COLORS.values():
        values[color] = [NONE, *palette]
    values["skin"] = [f"{name} skin" for name in SKIN]
    values["background"] = [f"{_article(name)} {name} background" for name in BACKGROUNDS]
    colors = {attribute: color for attribute, (color, _) in _COLORS.items()}
    return AttributeVocabulary({k: tuple(v) for k, v in values.items()}, colors)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _name(value: object, palette: Mapping[str, str]) -> str:
    code = str(value).removeprefix("#").lower()
    return next(name for name, other in palette.items() if other == code)


def labels(style_name: str, attributes: Mapping[str, object]) -> dict[str, str]:
    """What a drawing shows, as values of the `vocabulary`, `NONE` where there is nothing to say.

    Args:
        style_name: DiceBear's name of the style.
        attributes: DiceBear's report of what it drew.
    """
    style, known = STYLES[style_name], vocabulary()
    found = dict.fromkeys(known.values, NONE)
    for drawn, phrases in style.phrases.items():
        phrase = phrases.get(str(attributes.get(drawn)), "")
        if not phrase:
            continue
        attribute, value, color = _shape(drawn, phrase)
        if "{}" in phrase:
            key = style.colored_by[drawn]
            color = _name(attributes[key], style.colors[key])
        found[attribute] = value
        if color:
            found[known.colors[attribute]] = color
    found["style"] = style.word
    found["skin"] = f"{_name(attributes[style.skin], style.colors[style.skin])} skin"
    background = _name(attributes["primaryBackgroundColor"], BACKGROUNDS)
    found["background"] = f"{_article(background)} {background} background"
    return found


def read_labels(path: Path, count: int) -> np.ndarray:
    """The labels of the first portraits of a split, ``(count, attributes)`` int16."""
    known = vocabulary()
    index = {a: {v: i for i, v in enumerate(values)} for a, values in known.values.items()}
    rows = np.empty((count, len(index)), dtype=np.int16)
    with path.open() as lines:
        for row, line in zip(rows, lines, strict=False):
            record = json.loads(line)
            found = labels(record["style"], record["attributes"])
            row[:] = [index[attribute][value] for attribute, value in found.items()]
    return rows


@torch.inference_mode()
def reconstruct(
    pixels: np.ndarray, rows: Iterable[int], model: Path, *, noise: float = 0.0
) -> np.ndarray:
    """Drawings that the autoencoder encoded and decoded, ``(N, H, W, 3)`` uint8.

    Args:
        pixels: ``(M, H, W, 3)`` uint8.
        rows: Which of them.
        model: The folder of a pipeline with the autoencoder.
        noise: Each picture's latents get normal noise, of a deviation drawn evenly between 0 and
            this share of theirs.
    """
    import diffusers

    dtype: Any = {dtype_argument(diffusers.__version__): torch.bfloat16}
    vae = diffusers.AutoencoderKL.from_pretrained(model / "vae", **dtype).eval()
    generator = torch.Generator().manual_seed(4)
    rows, found = np.asarray(list(rows)), []
    for start in range(0, len(rows), 32):
        images = _images(pixels[rows[start : start + 32]]).bfloat16()
        latents = vae.encode(images).latent_dist.mode().float()
        level = noise * torch.rand(len(latents), 1, 1, 1, generator=generator) * latents.std()
        latents += level * torch.randn(latents.shape, generator=generator)
        decoded = vae.decode(latents.bfloat16()).sample.float()
        bytes_ = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte()
        found.append(bytes_.permute(0, 2, 3, 1).numpy())
    return np.concatenate(found)


def _images(pixels: np.ndarray) -> Tensor:
    """uint8 ``(B, H, W, 3)`` to float ``(B, 3, H, W)`` in ``[-1, 1]``."""
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    return images.float().div_(127.5).sub_(1.0)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``(B, 3, H, W)`` in ``[-1, 1]``, shifted, blurred and noised at random.

    Nothing is mirrored, since partings have a side, and colours change little, since they are what
    is asked for.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)

    size, reach = images.shape[-1], 3
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    x, y = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    shifted = padded[..., y : y + size, x : x + size]
    # A mixture with a 3 x 3 or a 5 x 5 mean is a blur of any strength in between.
    width = 3 if torch.rand((), generator=generator) < 0.7 else 5
    blurred = F.avg_pool2d(F.pad(shifted, (width // 2,) * 4, mode="replicate"), width, stride=1)
    mixed = shifted.lerp(blurred, uniform(-0.3, 1.0).clamp_min(0))
    noise = uniform(-0.08, 0.12).clamp_min(0)
    mixed = mixed + noise * torch.randn(mixed.shape, generator=generator)
    return (mixed * uniform(0.94, 1.06) + uniform(-0.04, 0.04)).clamp(-1, 1)


def train(
    pixels: np.ndarray,
    targets: np.ndarray,
    decoded: tuple[np.ndarray, np.ndarray],
    path: Path,
    *,
    minutes: float,
) -> AttributeNetwork:
    """Trains for a time budget, resuming from the checkpoint at ``path`` where there is one.

    Args:
        pixels: ``(N, H, W, 3)`` uint8 drawings.
        targets: Their labels, from `read_labels`.
        decoded: Reconstructions of drawings, and their labels.
        path: The checkpoint.
        minutes: The budget, over all runs.
    """
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    known = vocabulary()
    sizes = {attribute: len(values) for attribute, values in known.values.items()}
    network = AttributeNetwork(sizes, image_size=pixels.shape[1])
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    step, elapsed = 0, 0.0
    if path.exists():
        state = load_checkpoint(path)
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed = state["step"], state["elapsed"]
    clock = Clock(minutes * 60, elapsed)
    saved = clock.elapsed
    copies = round(DECODED * BATCH)

    def save() -> None:
        state = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(path, state | {"step": step, "elapsed": clock.elapsed})

    while clock.fraction < 1:
        rng = np.random.default_rng([5, step])
        generator = torch.Generator().manual_seed(step)
        some = np.sort(rng.choice(len(pixels), BATCH - copies, replace=False))
        others = rng.choice(len(decoded[0]), copies, replace=False)
        images = _images(np.concatenate([pixels[some], decoded[0][others]]))
        wanted = torch.from_numpy(np.concatenate([targets[some], decoded[1][others]])).long()
        images = augment(images, generator).contiguous(memory_format=torch.channels_last)
        network.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(images)
        losses = [F.cross_entropy(found[a], wanted[:, i]) for i, a in enumerate(sizes)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine_rate(clock.fraction, step, warmup=200)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(
                f"{clock.elapsed:6.0f} s  step {step}  loss {float(loss.detach()):.3f}", flush=True
            )
        if clock.elapsed - saved > 60:
            saved = clock.elapsed
            save()
    save()
    return network.eval()


@torch.inference_mode()
def predict(network: AttributeNetwork, pixels: np.ndarray) -> np.ndarray:
    """The most probable values of drawings ``(N, H, W, 3)``: ``(N, attributes)`` int16."""
    network.eval()
    found = []
    for start in range(0, len(pixels), 100):
        logits = network(_images(pixels[start : start + 100]))
        found.append(torch.stack([x.argmax(1) for x in logits.values()], dim=1))
    return torch.cat(found).numpy().astype(np.int16)


def measure(found: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """How often predictions are right, in percent, of what has a word and of all.

    Args:
        found: Predictions, ``(N, attributes)``.
        targets: Labels.

    Returns:
        ``named``: for each attribute the accuracy where there is something to name. ``all``: the
        accuracy with absent attributes. ``styles``: that of all that is named, by style. ``mean``:
        of all that is named.
    """
    known = vocabulary()
    right = found == targets
    named = np.stack(
        [
            np.asarray([value != NONE for value in values])[targets[:, i]]
            for i, values in enumerate(known.values.values())
        ],
        axis=1,
    )

    def share(where: np.ndarray, of: np.ndarray) -> float:
        return round(float(100 * of[where].mean()), 2)

    accuracies = {a: share(named[:, i], right[:, i]) for i, a in enumerate(known.values)}
    everything = {a: round(float(100 * right[:, i].mean()), 2) for i, a in enumerate(known.values)}
    styles = {}
    for i, style in enumerate(known.values["style"]):
        rows = targets[:, 0] == i
        if rows.any():
            styles[style] = share(named[rows], right[rows])
    return {
        "count": len(found),
        "mean": share(named, right),
        "named": accuracies,
        "all": everything,
        "styles": styles,
    }


def export(network: AttributeNetwork, accuracy: Mapping[str, Any], folder: Path) -> None:
    """Writes the weights as float16 safetensors, and the vocabulary with accuracies as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for its owner alone
    described = {
        "image_size": network.image_size,
        "vocabulary": vocabulary().to_json(),
        "accuracy": accuracy,
    }
    (folder / "attributes.json").write_text(json.dumps(described, indent=1) + "\n")


def _answers(classifier: AttributeClassifier, pixels: np.ndarray) -> np.ndarray:
    """What a classifier sees in drawings, as `predict` has it."""
    values = vocabulary().values
    rows = []
    for start in range(0, len(pixels), 100):
        part = torch.from_numpy(np.array(pixels[start : start + 100])).permute(0, 3, 1, 2)
        rows += [[values[a].index(shown[a]) for a in values] for shown in classifier(part)]
    return np.asarray(rows, dtype=np.int16)


def _decoded(
    folder: Path, split: str, size: int, count: int, model: Path, noise: float
) -> np.ndarray:
    """The first drawings of a split through the autoencoder, computed once for its weights."""
    digest = folder_digest(model / "vae").removeprefix("sha256:")
    name = f"{split}-{size}-decoded-{count}-{noise:g}-{digest[:12]}.npy"
    path = folder / "attributes" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.load(folder / f"{split}-{size}.npy", mmap_mode="r")
        found = reconstruct(pixels, range(count), model, noise=noise)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, found)
        partial.replace(path)
    decoded: np.ndarray = np.load(path, mmap_mode="r")
    return decoded


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    avatars = Path(__file__).parents[1] / "src" / "smoothed_energy" / "models" / "avatars"
    parser.add_argument("--folder", type=Path, default=default_folder(), help="the drawings")
    parser.add_argument("--model", type=Path, default=avatars, help="whose autoencoder")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--train", type=int, default=100_000, help="drawings to learn from")
    parser.add_argument("--heldout", type=int, default=6000, help="drawings to be tested on")
    parser.add_argument("--decoded", type=int, default=12_000, help="of which are reconstructed")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--to", type=Path, default=avatars / "attributes" / "classifier")
    parser.add_argument("--measure", action="store_true", help="again the one that is there")
    options = parser.parse_args(arguments)
    folder, size = options.folder, options.size
    heldout = np.load(folder / f"heldout-{size}.npy", mmap_mode="r")[: options.heldout]
    wanted = read_labels(folder / f"heldout-{size}.jsonl", len(heldout))
    again = _decoded(folder, "heldout", size, len(heldout), options.model, 0.0)
    tested = {"drawings": heldout, "decoded": again}
    if options.measure:
        classifier = AttributeClassifier(options.to)
        accuracy = {
            name: measure(_answers(classifier, pictures), wanted)
            for name, pictures in tested.items()
        }
        described = json.loads((options.to / "attributes.json").read_text())
        described["accuracy"] = accuracy
        (options.to / "attributes.json").write_text(json.dumps(described, indent=1) + "\n")
        print(json.dumps(accuracy, indent=1))
        return
    pixels = np.load(folder / f"train-{size}.npy", mmap_mode="r")[: options.train]
    targets = read_labels(folder / f"train-{size}.jsonl", len(pixels))
    count = min(options.decoded, len(pixels))
    decoded = np.array(_decoded(folder, "train", size, count, options.model, 0.4))
    checkpoint = folder / "attributes" / "checkpoint.pt"
    network = train(
        pixels, targets, (decoded, targets[:count]), checkpoint, minutes=options.minutes
    )
    accuracy = {
        name: measure(predict(network, pictures), wanted) for name, pictures in tested.items()
    }
    export(network, accuracy, options.to)
    print(json.dumps(accuracy, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
