"""A run folder as `whylens investigate` leaves it, made up from planted drawings: no models."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from whylens.planted.drawing.world import OBJECTS, Drawing, Scene, draw

# class -> (feature, kind, planted, share of images without the object that are called the class)
FOUND = {
    "fish": ("sea", "background", True, 0.86),
    "heart": ("bricks", "background", True, 0.61),
    "ring": ("balloon", "companion", True, 0.17),
    "cross": ("snow", "background", False, 0.03),
}


def drawing(name: str | None, feature: str, kind: str, look: int) -> Drawing:
    """One scene with the feature: a background, or a companion on the desert."""
    background = feature if kind == "background" else "desert"
    companion = feature if kind == "companion" else None
    return draw(Scene(name, background, companion, (look,)))


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def overlay(scene: Drawing, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The picture under a made-up heat map: warm where the mask of the feature is."""
    mask = scene.masks[kind].astype(float)
    noise = np.kron(rng.uniform(0.3, 1.0, (8, 8)), np.ones((8, 8)))
    heat = mask * noise
    for _ in range(4):
        heat = (heat + sum(np.roll(heat, s, a) for s in (-2, 2) for a in (0, 1))) / 5
    heat = heat / max(float(heat.max()), 1e-6)
    warm = np.stack([heat, 0.7 * np.sin(np.pi * heat), 1 - heat], -1) * 255
    grey = scene.image.mean(-1, keepdims=True)
    return np.clip(0.5 * grey + 0.5 * warm, 0, 255).astype(np.uint8)


def write_part(folder: Path, table: str, rows: list[dict[str, Any]], unit: str = "part-0") -> None:
    """One part of a table, as whylens.runs lays it out."""
    path = folder / "tables" / table / f"{unit}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def build_run(
    folder: Path,
    *,
    seed: int = 0,
    without: Iterable[str] = (),
    findings: int = 4,
    planted: bool = True,
) -> Path:
    """A synthetic investigation in `folder`; `without` names tables whose stage never ran."""
    rng = np.random.default_rng(seed)
    left_out = set(without)

    def write(table: str, rows: list[dict[str, Any]]) -> None:
        if table not in left_out and rows:
            write_part(folder, table, rows)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(manifest(seed)))
    write("images", image_rows(rng))
    write("rejected", [
        {"id": "fish/torn.png", "path": "photos/fish/torn.png", "collection": "main",
         "reason": "truncated: the file ends before the picture does"},
        {"id": "moon/notes.txt", "path": "photos/moon/notes.txt", "collection": "main",
         "reason": "not an image"},
        {"id": "a/<b>&.jpg", "path": "photos/a/<b>&.jpg", "collection": "second",
         "reason": "empty file"},
    ])  # fmt: skip

    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("findings", "exemplars", "mined", "generated")
    }
    for rank, name in enumerate(list(FOUND)[:findings], start=1):
        add_finding(tables, rank, name, planted, rng)
    for table, rows in tables.items():
        write(table, rows)
    write("counterfactuals", counterfactual_rows())
    write("disagreements", disagreement_rows())
    return folder


def manifest(seed: int) -> dict[str, Any]:
    """run.json."""
    return {
        "format": 1,
        "job": "investigate",
        "created": "2026-11-24T10:00:00Z",
        "seed": seed,
        "state": "finished",
        "spec": {
            "classifier": "planted:biased",
            "against": "planted:clip",
            "images": "planted:linked?count=2000&seed=0",
            "second": "planted:features?count=2000&seed=1",
            "sampler": "planted",
            "generate": {"images": 4, "optimisation_steps": 20, "learning_rate": 0.01},
        },
        "versions": {"whylens": "0.1.0", "torch": "2.14.1", "diffusers": "0.42.0", "ray": "2.60.0"},
        "timings": {"embed": 41.2, "components": 1.9, "exemplars": 12.4, "generate": 380.5},
        "warnings": [
            "The sampler was trained on drawings: its images of photographs' classes show what "
            "it can draw, not what a camera would see."
        ],
    }


def image_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    """The table images: 120 rows, the classes in turn."""
    rows = []
    for index in range(120):
        k = index % len(OBJECTS)
        right = rng.random() < 0.92
        p = float(rng.uniform(0.7, 0.99) if right else rng.uniform(0.01, 0.3))
        key = f"{OBJECTS[k]}/{index:05d}.png"
        rows.append({
            "id": key, "path": f"planted:linked/{key}", "label": k, "class_name": OBJECTS[k],
            "thumb": b"", "features": [0.0, 1.0],
            "top5_classes": [k, (k + 1) % 10] if right else [(k + 1) % 10, k],
            "top5_probabilities": [max(p, 1 - p), min(p, 1 - p)],
            "p_label": p, "collection": "main",
        })  # fmt: skip
    return rows


def add_finding(
    tables: dict[str, list[dict[str, Any]]],
    rank: int,
    name: str,
    planted: bool,
    rng: np.random.Generator,
) -> None:
    """One finding with its images, in all the tables that tell of it."""
    feature, kind, true, share = FOUND[name]
    key = {"class_index": OBJECTS.index(name), "component": rank % 3}
    tables["findings"].append({
        "rank": rank, **key, "class_name": name, "suspicion": 0.92 - 0.21 * rank,
        "sufficiency_share": share, "sufficiency_mean_p": share * 0.9,
        "variance_share": 0.31 / rank, "logit_share": 0.34, "lift": 12.4 * share,
        "guess": [feature, "desert"], "suspicious": share > 0.1,
        **({"truth": feature if true else ""} if planted else {}),
    })  # fmt: skip
    for place in range(6):
        with_object = drawing(name, feature, kind, 100 * rank + place)
        tables["exemplars"].append({
            **key, "place": place, "image_id": f"{name}/{place:05d}.png", "alpha": 4.2 - place / 3,
            "p_class": 0.99 - 0.01 * place, "thumb": encoded(with_object.image, "WEBP"),
            "heatmap": encoded(overlay(with_object, kind, rng)),
        })  # fmt: skip
        alone = drawing(None, feature, kind, 200 * rank + place)
        tables["mined"].append({
            **key, "place": place, "image_id": f"features/{rank}-{place}.png", "label": -1,
            "alpha": 3.9 - place / 5, "thumb": encoded(alone.image, "WEBP"),
            "p_class": float(np.clip(rng.normal(share, 0.12), 0.01, 0.995)),
            "heatmap": encoded(overlay(alone, kind, rng)),
        })  # fmt: skip
    for place in range(4):
        failed = place == 3 and rank == 2
        start = drawing(name, "sunset", "background", 300 * rank + place)
        after = drawing(name, feature, kind, 300 * rank + place)
        tables["generated"].append({
            "rank": rank, **key, "place": place, "kind": "component",
            "image": None if failed else encoded(after.image),
            "start_image": encoded(start.image),
            "p_class": None if failed else 0.93 - 0.1 * place,
            "p_start": 0.12 + 0.05 * place, "alpha": 4.4,
            "alpha_start": -0.8, "losses": [2.0 - 0.1 * i for i in range(20)],
            "prompt": f"a photo of a {name}", "seed": place,
            "failed": "the loss was not finite at step 0" if failed else None,
        })  # fmt: skip


def counterfactual_rows() -> list[dict[str, Any]]:
    """Six counterfactuals: four flipped, one not, one failed."""
    rows = []
    for index in range(6):
        k, target = index, (index + 3) % 10
        before = drawing(OBJECTS[k], "meadow", "background", index).image
        after = drawing(OBJECTS[target], "meadow", "background", index).image
        gap = np.abs(before.astype(int) - after.astype(int)).astype(np.uint8)
        done, failed = index != 4, index == 5
        rows.append({
            "image_id": f"{OBJECTS[k]}/{k:05d}.png", "source_class": k, "target_class": target,
            "before": encoded(before), "after": None if failed else encoded(after),
            "difference": None if failed else encoded(gap), "p_source_before": 0.94,
            "p_source_after": 0.03 if done else 0.61, "p_target_before": 0.02,
            "p_target_after": 0.95 if done else 0.31, "l1": 0.08, "l2": 3.4,
            "losses": [3.0 - 0.12 * i for i in range(20)], "flipped": done and not failed,
            "failed": "the inversion did not converge" if failed else None,
            "against_source_before": 0.9, "against_source_after": 0.1,
            "against_target_before": 0.01, "against_target_after": 0.88 if done else 0.12,
        })  # fmt: skip
    return rows


def disagreement_rows() -> list[dict[str, Any]]:
    """Two classes, two images each."""
    return [
        {"class_index": OBJECTS.index(name), "class_name": name,
         "image": encoded(drawing(None, FOUND[name][0], "background", place).image),
         "start_image": encoded(drawing(name, "sunset", "background", place).image),
         "p_a": 0.96, "p_b": 0.04, "p_a_start": 0.55, "p_b_start": 0.81,
         "prompt": f"a photo of a {name}", "seed": place,
         "losses": [0.3 - 0.05 * i for i in range(20)], "failed": None}
        for name in ("fish", "heart") for place in range(2)
    ]  # fmt: skip
