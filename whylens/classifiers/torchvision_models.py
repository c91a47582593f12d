"""Classifiers of torchvision's architectures: its weights, files, `robustness` checkpoints."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from whylens.classifiers.description import Description
from whylens.classifiers.modules import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ModuleClassifier,
    class_names_for,
    from_module,
    head_of,
)
from whylens.classifiers.state_dicts import fit_state, read_names, read_robustness, read_state
from whylens.errors import UsageError
from whylens.images.eval_transform import EvalTransform
from whylens.images.matching import near_hint


def load_torchvision(name: str, architecture: str, options: Mapping[str, str]) -> ModuleClassifier:
    """torchvision:<architecture>?weights=<tag or file>[&classes=<file>].

    A file's images are seen as those of the architecture's first published weights are; its class
    names are ImageNet's where it has 1,000 classes and no names are given.
    """
    models = _architectures(architecture)
    published = models.get_model_weights(architecture)
    tags = [weights.name for weights in published]
    given = _weights(name, architecture, options, tags)
    if given in (*tags, "DEFAULT") and not Path(given).is_file():
        weights = published[given]
        try:
            model = models.get_model(architecture, weights=weights, progress=False)
        except Exception as error:
            raise UsageError(
                f"{name}: the weights {given} are not on this machine and could not be fetched "
                f"({type(error).__name__}). Fetch them once with a connection, or name a file"
            ) from error
    else:
        if not Path(given).is_file():
            raise UsageError(
                f"{name}: {architecture} has no weights {given!r}, and there is no such file; "
                f"there are {', '.join(tags)}, DEFAULT"
            )
        weights = next(iter(published))
        model = _with_state(name, architecture, read_state(given, name))
    return _wrap(name, model, options, _preset(weights.transforms()))


def describe_published(
    name: str, architecture: str, options: Mapping[str, str]
) -> Description | None:
    """By what torchvision says of its own weights; None where a file is named."""
    published = _architectures(architecture).get_model_weights(architecture)
    tags = [weights.name for weights in published]
    given = _weights(name, architecture, options, tags)
    if given not in (*tags, "DEFAULT") or Path(given).is_file():
        return None
    names = read_names(options["classes"], name) if "classes" in options else None
    count = len(published[given].meta["categories"])
    seen = _preset(published[given].transforms())
    return Description(name, class_names_for(count, names, name), seen.eval_transform)


def _weights(name: str, architecture: str, options: Mapping[str, str], tags: Sequence[str]) -> str:
    if "weights" not in options:
        raise UsageError(
            f"{name}: say which weights: torchvision:{architecture}?weights=<{', '.join(tags)}, "
            "DEFAULT, or a file>"
        )
    return options["weights"]


def load_robustness(name: str, path: str, options: Mapping[str, str]) -> ModuleClassifier:
    """robustness:<file>?arch=<torchvision architecture>[&classes=<file>].

    Its ImageNet models are torchvision's, normalised by what the checkpoint says; photographs are
    resized to 256 pixels and cut to 224, bilinear.
    """
    if "arch" not in options:
        raise UsageError(f"{name}: say which architecture it is: robustness:FILE?arch=resnet50")
    _architectures(options["arch"])
    state, normaliser = read_robustness(path, name)
    model = _with_state(name, options["arch"], state)
    seen = _Seen(
        EvalTransform(224, 256, interpolation="bilinear"),
        _level(normaliser, "new_mean", IMAGENET_MEAN),
        _level(normaliser, "new_std", IMAGENET_STD),
    )
    return _wrap(name, model, options, seen)


@dataclass(frozen=True)
class _Seen:
    """How images come to a network: cut, and normalised by these levels of the three channels."""

    eval_transform: EvalTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _preset(transforms: Any) -> _Seen:
    """What torchvision's `ImageClassification` preset does."""
    (size,), (scale,) = transforms.crop_size, transforms.resize_size
    kind = transforms.interpolation.value
    return _Seen(
        EvalTransform(size, scale, interpolation=kind),
        tuple(transforms.mean),
        tuple(transforms.std),
    )


def _level(
    normaliser: Mapping[str, Tensor], key: str, default: tuple[float, ...]
) -> tuple[float, ...]:
    return tuple(normaliser[key].flatten().tolist()) if key in normaliser else default


def _architectures(architecture: str) -> Any:
    """The module torchvision.models, which has this classification architecture."""
    models = importlib.import_module("torchvision.models")
    known = models.list_models(module=models)
    if architecture not in known:
        hint = near_hint(architecture, known)
        raise UsageError(f"torchvision has no classifier {architecture!r}{hint}")
    return models


def _with_state(name: str, architecture: str, state: Mapping[str, Tensor]) -> nn.Module:
    """The architecture with a head of the state dict's size, and its weights."""
    models = importlib.import_module("torchvision.models")
    model = models.get_model(architecture, weights=None)
    last = head_of(model, _size(architecture), name)
    if f"{last}.weight" not in state:
        raise UsageError(f"{name}: no tensor {last}.weight, the head of {architecture}")
    classes = len(state[f"{last}.weight"])
    if classes != model.get_submodule(last).out_features:
        model = models.get_model(architecture, weights=None, num_classes=classes)
    return fit_state(model, state, name, architecture)


def _size(architecture: str) -> int:
    """Side of the images that an architecture's first weights are for."""
    models = importlib.import_module("torchvision.models")
    weights = next(iter(models.get_model_weights(architecture)))
    return int(weights.transforms().crop_size[0])


def _wrap(name: str, model: nn.Module, options: Mapping[str, str], seen: _Seen) -> ModuleClassifier:
    size = seen.eval_transform.size
    return from_module(
        model,
        head_of(model, size, name),
        class_names=read_names(options["classes"], name) if "classes" in options else None,
        size=size,
        mean=seen.mean,
        std=seen.std,
        eval_transform=seen.eval_transform,
        name=name,
    )
