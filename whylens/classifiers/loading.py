"""`load_classifier`: any classifier by a URI-like name."""

import math
from urllib.parse import parse_qsl

import torch

from whylens.classifiers.activation import ACTIVATIONS
from whylens.classifiers.classifier import Classifier
from whylens.classifiers.names import HEADS, SCHEMES
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
    how = execution(name, options, device)
    classifier = _load(scheme, name, path, options, device)
    classifier.requires_grad_(False)
    _read_head(classifier, scheme, name, options)
    classifier = classifier.eval().to(device=device, dtype=torch.float32)
    if how.kernels:
        freeze_convolutions(classifier)
    if how.channels_last:
        classifier.to(memory_format=torch.channels_last)
    if how.compile_after is not None:
        CompiledBlocks(repeated_blocks(classifier), after=how.compile_after, announced=False)
    return classifier


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


def _read_head(classifier: Classifier, scheme: str, name: str, options: dict[str, str]) -> None:
    """What the name says of the head: how logits become probabilities, and at which temperature."""
    if (kind := options.get("probabilities")) is not None:
        if kind not in ACTIVATIONS:
            raise UsageError(f"{name}: probabilities are {' or '.join(ACTIVATIONS)}, not {kind!r}")
        classifier.activation = ACTIVATIONS[kind]
    if (given := options.get("temperature")) is not None:
        if scheme == "spufix":
            raise UsageError(f"{name}: a temperature goes with the classifier that was repaired")
        try:
            temperature = float(given)
        except ValueError:
            temperature = math.nan
        if not 0 < temperature < math.inf:
            raise UsageError(f"{name}: a temperature is a number above 0, not {given!r}")
        for tensor in (classifier.head.weight, classifier.head.bias):
            tensor.detach().div_(temperature)
