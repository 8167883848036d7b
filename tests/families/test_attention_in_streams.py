"""Text and image that attend to both of them in calls of their own equal attention in one call."""

import pytest
import torch
import torch.nn.functional as F
from comparison import run_of
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from tiny_flux import CASES, transformer
from tiny_pipelines import MARGIN, TOLERANCE, difference

from smoothed_energy import PerturbedAttentionGuidance, SmoothedEnergyGuidance
from smoothed_energy.intercept.attention import AttentionBackendError

LAYER = "transformer_blocks.1.attn"
TEXT, IMAGE = 5, 24


class Streams(FluxAttnProcessor):
    """The native function is called for the queries of the text, and for those of the image."""

    order = ("text", "image")
    keys = slice(None)

    def __call__(self, *args, **kwargs):
        native = F.scaled_dot_product_attention

        def apart(query, key, value, **options):
            parts = dict(zip(("text", "image"), query.split([TEXT, IMAGE], dim=-2), strict=True))
            key, value = key[..., self.keys, :], value[..., self.keys, :]
            found = {name: native(parts[name], key, value, **options) for name in self.order}
            return torch.cat([found["text"], found["image"]], dim=-2)

        F.scaled_dot_product_attention = apart
        try:
            return super().__call__(*args, **kwargs)
        finally:
            F.scaled_dot_product_attention = native


class ImageFirst(Streams):
    order = ("image", "text")


@pytest.fixture
def run(request):
    pipe = CASES[0].pipeline()
    yield pipe, run_of(pipe, CASES[0])
    transformer().get_submodule(LAYER).set_processor(FluxAttnProcessor())


@pytest.mark.parametrize("blur", ["gaussian:1", "gaussian:inf"])
@pytest.mark.parametrize("streams", [Streams, ImageFirst])
def test_streams_give_the_guidance_of_one_call(run, streams, blur):
    pipe, generate = run
    guidance = SmoothedEnergyGuidance(blur=blur, layers=[LAYER])
    plain = generate()
    with guidance.attach(pipe):
        together = generate()
    pipe.transformer.get_submodule(LAYER).set_processor(streams())
    assert difference(generate(), plain) < TOLERANCE
    with guidance.attach(pipe):
        assert difference(generate(), together) < TOLERANCE
    assert difference(plain, together) > MARGIN * TOLERANCE


def test_pag_of_streams_is_refused(run):
    pipe, generate = run
    pipe.transformer.get_submodule(LAYER).set_processor(Streams())
    guidance = PerturbedAttentionGuidance(layers=[LAYER])
    with guidance.attach(pipe), pytest.raises(AttentionBackendError, match=rf"{LAYER}.*Streams"):
        generate()
