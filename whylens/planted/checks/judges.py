"""Judges of generated images: what they show, said by networks that took no part in making them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whylens.classifiers import load_classifier
from whylens.classifiers.classifier import Classifier
from whylens.images.tensors import to_pixels
from whylens.planted.checks.weights import save_sheet
from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, OBJECTS, Link

BATCH = 250


@dataclass(frozen=True)
class Seen:
    """What judges see in N images: indices [N] of OBJECTS, BACKGROUNDS, COMPANIONS; -1 for none."""

    objects: NDArray[np.int64]
    backgrounds: NDArray[np.int64]
    companions: NDArray[np.int64]

    def shows(self, link: Link) -> NDArray[np.bool_]:
        """Which images show a link's feature, [N]."""
        if link.kind == "background":
            there: NDArray[np.bool_] = self.backgrounds == BACKGROUNDS.index(link.feature)
        else:
            there = self.companions == COMPANIONS.index(link.feature)
        return there


def judged(images: Tensor) -> Seen:
    """What the three judges see in images [N, 3, H, W] in [0, 1]."""
    said = [
        probabilities(load_classifier(f"planted:judge_{what}"), images).argmax(1).numpy()
        for what in ("object", "background", "companion")
    ]
    objects, backgrounds, companions = said
    return Seen(
        np.where(objects == len(OBJECTS), -1, objects),
        backgrounds,
        np.where(companions == len(COMPANIONS), -1, companions),
    )


@torch.inference_mode()
def probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """[N, K] of images [N, 3, H, W] in [0, 1]."""
    return torch.cat([classifier.probabilities(part) for part in torch.split(images, BATCH)])


@torch.inference_mode()
def features(classifier: Classifier, images: Tensor) -> Tensor:
    """phi [N, D] of images [N, 3, H, W] in [0, 1]."""
    return torch.cat([classifier.features(part) for part in torch.split(images, BATCH)])


def save_pictures(images: Tensor, path: Path, columns: int) -> None:
    """Images [N, 3, H, W] as a PNG sheet, `columns` in a row; whole rows only."""
    pixels = np.stack([to_pixels(image) for image in images])
    save_sheet(pixels, path, columns, rows=len(images) // columns)
