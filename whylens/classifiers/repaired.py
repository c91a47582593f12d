"""A classifier whose reliance on spurious features is repaired: by SpuFix, or with a new head.

SpuFix's max(<d, phi> - c, 0) are further features: the repaired classifier has a linear head over
[phi, max(D phi - c, 0)], and goes wherever a classifier goes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.classifiers.classifier import Classifier, Head
from whylens.errors import UsageError


class Repair(Protocol):
    """What repairs a classifier: in `whylens.neural_pca`, a `SpuFix` or a `Refit`."""

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Tensors of the `RepairedHead` by name; the others stay as the classifier has them."""


class RepairedHead(nn.Module):
    """Features phi [..., D] -> logits [..., K]: what takes the place of a network's last layer.

    Plain torch: buffers `weight` [K, D], `bias` [K], and SpuFix's `directions` [M, D], `offsets`
    [M] and `classes` [M] (M = 0 where the head itself is new).
    """

    weight: Tensor
    bias: Tensor
    directions: Tensor
    offsets: Tensor
    classes: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name in ("weight", "bias", "directions", "offsets"):
            self.register_buffer(name, tensors[name].float())
        self.register_buffer("classes", tensors["classes"].long())

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(self.widened(features), *self.widened_head())

    def widened(self, features: Tensor) -> Tensor:
        """[..., D] -> [..., D + M]."""
        if len(self.offsets) == 0:
            return features
        removed = F.relu(F.linear(features, self.directions, -self.offsets))
        return torch.cat([features, removed], -1)

    def widened_head(self) -> tuple[Tensor, Tensor]:
        """The head over [..., D + M]: weight [K, D + M] and bias [K]."""
        taken = F.one_hot(self.classes, len(self.bias)).to(self.weight).T
        return torch.cat([self.weight, -taken], 1), self.bias


class Repaired(Classifier):
    """A classifier with a `RepairedHead`; `base` is the name of the one that was repaired."""

    def __init__(self, name: str, base: Classifier, head: RepairedHead) -> None:
        super().__init__(
            name, base.class_names, base.image_size, base.eval_transform, base.activation
        )
        self.base, self.repaired_head = base.name, head
        self.network = base

    @property
    def head(self) -> Head:
        return Head(*self.repaired_head.widened_head())

    def preprocess(self, images: Tensor) -> Tensor:
        return self.network.preprocess(images)

    def features(self, images: Tensor) -> Tensor:
        return self.repaired_head.widened(self.network.features(images))


def repair(base: Classifier, by: Repair, name: str | None = None) -> Repaired:
    """The repaired classifier.

    Raises
    ------
    UsageError
        If the repair is of a classifier with other features or classes.
    """
    head = base.head
    tensors = {
        "weight": head.weight.detach().cpu(),
        "bias": head.bias.detach().cpu(),
        "directions": torch.zeros(0, base.feature_size),
        "offsets": torch.zeros(0),
        "classes": torch.zeros(0),
    }
    tensors |= {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in by.arrays.items()}
    _require_fit(base, tensors)
    repaired = Repaired(name or f"spufix of {base.name}", base, RepairedHead(tensors))
    return repaired.eval().requires_grad_(False).to(base.device)


def save_repaired(repaired: Repaired, path: str | Path) -> None:
    """Write the repaired head as safetensors, with the base's name and fingerprint."""
    from safetensors.torch import save_file

    state = {k: v.contiguous().cpu() for k, v in repaired.repaired_head.state_dict().items()}
    about = {"base": repaired.base, "fingerprint": repaired.network.fingerprint}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, {"whylens": json.dumps(about)})


@dataclass(frozen=True)
class StoredRepair:
    """What `save_repaired` wrote to `path`: the base's name and fingerprint, the head's tensors."""

    path: str
    base: str
    fingerprint: str
    tensors: dict[str, Tensor]

    def of(self, base: Classifier, name: str) -> Repaired:
        """The base, repaired.

        Raises
        ------
        UsageError
            If the repair belongs to other weights than the base's.
        """
        if base.fingerprint != self.fingerprint:
            raise UsageError(
                f"{name}: {self.path} repairs a classifier of fingerprint {self.fingerprint} "
                f"({self.base}), but {base.name} has {base.fingerprint}"
            )
        _require_fit(base, self.tensors)
        return Repaired(name, base, RepairedHead(self.tensors))


def read_repair(path: str, name: str) -> StoredRepair:
    """Read what `save_repaired` wrote.

    Raises
    ------
    UsageError
        If the file isn't there or holds no repaired head; the classifier's name is told.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about: dict[str, str] = json.loads((file.metadata() or {})["whylens"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return StoredRepair(path, about["base"], about["fingerprint"], tensors)
    except FileNotFoundError as error:
        raise UsageError(f"{name}: there is no file {path}") from error
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UsageError(f"{name}: {path} holds no repaired head: {error}") from error


def _require_fit(base: Classifier, tensors: dict[str, Tensor]) -> None:
    size, classes = base.feature_size, len(base.class_names)
    wanted = {"weight": (classes, size), "directions": (len(tensors["offsets"]), size)}
    for key, shape in wanted.items():
        if tuple(tensors[key].shape) != shape:
            raise UsageError(
                f"the repair's {key} has the shape {tuple(tensors[key].shape)}, but "
                f"{base.name} needs {shape}: it is of another classifier"
            )
    if len(tensors["classes"]) and int(tensors["classes"].max()) >= classes:
        raise UsageError(
            f"the repair names the class {int(tensors['classes'].max())}, but {base.name} has "
            f"{classes} classes"
        )
