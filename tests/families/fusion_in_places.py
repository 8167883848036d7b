"""Guidance that is fused with CFG, compared with its formula where the numbers are."""

import torch
import torch.nn.functional as F
from as_ordinary import guided_by
from brute_force_attention import brute_force
from brute_force_fusion import fused
from comparison import run_of
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import SmoothedEnergyGuidance

SCALE = 30.0


def packing_of(pipe, case):
    """The place in `(C, *sizes)` of every number of the image's tokens, by the pipeline itself.

    None if predictions are not packed.
    """
    name = type(pipe).__name__
    if name.startswith("Flux2"):
        latents = numbered(1, 4, 12, 8)
        return pipe._pack_latents(pipe._patchify_latents(latents)), latents.shape[1:]
    if name.startswith("Flux3"):
        latents = numbered(1, 4, 12, 8)
        return F.pixel_unshuffle(latents.double(), 2).long().flatten(2).mT, latents.shape[1:]
    if name.startswith("FiboOf"):
        latents = numbered(1, 16, 6, 4)
        return pipe._pack_latents_no_patch(latents, *latents.shape), latents.shape[1:]
    if name.startswith(("Flux", "Chroma", "Ovis", "LongCat", "BriaPipeline")):
        latents = numbered(1, 16 if name.startswith("LongCat") else 4, 12, 8)
        return pipe._pack_latents(latents, *latents.shape), latents.shape[1:]
    if name == "LatentsOfLayers":
        latents = numbered(1, 4, 3, 12, 8)
        by_layer = latents.transpose(1, 2)
        return pipe._pack_latents(by_layer, 1, 4, 12, 8, 3), latents.shape[1:]
    if name.startswith("Krea2"):
        latents = numbered(1, 4, 12, 8)
        return pipe._pack_latents(latents, *latents.shape), latents.shape[1:]
    if name.startswith("NucleusMoE"):
        latents = numbered(1, 4, 12, 8)
        return pipe._pack_latents(latents, *latents.shape, 2), latents.shape[1:]
    if name.startswith("QwenImage"):
        latents = numbered(1, 4, *(2 * side for side in next(iter(case.images.values())).grid))
        return pipe._pack_latents(latents, *latents.shape), latents.shape[1:]
    if name.startswith("LTX"):
        latents = numbered(1, 8, *next(iter(case.images.values())).grid)
        return pipe._pack_latents(latents), latents.shape[1:]
    return None


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel()).view(shape)


def in_places(function, pipe, case):
    """A function of two predictions `(B, C, *sizes)`, for two as the pipeline lays them out."""
    if type(pipe).__name__.startswith(("AnyFlow", "CogVideoX", "ConsisID", "VideoOfEmbedding")):
        return lambda *both: function(*(one.transpose(1, 2) for one in both)).transpose(1, 2)
    if type(pipe).__name__.startswith("JoyImage"):
        # The image is the last of the pictures; the pipeline sets the others back.
        def of_image(*both):
            found = torch.zeros_like(both[0])
            found[:, -1] = function(*(one[:, -1] for one in both))
            return found

        return of_image
    if type(pipe).__name__.startswith("WanAnimate"):
        # The first frame is given, and dropped.
        def of_others(*both):
            found = torch.zeros_like(both[0])
            found[:, :, 1:] = function(*(one[:, :, 1:] for one in both))
            return found

        return of_others
    if type(pipe).__name__.startswith("Cosmos3"):
        # A list of one video.
        return lambda *both: function(*(one[0] for one in both))[None]
    if type(pipe).__name__.startswith(("Kandinsky5", "Kandinsky6")):
        return lambda *both: function(*(one.movedim(-1, 1) for one in both)).movedim(1, -1)
    if type(pipe).__name__.startswith(("Sound", "MiniMaxMusic3")):
        return lambda *both: function(*(one.unsqueeze(2) for one in both)).squeeze(2)
    if type(pipe).__name__.startswith("LongSound"):
        return lambda *both: function(*(one.mT.unsqueeze(2) for one in both)).squeeze(2).mT
    packing = packing_of(pipe, case)
    if packing is None:
        return function
    order, sizes = packing

    def unpacked(tokens):
        result = torch.empty(len(tokens), order.numel())
        result[:, order.flatten()] = tokens[:, : order.shape[1]].flatten(1)
        return result.view(-1, *sizes)

    def packed(*both):
        result = torch.zeros_like(both[0])
        inside = function(*map(unpacked, both)).flatten(1)[:, order.flatten()]
        result[:, : order.shape[1]] = inside.view(len(inside), *order.shape[1:])
        return result

    return packed


def assert_fused_as_by_brute_force(case):
    """Attached guidance that is fused gives what the formula gives in every place."""
    pipe = case.pipeline()
    taken = []

    def fusion(delta, text):
        found = fused(delta, text)
        taken.append((found == delta).double().mean())
        return found - text

    # Mochi's schedule has two parts; at ControlNet-XS' first step alone little changes.
    steps = 2 if case.family in ("Mochi", "ControlNet-XS") else 1
    run = run_of(pipe, case, cfg=True, num_inference_steps=steps)
    plain = run()
    combined_with = in_places(fusion, pipe, case)
    with brute_force(pipe, case, cfg=True, scale=SCALE, combined_with=combined_with):
        expected = run()
    assert 0.01 < min(taken) <= max(taken) < 0.99
    assert difference(plain, expected) > MARGIN * TOLERANCE
    guidance = SmoothedEnergyGuidance(
        blur="gaussian:1,temporal=0", scale=SCALE, layers=list(case.images), combine="fuse"
    )
    with guided_by(guidance, pipe):
        assert difference(run(), expected) < TOLERANCE
