"""Rules for CFG in whole runs equal those by hand; what can't be right is refused."""

import itertools

import pytest
import torch
from brute_force_fusion import fused
from brute_force_guidance import Term, brute_force
from cfg_rules_by_hand import apg, by_hand, cfg_zero, fdg, mambo, tcfg
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
)
from scipy.fft import dctn, idctn
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    cfg,
    difference,
    guidance_for,
    latents_of,
    new_unet,
    picture,
    prompts,
    sd,
    size,
    xl,
    xl_mid_grids,
    xl_prompts,
)

from smoothed_energy import GuidanceWarning, NoiseLevels, guidance_from_text
from smoothed_energy.denoisers.prediction import Predictions
from smoothed_energy.guidance.result_guidance import ResultStep
from smoothed_energy.schedule import schedule_position
from smoothed_energy.schedule.first_order import following_noise

G = 5.0

#: The text of each rule, and the rule by hand.
RULES = {
    "apg; norm=3": apg(norm=3.0),
    "apg; eta=0.5; momentum=0.3; norm=0; base=unconditional": apg(0.5, 0.3, 0, "unconditional"),
    "cfg-zero; zero_steps=0": cfg_zero(0),
    "cfg-zero; zero_steps=2": cfg_zero(2),
    "tcfg": tcfg,
    "mambo-g; alpha=2": mambo(2.0),
    "fdg; scales=9:6:3; parallel=0.4": fdg((9, 6, 3), 0.4),
    "fdg; scales=9": fdg((9,)),
}


def xl_run(pipe, count=2, **changes):
    settings = {"guidance_scale": G, "num_inference_steps": 3, **changes}
    return latents_of(pipe, **xl_prompts(count), **size(), **settings)


def assert_by_hand(pipe, run, guidances, **hand):
    """A run with guidances gives what it gives by hand, which is something else than without."""
    plain = run()
    with by_hand(pipe, G, **hand):
        expected = run()
    attachments = [guidance_from_text(text).attach(pipe) for text in guidances]
    try:
        found = run()
    finally:
        for attachment in attachments:
            attachment.detach()
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE
    return attachments


@pytest.mark.parametrize("text", RULES)
def test_in_one_batch(text):
    pipe = xl()
    (attachment,) = assert_by_hand(pipe, xl_run(pipe), [text], rule=RULES[text])
    assert (attachment.last_run.calls, attachment.last_run.guided_calls) == (3, 3)


@pytest.mark.parametrize("text", ["apg; norm=3", "fdg; scales=9:6:3; parallel=0.4"])
def test_the_result_is_rescaled_as_the_pipeline_asks(text):
    pipe = xl()
    run = xl_run(pipe, guidance_rescale=0.7)
    with by_hand(pipe, G, RULES[text], rescale=0.7):
        expected = run()
    with guidance_from_text(text).attach(pipe):
        assert difference(run(), expected) < TOLERANCE


def test_a_prediction_of_zero_is_not_rescaled():
    pipe = xl()
    with (
        guidance_from_text("cfg-zero").attach(pipe),
        pytest.raises(ValueError, match=r"zero_steps=1 of cfg-zero predicts 0.*zero_steps=0"),
    ):
        xl_run(pipe, guidance_rescale=0.7)()


def test_every_run_begins_anew_and_nothing_is_left_behind():
    pipe = xl()
    run = xl_run(pipe)
    plain = run()
    with by_hand(pipe, G):
        assert difference(run(), plain) < TOLERANCE  # the hand computes what the pipeline does
    with guidance_from_text("apg; norm=3").attach(pipe), guidance_from_text("higs").attach(pipe):
        assert torch.equal(run(), run())
    assert torch.equal(run(), plain)


def test_apg_that_changes_nothing_is_cfg():
    pipe = xl()
    run = xl_run(pipe)
    plain = run()
    for base in ("conditional", "unconditional"):
        with guidance_from_text(f"apg; eta=1; momentum=0; norm=0; base={base}").attach(pipe):
            assert difference(run(), plain) < 1e-5


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_apg_on_pictures(kind):
    """Projected and limited where the paper does it, on the clean pictures."""

    def rule(c, u, g, step):
        product = step.scheduler.alphas_cumprod[int(step.time)].double()
        a, n = product.sqrt(), (1 - product).sqrt()
        x = step.x
        of, back = {
            "epsilon": (lambda e: (x - n * e) / a, lambda p: (x - a * p) / n),
            "v_prediction": (lambda v: a * x - n * v, lambda p: (a * x - p) / n),
        }[kind]
        return back(apg(0.0, -0.5, 2.0)(of(c), of(u), g, step))

    pipe = sd(model=new_unet())
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    run = latents_of(pipe, **prompts(2), **size(), guidance_scale=G, num_inference_steps=3)
    assert_by_hand(pipe, run, ["apg; norm=2; space=picture"], rule=rule)


def test_the_steps_of_a_rule():
    pipe = xl()
    by_step = apg(norm=3.0)

    def rule(c, u, g, step):
        return by_step(c, u, g, step) if step.number < 2 else u + g * (c - u)

    text = "apg; norm=3; steps=0:0.6"
    (attachment,) = assert_by_hand(pipe, xl_run(pipe), [text], rule=rule)
    assert attachment.last_run.guided_calls == 2


@pytest.mark.parametrize("combine", ["", "rescale:0.7", "fuse"])
def test_beside_a_correction(combine):
    """D* and the correction; a combination finds D* in the place of CFG."""
    pipe = xl()
    run = xl_run(pipe)
    rule = guidance_from_text("mambo-g; alpha=2")

    def combined(delta, prediction, g):
        c, u = prediction["c"], prediction["u"]
        own = torch.stack([mambo(2.0)(c[i], u[i], g, None) for i in range(len(c))])
        if combine == "rescale:0.7":
            std = (c.std((1, 2, 3)) / (own + delta).std((1, 2, 3)))[:, None, None, None]
            delta = (0.7 * std + 0.3) * delta
        if combine == "fuse":
            delta = fused(delta, own - u) - (own - u)
        return own - (u + g * (c - u)) + delta

    term = Term(xl_mid_grids(), combine=combined)
    with brute_force(pipe.unet, term, cfg(G)):
        expected = run()
    with rule.attach(pipe), guidance_for(Term(xl_mid_grids()), combine=combine).attach(pipe):
        assert difference(run(), expected) < TOLERANCE


def test_beside_an_interval_it_acts_where_there_is_cfg():
    pipe = xl()

    def rule(c, u, g, step):
        return tcfg(c, u, g, step) if step.number < 2 else c

    texts = ["tcfg", "interval; steps=0:0.6"]
    attachments = assert_by_hand(pipe, xl_run(pipe), texts, rule=rule)
    assert attachments[0].last_run.guided_calls == 2


def scheduler_of(name):
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if name == "flow":
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    if name == "euler":
        return EulerDiscreteScheduler(**betas, steps_offset=1)
    spacing = "linspace" if name == "ddim, linspace" else "leading"
    return DDIMScheduler(
        **betas,
        clip_sample=False,
        set_alpha_to_one=spacing == "linspace",
        steps_offset=1,
        timestep_spacing=spacing,
    )


@pytest.mark.parametrize("name", ["euler", "ddim", "ddim, linspace"])
def test_cfg_plus_plus_takes_the_next_noise_from_the_prediction_without_a_prompt(name):
    pipe = xl(scheduler=scheduler_of(name))
    steps = itertools.count()

    def sampled(c, u, x, own):
        number, scheduler = next(steps) % 3, pipe.scheduler
        mixed = u + 0.7 * (c - u)
        if name == "euler":
            own()  # counts its steps
            sigmas = scheduler.sigmas.double()
            return x - sigmas[number] * mixed + sigmas[number + 1] * u
        time = int(scheduler.timesteps[number])
        later = time - scheduler.config.num_train_timesteps // 3
        last = scheduler.final_alpha_cumprod
        now, after = (
            (scheduler.alphas_cumprod[t] if t >= 0 else last).double() for t in (time, later)
        )
        clean = (x - (1 - now).sqrt() * mixed) / now.sqrt()
        return after.sqrt() * clean + (1 - after).sqrt() * u

    assert_by_hand(pipe, xl_run(pipe), ["cfgpp; scale=0.7"], sampled=sampled)


def test_cfg_plus_plus_refuses_other_samplers():
    pipe = sd()  # its DDIM may clip
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=G)
    for cls, reason in (
        (DPMSolverMultistepScheduler, "DPMSolverMultistepScheduler takes other steps"),
        (DDIMScheduler, "clips the clean picture"),
    ):
        pipe.scheduler = cls.from_config(pipe.scheduler.config, clip_sample=True)
        with guidance_from_text("cfgpp").attach(pipe), pytest.raises(ValueError, match=reason):
            run()
    pipe.scheduler = scheduler_of("ddim")
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=G, eta=0.5)
    with guidance_from_text("cfgpp").attach(pipe), pytest.raises(ValueError, match=r"eta=0\.5"):
        run()


def test_two_rules_are_refused():
    pipe = xl()
    with guidance_from_text("apg").attach(pipe):
        with pytest.raises(RuntimeError, match="apg and tcfg each compute the sum"):
            guidance_from_text("tcfg").attach(pipe)
        guidance_from_text("tag").attach(pipe).detach()


def test_without_cfg_there_is_no_sum_and_it_says_so():
    pipe = xl()
    run = xl_run(pipe, guidance_scale=1.0)
    plain = run()
    with (
        guidance_from_text("mambo-g").attach(pipe) as attachment,
        pytest.warns(GuidanceWarning, match="with classifier-free guidance.*MagnitudeAware"),
    ):
        assert torch.equal(run(), plain)
    assert attachment.last_run.guided_calls == 0


def test_two_scales_are_refused():
    pipe = sd(
        StableDiffusionInstructPix2PixPipeline, model=new_unet(in_channels=8), image_encoder=None
    )
    run = latents_of(pipe, **prompts(), image=picture(), guidance_scale=G, image_guidance_scale=1.5)
    for text in ("tcfg", "tag"):
        with (
            guidance_from_text(text).attach(pipe),
            pytest.raises(ValueError, match=f"{text} needs the scale of classifier-free guidance"),
        ):
            run()


@pytest.mark.parametrize("name", ["euler", "ddim"])
@pytest.mark.parametrize("scale", [1.0, G])
def test_tag_makes_the_tangential_part_of_a_step_larger(name, scale):
    pipe = xl(scheduler=scheduler_of(name))
    run = xl_run(pipe, guidance_scale=scale)
    step = pipe.scheduler.step

    def amplified(output, time, sample, *args, **kwargs):
        before = sample.double()
        change = step(output, time, sample, *args, **kwargs)[0].double() - before
        dims = (1, 2, 3)
        radial = (change * before).sum(dims, True) / (before * before).sum(dims, True) * before
        return ((before + radial + 1.3 * (change - radial)).to(sample.dtype),)

    plain = run()
    pipe.scheduler.step = amplified
    expected = run()
    del pipe.scheduler.step
    with guidance_from_text("tag; eta=1.3").attach(pipe) as attachment:
        assert difference(run(), expected) < TOLERANCE
    assert difference(plain, expected) > MARGIN * TOLERANCE
    assert attachment.last_run.guided_calls == 3
    with guidance_from_text("tag; eta=1").attach(pipe):
        assert torch.equal(run(), plain)


def test_higs_is_the_recursion_by_hand():
    pipe = xl()

    def rule(c, u, g, step):
        sigma = step.scheduler.sigmas[step.number].double()
        x = step.x * (sigma**2 + 1).sqrt()
        clean = x - sigma * (u + g * (c - u))
        history = step.memory.get("history")
        step.memory["history"] = 0.6 * clean + (0.4 * history if history is not None else 0)
        share = sigma / (1 + sigma)
        if history is not None and share > 0.3:
            d = clean - history
            along = (d * clean).sum() / (clean * clean).sum() * clean
            d = d - along + 0.2 * along
            height, width = d.shape[-2:]
            v, h = torch.meshgrid(
                torch.arange(height) / height, torch.arange(width) / width, indexing="ij"
            )
            kept = torch.sigmoid(50 * ((v**2 + h**2).sqrt() - 0.1)).numpy()
            spectrum = dctn(d.numpy(), axes=(-2, -1), norm="ortho") * kept
            details = torch.from_numpy(idctn(spectrum, axes=(-2, -1), norm="ortho"))
            clean = clean + 1.5 * ((share - 0.3) / 0.7).sqrt() * details
        return (x - clean) / sigma

    text = "higs; scale=1.5; eta=0.2; alpha=0.6; cutoff=0.1; least=0.3"
    assert_by_hand(pipe, xl_run(pipe), [text], rule=rule)


def test_steps_that_depend_on_a_second_pass_are_refused():
    with pytest.raises(ValueError, match=r"adaptive:0.9.*apg makes none"):
        guidance_from_text("apg; steps=adaptive:0.9")
    assert guidance_from_text("tcfg; steps=sigma:1:4").steps == NoiseLevels(1, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apg; momentum=1", "momentum=1.0: expected"),
        ("apg; norm=-1", "norm=-1.*no limit"),
        ("apg; base=c", "base='c' is not known"),
        ("fdg; scales=a:b", "scales='a:b'"),
        ("cfgpp; scale=0", "scale=0"),
        ("tag; eta=-1", "eta=-1"),
        ("higs; least=1", "least=1.0 and most=1.0"),
    ],
)
def test_settings_that_say_nothing_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        guidance_from_text(text)


def test_history_has_no_steps_that_rest():
    """Where CFG-Zero* predicts 0 there is no clean picture to remember."""
    pipe = sd()
    run = latents_of(pipe, **prompts(), **size(), guidance_scale=4.0, num_inference_steps=4)
    found = []
    for text in ("higs", "higs; steps=0.2:1"):
        rule, history = guidance_from_text("cfg-zero"), guidance_from_text(text)
        with rule.attach(pipe), history.attach(pipe) as attachment:
            found.append(run())
        assert attachment.last_run.guided_calls == 3
    assert torch.equal(*found)


def test_the_next_noise_of_other_levels_under_a_flow_scheduler():
    """Cosmos' levels are no times of a flow."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    scheduler.sigmas = torch.tensor([80.0, 4.6, 0.2675, 0.0352, 0.0])
    scheduler.timesteps = scheduler.sigmas[:-1] / (1 + scheduler.sigmas[:-1])
    levels = [
        following_noise(scheduler, schedule_position(scheduler, time))
        for time in scheduler.timesteps
    ]
    assert levels == pytest.approx(scheduler.sigmas[1:].tolist())


def test_no_difference_of_nothing_is_nothing():
    zero = torch.zeros(1, 4, 2, 2)
    rule = guidance_from_text("mambo-g")
    assert torch.equal(rule.combined(ResultStep(Predictions(zero, zero, zero, 3.0), zero)), zero)
