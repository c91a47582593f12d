"""What holds for a classifier of whatever family."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from whylens.classifiers import Classifier, describe, load_classifier
from whylens.classifiers.activation import SIGMOID

# Of each family: mean and standard deviation that its networks were trained with, interpolation.
INPUTS: dict[str, tuple[Any, Any, Image.Resampling]] = {
    "planted:biased": (0, 1, Image.Resampling.BILINEAR),
    "planted:clip": (0.5, 0.5, Image.Resampling.BICUBIC),
    "bundled": (0.5, 0.5, Image.Resampling.BICUBIC),
    "test_resnet": (0.5, 0.5, Image.Resampling.BILINEAR),
    "test_vit": (0.5, 0.5, Image.Resampling.BICUBIC),
    "open_clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        Image.Resampling.BICUBIC,
    ),
}
WITH_MAPS = ("planted:biased", "bundled", "test_resnet")


def key(classifier: Classifier) -> str:
    return next(k for k in INPUTS if k in classifier.name)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Smooth images in [0, 1], all different."""
    coarse = torch.rand((*shape[:2], 6, 6), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, shape[2:], mode="bicubic").clamp(0, 1)


def network(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits by the network's own forward pass, which knows nothing of heads and features."""
    model: Any = getattr(classifier, "network", None) or classifier.model
    inputs = classifier.preprocess(images)
    if hasattr(model, "encode_image"):
        embedding = model.encode_image(inputs)
        return embedding @ classifier.head.weight.T / embedding.norm(dim=-1, keepdim=True)
    out: Tensor = model(inputs)
    return out


@torch.no_grad()
def test_logits_are_the_head_of_the_features_and_what_the_network_says(
    classifier: Classifier,
) -> None:
    images = noise(3, 3, 90, 120)
    features, logits = classifier.features(images), classifier.logits(images)
    assert features.shape == (3, classifier.feature_size)
    assert logits.shape == (3, len(classifier.class_names))
    weight, bias = classifier.head.weight.double().numpy(), classifier.head.bias.double().numpy()
    by_hand = features.double().numpy() @ weight.T + bias
    scale = np.abs(by_hand).max()
    assert np.abs(logits.numpy() - by_hand).max() < 1e-4 * scale
    assert (logits - network(classifier, images)).abs().max() < 1e-4 * scale
    assert logits.std(0).max() > 1e-3 * scale  # it does tell the images apart
    odds = np.exp(by_hand - by_hand.max(1, keepdims=True))
    expected = odds / odds.sum(1, keepdims=True)
    assert np.abs(classifier.probabilities(images).numpy() - expected).max() < 1e-4
    assert torch.equal(classifier(images), logits)


def test_it_comes_frozen_in_evaluation_mode_and_float32(classifier: Classifier) -> None:
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    assert {p.dtype for p in classifier.parameters()} == {torch.float32}
    assert classifier.device == torch.device("cpu")


def test_the_image_gets_a_gradient_that_agrees_with_differences(classifier: Classifier) -> None:
    images = noise(2, 3, 75, 110, seed=1).requires_grad_()
    (as_loaded,) = torch.autograd.grad(classifier.logits(images)[:, 1].sum(), images)
    classifier.double()
    try:
        inputs = images.double()

        def value(x: Tensor) -> Tensor:
            return classifier.logits(x)[:, 1].sum()

        (gradient,) = torch.autograd.grad(value(inputs), images)
        assert gradient.isfinite().all()
        # In norm: rounding may switch a single ReLU, which changes the gradient near it.
        assert (as_loaded - gradient).norm() < 0.05 * gradient.norm()
        # Every part of the image counts, at the borders too.
        assert (gradient.abs().amax((0, 1)) > 0).double().mean() > 0.95
        direction = (gradient / gradient.norm()).double()
        with torch.no_grad():
            step = 1e-5
            slope = (value(inputs + step * direction) - value(inputs - step * direction)) / step / 2
        assert slope.item() == pytest.approx(gradient.norm().item(), rel=1e-3)
    finally:
        classifier.float()


@torch.no_grad()
def test_a_plain_colour_is_the_same_at_any_size_and_shape(classifier: Classifier) -> None:
    side = classifier.image_size
    colour = torch.tensor([0.8, 0.4, 0.1]).view(1, 3, 1, 1)
    wanted = classifier.logits(colour.expand(1, 3, side, side))
    for height, width in ((33, 17), (64, 200), (301, 150), (1, 1)):
        logits = classifier.logits(colour.expand(1, 3, height, width))
        assert (logits - wanted).abs().max() < 1e-3 * wanted.abs().max()


@torch.no_grad()
def test_the_network_sees_the_whole_image_resized_as_pillow_does(
    classifier: Classifier, photo: Tensor
) -> None:
    mean, std, filter = INPUTS[key(classifier)]
    side = classifier.image_size
    seen = classifier.preprocess(photo[None])[0]
    assert seen.shape == (3, side, side)
    pixels = (photo.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    resized = np.asarray(Image.fromarray(pixels).resize((side, side), filter)) / 255
    difference = np.abs(seen.permute(1, 2, 0).numpy() - (resized - mean) / std)
    assert difference.max() < 4 / 255 / np.min(std)
    assert difference.mean() < 0.5 / 255 / np.min(std)


@torch.no_grad()
def test_an_image_of_the_right_size_is_only_normalised(classifier: Classifier) -> None:
    mean, std, _ = INPUTS[key(classifier)]
    image = noise(1, 3, classifier.image_size, classifier.image_size)
    expected = (image[0].permute(1, 2, 0).double().numpy() - mean) / std
    seen = classifier.preprocess(image)[0].permute(1, 2, 0).numpy()
    assert np.abs(seen - expected).max() < 1e-5


@torch.no_grad()
def test_an_image_has_the_same_logits_alone_and_in_any_batch(classifier: Classifier) -> None:
    images = noise(4, 3, 50, 80, seed=2)
    together = classifier.logits(images)
    alone = torch.cat([classifier.logits(image[None]) for image in images])
    reversed_ = classifier.logits(images.flip(0)).flip(0)
    scale = together.abs().max()
    assert (together - alone).abs().max() < 1e-4 * scale
    assert (together - reversed_).abs().max() < 1e-4 * scale


@torch.no_grad()
def test_the_mean_of_the_feature_map_is_the_features(classifier: Classifier) -> None:
    images = noise(2, 3, 70, 70, seed=3)
    activations = classifier.feature_map(images)
    assert (activations is not None) == (key(classifier) in WITH_MAPS)
    if activations is not None:
        assert activations.ndim == 4
        assert activations.shape[2] > 1
        features = classifier.features(images)
        assert (activations.mean((2, 3)) - features).abs().max() < 1e-5 * features.abs().max()


def test_a_fingerprint_is_the_same_for_the_same_weights_only(
    names_of: Callable[[str], str], load: Callable[[str], Classifier]
) -> None:
    families = ("planted", "planted clip", "bundled", "checkpoint cnn", "checkpoint vit")
    prints = {family: load(family).fingerprint for family in families}
    prints |= {n: load_classifier(f"planted:{n}").fingerprint for n in ("balanced", "robust")}
    assert len(set(prints.values())) == len(prints)
    assert all(len(p) == 16 and set(p) <= set("0123456789abcdef") for p in prints.values())
    for family in ("planted", "planted clip", "checkpoint cnn"):
        assert load_classifier(names_of(family)).fingerprint == prints[family]


def test_a_change_anywhere_in_the_network_changes_the_fingerprint(
    names_of: Callable[[str], str],
) -> None:
    fresh = load_classifier(names_of("checkpoint cnn"))
    names = [n for n, _ in fresh.named_parameters()]
    seen = {fresh.fingerprint}
    for name in (names[0], names[len(names) // 2], names[-1]):
        fresh.get_parameter(name).data.view(-1)[0] += 1e-3
        seen.add(fresh.fingerprint)
    assert len(seen) == 4


def test_it_is_described_without_its_network_as_it_is_loaded(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("copy_", "normal_", "uniform_"):  # what fills weights is called on shapes alone
        fill = getattr(Tensor, method)

        def on_shapes(tensor: Tensor, *arguments: Any, fill: Any = fill, **more: Any) -> Tensor:
            assert tensor.is_meta or tensor.numel() < 10_000
            filled: Tensor = fill(tensor, *arguments, **more)
            return filled

        monkeypatch.setattr(Tensor, method, on_shapes)
    found = describe(classifier.name)
    assert found.name == classifier.name
    assert found.class_names == classifier.class_names
    assert found.eval_transform == classifier.eval_transform
    assert found.activation is classifier.activation
    last = len(found.class_names) - 1
    assert found.class_index(found.class_names[-1]) == classifier.class_index(last) == last
    assert (
        describe(
            f"{classifier.name}{'&' if '?' in classifier.name else '?'}probabilities=sigmoid"
        ).activation
        is SIGMOID
    )
