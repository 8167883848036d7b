"""Normalized attention guidance equals itself by hand in families that take texts their own way."""

import importlib
from dataclasses import replace

import pytest
import torch
from comparison import run_of
from nag_by_hand import beside, keyed
from tiny_pipelines import MARGIN, TOLERANCE, difference, noise

from smoothed_energy import NormalizedAttentionGuidance
from smoothed_energy.families import LayerError, family_of

SETTINGS = 4.0, 2.5, 0.5
TEXT, MASK = "encoder_hidden_states", "encoder_attention_mask"


def case_of(module, number=0, **arguments):
    case = importlib.import_module(f"tiny_{module}").CASES[number]
    return replace(case, arguments={**case.arguments, **arguments})


def words(*lengths, most=5, dtype=torch.int64):
    return torch.stack([(torch.arange(most) < length) for length in lengths]).to(dtype)


def text(width=16, rows=2, length=5, size=1.0):
    return {TEXT: size * noise(rows, length, width, seed=9)}


TWO_TEXTS = {f"{TEXT}_2": noise(2, 4, 12, seed=10), f"{MASK}_2": words(2, 1, most=4)}
POOLED = {"pooled_projections": noise(2, 24, seed=10)}
BOOLS = {MASK: words(3, 5, dtype=torch.bool)}
# The image after a text of five tokens, or before it.
AFTER, BEFORE = {"start": 5, "length": 24}, {"start": 0, "length": 24}
VIDEO = {"start": 0, "length": 72}
SIX = words(6, 6, most=6)

# With what there is of a negative prompt, and where in the sequence all is that is not text.
JOINT = {
    "Ovis-Image": (case_of("from_flux", 1), text(), AFTER),
    "LongCat-Image": (case_of("from_flux", 2), text(), AFTER),
    "Bria": (case_of("from_flux", 3), text(), AFTER),
    "Bria Fibo 2": (
        case_of("bria_fibo2"),
        {TEXT: noise(2, 2, 10, 16, seed=9), MASK: words(6, 6, most=10, dtype=torch.bool)},
        {"start": 6, "length": 24},
    ),
    "CogView 3 Plus": (case_of("cogview"), text(), AFTER),
    "CogView 4": (case_of("cogview", 1), text(), AFTER),
    "Krea 2": (case_of("krea2"), {TEXT: noise(2, 5, 3, 16, seed=9), **BOOLS}, AFTER),
    "EasyAnimate": (case_of("easyanimate"), text(), {"start": 5, "length": 48}),
    "Lumina 2": (
        case_of("lumina2", prompt_attention_mask=SIX, negative_prompt_attention_mask=SIX),
        {**text(length=6), MASK: SIX},
        {"start": 6, "length": 24},
    ),
    "HiDream": (
        case_of("hidream"),
        {
            f"{TEXT}_t5": noise(2, 5, 12, seed=9),
            f"{TEXT}_llama3": noise(3, 2, 4, 16, seed=11),
            "pooled_embeds": noise(2, 24, seed=10),
        },
        BEFORE,
    ),
    "HunyuanImage": (case_of("hunyuan_image"), {**text(), MASK: words(3, 5), **TWO_TEXTS}, BEFORE),
    "HunyuanVideo 1.5": (
        case_of("hunyuan_video15"),
        {
            **text(),
            MASK: words(3, 5),
            f"{TEXT}_2": noise(2, 2, 12, seed=10),
            f"{MASK}_2": words(2, 1, most=2),
        },
        VIDEO,
    ),
    "Motif-Video": (case_of("motif_video"), {**text(), **BOOLS}, VIDEO),
    # Of the image and its source.
    "JoyImage-Edit": (case_of("joyimage"), text(), {"start": 0, "length": 48}),
    # Places follow from the number of words.
    "ERNIE-Image": (
        case_of("ernie_image"),
        {"text_bth": noise(2, 5, 16, seed=9), "text_lens": torch.tensor([5, 3])},
        BEFORE,
    ),
    # With given frames before those that are drawn.
    "Framepack": (
        case_of("framepack"),
        {
            **text(rows=1, size=9.0),
            MASK: words(3),
            "pooled_projections": 9 * noise(1, 24, seed=10),
        },
        {"start": 0, "length": 62 + 72},
    ),
    # Text is among the keys only: before the image, or after it.
    "PRX": (
        case_of("prx"),
        {**text(rows=1), "attention_mask": words(4, dtype=torch.bool)},
        BEFORE | {"keys_from": 5},
    ),
    "NucleusMoE": (
        case_of("nucleusmoe"),
        {**text(), f"{TEXT}_mask": words(3, 5, dtype=torch.bool)},
        BEFORE | {"keys_from": 0},
    ),
}
# Without classifier-free guidance or where texts without the prompt are longer: by hand they are
# not padded.
ALONE = ("ERNIE-Image", "HunyuanImage", "PRX")
CROSS = {
    "Kandinsky 3": (case_of("kandinsky3"), {**text(), MASK: words(3, 5)}),
    "Kandinsky 5": (case_of("kandinsky5"), {**text(), **POOLED}),
    "Kandinsky 6": (case_of("kandinsky6"), {**text(), **BOOLS, **POOLED}),
    "LTX-2": (
        case_of("ltx2"),
        {
            **text(24),
            f"audio_{TEXT}": noise(2, 5, 24, seed=10),
            MASK: words(3, 5),
            f"audio_{MASK}": words(3, 5),
        },
    ),
    "Lumina-Next": (case_of("lumina_next"), {**text(), "encoder_mask": words(3, 5)}),
    "LongCat-Audio": (case_of("longcat_audio"), {**text(), **BOOLS}),
    "Stable Audio": (case_of("stable_audio"), text(length=7)),
    "ACE-Step": (case_of("ace_step"), text()),
    "Sana-WM": (case_of("sana_wm"), {TEXT: noise(1, 1, 5, 16, seed=9), "mask": words(4)}),
}


def assert_as_by_hand(case, given, by_hand, cfg):
    """`by_hand` is told the denoiser, the rows with the prompt, and if there are two calls."""
    pipe = case.pipeline()
    denoiser = getattr(pipe, case.denoiser)
    run = run_of(pipe, case, cfg=cfg)
    plain = run()
    # A guider inside has CFG whatever the call is.
    separate = case.separate and (cfg or case.cfg == {})
    prompts = case_rows(given)
    prompt = slice(None)
    if cfg and not separate:
        prompt = slice(prompts) if case.order == "cu" else slice(prompts, 2 * prompts)
    with torch.no_grad(), by_hand(denoiser, prompt=prompt, separate=separate):
        expected = run()
    scale, tau, alpha = SETTINGS
    guidance = NormalizedAttentionGuidance(scale=scale, tau=tau, alpha=alpha, negative_embeds=given)
    with guidance.attach(pipe):
        found = run()
    assert difference(expected, plain) > MARGIN * TOLERANCE
    assert difference(found, expected) < TOLERANCE
    assert torch.equal(run(), plain)


def case_rows(given):
    return min(len(value) for name, value in given.items() if "llama3" not in name)


@pytest.mark.parametrize("name", JOINT)
def test_joint_attention(name):
    case, given, place = JOINT[name]

    def by_hand(denoiser, **rows):
        return beside(denoiser, given, SETTINGS, **place, **rows)

    assert_as_by_hand(case, given, by_hand, cfg=name not in ALONE)


@pytest.mark.parametrize("name", CROSS)
def test_cross_attention(name):
    case, given = CROSS[name]

    def by_hand(denoiser, **rows):
        family = family_of(denoiser)
        found = family.cross_attentions(denoiser, family.layers(denoiser))
        names = [name for name, module in denoiser.named_modules() if module in found]
        return keyed(denoiser, names, given, SETTINGS, **rows)

    assert_as_by_hand(case, given, by_hand, cfg=case.cfg is not None)


@pytest.mark.parametrize(
    ("module", "number", "reason"),
    [
        ("unet", 2, "no text"),
        ("if", 0, "among the keys of feature maps"),
        ("from_flux", 4, "a text of its own"),
        ("mochi", 0, "one by one"),
        ("omnigen", 0, "numbers of its words"),
        ("ideogram4", 0, "the image's own sequence"),
        ("glm_image", 0, "tokens of a prior"),
        ("qwen_image21", 0, "kept for all others"),
        ("stable_audio", 1, "difference of two"),
        ("cascade", 0, "beside those of pictures"),
        ("svd", 0, "but a picture"),
        ("dit", 0, "but classes"),
        ("cosmos3", 0, "numbers of its words"),
        ("kandinsky6_sr", 0, "no text"),
    ],
)
def test_refusals_say_why(module, number, reason):
    case = case_of(module, number)
    guidance = NormalizedAttentionGuidance(negative_embeds={TEXT: torch.zeros(1, 1, 1)})
    with pytest.raises(LayerError, match=reason):
        guidance.attach(case.pipeline())


def guided(case, given, *, cfg):
    """The result with a negative text, taken in full."""
    pipe = case.pipeline()
    run = run_of(pipe, case, cfg=cfg)
    scale, tau, _ = SETTINGS
    with NormalizedAttentionGuidance(scale=scale, tau=tau, alpha=0.5, negative_embeds=given).attach(
        pipe
    ):
        return run()


@pytest.mark.parametrize(("name", "length"), [("LongCat-Audio", 7), ("JoyImage-Edit", 7)])
def test_texts_that_can_not_be_filled_up_must_be_of_one_length(name, length):
    case, given = {**CROSS, **JOINT}[name][:2]
    if MASK in given:
        given = {**given, MASK: words(length, 3, most=length, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"7 tokens .*encoded to one length"):
        guided(case, {**given, TEXT: noise(2, length, 16, seed=9)}, cfg=case.cfg is not None)


def test_words_that_do_not_count_change_nothing_of_ernie_image():
    case, given, _ = JOINT["ERNIE-Image"]
    longer = torch.nn.functional.pad(given["text_bth"], (0, 0, 0, 3), value=7.0)
    expected = guided(case, given, cfg=False)
    assert difference(guided(case, {**given, "text_bth": longer}, cfg=False), expected) < TOLERANCE


def test_a_text_of_allegro_needs_no_mask():
    case = case_of("allegro")
    pipe = case.pipeline()
    width = pipe.transformer.config.caption_channels
    alike = noise(1, 1, 6, width, seed=9)
    found = guided(case, {TEXT: alike}, cfg=False)
    masked = guided(case, {TEXT: alike, MASK: torch.ones(1, 6)}, cfg=False)
    assert difference(found, masked) < TOLERANCE
    assert difference(found, run_of(pipe, case)()) > MARGIN * TOLERANCE
