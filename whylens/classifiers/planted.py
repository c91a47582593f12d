"""The planted world's classifiers, read from the package's weights."""

import importlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from whylens.classifiers.classifier import Classifier, Head, resize
from whylens.classifiers.description import Description
from whylens.classifiers.zero_shot import eval_transform, prepared, wrap_clip
from whylens.errors import UsageError
from whylens.images.eval_transform import EvalTransform
from whylens.planted.networks import WEIGHTS
from whylens.planted.networks.cnn import PlantedCNN, build

FOLDER = WEIGHTS / "classifiers"
# Of a PlantedCNN's images, in pixels.
SIDE = 64


class PlantedClassifier(Classifier):
    """A PlantedCNN of 64 x 64 images."""

    def __init__(self, name: str, network: PlantedCNN, class_names: tuple[str, ...]) -> None:
        super().__init__(name, class_names, SIDE)
        self.network = network

    @property
    def head(self) -> Head:
        return Head(self.network.head.weight, self.network.head.bias)

    def preprocess(self, images: Tensor) -> Tensor:
        return resize(images, self.image_size)

    def features(self, images: Tensor) -> Tensor:
        return self.network.features(self.preprocess(images))

    def feature_map(self, images: Tensor) -> Tensor:
        return self.network.feature_map(self.preprocess(images))


def load_planted(name: str, short: str) -> Classifier:
    """planted:<short>, a folder of config.json and weights."""
    return load_folder(name, _folder(short))


def describe_planted(name: str, short: str) -> Description:
    """By its configuration alone."""
    folder = _folder(short)
    config = json.loads((folder / "config.json").read_text())
    transform = EvalTransform(SIDE, SIDE, "square")
    if config["kind"] == "clip":
        clip = json.loads((folder / "open_clip_config.json").read_text())
        transform = eval_transform(prepared(clip["model_cfg"], clip["preprocess_cfg"]), name)
    return Description(name, tuple(config["class_names"]), transform)


def _folder(short: str) -> Path:
    folder = FOLDER / short
    if not short or not (folder / "config.json").is_file():
        there = sorted(p.parent.name for p in FOLDER.glob("*/config.json"))
        raise UsageError(f"no planted classifier {short!r}; there are: {', '.join(there)}")
    return folder


def load_folder(name: str, folder: Path) -> Classifier:
    """A classifier of the planted world from any folder that `save_classifier` wrote.

    It is in evaluation mode: what an image gets doesn't depend on the batch that it comes in.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    class_names = tuple(config["class_names"])
    if config["kind"] == "clip":
        open_clip = importlib.import_module("open_clip")
        # Passed as pretrained weights are: nothing is looked up outside the folder.
        model = open_clip.create_model(f"local-dir:{folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        return wrap_clip(name, model, tokenizer, class_names, config["templates"])
    network = build(config["arch"])
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return PlantedClassifier(name, network, class_names).eval()
