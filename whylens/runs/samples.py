"""A run's findings as a FiftyOne dataset: the images that show them, as files it can open."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from whylens.errors import WhylensError
from whylens.runs.lineage import Lineage

# By class and component.
Findings = Mapping[tuple[int, int], Mapping[str, Any]]
# The tables with images of findings: what their samples are tagged, and the column of the image.
SHOWN = {
    "exemplars": ("exemplar", "thumb"),
    "mined": ("without the object", "thumb"),
    "generated": ("generated", "image"),
}
HEATMAP = "heatmap_path"
# What a row tells of its image beside the classification, where its table has it.
TOLD = ("image_id", "alpha", "prompt", "seed")


def as_dataset(run: Lineage, folder: str, name: str | None = None) -> Any:
    """A `fiftyone.Dataset` with a sample for each image of each finding.

    A sample's tags say how the image came to be there and whether the finding is suspicious;
    `says` is the finding's class as a `Classification`, its confidence what the classifier gives
    it; `finding`, `component`, `suspicion`, `seems_to_be` tell of the finding. Heat maps are
    another media field, which the App shows in the place of the image.

    folder: where the images are written to, which FiftyOne refers to from then on
    name: the dataset's; FiftyOne makes one up where there is none

    Raises
    ------
    WhylensError
        If FiftyOne is not installed.
    """
    try:
        fiftyone = importlib.import_module("fiftyone")
    except ImportError as error:
        raise WhylensError(f"FiftyOne can't be imported ({error}): pip install fiftyone") from error
    findings = {(row["class_index"], row["component"]): row for row in run.rows("findings")}
    dataset = fiftyone.Dataset(name)
    for table in SHOWN:
        # Parts go to the database one by one: a run may have more images than the memory holds.
        for told in _parts(run, table, findings, Path(folder).absolute() / table):
            dataset.add_samples(
                [
                    fiftyone.Sample(says=fiftyone.Classification(**says), **fields)
                    for says, fields in told
                ]
            )
    dataset.info = {"whylens run": run.runs[0].folder}
    dataset.app_config.media_fields = ["filepath", HEATMAP]
    dataset.save()
    return dataset


def _parts(
    run: Lineage, table: str, findings: Findings, folder: Path
) -> Iterator[list[tuple[dict[str, Any], dict[str, Any]]]]:
    """The samples of each part of a table: their classification, and their other fields."""
    if not run.has(table):
        return
    stored = run.table(table)
    for unit in stored.units():
        try:
            rows = stored.read(units=[unit]).to_pylist()
        except WhylensError:
            continue  # a damaged part, which the run's problems name
        samples = [
            sample
            for place, row in enumerate(rows)
            if (finding := findings.get((row["class_index"], row["component"])))
            and (sample := _sample(row, finding, table, folder / f"{unit}-{place}"))
        ]
        if samples:
            yield samples


def _sample(
    row: Mapping[str, Any], finding: Mapping[str, Any], table: str, file: Path
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A row's classification and fields, its pictures written; None without a readable picture."""
    tag, column = SHOWN[table]
    # Plain images that generation started from show no feature.
    path = None if row.get("kind") == "start" else _written(row.get(column), file)
    if path is None:
        return None
    guess = finding.get("guess") or ()
    fields = {
        "filepath": path,
        HEATMAP: _written(row.get("heatmap"), file.with_name(f"{file.name}-heatmap")),
        "tags": [tag, *(["suspicious"] if finding.get("suspicious") else [])],
        "finding": finding["rank"],
        "component": row["component"],
        "suspicion": finding.get("suspicion"),
        "seems_to_be": guess if isinstance(guess, str) else ", ".join(guess),
        **{key: row.get(key) for key in TOLD},
    }
    name = finding.get("class_name") or str(row["class_index"])
    return {"label": name, "confidence": row.get("p_class")}, fields


def _written(content: bytes | None, file: Path) -> str | None:
    """The file of a picture, with the suffix of its format; None where it is none."""
    try:
        with Image.open(io.BytesIO(content or b"")) as image:
            suffix = str(image.format).lower()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    path = file.with_name(f"{file.name}.{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content or b"")
    return str(path)
