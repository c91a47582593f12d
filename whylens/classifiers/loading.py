"""`load_classifier`: any classifier by a URI-like name; `describe`: what is known before that."""

import math
from contextlib import nullcontext
from dataclasses import replace
from urllib.parse import parse_qsl

import torch

from whylens.classifiers.activation import ACTIVATIONS, Activation
from whylens.classifiers.classifier import Classifier
from whylens.classifiers.description import Description
from whylens.classifiers.names import HEADS, SCHEMES
from whylens.classifiers.state_dicts import without_memory
from whylens.compiled import CompiledBlocks, repeated_blocks
from whylens.errors import UsageError
from whylens.execution import OPTIONS as EXECUTION
from whylens.execution import execution
from whylens.frozen import freeze_convolutions


def load_classifier(name: str, device: str | torch.device = "cpu") -> Classifier:
    """Load a classifier, frozen, in evaluation mode, float32.

    Parameters
    ----------
    name
        bundled:efficientnet_lite0 (1, 2), timm:NAME[?size=test],
        torchvision:NAME?weights=TAG|FILE[&classes=FILE], transformers:FOLDER|NAME[?classes=FILE],
        open_clip:MODEL/PRETRAINED[?classes=FILE], checkpoint:PATH?arch=NAME[&classes=FILE],
        robustness:PATH?arch=NAME[&classes=FILE], planted:NAME, or spufix:FILE[?base=NAME], whose
        base is the classifier that was repaired, unless another of the same weights is named;
        random:NAME is a timm architecture with random weights, to measure speed with.
        All take `probabilities`, softmax or sigmoid (a multi-label head), and, but for spufix:,
        `temperature`, by which logits are divided; and `kernels`, `channels_last` and `compile`,
        each auto, on or off (see `whylens.execution`).

    Raises
    ------
    UsageError
        If there is no such classifier, or its weights can't be had.
    """
    scheme, path, options = _parts(name)
    how = execution(name, options, device)
    activation, temperature = _head(scheme, name, options)
    classifier = _load(scheme, name, path, options, device)
    classifier.requires_grad_(False)
    classifier.activation = activation or classifier.activation
    if temperature != 1:
        for tensor in (classifier.head.weight, classifier.head.bias):
            tensor.detach().div_(temperature)
    classifier = classifier.eval().to(device=device, dtype=torch.float32)
    if how.kernels:
        freeze_convolutions(classifier)
    if how.channels_last:
        classifier.to(memory_format=torch.channels_last)
    if how.compile_after is not None:
        CompiledBlocks(repeated_blocks(classifier), after=how.compile_after, announced=False)
    return classifier


def describe(name: str) -> Description:
    """What is known of a classifier, as `load_classifier` names it, without loading its network.

    Weights that are a file are looked at as far as tensors' names and shapes, others are not looked
    for. torchvision:?weights=FILE and robustness: are loaded and dropped: where the head of their
    network is shows only in what it puts out.

    Raises
    ------
    UsageError
        If there is no such classifier.
    """
    scheme, path, options = _parts(name)
    execution(name, options, "cpu")
    activation, _ = _head(scheme, name, options)
    found = _described(scheme, name, path, options)
    return replace(found, activation=activation or found.activation)


def _described(scheme: str, name: str, path: str, options: dict[str, str]) -> Description:
    if scheme == "planted":
        from whylens.classifiers.planted import describe_planted

        return describe_planted(name, path)
    if scheme == "open_clip":
        from whylens.classifiers.zero_shot import describe_open_clip

        return describe_open_clip(name, path, options)
    if scheme == "spufix":
        from whylens.classifiers.repaired import read_repair

        base = describe(options.get("base", read_repair(path, name).base))
        return replace(base, name=name, base=base.name)
    if scheme == "transformers":
        from whylens.classifiers.transformers_models import describe_transformers

        return describe_transformers(name, path, options)
    if scheme == "torchvision":
        from whylens.classifiers.torchvision_models import describe_published

        if (published := describe_published(name, path, options)) is not None:
            return published
    if scheme == "timm":
        from whylens.classifiers.timm_models import describe_timm

        return describe_timm(name, path, options)
    skeleton = nullcontext() if scheme in ("torchvision", "robustness") else without_memory()
    with skeleton:
        classifier = _load(scheme, name, path, options, "cpu")
    return Description(
        name, classifier.class_names, classifier.eval_transform, classifier.activation
    )


def _parts(name: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, path and options of a name."""
    scheme, colon, rest = name.partition(":")
    if not colon or scheme not in SCHEMES:
        known = ", ".join(f"{s}:..." for s in SCHEMES)
        raise UsageError(f"unknown classifier {name!r}: a name starts with one of {known}")
    path, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    unknown = sorted(set(options) - {*SCHEMES[scheme], *HEADS, *EXECUTION})
    if unknown:
        *some, last = SCHEMES[scheme] or ("none",)
        go = f"{', '.join(some)} and {last}" if some else last
        raise UsageError(
            f"{name}: unknown option {unknown[0]!r}; {go} go with {scheme}:, "
            f"{', '.join((*HEADS, *EXECUTION))} with all"
        )
    return scheme, path, options


def _load(
    scheme: str, name: str, path: str, options: dict[str, str], device: str | torch.device
) -> Classifier:
    if scheme == "planted":
        from whylens.classifiers.planted import load_planted

        return load_planted(name, path)
    if scheme == "open_clip":
        from whylens.classifiers.zero_shot import load_open_clip

        return load_open_clip(name, path, options, device)
    if scheme == "spufix":
        from whylens.classifiers.repaired import read_repair

        stored = read_repair(path, name)
        return stored.of(load_classifier(options.get("base", stored.base)), name)
    if scheme == "transformers":
        from whylens.classifiers.transformers_models import load_transformers

        return load_transformers(name, path, options)
    if scheme in ("torchvision", "robustness"):
        from whylens.classifiers import torchvision_models

        if scheme == "robustness":
            return torchvision_models.load_robustness(name, path, options)
        return torchvision_models.load_torchvision(name, path, options)
    from whylens.classifiers import timm_models

    if scheme == "bundled":
        return timm_models.load_bundled(name, path)
    if scheme == "random":
        return timm_models.random_model(name, path)
    if scheme == "timm":
        return timm_models.load_timm(name, path, options)
    return timm_models.load_checkpoint(name, path, options)


def _head(scheme: str, name: str, options: dict[str, str]) -> tuple[Activation | None, float]:
    """What the name says of the head: how logits become probabilities, None where it says nothing,
    and by what logits are divided."""
    if (kind := options.get("probabilities")) not in (None, *ACTIVATIONS):
        raise UsageError(f"{name}: probabilities are {' or '.join(ACTIVATIONS)}, not {kind!r}")
    temperature = 1.0
    if (given := options.get("temperature")) is not None:
        if scheme == "spufix":
            raise UsageError(f"{name}: a temperature goes with the classifier that was repaired")
        try:
            temperature = float(given)
        except ValueError:
            temperature = math.nan
        if not 0 < temperature < math.inf:
            raise UsageError(f"{name}: a temperature is a number above 0, not {given!r}")
    return None if kind is None else ACTIVATIONS[kind], temperature
