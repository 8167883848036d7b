import dataclasses
import threading

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")

from training.autoencoder import build_autoencoder, encode_split, to_images
from training.checkpoint import load_checkpoint, save_checkpoint
from training.clock import cosine_rate, trapezoid_rate
from training.dataset import Portraits, tokenize
from training.diffusion import Average, noised
from training.networks import TOKENS, build_scheduler, save_tokenizer, train_tokenizer
from training.parallel import Exchange, Team
from training.recipes import RECIPES
from training.train import JointTrainer

TEXTS = ["a red mohawk, a teal background", "someone with glasses and a smile", "a portrait"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 5, vocabulary=700)


@pytest.fixture
def recipe():
    return dataclasses.replace(
        RECIPES["cpu"],
        image_size=32,
        channels=(16, 32),
        heads=1,
        down_layers=(1,),
        up_layers=(1, 1),
        text_width=64,
        text_layers=2,
        batch=4,
        learning_rate=2e-3,
    )


@pytest.fixture
def portraits(tokenizer):
    rng = np.random.default_rng(0)
    tokens = tokenize(tokenizer, TEXTS * 4).reshape(4, 3, TOKENS)
    latents = rng.standard_normal((4, 4, 8, 8)).astype(np.float16)
    return Portraits(latents, tokens, tokenize(tokenizer, [""])[0], std=1.0)


def test_text_survives_the_tokenizer(tokenizer, tmp_path):
    from transformers import CLIPTokenizer

    save_tokenizer(tokenizer, tmp_path)
    read = CLIPTokenizer.from_pretrained(tmp_path)
    assert (tmp_path / "vocab.json").exists()
    for text in [*TEXTS, "zebra! 12 ünlü"]:
        ids = read(text).input_ids
        assert ids == tokenizer(text).input_ids
        assert ids.count(read.eos_token_id) == 1, "an unknown character would end the text"
    assert read.decode(read("someone with glasses").input_ids, skip_special_tokens=True) == (
        "someone with glasses"
    )
    assert read.model_max_length == TOKENS


def test_batches_depend_on_the_step_alone_and_visit_every_portrait(portraits):
    latents, tokens = portraits.batch(3, 2)
    again, tokens_again = portraits.batch(3, 2)
    assert torch.equal(latents, again)
    assert torch.equal(tokens, tokens_again)
    assert latents.shape == (2, 4, 8, 8)
    assert tokens.shape == (2, TOKENS)
    assert tokens.dtype == torch.int64
    seen = torch.cat([portraits.batch(step, 2)[0] for step in (0, 1)])
    assert len(torch.unique(seen.flatten(1), dim=0)) == 4


def test_the_stated_share_of_captions_is_empty(portraits):
    portraits.dropout = 0.5
    empty = torch.from_numpy(portraits.empty.astype(np.int64))
    dropped = [
        (portraits.batch(step, 4)[1] == empty).all(dim=1).float().mean() for step in range(200)
    ]
    assert 0.42 < float(torch.stack(dropped).mean()) < 0.58


def test_velocity_and_noisy_latents_give_back_the_clean_ones():
    x, e = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    level = torch.tensor([0.0, 0.3, 1.0])
    z, v = noised(x, e, level)
    a, s = level.sqrt().view(-1, 1, 1, 1), (1 - level).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(a * z - s * v, x)
    torch.testing.assert_close(s * z + a * v, e)
    torch.testing.assert_close(z[0], e[0])


def test_the_schedule_ends_in_pure_noise():
    assert float(build_scheduler().alphas_cumprod[-1]) == pytest.approx(0.0, abs=1e-7)


def test_rates_warm_up_and_fall_to_zero():
    assert trapezoid_rate(0.0, 0) < 0.01
    assert trapezoid_rate(0.5, 10_000) == 1.0
    assert trapezoid_rate(1.0, 10_000) == 0.0
    assert cosine_rate(1.0, 10_000) == pytest.approx(0.02)


def test_a_few_steps_on_one_batch_lower_its_loss(recipe, tokenizer, portraits):
    trainer = JointTrainer(recipe, tokenizer)
    latents, tokens = portraits.batch(0, 4)

    def measured():
        with torch.no_grad():
            return trainer.loss((latents, tokens), torch.Generator().manual_seed(1)).item()

    before = measured()
    for _ in range(25):
        trainer.train_step((latents, tokens), 1.0)
    assert measured() < 0.9 * before


def test_a_resumed_run_repeats_the_uninterrupted_one(recipe, tokenizer, portraits, tmp_path):
    straight = JointTrainer(recipe, tokenizer)
    for step in range(4):
        straight.train_step(portraits.batch(step, 4), 1.0)
    first = JointTrainer(recipe, tokenizer)
    for step in range(2):
        first.train_step(portraits.batch(step, 4), 1.0)
    save_checkpoint(tmp_path / "latest.pt", first.state())
    second = JointTrainer(recipe, tokenizer, seed=7)
    second.load_state(load_checkpoint(tmp_path / "latest.pt"))
    assert second.step == 2
    for step in range(2, 4):
        second.train_step(portraits.batch(step, 4), 1.0)
    for a, b in zip(straight.parameters, second.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(straight.average.values, second.average.values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_team_steps_with_the_gradient_of_the_whole_batch(recipe, tokenizer, portraits):
    latents, tokens = portraits.batch(0, 4)
    alone = JointTrainer(recipe, tokenizer)
    alone.train_step((latents, tokens), 1.0)
    members = [JointTrainer(recipe, tokenizer) for _ in range(2)]
    team = Team(2, sum(p.numel() for p in alone.parameters))
    for rank, member in enumerate(members):
        member.exchange = Exchange(team, rank)
    threads = [
        threading.Thread(target=m.train_step, args=((latents, tokens), 1.0)) for m in members
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for a, b, c in zip(alone.parameters, members[0].parameters, members[1].parameters, strict=True):
        assert torch.equal(b, c)
        # Rows in another order of summation, in bfloat16.
        torch.testing.assert_close(a.grad, b.grad, rtol=0.1, atol=2e-2)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="3 processes"):
        Exchange(Team(3, 1), 0).rows(4)


def test_a_checkpoint_leaves_no_partial_file(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"step": 1})
    save_checkpoint(tmp_path / "a.pt", {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    assert load_checkpoint(tmp_path / "a.pt") == {"step": 2}


def test_swapping_the_average_twice_changes_nothing():
    parameter = torch.nn.Parameter(torch.ones(3))
    average = Average([parameter], 0.9)
    with torch.no_grad():
        parameter.fill_(2.0)
    average.update(1000)
    average.swap()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 1.1))
    average.swap()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 2.0))


def test_encoding_writes_latents_of_a_quarter_of_the_size(recipe, tmp_path):
    model = build_autoencoder(dataclasses.replace(recipe, autoencoder_channels=(8, 8, 16)))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    statistics = encode_split(model, pixels, tmp_path / "latents.npy", batch=2)
    latents = np.load(tmp_path / "latents.npy")
    assert latents.shape == (5, 4, 8, 8)
    assert latents.dtype == np.float16
    assert statistics["std"] == pytest.approx(float(latents.astype(np.float64).std()), rel=1e-6)


def test_pixels_span_the_interval_from_minus_one_to_one():
    images = to_images(np.array([[[[0, 255, 0]]]], dtype=np.uint8))
    assert images.shape == (1, 3, 1, 1)
    assert images.flatten().tolist() == [-1.0, 1.0, -1.0]


@pytest.mark.parametrize("name", RECIPES)
def test_the_weights_of_each_recipe_fit_in_the_package(name, tokenizer):
    from training.networks import build_text_encoder, build_unet

    recipe = RECIPES[name]
    with torch.device("meta"):
        parts = [build_unet(recipe), build_text_encoder(recipe, tokenizer)]
    autoencoder = build_autoencoder(recipe)
    count = sum(p.numel() for part in [*parts, autoencoder] for p in part.parameters())
    assert 2 * count <= 64_000_000


def test_steps_run_the_compiled_network_and_measurements_the_plain_one(
    recipe, tokenizer, portraits, monkeypatch
):
    calls = []

    def compiled(network, **settings):
        def call(*arguments, **named):
            calls.append(settings)
            return network(*arguments, **named)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    plain = JointTrainer(recipe, tokenizer)
    trainer = JointTrainer(recipe, tokenizer, compiled=True)
    batch = portraits.batch(0, 4)
    assert torch.equal(trainer.train_step(batch, 1.0), plain.train_step(batch, 1.0))
    assert calls == [{"dynamic": False}]
    with torch.no_grad():
        trainer.loss(batch, torch.Generator().manual_seed(1))
    assert len(calls) == 1


def test_a_batch_has_the_stored_latents_and_captions(portraits):
    order = np.concatenate([portraits.rows(step, 2) for step in (4, 5)])
    portraits.dropout = 0.0
    latents = torch.cat([portraits.batch(step, 2)[0] for step in (4, 5)])
    tokens = torch.cat([portraits.batch(step, 2)[1] for step in (4, 5)])
    assert torch.equal(latents, torch.from_numpy(portraits.latents[order].astype(np.float32)))
    for row, found in zip(order, tokens, strict=True):
        assert any(np.array_equal(found, known) for known in portraits.tokens[row])
    portraits.dropout = 1.0
    assert (portraits.batch(0, 4)[1].numpy() == portraits.empty).all()
