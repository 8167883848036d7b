"""Guidance without layers on denoisers that no family knows; what is refused, and why."""

import copy
import functools

import pytest
import tiny_flux
import tiny_ltx
import tiny_sd3
import torch
from comparison import run_of
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    LattePipeline,
    LatteTransformer3DModel,
    LTXI2VLongMultiPromptPipeline,
    UNet2DConditionModel,
    VisualClozePipeline,
)
from diffusers.pipelines.visualcloze import VisualClozeGenerationPipeline
from tiny_pipelines import (
    MARGIN,
    TOLERANCE,
    difference,
    latents_of,
    new_unet,
    noise,
    prompts,
    sd,
    size,
    xl,
    xl_prompts,
)
from torch import nn

from smoothed_energy import (
    Autoguidance,
    GuidanceInterval,
    MomentumGuidance,
    SlidingWindowGuidance,
    attachments,
    guidance_from_text,
)
from smoothed_energy.families import UnknownDenoiser, family_or_unknown
from smoothed_energy.families.layer_selection import LayerError
from smoothed_energy.families.registry import _families
from smoothed_energy.integrations.pipeline_facts import prediction_type

INTERVAL = GuidanceInterval("begin")  # the first third
WINDOWS = SlidingWindowGuidance(scale=2.0)


@pytest.fixture
def forgetful(registries):
    """Forgets all families: whatever they know, guidance without layers doesn't need it."""
    return _families.clear


@pytest.fixture(autouse=True)
def nobody_knows_them(registries):
    """Latte and DiT have families; here they stand for denoisers that have none."""
    for name in ("Latte", "DiT"):
        _families.pop(name)


class Denoiser(nn.Module):
    """As somebody writes one: a tensor in, a tensor out."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.mix = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, t, condition):
        return self.mix(x).tanh() + condition[:, :, None, None] * t


X, CONDITION = noise(2, 4, 8, 8, seed=3), noise(2, 4, seed=4)


@functools.cache
def latte():
    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        norm_type="ada_norm_single",
        caption_channels=16,
        cross_attention_dim=16,
        attention_bias=True,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        num_embeds_ada_norm=1000,
        activation_fn="gelu-approximate",
        video_length=2,
    ).eval()
    pipe = LattePipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKL(latent_channels=4, block_out_channels=(32,)),
        transformer=transformer,
        scheduler=DDIMScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latte_run():
    return latte()(
        prompt_embeds=noise(1, 5, 16, seed=1),
        negative_prompt=None,
        negative_prompt_embeds=noise(1, 5, 16, seed=2),
        mask_feature=False,
        video_length=2,
        height=8,
        width=8,
        latents=noise(1, 4, 2, 8, 8, seed=3),
        guidance_scale=5.0,
        num_inference_steps=3,
        output_type="latent",
    ).frames


def by_hand(monkeypatch, changed):
    """Replaces the forward function of `latte`'s denoiser; `changed` gets it and the call."""
    transformer, calls = latte().transformer, []
    forward = transformer.forward

    def replaced(hidden_states, **kwargs):
        calls.append(1)
        return (changed(forward, len(calls) - 1, hidden_states, kwargs),)

    monkeypatch.setattr(transformer, "forward", replaced)


def weaker(denoiser):
    twin = copy.deepcopy(denoiser)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.9)
    return twin


class TestInPipelines:
    @pytest.mark.parametrize("guidance", [GuidanceInterval("end"), WINDOWS, "weak"])
    @pytest.mark.parametrize("model", ["sd", "xl"])
    def test_it_is_as_where_the_family_is_known(self, forgetful, guidance, model):
        pipe = sd(model=new_unet()) if model == "sd" else xl()
        given = prompts(2) if model == "sd" else xl_prompts(2)
        # Sides of windows are 10 latents, a size that a U-Net gives back, too.
        run = latents_of(pipe, **given, **size(128, 128), guidance_scale=5.0)
        if guidance == "weak":
            guidance = Autoguidance(weak=weaker(pipe.unet))
        plain = run()
        with guidance.attach(pipe):
            expected = run()
        forgetful()
        with guidance.attach(pipe) as attachment:
            assert torch.equal(run(), expected)
        assert attachment.last_run.calls == 2
        assert torch.equal(run(), plain)
        assert difference(plain, expected) > 1e-4

    def test_an_interval_of_cfg_equals_the_same_by_hand(self, monkeypatch):
        plain = latte_run()
        with INTERVAL.attach(latte()) as attachment:
            found = latte_run()
        assert attachment.last_run.calls_without_cfg == 2

        def changed(forward, call, latents, kwargs):
            prediction = forward(latents, **kwargs)[0]
            return prediction if call == 0 else prediction.chunk(2)[1].repeat(2, 1, 1, 1, 1)

        by_hand(monkeypatch, changed)
        expected = latte_run()
        assert difference(found, expected) < TOLERANCE
        assert difference(plain, expected) > MARGIN * TOLERANCE

    def test_sliding_windows_equal_the_same_by_hand(self, monkeypatch):
        plain = latte_run()
        with SlidingWindowGuidance(scale=2.0, window=0.75, masked=False).attach(latte()):
            found = latte_run()

        def changed(forward, call, latents, kwargs):
            prediction = forward(latents, **kwargs)[0].clone()
            rows = {
                name: value[1:] if isinstance(value, torch.Tensor) else value
                for name, value in kwargs.items()
            }
            total, seen = torch.zeros(1, 4, 2, 8, 8), torch.zeros(1, 4, 2, 8, 8)
            for top in (0, 2):
                for left in (0, 2):
                    place = (..., slice(top, top + 6), slice(left, left + 6))
                    total[place] += forward(latents[1:][place], **rows)[0][:, :4]
                    seen[place] += 1
            prediction[:, :4] += 2.0 * (prediction[1:, :4] - total / seen)
            return prediction

        by_hand(monkeypatch, changed)
        expected = latte_run()
        assert difference(found, expected) < TOLERANCE
        assert difference(plain, expected) > MARGIN * TOLERANCE

    @pytest.mark.parametrize("guidance", [INTERVAL, WINDOWS])
    def test_an_order_of_the_batch_that_is_not_known_is_refused(self, guidance):
        # This pipeline stacks [c, u].
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            sample_size=8,
            num_embeds_ada_norm=1000,
        ).eval()
        vae = AutoencoderKL(latent_channels=4, block_out_channels=(32,)).eval()
        pipe = DiTPipeline(transformer, vae, DDIMScheduler())
        pipe.set_progress_bar_config(disable=True)

        def run(scale):
            return pipe(
                [1],
                guidance_scale=scale,
                generator=torch.Generator().manual_seed(0),
                num_inference_steps=3,
                output_type="np",
            ).images

        plain = run(1.0)
        with (
            guidance.attach(pipe),
            pytest.raises(RuntimeError, match=r"doesn't say that it predicts .*in one batch \[u"),
        ):
            run(4.0)
        if guidance is WINDOWS:  # without CFG it is known what a row is
            with guidance.attach(pipe) as attachment:
                assert difference(run(1.0), plain) > 1e-6
            assert attachment.last_run.guided_calls == 3

    @pytest.mark.parametrize("case", [tiny_flux.CASES[0], tiny_sd3.CASES[0]])
    def test_a_pipeline_with_another_call_for_cfg_or_its_own_guidance_is_refused(
        self, forgetful, case
    ):
        pipe = case.pipeline()
        forgetful()
        with INTERVAL.attach(pipe), pytest.raises(RuntimeError, match="doesn't say that it pred"):
            run_of(pipe, case, cfg=True)()

    def test_what_it_predicts_is_not_known(self, forgetful):
        pipe = sd(model=new_unet())
        forgetful()
        assert prediction_type(pipe, pipe.unet) is None
        run = latents_of(pipe, **prompts(), **size(), guidance_scale=5.0)
        with MomentumGuidance().attach(pipe), pytest.raises(ValueError, match="predict"):
            run()


class TestOwnLoops:
    def guided(self, guidance, index=0, **told):
        denoiser = Denoiser()
        with guidance.attach(denoiser) as attachment:
            attachment.step(index, 3, conditional_rows=1, cfg_scale=3.0, **told)
            output = denoiser(X, 0.5, condition=CONDITION)
        assert isinstance(output, torch.Tensor)
        return output

    def test_an_interval_of_cfg(self):
        plain = Denoiser()(X, 0.5, CONDITION)
        assert torch.equal(self.guided(INTERVAL), plain)
        late = self.guided(INTERVAL, index=2)
        torch.testing.assert_close(late, plain[1:].repeat(2, 1, 1, 1))

    def test_autoguidance(self):
        weak = Denoiser(seed=1)
        plain = Denoiser()(X, 0.5, CONDITION)
        delta = 2.0 * (plain[1:] - weak(X[1:], 0.5, CONDITION[1:]))
        found = self.guided(Autoguidance(weak=weak, scale=2.0))
        torch.testing.assert_close(found, plain + delta)
        assert delta.abs().max() > 0.1

    def test_sliding_windows(self):
        denoiser = Denoiser()
        plain = denoiser(X, 0.5, CONDITION)
        total, seen = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
        for top in (0, 3):
            for left in (0, 3):
                place = (..., slice(top, top + 5), slice(left, left + 5))
                total[place] += denoiser(X[1:][place], 0.5, CONDITION[1:])
                seen[place] += 1
        delta = 2.0 * (plain[1:] - total / seen)
        found = self.guided(SlidingWindowGuidance(scale=2.0, masked=False))
        torch.testing.assert_close(found, plain + delta)
        assert delta.abs().max() > 0.1

    @pytest.mark.parametrize("method", ["seg", "pag; layers=mid", "sag", "erg", "tpg", "slg"])
    def test_what_needs_layers_is_refused_when_it_is_attached(self, method):
        denoiser = Denoiser()
        with pytest.raises(LayerError, match=r"known for a Denoiser.*sliding windows.* no layers"):
            guidance_from_text(method).attach(denoiser)
        assert attachments(denoiser) == ()
        assert "forward" not in vars(denoiser)

    def test_latents_that_are_not_found_are_an_error(self):
        class Odd(nn.Module):
            def forward(self, **given):
                return given["z"]

        odd = Odd()
        with (
            GuidanceInterval().attach(odd),
            pytest.raises(TypeError, match="latents of a Odd are not known"),
        ):
            odd(z=X)

    def test_an_output_that_is_no_prediction_is_an_error(self):
        class Odd(nn.Module):
            def forward(self, sample):
                return {"z": sample}

        odd = Odd()
        with (
            GuidanceInterval().attach(odd),
            pytest.raises(TypeError, match="a dict is no prediction of a denoiser"),
        ):
            odd(X)


def test_what_is_known_of_an_unknown_denoiser():
    denoiser = Denoiser()
    family = family_or_unknown(torch.compile(denoiser))
    assert isinstance(family, UnknownDenoiser)
    assert family.sample == "x"
    assert family.layers(denoiser) == ()
    assert family.multiple(denoiser) == 1
    assert family_or_unknown(latte().transformer).multiple(latte().transformer) == 2
    assert not isinstance(family_or_unknown(new_unet()), UnknownDenoiser)


@pytest.mark.parametrize("attach_to", ["a", "pipeline"])
def test_attention_to_the_text_alone_is_no_layer(attach_to):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        only_cross_attention=True,
        mid_block_only_cross_attention=True,
    ).eval()
    target = unet if attach_to == "a" else sd(model=unet)
    with pytest.raises(LayerError, match="attends to the text alone"):
        guidance_from_text("seg").attach(target)
    given = {"encoder_hidden_states": noise(2, 5, 16, seed=1), "timestep": 5}
    both = unet(noise(2, 4, 8, 8, seed=2), **given).sample
    with INTERVAL.attach(unet) as attachment:
        attachment.step(2, 3, conditional_rows=1)
        found = unet(noise(2, 4, 8, 8, seed=2), **given).sample
    torch.testing.assert_close(found, both[1:].repeat(2, 1, 1, 1))


FLUX = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))


@pytest.mark.parametrize("guidance", [INTERVAL, WINDOWS, guidance_from_text("pag; layers=all")])
@pytest.mark.parametrize("cls", [VisualClozePipeline, VisualClozeGenerationPipeline])
def test_visual_cloze_is_refused_at_once(cls, guidance):
    pipe = cls(
        transformer=tiny_flux.CASES[0].pipeline().transformer,
        scheduler=tiny_flux.CASES[0].pipeline().scheduler,
        **FLUX,
    )
    with pytest.raises(RuntimeError, match=rf"guidance of a {cls.__name__} would .*several sizes"):
        guidance.attach(pipe)
    assert type(pipe) is cls
    assert attachments(pipe) == ()
    if cls is VisualClozePipeline:
        with guidance.attach(pipe.upsampling_pipe):
            pass


@pytest.mark.parametrize("guidance", [INTERVAL, guidance_from_text("pag; layers=all")])
def test_windows_of_a_long_video_are_refused_at_once(guidance):
    pipe = tiny_ltx.ltx(LTXI2VLongMultiPromptPipeline, vae=tiny_ltx.vae())
    with pytest.raises(RuntimeError, match="window by window"):
        guidance.attach(pipe)
    assert attachments(pipe) == ()
