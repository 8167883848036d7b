"""A loop of six steps in three protocols: one batch `[u, c]`, two calls, and a guider.

Each tells, for every step, the guided prediction and the passes that the denoiser ran: `"4+2"` for
one call that ran the whole of a batch of four rows, and two of them again. `"2+2|2"` is a call with
the prompt that ran twice, and one without it that ran once; `-` is a call that ran nothing.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from tiny_pipelines import unet

from protocol_formulas import COUNT, ROWS, TEXTS, G, rescaled, sample, scheduler, signal
from smoothed_energy import RunSummary
from smoothed_energy.modular import SmoothedEnergyGuider


@dataclass
class Loop:
    """What a loop gave.

    Args:
        predictions: The guided prediction of each step.
        passes: The passes of each step.
        summaries: What each attachment says of itself.
    """

    predictions: list[torch.Tensor] = field(default_factory=list)
    passes: list[str] = field(default_factory=list)
    summaries: list[RunSummary] = field(default_factory=list)


class Passes:
    """The rows of passes through modules at the end of denoisers, which are never replayed."""

    def __init__(self, *modules):
        self.rows = []
        self.hooks = [module.register_forward_pre_hook(self.note) for module in modules]

    def note(self, module, args):
        """One pass."""
        self.rows.append(len(args[0]))

    def taken(self):
        """Those since the last time."""
        text = "+".join(map(str, self.rows)) or "-"
        self.rows.clear()
        return text


@contextmanager
def passes_of(*modules):
    """A block in which passes are counted."""
    passes = Passes(*modules)
    try:
        yield passes
    finally:
        for hook in passes.hooks:
            hook.remove()


def predict(x, step, text, denoiser=None):
    """One call of the denoiser."""
    time, model = scheduler.timesteps[step], denoiser or unet()
    with torch.no_grad():
        return model(x, time, encoder_hidden_states=text, return_dict=False)[0]


@contextmanager
def attached(guidances):
    """The attachments of guidances to the denoiser, and its passes."""
    with ExitStack() as stack:
        attachments = [stack.enter_context(one.attach(unet())) for one in guidances]
        yield attachments, stack.enter_context(passes_of(unet().conv_out))


def tell(attachments, step, **more):
    """Say what the next call is."""
    image, part = signal(step)
    facts = {"sigma": part / image, "timestep": float(scheduler.timesteps[step])}
    for attachment in attachments:
        attachment.step(step, COUNT, prediction_type="epsilon", **facts, **more)


def one_batch(guidances, *, g=G, rescale=0.0, steps=range(COUNT), rows=None):
    """The denoiser is called with `[u, c]`, or without CFG with c."""
    loop = Loop()
    layout = {} if g == 1 else {"conditional_rows": ROWS, "cfg_scale": g}
    if rescale:
        layout["rescale_scale"] = g
    with attached(guidances) as (attachments, passes):
        for number, step in enumerate(steps):
            here = rows[number] if rows else ROWS
            if "conditional_rows" in layout:
                layout["conditional_rows"] = here
            tell(attachments, step, **layout)
            c_text, x = TEXTS["c"][:here], sample(step)[:here]
            if g == 1:
                result = c = predict(x, step, c_text)
            else:
                text = torch.cat([TEXTS["u"][:here], c_text])
                u, c = predict(torch.cat([x, x]), step, text).chunk(2)
                result = u + g * (c - u)
            loop.predictions.append(rescaled(result, c, rescale))
            loop.passes.append(passes.taken())
    loop.summaries = [attachment.last_run for attachment in attachments]
    return loop


def two_calls(guidances, *, g=G, rescale=0.0, steps=range(COUNT), rows=None):
    """The denoiser is called with the prompt, and then without it."""
    loop = Loop()
    with attached(guidances) as (attachments, passes):
        for number, step in enumerate(steps):
            here = rows[number] if rows else ROWS
            found = {}
            for branch, name in (("c", "conditional"), ("u", "unconditional")):
                tell(attachments, step, cfg_scale=g, branch=name)
                prediction = predict(sample(step)[:here], step, TEXTS[branch][:here])
                found[branch] = (prediction, passes.taken())
            (c, with_prompt), (u, without) = found["c"], found["u"]
            loop.predictions.append(rescaled(u + g * (c - u), c, rescale))
            loop.passes.append(f"{with_prompt}|{without}")
    loop.summaries = [attachment.last_run for attachment in attachments]
    return loop


def guider_of(guidances, *, g=G, rescale=0.0):
    """A guider that knows the scheduler."""
    guider = SmoothedEnergyGuider(guidances, guidance_scale=g, guidance_rescale=rescale)
    guider.scheduler = scheduler
    return guider


def guided_step(guider, step, call, denoiser, rows=ROWS, passes=None):
    """One step, as a denoise block of Modular Diffusers drives a guider, and its passes."""
    guider.set_state(step, COUNT, scheduler.timesteps[step])
    batches = guider.prepare_inputs({"text": (TEXTS["c"][:rows], TEXTS["u"][:rows])})
    ran = []
    for batch in batches:
        guider.prepare_models(denoiser)
        batch.noise_pred = call(batch.text)
        guider.cleanup_models(denoiser)
        ran.append("" if passes is None else passes.taken())
    return guider(batches).pred, ran


def with_guider(guidances, *, g=G, rescale=0.0, steps=range(COUNT), rows=None):
    """The guider asks for c, u and the perturbed predictions, one batch for each."""
    loop, guider = Loop(), guider_of(guidances, g=g, rescale=rescale)
    with passes_of(unet().conv_out) as passes:
        for number, step in enumerate(steps):
            here = rows[number] if rows else ROWS

            def call(text, step=step, here=here):
                return predict(sample(step)[:here], step, text)

            prediction, ran = guided_step(guider, step, call, unet(), here, passes)
            loop.predictions.append(prediction)
            # What the calls for perturbed batches give was computed with what they perturb.
            assert set(ran[2:]) <= {"-"}
            loop.passes.append("|".join([*ran, "-"][:2]))
    return loop


PROTOCOLS = {"one batch": one_batch, "two calls": two_calls, "guider": with_guider}
