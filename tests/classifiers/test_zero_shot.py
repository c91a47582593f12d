"""CLIP models: the head is made of what the text tower says of each class's prompts."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from whylens.classifiers import Classifier, load_classifier, text_heads
from whylens.classifiers.text_heads import kept_text_head, text_head
from whylens.classifiers.zero_shot import imagenet_templates, wrap_clip
from whylens.errors import UsageError

from .conftest import CLASSES, odd_images


def embedded(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Unit text embeddings [len(texts), D], one text at a time."""
    with torch.no_grad():
        rows = [model.encode_text(tokenizer([text]))[0].double().numpy() for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows])


@pytest.fixture
def clip(load: Callable[[str], Classifier]) -> Any:
    return load("open_clip")


def test_the_head_is_the_mean_of_the_prompts_of_a_class(clip: Any) -> None:
    tokenizer = open_clip.get_tokenizer("ViT-S-32-alt")
    scale = float(clip.model.logit_scale.exp())
    assert scale == pytest.approx(1 / 0.07, rel=1e-4)
    # The first synonym is the one that prompts speak of.
    for k, word in ((0, "tench"), (3, "sea-lion"), (6, "class six")):
        prompts = [template.replace("{class}", word) for template in imagenet_templates()]
        mean = embedded(clip.model, tokenizer, prompts).mean(0)
        expected = scale * mean / np.linalg.norm(mean)
        assert np.abs(clip.head.weight[k].numpy() - expected).max() < 1e-4
    assert torch.equal(clip.head.bias, torch.zeros(len(CLASSES)))


def test_logits_are_cosines_of_image_and_text_at_the_models_scale(clip: Any) -> None:
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, logits = clip.features(images), clip.logits(images)
    assert torch.allclose(features.norm(dim=-1), torch.ones(2), atol=1e-5)
    scale = float(clip.model.logit_scale.exp())
    lengths = clip.head.weight.norm(dim=-1)
    assert torch.allclose(lengths, torch.full_like(lengths, scale), rtol=1e-4)
    assert logits.abs().max() <= scale * 1.0001


def test_one_plain_template_is_one_prompt_a_class(clip: Any) -> None:
    tokenizer = open_clip.get_tokenizer("ViT-S-32-alt")
    other = wrap_clip("x", clip.model, tokenizer, ("dog", "cat"), ("{class}",))
    expected = embedded(clip.model, tokenizer, ["dog", "cat"])
    weight = other.head.weight.double().numpy()
    assert np.abs(weight / np.linalg.norm(weight, axis=1, keepdims=True) - expected).max() < 1e-5
    assert other.class_names == ("dog", "cat")


def test_the_planted_clip_uses_its_own_template_and_recognises_clear_objects() -> None:
    from whylens.images import open_collection
    from whylens.images.tensors import to_tensor

    classifier = load_classifier("planted:clip")
    images = open_collection("planted:clear?count=100&seed=5")
    pixels = torch.stack([to_tensor(images.load(record)) for record in images.records])
    truth = [classifier.class_index(str(record.class_name)) for record in images.records]
    with torch.no_grad():
        guesses = classifier.logits(pixels).argmax(1).tolist()
    assert np.mean(np.array(guesses) == truth) > 0.9


def test_an_unknown_model_lists_near_names() -> None:
    with pytest.raises(UsageError, match=r"open_clip has no model 'ViT-B-33'; near .*ViT-B-32"):
        load_classifier("open_clip:ViT-B-33/openai")


def test_a_model_without_weights_lists_them() -> None:
    with pytest.raises(UsageError, match=r"say which weights: .*<one of: openai, "):
        load_classifier("open_clip:ViT-B-32")
    with pytest.raises(UsageError, match=r"say which weights: .*<one of: a file>"):
        load_classifier("open_clip:ViT-S-32-alt")


@pytest.mark.parametrize("weights", ["openai", "nosuch", "/nowhere/w.pt"])
def test_weights_that_are_not_there_are_said_to_be_missing(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=f"weights '{weights}' are not on this machine"):
        load_classifier(f"open_clip:ViT-S-32/{weights}")


def test_a_file_of_other_weights_is_not_said_to_be_missing(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"w\.pt does not hold the weights of a ViT-S-32-alt"):
        load_classifier(f"open_clip:ViT-S-32-alt/{tmp_path}/w.pt")


def test_a_tokenizer_that_is_not_there_is_said_to_be_missing(
    clip: Any, names_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise OSError("offline")

    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: clip.model)
    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    with pytest.raises(UsageError, match="the tokenizer of ViT-S-32-alt is not on this machine"):
        load_classifier(names_of("open_clip"))


def test_a_classes_file_that_is_not_there_is_named(clip: Any, tmp_path: Path) -> None:
    weights = clip.name.partition("?")[0]
    with pytest.raises(UsageError, match=f"class names {tmp_path}/c can't be read"):
        load_classifier(f"{weights}?classes={tmp_path}/c")


def test_imagenets_prompts_are_those_that_clip_was_published_with() -> None:
    from whylens.classifiers.timm_models import imagenet_names
    from whylens.classifiers.zero_shot import imagenet_words

    templates, words = imagenet_templates(), imagenet_words()
    assert [t.replace("{class}", "x") for t in templates] == [
        made("x") for made in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]
    assert len(templates) == 80
    assert words == tuple(open_clip.IMAGENET_CLASSNAMES)
    # Both lists are in ImageNet's own order: most names are among the synonyms.
    same = [w.lower() in n.lower() for w, n in zip(words, imagenet_names(), strict=True)]
    assert len(same) == 1000
    assert np.mean(same) > 0.8


def test_a_head_is_open_clips_own(clip: Any) -> None:
    tokenizer, words = open_clip.get_tokenizer("ViT-S-32-alt"), open_clip.IMAGENET_CLASSNAMES[:3]
    theirs = open_clip.build_zero_shot_classifier(
        clip.model, tokenizer, words, open_clip.OPENAI_IMAGENET_TEMPLATES, None
    )
    ours = text_head(clip.model, tokenizer, words, imagenet_templates())
    assert torch.allclose(ours, clip.model.logit_scale.exp() * theirs.T, atol=1e-5)


def test_photographs_go_through_open_clips_own_preprocessing() -> None:
    from PIL import Image

    from whylens.classifiers.planted import FOLDER
    from whylens.images.tensors import to_tensor

    classifier: Any = load_classifier("planted:clip")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER / 'clip'}")
    images = odd_images()
    ours = torch.stack([to_tensor(classifier.eval_transform(image)) for image in images])
    theirs = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    with torch.no_grad():
        wanted = model.eval().encode_image(theirs, normalize=True) @ classifier.head.weight.T
        assert (classifier.logits(ours) - wanted).abs().max() < 1e-3


def test_a_head_is_made_once_for_a_text_tower_and_its_prompts(
    clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHYLENS_CACHE", str(tmp_path))
    model = copy.deepcopy(clip.model)
    tokenizer, made = open_clip.get_tokenizer("ViT-S-32-alt"), []

    def counted(*asked: Any) -> torch.Tensor:
        made.append(asked)
        return text_head(*asked)

    monkeypatch.setattr(text_heads, "text_head", counted)
    words, templates = ("dog", "cat"), ("{class}", "a {class}")
    first = kept_text_head(model, tokenizer, words, templates)
    again = kept_text_head(model, tokenizer, words, templates)
    assert torch.equal(first, again)
    assert len(made) == 1
    # Other words, prompts or weights are other heads; other image towers are not.
    kept_text_head(model, tokenizer, ("dog", "fish"), templates)
    kept_text_head(model, tokenizer, words, templates[:1])
    assert len(made) == 3
    with torch.no_grad():
        model.visual.conv1.weight.add_(1)
        kept_text_head(model, tokenizer, words, templates)
        assert len(made) == 3
        model.ln_final.bias.add_(1)
    other = kept_text_head(model, tokenizer, words, templates)
    assert len(made) == 4
    assert not torch.allclose(first, other)


def test_a_head_that_cannot_be_kept_or_read_is_made(
    clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, asked = open_clip.get_tokenizer("ViT-S-32-alt"), (("dog",), ("{class}",))
    wanted = text_head(clip.model, tokenizer, *asked)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("WHYLENS_CACHE", str(tmp_path / "file"))
    assert torch.equal(kept_text_head(clip.model, tokenizer, *asked), wanted)
    monkeypatch.setenv("WHYLENS_CACHE", str(tmp_path))
    kept_text_head(clip.model, tokenizer, *asked)
    (kept,) = (tmp_path / "text_heads").iterdir()
    kept.write_bytes(b"half a file")
    assert torch.equal(kept_text_head(clip.model, tokenizer, *asked), wanted)
