"""Any network of torch as a classifier: what it puts out has to come from one linear layer."""

import copy
import difflib
import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whylens.classifiers.activation import SOFTMAX, Activation
from whylens.classifiers.classifier import Classifier, Head, normalise, resize
from whylens.classifiers.structure import VisionTransformer, torchvision_transformer
from whylens.errors import UsageError
from whylens.images.eval_transform import EvalTransform

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ModuleClassifier(Classifier):
    """A network without its last linear layer, and that layer; made by `from_module`."""

    def __init__(
        self,
        name: str,
        body: nn.Module,
        layer: nn.Linear,
        class_names: Sequence[str],
        eval_transform: EvalTransform,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        map_from: str | None,
        activation: Activation = SOFTMAX,
    ) -> None:
        super().__init__(name, class_names, eval_transform.size, eval_transform, activation)
        self.body, self.layer = body, layer
        self._mean, self._std, self._map_from = tuple(mean), tuple(std), map_from

    @property
    def head(self) -> Head:
        bias = self.layer.bias
        return Head(
            self.layer.weight, torch.zeros_like(self.layer.weight[:, 0]) if bias is None else bias
        )

    def preprocess(self, images: Tensor) -> Tensor:
        resized = resize(images, self.image_size, self.eval_transform.interpolation)
        return normalise(resized, self._mean, self._std)

    def features(self, images: Tensor) -> Tensor:
        out: Tensor = self.body(self.preprocess(images))
        return out

    def feature_map(self, images: Tensor) -> Tensor | None:
        if self._map_from is None:
            return None
        seen: list[Tensor] = []
        part = self.body.get_submodule(self._map_from)
        hook = part.register_forward_hook(lambda *parts: seen.append(parts[2]))
        try:
            pooled = self.features(images)
        finally:
            hook.remove()
        maps = seen[-1]
        if maps.shape[1] != self.feature_size:
            return None
        # What lies between map and head differs by architecture: it is checked, not guessed.
        close = (maps.mean((2, 3)) - pooled).abs().max() <= 1e-4 * pooled.abs().max()
        return maps if bool(close) else None

    def last_map(self) -> nn.Module | None:
        return None if self._map_from is None else self.body.get_submodule(self._map_from)

    def transformer(self) -> VisionTransformer | None:
        return torchvision_transformer(self.body)


def from_module(
    module: nn.Module,
    last: str,
    *,
    class_names: Sequence[str] | None = None,
    size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    eval_transform: EvalTransform | None = None,
    name: str = "module",
    activation: Activation = SOFTMAX,
) -> ModuleClassifier:
    """A classifier of any torch module: normalised images [B, 3, S, S] -> logits [B, K].

    A frozen copy is made; the module itself stays as it is. Jobs load classifiers by name; this one
    is for Python alone.

    Parameters
    ----------
    last
        Where the last linear layer is, as `named_modules` says it: "fc", "classifier.6".
    class_names
        K names; by default ImageNet's for 1,000 classes (and for the larger lists that timm ships),
        else numbers.
    size, mean, std
        Side in pixels of what the module sees, and how its channels, in [0, 1], are normalised.
    eval_transform
        How photographs get there: by default, the shorter side becomes size * 256 / 224 and the
        middle is cut out, bilinear, as torchvision's first weights have it.
    activation
        `SIGMOID` for a multi-label head.

    Raises
    ------
    UsageError
        If there is no such layer, it is not linear, or the module's output isn't its output.
    """
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    probe = _probe(copied, size)
    if last not in dict(copied.named_modules()):
        linear = [n for n, part in copied.named_modules() if isinstance(part, nn.Linear)]
        near = difflib.get_close_matches(last, linear, n=3) or linear[-3:]
        hint = f"; linear layers: {', '.join(near)}" if near else "; it has no linear layer"
        raise UsageError(f"{name} has no layer {last!r}{hint}")
    layer = copied.get_submodule(last)
    if not isinstance(layer, nn.Linear):
        raise UsageError(f"{name}: the layer {last} is {type(layer).__name__}, not linear")
    if last not in probe.heads:
        raise UsageError(
            f"{name}: what comes out is not what the linear layer {last} puts out, for one vector "
            "[D] an image: whylens needs classifiers whose logits are W phi + b"
        )
    copied.set_submodule(last, nn.Identity())
    transform = eval_transform or EvalTransform(size, size * 256 // 224, "shortest", "bilinear")
    return ModuleClassifier(
        name,
        copied,
        layer,
        class_names_for(layer.out_features, class_names, name),
        transform,
        mean=mean,
        std=std,
        map_from=probe.last_map,
        activation=activation,
    )


def head_of(module: nn.Module, size: int, name: str) -> str:
    """Where the linear layer is whose output a module puts out.

    Raises
    ------
    UsageError
        If there is none: the head is not linear.
    """
    found = _probe(module.eval(), size).heads
    if not found:
        raise UsageError(
            f"{name}: the head is not linear: no linear layer puts out what the network puts out, "
            "and whylens needs classifiers whose logits are W phi + b"
        )
    return found[-1]


def class_names_for(count: int, given: Sequence[str] | None, name: str) -> tuple[str, ...]:
    """K class names: those given, those of the ImageNet list with K classes, or numbers.

    Raises
    ------
    UsageError
        If another number of names is given.
    """
    if given is not None:
        if len(given) != count:
            raise UsageError(f"{name}: {len(given)} class names for a head of {count} classes")
        return tuple(given)
    data = importlib.import_module("timm.data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subset = data.infer_imagenet_subset({"num_classes": count})
    names = tuple(data.ImageNetInfo(subset).label_descriptions()) if subset else ()
    return names if len(names) == count else tuple(f"class {index}" for index in range(count))


@dataclass(frozen=True)
class _Probe:
    """What one forward pass shows: the layers that put out the module's output, and the one that
    puts out its last map [B, C, h, w], None for a network that goes on with tokens."""

    heads: tuple[str, ...]
    last_map: str | None


@torch.no_grad()
def _probe(module: nn.Module, size: int) -> _Probe:
    seen: list[tuple[str, nn.Module, tuple[Any, ...], Any]] = []
    hooks = [
        part.register_forward_hook(
            lambda part, inputs, output, name=name: seen.append((name, part, inputs, output))
        )
        for name, part in module.named_modules()
        if name
    ]
    try:
        # Two images: a layer that sees one vector an image has two.
        pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        logits = module(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    heads = [
        name
        for name, part, inputs, output in seen
        if isinstance(part, nn.Linear)
        and inputs[0].ndim == 2
        and output.shape == logits.shape
        and torch.equal(output, logits)
    ]
    spatial = None
    for name, _, _, output in seen:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            spatial = name
        elif isinstance(output, Tensor) and output.ndim == 3:
            spatial = None  # tokens: a map of patches before them says nothing
    return _Probe(tuple(heads), spatial)
