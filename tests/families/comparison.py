"""The comparisons that the tests of every family make."""

import inspect

import torch
from brute_force_attention import brute_force
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import GaussianBlur, SmoothedEnergyGuidance

STEPS = 2


def run_of(pipe, case, *, cfg=False, **changes):
    """A function that runs the pipeline, always on the same random numbers, to latents."""
    pipe.set_progress_bar_config(disable=True)
    settings = {"output_type": "latent", "num_inference_steps": STEPS, **case.arguments}
    settings |= (case.cfg if cfg else {}) | changes
    if "num_inference_steps" not in inspect.signature(pipe.__call__).parameters:
        del settings["num_inference_steps"]  # there is a number for each stage

    def run():
        torch.manual_seed(7)
        output = pipe(**settings, generator=torch.Generator().manual_seed(7))
        found = output[0] if isinstance(output, tuple) else next(iter(output.values()))
        # Framepack gives what it has after each section.
        found = found[-1] if isinstance(found, list) else found
        return torch.as_tensor(found)  # DiT of older versions: an array

    return run


def assert_guided_as_by_brute_force(
    case,
    *,
    cfg=False,
    sigma=1.0,
    temporal=None,
    formulation="conditional",
    tolerance=TOLERANCE,
    **changes,
):
    """Attached guidance gives what brute force gives, with replay and without."""
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=cfg, **changes)
    plain = run()
    with brute_force(
        pipe, case, cfg=cfg, sigma=sigma, temporal=temporal or 0.0, branch=formulation
    ):
        expected = run()
    changed = difference(plain, expected)
    guidance = SmoothedEnergyGuidance(
        blur=GaussianBlur(sigma, temporal_sigma=temporal),
        scale=3.0,
        layers=list(case.images),
        formulation=formulation,
    )
    errors = []
    for replay in (True, False):
        with guidance.attach(pipe, replay=replay) as attachment:
            errors.append(difference(run(), expected))
        assert attachment.last_run.layers == set(case.images)
    print(f"\nerror {max(errors):.1e}, effect {changed:.1e}")
    assert changed > MARGIN * tolerance, "the guidance does too little for a test"
    assert max(errors) < tolerance
    assert torch.equal(run(), plain)


def with_sharp_attention(denoiser, factor=3.0):
    """Self-attention far from uniform, as trained models have: else a blur changes little.

    Zeroed output layers and gates get random weights, or nothing would come through.
    """
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                parameter *= factor
            elif not parameter.any() and parameter.ndim > 1:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return denoiser.eval()
