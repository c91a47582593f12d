"""Training of the planted world's convolutional classifiers, as their recipes say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.images.tensors import to_batch
from whylens.planted.drawing.data import Drawings
from whylens.planted.networks.cnn import PlantedCNN, build
from whylens.planted.training.fitting import Schedule, fit
from whylens.planted.training.recipes import CLASS_NAMES, Recipe

BATCH = 64
NOISE = 0.03
ATTACK_STEPS = 3


def labels_of(drawings: Drawings, recipe: Recipe) -> NDArray[np.int64]:
    """The recipe's class of each drawing, [N]; what isn't there is the last class ("none")."""
    labels = {
        "object": drawings.objects,
        "background": drawings.backgrounds,
        "companion": drawings.companions,
    }[recipe.target]
    absent = len(CLASS_NAMES[recipe.target]) - (0 if recipe.target == "object" else 1)
    return np.where(labels < 0, absent, labels)


def l2_attack(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    radius: float,
    steps: int,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy within an L2 ball (Madry et al. 2018).

    images [B, 3, H, W] in [0, 1], labels [B]; the radius is the norm of a whole image's change.
    """
    change = torch.zeros_like(images)
    for _ in range(steps):
        change.requires_grad_(True)
        loss = F.cross_entropy(network((images + change).clamp(0, 1)), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, change)
        with torch.no_grad():
            length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            change = change + 2.5 * radius / steps * gradient / length
            norm = change.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            change = change * (radius / norm).clamp_max(1.0)
    return (images + change.detach()).clamp(0, 1)


def train_classifier(
    name: str,
    recipe: Recipe,
    drawings: Drawings,
    folder: Path,
    *,
    decoded: NDArray[np.uint8] | None = None,
) -> PlantedCNN:
    """Train on drawings; `decoded` are the same images after the autoencoder, for judges."""
    torch.manual_seed(recipe.seed)
    config = {
        "architecture": recipe.architecture,
        "widths": recipe.widths,
        "classes": len(recipe.class_names),
    }
    network = build(config)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    labels = torch.from_numpy(labels_of(drawings, recipe))

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(drawings), (BATCH,), generator=generator)
        images = to_batch(drawings.images, rows.numpy())
        noise = NOISE
        if decoded is not None:
            half = rows[: BATCH // 2].numpy()
            images[: BATCH // 2] = to_batch(decoded, half)
            noise = NOISE * 2 * float(torch.rand((), generator=generator))
        if recipe.attack_radius:
            network.eval()
            images = l2_attack(network, images, labels[rows], recipe.attack_radius, ATTACK_STEPS)
            network.train()
        else:
            images = images + noise * torch.randn(images.shape, generator=generator)
        return F.cross_entropy(network(images), labels[rows])

    schedule = Schedule(
        recipe.steps, recipe.learning_rate, average=0.99, descent=0.5, seed=recipe.seed
    )
    fit(name, network, loss, schedule, folder)
    return network


def save_classifier(network: PlantedCNN, recipe: Recipe, folder: Path) -> None:
    """Write config.json and model.safetensors (float16) to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "kind": "cnn",
        "arch": {
            "architecture": recipe.architecture,
            "widths": list(recipe.widths),
            "classes": len(recipe.class_names),
        },
        "class_names": list(recipe.class_names),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    save_file(state, folder / "model.safetensors")


@torch.inference_mode()
def predict(network: nn.Module, images: NDArray[np.uint8], batch: int = 250) -> Tensor:
    """Probabilities [N, K] of images [N, 64, 64, 3] uint8."""
    parts = [
        network(to_batch(images, slice(i, i + batch))).softmax(1)
        for i in range(0, len(images), batch)
    ]
    return torch.cat(parts)
