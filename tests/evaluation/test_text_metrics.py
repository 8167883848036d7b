"""CLIP similarity, CLIP score and PickScore, beside the classes of `transformers` themselves."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import SIZE, save_tiny_clip
from torch.nn import functional as F
from torchmetrics.functional.multimodal import clip_score as torchmetrics_clip_score

from smoothed_energy.evaluation.clip import ClipNetwork
from smoothed_energy.evaluation.pickscore import pickscore
from smoothed_energy.evaluation.text_metrics import clip_score, clip_similarity

PICTURES = torch.randint(
    0, 256, (3, 3, 48, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
PROMPTS = ["a cat", "someone with blue hair, on a yellow background", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


def prepared(picture):
    """CLIP's preparation in PIL and numpy: the shorter side to SIZE, the middle cut out."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    width, height = image.size
    scale = SIZE / min(width, height)
    image = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    cut = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float64) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.from_numpy((cut - mean) / std).permute(2, 0, 1).float()


def features(folder):
    """Embeddings by the model's own methods, one picture and one text at a time."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def tensor(found):  # a model output from transformers 5 on
        return found if isinstance(found, torch.Tensor) else found.pooler_output

    with torch.no_grad():
        images = [tensor(model.get_image_features(prepared(p)[None])) for p in PICTURES]
        texts = [
            tensor(
                model.get_text_features(
                    **tokenizer(text, return_tensors="pt", truncation=True, max_length=12)
                )
            )
            for text in PROMPTS
        ]
    return torch.cat(images), torch.cat(texts), model


def test_similarity_is_the_cosine_of_the_model_s_own_features(folder):
    images, texts, _ = features(folder)
    expected = F.cosine_similarity(images, texts)
    metric = clip_similarity(folder)
    torch.testing.assert_close(metric(PICTURES, PROMPTS).float(), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01  # the pictures and texts are told apart
    assert metric.label == f"clip-similarity ({folder.name}-32-pil-bicubic)"


def test_the_score_is_a_hundred_times_the_cosine_and_never_negative(folder):
    cosines, scores = (m(folder)(PICTURES, PROMPTS) for m in (clip_similarity, clip_score))
    negated = clip_similarity(folder)(PICTURES, PROMPTS[::-1])
    torch.testing.assert_close(scores, 100 * cosines.clamp_min(0))
    both = torch.cat((cosines, negated))
    assert both.min() < 0 < both.max()


def test_the_mean_score_is_that_of_torchmetrics(folder):
    network = ClipNetwork(folder)

    def embedding(found):  # before transformers 5 it comes by itself
        return getattr(found, "pooler_output", found)

    class Model:
        config = transformers.CLIPConfig.from_pretrained(folder)

        def __init__(self):
            self.inner = transformers.CLIPModel.from_pretrained(folder).eval()

        def to(self, device):
            return self

        def get_image_features(self, pixels):
            return embedding(self.inner.get_image_features(pixels))

        def get_text_features(self, ids, mask):
            return embedding(self.inner.get_text_features(ids, mask))

    def processor(text=None, images=None, return_tensors="pt", padding=True):
        if text is not None:
            return network._tokenizer(text, return_tensors="pt", padding=True)
        return {"pixel_values": torch.stack([prepared(image) for image in images])}

    def opened():
        return Model(), processor

    # It cuts long prompts without the token of their end, which the tokenizer keeps.
    compared = []
    for picture, prompt in zip(PICTURES, ["a cat", "blue", "x"], strict=True):
        expected = torchmetrics_clip_score(picture[None], [prompt], model_name_or_path=opened)
        found = clip_score(folder)(picture[None], [prompt])
        assert found.item() == pytest.approx(max(float(expected), 0.0), rel=1e-4, abs=1e-3)
        compared.append(found.item())
    assert max(compared) > 1


def test_a_picture_has_one_score_in_any_batch(folder):
    metric = clip_similarity(folder)
    together = metric(PICTURES, PROMPTS)
    alone = [metric(PICTURES[i : i + 1], PROMPTS[i : i + 1]).item() for i in range(3)]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)


def test_long_prompts_are_cut_to_the_model_s_length(folder):
    metric = clip_similarity(folder)
    long = "blue hair " * 40
    cut = metric(PICTURES[:1], [long])
    torch.testing.assert_close(cut, metric(PICTURES[:1], [long + "and a hat"]))


def test_pickscore_is_the_logit_of_the_model(folder):
    _, _, model = features(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for picture, prompt in zip(PICTURES, PROMPTS, strict=True):
        tokens = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=12)
        with torch.no_grad():
            logit = model(pixel_values=prepared(picture)[None], **tokens).logits_per_image
        found = pickscore(folder)(picture[None], [prompt]).item()
        assert found == pytest.approx(float(logit), rel=1e-4, abs=1e-4)


def test_pickscore_reads_its_preparation_from_elsewhere(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match="cannot load"):
        pickscore(tmp_path)
    found = pickscore(tmp_path, processor=folder)(PICTURES, PROMPTS)
    torch.testing.assert_close(found, pickscore(folder)(PICTURES, PROMPTS))


def test_other_models_and_pickled_weights_are_refused(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    torch.save(
        transformers.CLIPModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin"
    )
    weights.unlink()
    with pytest.raises(ValueError, match="cannot load AutoModel"):
        clip_similarity(tmp_path)
    other = tmp_path / "other"
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=10,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(other)
    with pytest.raises(ValueError, match="is a bert model; expected a clip"):
        ClipNetwork(other, processor=folder)


def test_weights_that_are_missing_are_an_error(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of CLIP, such as visual_projection"):
        clip_similarity(tmp_path)


def test_the_size_and_the_filter_are_read_from_the_model(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "preprocessor_config.json"
    described = json.loads(path.read_text()) | {"resample": 2}
    path.write_text(json.dumps(described))
    network = ClipNetwork(tmp_path)
    assert network.name == f"{tmp_path.name}-32-pil-bilinear"
    difference = network.embed_pictures(PICTURES) - ClipNetwork(folder).embed_pictures(PICTURES)
    assert difference.abs().max() > 1e-3
