"""A classifier: images in [0, 1] -> features phi -> one linear head -> logits."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.classifiers.activation import SOFTMAX, Activation
from whylens.classifiers.description import Classes
from whylens.classifiers.structure import VisionTransformer
from whylens.images.eval_transform import EvalTransform


@dataclass(frozen=True)
class Head:
    """The last linear layer: weight W [K, D], bias b [K]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features [..., D] -> logits [..., K]."""
        return F.linear(features, self.weight, self.bias)

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """W and b on the CPU."""
        weight, bias = (t.detach().cpu().double().numpy() for t in (self.weight, self.bias))
        return weight, bias


class Classifier(Classes, nn.Module, ABC):
    """A frozen image classifier with a linear head.

    Photographs come to it through `eval_transform`, which is its library's own, with Pillow and a
    cut. What a sampler makes, and views of it, are squares already and come whole: `preprocess`
    resizes them and cuts nothing, since at a margin that is cut no gradient would arrive.

    Attributes
    ----------
    name
        The URI-like name by which `load_classifier` found it.
    class_names
        K names; synonyms are joined by ", ".
    image_size
        Side in pixels of what the network itself sees.
    eval_transform
        Photographs [H, W, 3] uint8 -> [image_size, image_size, 3] uint8; without a library's, the
        centre square.
    activation
        How logits become probabilities: softmax, or sigmoid for a multi-label head.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    eval_transform: EvalTransform
    activation: Activation

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        image_size: int,
        eval_transform: EvalTransform | None = None,
        activation: Activation = SOFTMAX,
    ) -> None:
        super().__init__()
        self.name = name
        self.class_names = tuple(class_names)
        self.image_size = image_size
        self.eval_transform = eval_transform or EvalTransform(image_size, image_size, "square")
        self.activation = activation

    @property
    @abstractmethod
    def head(self) -> Head:
        """The linear head."""

    @abstractmethod
    def preprocess(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of any size -> the network's input; differentiable.

        Images are resized whole; those of `image_size` are not touched but for normalisation.
        """

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features [B, D], the head's input."""

    def feature_map(self, images: Tensor) -> Tensor | None:
        """[B, D, h, w] whose mean over positions is `features`; None where there is no such map."""
        return None

    def last_map(self) -> nn.Module | None:
        """The layer that puts out a CNN's last map [B, C, h, w]; None where there is none."""
        return None

    def transformer(self) -> VisionTransformer | None:
        """A vision transformer's parts; None for other networks."""
        return None

    def logits(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> logits [B, K]."""
        return self.head(self.features(images))

    def probabilities(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> probabilities [B, K]."""
        return self.activation(self.logits(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)

    @property
    def feature_size(self) -> int:
        """D."""
        return int(self.head.weight.shape[1])

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell this classifier's weights from any other's."""
        digest = hashlib.sha256()
        head = self.head
        for tensor in (head.weight, head.bias, *self.state_dict().values()):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def resize(images: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """Antialiased, differentiable resize of [B, 3, H, W] to [B, 3, size, size].

    Of Pillow's filters torch has two: what is neither is done by "bicubic".
    """
    if images.shape[-2:] == (size, size):
        return images
    mode = mode if mode in ("bilinear", "bicubic") else "bicubic"
    return F.interpolate(images, size=(size, size), mode=mode, align_corners=False, antialias=True)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images - mean) / std for each channel."""
    like = (images.device, images.dtype)
    return (images - _of_channels(tuple(mean), *like)) / _of_channels(tuple(std), *like)


@cache
def _of_channels(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """[1, C, 1, 1], sent to the device once: the host would wait for it at each call."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1)
