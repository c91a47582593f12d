"""Small convolutional classifiers for 64 x 64 images, in two architectures.

Both end in a ReLU, global average pooling and one linear layer, so that
features = mean over positions of the feature map, and are non-negative.
"""

import itertools
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

ARCHITECTURES = ("plain", "residual")


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class PlantedCNN(nn.Module):
    """A classifier of images [B, 3, 64, 64] in [0, 1].

    Parameters
    ----------
    architecture
        "plain" (convolutions, batch norm, ReLU) or "residual".
    widths
        Channels of the stages; each stage halves the resolution; the last is the feature size.
    classes
        Number of classes of the linear head.
    """

    def __init__(self, architecture: str, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {architecture!r}: one of {ARCHITECTURES}")
        stages: list[nn.Module] = [_convolution(3, widths[0], 5, 2)]
        for inputs, outputs in itertools.pairwise(widths):
            if architecture == "plain":
                stages += [
                    _convolution(inputs, outputs, 3, 2),
                    _convolution(outputs, outputs, 3, 1),
                ]
            else:
                stages.append(_Residual(inputs, outputs, 2))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], classes)

    def feature_map(self, images: Tensor) -> Tensor:
        """[B, 3, 64, 64] in [0, 1] -> [B, D, h, w], non-negative."""
        out: Tensor = self.stages(images * 4 - 2)
        return out

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, 64, 64] in [0, 1] -> [B, D]."""
        return self.feature_map(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, 64, 64] in [0, 1] -> logits [B, K]."""
        out: Tensor = self.head(self.features(images))
        return out


def build(config: dict[str, Any]) -> PlantedCNN:
    """The network that a classifier folder's config describes (key "arch")."""
    return PlantedCNN(
        str(config["architecture"]),
        tuple(int(w) for w in config["widths"]),
        int(config["classes"]),
    )
