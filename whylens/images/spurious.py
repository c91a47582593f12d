"""Spurious images: each shows a feature that passes for a class, and not the class itself.

Spurious ImageNet (Neuhaus et al., ICCV 2023) in its published layout, any Parquet data set, and the
planted world's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import pyarrow.compute as pc

from whylens.errors import UsageError
from whylens.images.collection import ImageCollection
from whylens.images.opening import open_collection
from whylens.images.parquet import ParquetCollection
from whylens.images.planted import PlantedCollection
from whylens.planted.drawing.world import shows_feature_of


@dataclass(frozen=True)
class SpuriousCollection:
    """A collection; for each record the class that it is spurious for, by name or by index.

    `components` holds the index of the class's neural PCA component, None where it isn't known;
    `published` says that the folder is laid out as the published data set's.
    """

    images: ImageCollection
    classes: tuple[int | str, ...]
    components: tuple[int | None, ...]
    published: bool = False

    def only(self, images: ImageCollection) -> SpuriousCollection:
        """Of some of its images, in their order here."""
        kept = pc.is_in(self.images.records.ids(), value_set=images.records.ids()).to_pylist()
        classes, components = compress(self.classes, kept), compress(self.components, kept)
        return replace(self, images=images, classes=tuple(classes), components=tuple(components))


def open_spurious(uri: str, column: str = "spurious_for") -> SpuriousCollection:
    """List spurious images.

    Parameters
    ----------
    uri
        A folder whose subfolders are named as those of the published data set,
        <a>_<b>_<class index>_..._<component>; a Parquet data set; or planted:spurious?count=&seed=.
    column
        Parquet: the column of class names or indices; a column `component` is read if there is one.

    Raises
    ------
    UsageError
        If it isn't there, holds no images, or doesn't say what they are spurious for.
    """
    images = open_collection(uri)
    if isinstance(images, PlantedCollection):
        return _planted(images)
    if isinstance(images, ParquetCollection):
        return _parquet(images, column)
    return _published(images)


def _published(images: ImageCollection) -> SpuriousCollection:
    """The third field of the folder's name is the class, the last the component."""
    parsed = {folder: _fields(folder) for folder in {_folder(r.id) for r in images.records}}
    wrong = sorted(folder or "(no folder)" for folder, found in parsed.items() if found is None)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UsageError(
            f"{images.uri}: the folders {', '.join(wrong[:5])}{more} are not named as in the "
            "published data set, <a>_<b>_<class index>_..._<component>; other spurious images go "
            "into a Parquet data set with a column that names the class"
        )
    found = [fields for r in images.records if (fields := parsed[_folder(r.id)])]
    classes, components = tuple(f[0] for f in found), tuple(f[1] for f in found)
    return SpuriousCollection(images, classes, components, published=True)


def _fields(folder: str) -> tuple[int, int] | None:
    fields = folder.split("_")
    if len(fields) > 3 and fields[2].isdecimal() and fields[-1].isdecimal():
        return int(fields[2]), int(fields[-1])
    return None


def _folder(name: str) -> str:
    return name.split("/")[-2] if "/" in name else ""


def _parquet(images: ParquetCollection, column: str) -> SpuriousCollection:
    classes = images.column(column)
    unnamed = sum(value is None for value in classes)
    if unnamed:
        raise UsageError(f"{images.uri}: {unnamed} rows have no {column}")
    components: list[Any] = [None] * len(images)
    if "component" in images.column_names:
        components = [None if c is None else int(c) for c in images.column("component")]
    kept = (value if isinstance(value, int) else str(value) for value in classes)
    return SpuriousCollection(images, tuple(kept), tuple(components))


def _planted(images: PlantedCollection) -> SpuriousCollection:
    if images.split != "spurious":
        raise UsageError(
            f"{images.uri}: of the planted splits, planted:spurious?count=N&seed=S is the one "
            "whose images show one planted feature each, and not its object"
        )
    classes = tuple(shows_feature_of(images.scene(record)) or "" for record in images.records)
    return SpuriousCollection(images, classes, tuple(None for _ in classes))
