"""Classifiers of transformers, with their own image processor's transform."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from whylens.classifiers.activation import SIGMOID, SOFTMAX, Activation
from whylens.classifiers.classifier import normalise
from whylens.classifiers.description import Description
from whylens.classifiers.modules import ModuleClassifier, class_names_for, from_module, head_of
from whylens.classifiers.state_dicts import read_names
from whylens.errors import UsageError
from whylens.images.eval_transform import INTERPOLATIONS, EvalTransform
from whylens.images.tensors import to_tensor

# By how many of 255 levels a resize by torchvision, on average, may differ from Pillow's.
CLOSE = 1.0


class _Logits(nn.Module):
    """Pixels [B, 3, S, S] -> logits [B, K] of a transformers model, whose output has more."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=pixels).logits
        return logits


def load_transformers(name: str, path: str, options: Mapping[str, str]) -> ModuleClassifier:
    """transformers:<folder or Hub name>[?classes=<file>]; a multi-label model's p by sigmoid.

    Class names are the model's own `id2label`, or ImageNet's where those say nothing.
    """
    transformers = importlib.import_module("transformers")
    kind = transformers.AutoModelForImageClassification
    network, seen = _read(name, path, kind.from_pretrained)
    module = _Logits(network.float().eval())
    return from_module(
        module,
        head_of(module, seen.transform.size, name),
        class_names=_names(network.config, name, options),
        size=seen.transform.size,
        mean=seen.mean,
        std=seen.std,
        eval_transform=seen.transform,
        name=name,
        activation=_activation(network.config),
    )


def describe_transformers(name: str, path: str, options: Mapping[str, str]) -> Description:
    """By the model's configuration, and its image processor."""
    transformers = importlib.import_module("transformers")
    config, seen = _read(name, path, transformers.AutoConfig.from_pretrained)
    given = _names(config, name, options)
    names = class_names_for(config.num_labels, given, name)
    return Description(name, names, seen.transform, _activation(config))


@dataclass(frozen=True)
class _Seen:
    """How images come to a network: cut, and normalised."""

    transform: EvalTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _read(name: str, path: str, from_pretrained: Callable[[str], Any]) -> tuple[Any, _Seen]:
    """What is made of a folder or Hub name, and how images come to it."""
    transformers = importlib.import_module("transformers")
    try:
        found = from_pretrained(path)
        processor = transformers.AutoImageProcessor.from_pretrained(path)
    except Exception as error:
        where = (
            f"the folder {path} does not hold an image classifier and its image processor"
            if Path(path).is_dir()
            else f"{path} is neither a folder nor on this machine, and could not be fetched"
        )
        raise UsageError(f"{name}: {where} ({type(error).__name__}: {_first(error)})") from error
    transform = eval_transform(processor, name)
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    if not getattr(processor, "do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    require_same(processor, transform, mean, std, name)
    return found, _Seen(transform, mean, std)


def _activation(config: Any) -> Activation:
    return SIGMOID if config.problem_type == "multi_label_classification" else SOFTMAX


def eval_transform(processor: Any, name: str) -> EvalTransform:
    """What an image processor's settings say that it does, up to normalisation.

    Raises
    ------
    UsageError
        If it resizes to anything but squares, or doesn't resize at all.
    """
    size, crop = _sizes(processor.size), _sizes(getattr(processor, "crop_size", None))
    if not getattr(processor, "do_resize", True) or not size:
        raise UsageError(f"{name}: its image processor does not resize images")
    kind = Image.Resampling(int(processor.resample)).name.lower()
    if kind not in INTERPOLATIONS:
        raise UsageError(f"{name}: its image processor resizes by an unknown filter, {kind}")
    interpolation = cast(Any, kind)
    if crop_pct := getattr(processor, "crop_pct", None):  # ConvNeXt's
        side = size["shortest_edge"]
        if side >= 384:
            return EvalTransform(side, side, "squash", interpolation)
        return EvalTransform(side, int(side / crop_pct), "shortest", interpolation, half="lower")
    cut = getattr(processor, "do_center_crop", False) and crop
    if "shortest_edge" in size:
        shown = crop["height"] if cut else size["shortest_edge"]
        scale = size["shortest_edge"]
        return EvalTransform(shown, scale, "shortest", interpolation, half="lower")
    if size.get("height") is None or size.get("height") != size.get("width"):
        raise UsageError(f"{name}: its image processor resizes to {size}: it has to make squares")
    shown = crop["height"] if cut else size["height"]
    return EvalTransform(shown, size["height"], "squash", interpolation, half="lower")


def require_same(
    processor: Any,
    transform: EvalTransform,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    name: str,
) -> None:
    """That an image processor does what was read from its settings, tried on two images.

    Some have more in their code than in their settings; those are told, not guessed.

    Raises
    ------
    UsageError
        If an image comes out otherwise than by `transform` and normalisation.
    """
    rng = np.random.default_rng(0)
    for shape in ((301, 377), (420, 260)):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        image = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))
        theirs = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"])[0]
        ours = normalise(to_tensor(transform(image))[None], mean, std)[0]
        levels = 255 * theirs.new_tensor(std)[:, None, None]
        if theirs.shape != ours.shape or ((theirs - ours) * levels).abs().mean() > CLOSE:
            raise UsageError(
                f"{name}: its image processor, {type(processor).__name__}, does not do what its "
                "settings say (resize, cut the middle, normalise): whylens can't show images as it "
                "does"
            )


def _names(config: Any, name: str, options: Mapping[str, str]) -> Sequence[str] | None:
    """The class names that are given, or that a model's configuration has."""
    if "classes" in options:
        return read_names(options["classes"], name)
    labels = config.id2label
    names = [str(labels[index]) for index in range(len(labels))]
    nameless = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return None if nameless else names


def _sizes(given: Any) -> dict[str, int]:
    """The sizes that are set, of a processor's `size` or `crop_size`."""
    sizes = dict(given or {})
    return {key: int(value) for key, value in sizes.items() if value is not None}


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
