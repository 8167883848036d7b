"""Predictions of a step, and a sampler of first order."""

import itertools
import math

import torch

from .patcher_extension import WrapperExecutor, copied, wrappers_of
from .sampler_helpers import convert_cond

#: How many rows the network may have at a time; a test makes it small.
MOST_ROWS = 64


def calc_cond_batch(model, conds, x_in, timestep, model_options):
    """The estimates of the clean picture for some conditionings, None for those that are None."""
    sums = [torch.zeros_like(x_in) for _ in conds]
    counts = [torch.full_like(x_in, 1e-37) for _ in conds]
    entries = [(index, entry) for index, cond in enumerate(conds) for entry in cond or ()]
    groups = {}
    for index, entry in entries:
        shape = tuple(entry["model_conds"]["c_crossattn"].cond.shape[1:]), entry.get("area")
        groups.setdefault(shape, []).insert(0, (index, entry))
    for group in groups.values():
        size = max(1, min(len(group), MOST_ROWS // len(x_in)))
        for start in range(0, len(group), size):
            part = group[start : start + size]
            area = part[0][1].get("area")
            rows = [slice(None)] * 2
            if area:
                height, width, top, left = area
                rows += [slice(top, top + height), slice(left, left + width)]
            x = x_in[tuple(rows)]
            context = [
                entry["model_conds"]["c_crossattn"].cond.expand(len(x), -1, -1) for _, entry in part
            ]
            options = copied(model_options.get("transformer_options", {}))
            options["cond_or_uncond"] = [index for index, _ in part]
            options["uuids"] = [entry["uuid"] for _, entry in part]
            options["sigmas"] = timestep
            given = torch.cat([x] * len(part)), torch.cat([timestep] * len(part))
            inside = {"c_crossattn": torch.cat(context), "transformer_options": options}
            wrapper = model_options.get("model_function_wrapper")
            if wrapper is None:
                output = model.apply_model(*given, **inside)
            else:
                asked = {"input": given[0], "timestep": given[1], "c": inside}
                output = wrapper(model.apply_model, asked)
            for (index, _), found in zip(part, output.chunk(len(part)), strict=True):
                sums[index][tuple(rows)] += found
                counts[index][tuple(rows)] += 1
    return [total / count for total, count in zip(sums, counts, strict=True)]


def sampling_function(model, x, timestep, uncond, cond, cond_scale, model_options):
    conds = [cond, None if math.isclose(cond_scale, 1) else uncond]
    function = model_options.get("sampler_calc_cond_batch_function")
    if function is None:
        out = calc_cond_batch(model, conds, x, timestep, model_options)
    else:
        asked = {"conds": conds, "input": x, "sigma": timestep}
        out = function(asked | {"model": model, "model_options": model_options})
    asked = {
        "input": x,
        "sigma": timestep,
        "model": model,
        "model_options": model_options,
        "cond_scale": cond_scale,
        "cond": conds[0],
        "uncond": conds[1],
        "cond_denoised": out[0],
        "uncond_denoised": out[1],
    }
    result = out[1] + (out[0] - out[1]) * cond_scale
    if "sampler_cfg_function" in model_options:
        found = model_options["sampler_cfg_function"](
            asked | {"cond": x - out[0], "uncond": x - out[1]}
        )
        result = x - found
    for function in model_options.get("sampler_post_cfg_function", []):
        result = function(asked | {"denoised": result})
    return result


class Held:
    """A tensor of a conditioning, as a model holds it."""

    def __init__(self, cond):
        self.cond = cond

    def process_cond(self, batch_size, area):
        return Held(self.cond.expand(batch_size, *self.cond.shape[1:]))


def process_conds(model, noise, conds, device, latent_image=None, denoise_mask=None, seed=None):
    return {
        name: [
            entry | {"uuid": (name, place), "model_conds": {"c_crossattn": Held(entry["text"])}}
            for place, entry in enumerate(cond)
        ]
        for name, cond in conds.items()
    }


class CFGGuider:
    def __init__(self, patcher):
        self.model_patcher, self.model_options = patcher, patcher.model_options
        self.cfg = 1.0

    def set_conds(self, positive, negative):
        self.original = {"positive": positive, "negative": negative}

    def set_cfg(self, cfg):
        self.cfg = cfg

    def __call__(self, x, timestep, model_options, seed=None):
        return self.predict_noise(x, timestep, model_options, seed)

    def predict_noise(self, x, timestep, model_options, seed=None):
        positive, negative = self.conds["positive"], self.conds["negative"]
        model = self.inner_model
        return sampling_function(model, x, timestep, negative, positive, self.cfg, model_options)

    def sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        own = self.model_options
        self.model_options = copied(own)
        options = self.model_options["transformer_options"]
        options.setdefault("wrappers", {}).update(copied(self.model_patcher.wrappers))
        try:
            return WrapperExecutor(
                self.outer_sample, self, wrappers_of("outer_sample", options)
            ).execute(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self.model_options = own

    def outer_sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        self.inner_model = self.model_patcher.model
        conds = {name: convert_cond(cond) for name, cond in self.original.items()}
        self.conds = process_conds(self.inner_model, noise, conds, noise.device)
        # As ComfyUI does: what a step gets are copies of the options as they are now.
        options = copied(self.model_options)
        options["transformer_options"]["sample_sigmas"] = sigmas
        return sampler.sample(self, sigmas, {"model_options": options}, noise)


class KSAMPLER:
    def __init__(self, sampler_function):
        self.sampler_function, self.extra_options = sampler_function, {}

    def sample(self, guider, sigmas, extra_args, noise):
        return self.sampler_function(guider, noise * sigmas[0], sigmas, extra_args)


def sample_euler(model, x, sigmas, extra_args):
    for now, later in itertools.pairwise(sigmas):
        denoised = model(x, now.expand(len(x)), **extra_args)
        x = x + (x - denoised) / now * (later - now)
    return x


def sample_heun(model, x, sigmas, extra_args):
    for now, later in itertools.pairwise(sigmas):
        slope = (x - model(x, now.expand(len(x)), **extra_args)) / now
        ahead = x + slope * (later - now)
        if later:
            other = (ahead - model(ahead, later.expand(len(x)), **extra_args)) / later
            slope = (slope + other) / 2
        x = x + slope * (later - now)
    return x


def sampler_object(name):
    return KSAMPLER({"euler": sample_euler, "heun": sample_heun}[name])
