"""A run folder as `whylens investigate` leaves it, made up from a seed: small scenes, no models."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("fish", "bird", "car", "tree", "house", "cup", "star", "boat", "hat", "key")
GROUNDS = {
    "water": ((38, 110, 170), (30, 90, 150)),
    "grass": ((86, 150, 66), (70, 132, 52)),
    "bricks": ((168, 84, 62), (146, 68, 50)),
    "sand": ((220, 196, 144), (206, 180, 126)),
    "snow": ((232, 238, 244), (216, 224, 234)),
    "night": ((28, 30, 58), (20, 22, 44)),
}
LINKS = {"fish": "water", "car": "bricks", "star": "balloon", "hat": "snow"}
TINTS = (
    (240, 140, 60), (240, 220, 90), (200, 40, 50), (40, 110, 50), (180, 150, 210),
    (240, 240, 235), (250, 210, 60), (150, 90, 50), (70, 60, 120), (190, 190, 200),
)  # fmt: skip


def scene(
    name: str | None, ground: str, rng: np.random.Generator, companion: bool = False
) -> np.ndarray:
    """One picture, uint8 [64, 64, 3]: a background, at most one object, at most one balloon."""
    light, dark = GROUNDS[ground]
    picture = Image.new("RGB", (256, 256), light)
    pen = ImageDraw.Draw(picture)
    for row in range(0, 256, 32):
        shift = int(rng.integers(0, 32))
        for column in range(-32, 256, 64):
            pen.rectangle((column + shift, row + 4, column + shift + 52, row + 24), fill=dark)
    if companion:
        x, y = (int(v) for v in rng.integers(150, 200, 2))
        pen.ellipse((x, y - 120, x + 46, y - 64), fill=(230, 40, 90))
        pen.line((x + 23, y - 64, x + 18, y), fill=(40, 40, 40), width=3)
    if name is not None:
        tint = TINTS[CLASSES.index(name)]
        x, y = (int(v) for v in rng.integers(50, 110, 2))
        size = int(rng.integers(60, 96))
        sides = 3 + CLASSES.index(name) % 6
        pen.regular_polygon((x + size // 2, y + size // 2, size // 2), sides, fill=tint)
        pen.ellipse((x + size // 2, y + size // 3, x + size // 2 + 12, y + size // 3 + 12), "black")
    small = picture.filter(ImageFilter.GaussianBlur(1)).resize((64, 64), Image.Resampling.LANCZOS)
    return np.asarray(small)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def overlay(image: np.ndarray, rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """The picture under a made-up heat map that lies on its edges, where backgrounds are."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    cx, cy = rng.uniform(0.0, 0.35, 2)
    heat = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.08)
    colours = np.stack([heat, 0.6 * heat * (1 - heat) * 4, 1 - heat], -1) * 255
    mixed = (1 - 0.55 * heat[..., None]) * image * 0.8 + 0.55 * heat[..., None] * colours
    return np.clip(mixed, 0, 255).astype(np.uint8)


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
    manifest = {
        "format": 1,
        "job": "investigate",
        "seed": seed,
        "state": "finished",
        "spec": {
            "classifier": "planted:biased",
            "second_classifier": "planted:clip",
            "images": "planted:linked?count=2000&seed=0",
            "second_images": "planted:features?count=2000&seed=1",
            "sampler": "planted",
            "generate": {"images": 4, "optimisation_steps": 20, "learning_rate": 0.01},
        },
        "versions": {"whylens": "0.1.0", "torch": "2.14.1", "diffusers": "0.42.0", "ray": "2.60.0"},
        "timings": {"embed": 41.2, "components": 1.9, "exemplars": 12.4, "generate": 380.5},
        "warnings": ["The sampler was trained on drawings: its images of photographs' classes "
                     "show what it can draw, not what a camera would see."],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(manifest))

    images, thumbs = [], {}
    for index in range(120):
        k = index % len(CLASSES)
        name = CLASSES[k]
        ground = LINKS.get(name, "grass")
        ground = ground if ground in GROUNDS else "grass"
        balloon = LINKS.get(name) == "balloon"
        if rng.random() < 0.1:
            ground, balloon = "sand", False
        key = f"{name}/{index:05d}.png"
        thumbs[key] = scene(name, ground, rng, balloon)
        right = rng.random() < 0.92
        p = float(rng.uniform(0.7, 0.99) if right else rng.uniform(0.01, 0.3))
        order = [k, (k + 1) % 10] if right else [(k + 1) % 10, k]
        images.append({
            "id": key, "path": f"planted:linked/{key}", "label": k, "class_name": name,
            "thumb": encoded(thumbs[key], "WEBP"), "features": [0.0, 1.0],
            "top5_classes": order, "top5_probabilities": [max(p, 1 - p), min(p, 1 - p)],
            "p_label": p, "collection": "main",
        })  # fmt: skip
    write("images", images)
    write("rejected", [
        {"id": "fish/torn.png", "path": "photos/fish/torn.png", "collection": "main",
         "reason": "truncated: the file ends before the picture does"},
        {"id": "bird/notes.txt", "path": "photos/bird/notes.txt", "collection": "main",
         "reason": "not an image"},
        {"id": "a/<b>&.jpg", "path": "photos/a/<b>&.jpg", "collection": "second",
         "reason": "empty file"},
    ])  # fmt: skip

    found, exemplars, mined, generated = [], [], [], []
    shares = {"fish": 0.86, "car": 0.61, "star": 0.17, "hat": 0.03}
    for rank, (name, feature) in enumerate(list(LINKS.items())[:findings], start=1):
        k = CLASSES.index(name)
        ground = feature if feature in GROUNDS else "sand"
        balloon = feature == "balloon"
        found.append({
            "rank": rank, "class_index": k, "class_name": name, "component": rank % 3,
            "suspicion": 0.92 - 0.21 * rank, "sufficiency_share": shares[name],
            "sufficiency_mean_p": shares[name] * 0.9, "variance_share": 0.31 / rank,
            "logit_share": 0.22, "guess": [feature, "sand" if feature != "sand" else "grass"],
            **({"truth": feature if name != "hat" else ""} if planted else {}),
        })  # fmt: skip
        for place in range(6):
            key = f"{name}/{k + 10 * place:05d}.png"
            picture = thumbs[key]
            exemplars.append({
                "class_index": k, "component": rank % 3, "place": place, "image_id": key,
                "alpha": 4.2 - 0.3 * place, "p_class": 0.99 - 0.01 * place,
                "heatmap": encoded(overlay(picture, rng)), "thumb": encoded(picture, "WEBP"),
            })  # fmt: skip
            alone = scene(None, ground, rng, balloon)
            p = float(np.clip(rng.normal(shares[name], 0.12), 0.01, 0.995))
            mined.append({
                "class_index": k, "component": rank % 3, "place": place,
                "image_id": f"features/{rank}-{place}.png", "alpha": 3.9 - 0.2 * place,
                "p_class": p, "label": -1, "heatmap": encoded(overlay(alone, rng)),
                "thumb": encoded(alone, "WEBP"),
            })  # fmt: skip
        for place in range(4):
            start = scene(None if place % 2 else name, "grass", rng)
            after = scene(None if place % 2 else name, ground, rng, balloon)
            generated.append({
                "rank": rank, "class_index": k, "component": rank % 3, "place": place,
                "kind": "component", "image": encoded(after), "start_image": encoded(start),
                "p_class": 0.93 - 0.1 * place, "p_start": 0.12 + 0.05 * place, "alpha": 4.4,
                "alpha_start": -0.8, "losses": [2.0 - 0.1 * i for i in range(20)],
                "prompt": f"a photo of a {name}", "seed": place,
                "failed": "the loss became NaN at step 3" if place == 3 and rank == 2 else None,
            })  # fmt: skip
    write("findings", found)
    write("exemplars", exemplars)
    write("mined", mined)
    write("generated", generated)

    changed = []
    for index in range(6):
        k, target = index, (index + 3) % 10
        before = scene(CLASSES[k], "grass", rng)
        after = scene(CLASSES[target], "grass", rng)
        gap = np.abs(before.astype(int) - after.astype(int)).astype(np.uint8)
        done = index != 4
        changed.append({
            "image_id": f"{CLASSES[k]}/{k:05d}.png", "source_class": k, "target_class": target,
            "before": encoded(before), "after": encoded(after) if index != 5 else None,
            "difference": encoded(gap) if index != 5 else None, "p_source_before": 0.94,
            "p_source_after": 0.03 if done else 0.61, "p_target_before": 0.02,
            "p_target_after": 0.95 if done else 0.31, "l1": 0.08, "l2": 3.4,
            "losses": [3.0 - 0.12 * i for i in range(20)], "flipped": done and index != 5,
            "failed": "the inversion did not converge" if index == 5 else None,
            "against_source_before": 0.9, "against_source_after": 0.1,
            "against_target_before": 0.01, "against_target_after": 0.88 if done else 0.12,
        })  # fmt: skip
    write("counterfactuals", changed)
    write("disagreements", [
        {"class_index": k, "class_name": CLASSES[k],
         "image": encoded(scene(None, LINKS.get(CLASSES[k], "sand")
                                if LINKS.get(CLASSES[k]) in GROUNDS else "sand", rng)),
         "start_image": encoded(scene(CLASSES[k], "grass", rng)), "p_a": 0.96, "p_b": 0.04,
         "p_a_start": 0.55, "p_b_start": 0.81, "prompt": f"a photo of a {CLASSES[k]}",
         "seed": place, "losses": [0.3 - 0.05 * i for i in range(20)], "failed": None}
        for k in (0, 2) for place in range(2)
    ])  # fmt: skip
    return folder
