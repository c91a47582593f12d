"""Neural PCA and its verdicts on vision transformers, in the planted world.

    python tests/planted_vit.py --seeds 1 --work out/planted_vit

No package ships a transformer's ImageNet weights, so small ones (timm's, patches of 8 pixels) are
trained on linked drawings, as `whylens planted check --discovery` trains convolutional networks,
and their findings are compared with the links in the same way. Their features have both signs,
where those of convolutional networks are what a ReLU leaves. The last line is JSON.
"""

import argparse
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.classifiers import from_module
from whylens.images.tensors import to_batch
from whylens.planted.checks.discovery import (
    SECOND,
    TRAINED,
    Collections,
    accuracies,
    compare,
    draw_collections,
    find,
    follows_context,
    study,
)
from whylens.planted.drawing.data import Drawings, draw_many
from whylens.planted.drawing.world import OBJECTS
from whylens.planted.training.fitting import Schedule, fit

logger = logging.getLogger(__name__)

SIDE, BATCH, STEPS, RATE = 64, 64, 800, 1e-3
MEAN = STD = (0.5, 0.5, 0.5)


def network() -> nn.Module:
    """A transformer of 64 patches, 96 wide and 4 blocks deep; features are their mean."""
    made: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=8, embed_dim=96, depth=4, num_heads=4,
        num_classes=len(OBJECTS), global_pool="avg",
    )  # fmt: skip
    return made


def trained(seed: int, drawings: Drawings, work: Path) -> nn.Module:
    """Trained on drawings, or as it is kept in the work folder."""
    path = work / f"vit-{seed}.safetensors"
    torch.manual_seed(seed)
    model = network()
    if path.exists():
        model.load_state_dict(load_file(path))
        return model
    labels = torch.from_numpy(drawings.objects)

    def loss(_: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(drawings), (BATCH,), generator=generator)
        images = to_batch(drawings.images, rows.numpy())
        images = images + 0.03 * torch.randn(images.shape, generator=generator)
        return F.cross_entropy(model(images * 2 - 1), labels[rows])

    fit(f"vit-{seed}", model, loss, Schedule(STEPS, RATE, seed=seed), work)
    save_file(model.state_dict(), path)
    return model


def check_seed(seed: int, collections: Collections, work: Path) -> dict[str, Any]:
    """Findings of one transformer against the links, and how often it is right."""
    drawings = draw_many("linked", TRAINED, 500 + seed, folder=work / "data")
    model = trained(seed, drawings, work)
    classifier = from_module(
        model, "head", class_names=OBJECTS, size=SIDE, mean=MEAN, std=STD, name=f"vit-{seed}"
    )
    seen = study(classifier, collections)
    for_context = partial(follows_context, classifier, SECOND)
    row = compare(find(seen, collections), collections.second, for_context)
    right = accuracies(seen, collections)
    return row | {f"accuracy.{name}": round(value, 4) for name, value in right.items()}


def main() -> None:
    """Parse the options, check every seed, print JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("out/planted_vit"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    collections = draw_collections(options.work)
    rows = []
    for seed in range(11, 11 + options.seeds):
        rows.append({"seed": seed} | check_seed(seed, collections, options.work))
        logger.info("%s", rows[-1])
    total = {
        name: sum(row[name] for row in rows)
        for name in ("findings", "true_findings", "planted", "found")
    }
    print(json.dumps(total | {"by_seed": rows}))


if __name__ == "__main__":
    main()
