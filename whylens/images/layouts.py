"""Data sets whose images have attributes beside their class, as their authors lay them out.

`NAME:FOLDER?split=...`: Waterbirds (Sagawa et al. 2020), CelebA (Liu et al. 2015), Spawrious (Lynch
et al. 2023), MetaShift (Liang and Zou 2022), ImageNet-9's Backgrounds Challenge (Xiao et al. 2021),
CounterAnimal (Wang et al. 2024), Hard ImageNet (Moayeri et al. 2022), whose masks show the object;
and any other whose images, classes and attributes are columns of a CSV file.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.filesystem import filesystem
from whylens.images.collection import Rejected, RejectedImageError
from whylens.images.decoding import SUFFIXES, decode
from whylens.images.folder import FolderCollection
from whylens.images.listing import ImageRecord, Records

# A row of a table, by its header.
Cells = dict[str, str]


@dataclass(frozen=True)
class Row:
    """An image of a layout: its path below the folder, class, attributes, and split.

    `mask` is the file of where its object is, another image; None where there is none.
    """

    name: str
    class_name: str
    attributes: Mapping[str, str]
    split: str
    mask: str | None = None


@dataclass(frozen=True)
class Tree:
    """The files below a folder of any filesystem, and the options of the collection's name."""

    uri: str
    system: Any
    root: str
    options: Mapping[str, str]

    def images(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The path of each image file below the folder, and its parts."""
        for path in sorted(self.system.find(self.root)):
            name = path[len(self.root) :].lstrip("/")
            if PurePosixPath(name).suffix.lower() in SUFFIXES:
                yield name, PurePosixPath(name).parts

    def table(self, name: str, columns: tuple[str, ...]) -> list[Cells]:
        """The rows of a CSV file, which has to have some columns."""
        try:
            text = self.system.cat_file(f"{self.root}/{name}").decode()
        except OSError:
            raise UsageError(f"{self.uri}: there is no {name} in the folder") from None
        except UnicodeDecodeError:
            raise UsageError(f"{self.uri}: {name} is not UTF-8") from None
        rows = list(csv.DictReader(io.StringIO(text)))
        if not rows or not set(columns) <= set(rows[0]):
            raise UsageError(f"{self.uri}: {name} has not the columns {', '.join(columns)}")
        return rows


class LayoutCollection(FolderCollection):
    """The images of a layout's split (all where none is named), with their attributes."""

    def __init__(self, uri: str, layout: str, folder: str, options: Mapping[str, str]) -> None:
        read, known, expected = LAYOUTS[layout]
        if wrong := sorted(set(options) - {"split", *known}):
            raise UsageError(
                f"{uri}: unknown option {wrong[0]!r}; there are: {', '.join(('split', *known))}"
            )
        self.uri, self._folder = uri, folder
        system, root = filesystem(folder)
        if not system.isdir(root):
            raise UsageError(f"no folder {folder}")
        found = list(read(Tree(uri, system, root, options)))
        rows = [row for row in found if isinstance(row, Row)]
        self.rejected = tuple(row for row in found if isinstance(row, Rejected))
        if not rows and self.rejected:
            first = self.rejected[0]
            raise UsageError(f"{uri}: no image can be used, so {first.id}: {first.reason}")
        if not rows:
            raise UsageError(f"{uri}: no images laid out as {layout} are: {expected}")
        splits = sorted({row.split for row in rows})
        if (split := options.get("split")) is not None:
            rows = [row for row in rows if row.split == split]
            if not rows:
                raise UsageError(f"{uri}: no split {split!r}; there are: {', '.join(splits)}")
        rows.sort(key=lambda row: row.name)
        self.records = Records(
            [row.name for row in rows], f"{root}/", classes=[row.class_name for row in rows]
        )
        self._attributes = {
            name: [row.attributes[name] for row in rows] for name in rows[0].attributes
        }
        self._rows = {row.name: place for place, row in enumerate(rows)}
        self._masks = [row.mask for row in rows]

    def object_mask(self, record: ImageRecord) -> NDArray[np.bool_] | None:
        if (file := self._masks[self._rows[record.id]]) is None:
            return None
        system, path = filesystem(file)
        try:
            mask = decode(system.cat_file(path))
        except OSError as error:
            raise RejectedImageError(f"its mask can't be read: {error.strerror or error}") from None
        there: NDArray[np.bool_] = mask.max(2) > 0
        return there

    def attributes(self) -> Mapping[str, list[str]]:
        names = [self._rows[record.id] for record in self.records]
        return {name: [of[row] for row in names] for name, of in self._attributes.items()}


Found = Iterator[Row | Rejected]


def _rows_of(
    tree: Tree, name: str, rows: Sequence[Cells], image: str, read: Callable[[Cells], Row]
) -> Found:
    """What `read` makes of each row of the table `name`, whose column `image` names the image; of
    those that can't be used, the reason."""
    seen = set[str]()
    for line, row in enumerate(rows, 2):
        try:
            if not row[image]:
                raise RejectedImageError(f"line {line} of {name} names no image")
            if row[image] in seen:
                raise RejectedImageError(f"line {line} of {name} names it again")
            if None in row.values():
                raise RejectedImageError(f"line {line} of {name} is cut short")
            yield read(row)
            seen.add(row[image])
        except RejectedImageError as error:
            file = row[image] or name
            yield Rejected(file, f"{tree.root}/{file}", str(error))


def _coded(row: Cells, column: str, names: tuple[str, ...]) -> str:
    """What a column's number stands for."""
    if (said := row[column].strip()) not in map(str, range(len(names))):
        raise RejectedImageError(f"its {column} is {said!r}, not 0 to {len(names) - 1}")
    return names[int(said)]


def _waterbirds(tree: Tree) -> Found:
    image, name = "img_filename", "metadata.csv"

    def read(row: Cells) -> Row:
        return Row(
            row[image],
            _coded(row, "y", ("landbird", "waterbird")),
            {"place": _coded(row, "place", ("land", "water"))},
            _coded(row, "split", ("train", "val", "test")),
        )

    rows = tree.table(name, (image, "y", "split", "place"))
    return _rows_of(tree, name, rows, image, read)


def _celeba(tree: Tree) -> Found:
    target = tree.options.get("target", "Blond_Hair")
    attribute = tree.options.get("attribute", "Male")
    name = "list_attr_celeba.csv"
    rows = tree.table(name, ("image_id", target, attribute))
    parts = {
        row["image_id"]: row
        for row in tree.table("list_eval_partition.csv", ("image_id", "partition"))
    }

    def said(row: Cells, column: str) -> str:
        word = column.replace("_", " ").lower()
        return word if row[column].strip() == "1" else f"not {word}"

    def read(row: Cells) -> Row:
        if (part := parts.get(row["image_id"])) is None or part["partition"] is None:
            raise RejectedImageError("list_eval_partition.csv says nothing of it")
        return Row(
            f"img_align_celeba/{row['image_id']}",
            said(row, target),
            {attribute: said(row, attribute)},
            _coded(part, "partition", ("train", "val", "test")),
        )

    return _rows_of(tree, name, rows, "image_id", read)


def _spawrious(tree: Tree) -> Found:
    for name, parts in tree.images():
        if len(parts) == 4 and parts[0] in {"0", "1"}:
            split, location, dog, _ = parts
            yield Row(name, dog, {"location": location}, ("train", "test")[int(split)])


def _metashift(tree: Tree) -> Found:
    for name, parts in tree.images():
        if len(parts) == 4 and (found := re.fullmatch(r"(.+)\((.+)\)", parts[2])):
            yield Row(name, parts[1], {"context": found[2]}, parts[0])


def _imagenet9(tree: Tree) -> Found:
    for name, parts in tree.images():
        if len(parts) == 4 and (found := re.fullmatch(r"\d\d_(.+)", parts[2])):
            yield Row(name, found[1], {"variation": parts[0]}, parts[1])


def _counteranimal(tree: Tree) -> Found:
    for name, parts in tree.images():
        # The published folder LAION-final may be the collection's or below it.
        of_class = re.fullmatch(r"(\d+) .+", parts[-3]) if len(parts) > 2 else None
        group = re.match(r"(common|counter)\b", parts[-2]) if of_class else None
        if of_class and group:
            yield Row(name, of_class[1], {"group": group[1]}, "all")


def _hardimagenet(tree: Tree) -> Found:
    if (masks := tree.options.get("masks")) is None:
        raise UsageError(f"{tree.uri}: name the data set's folder of masks, ?masks=FOLDER")
    for name, parts in Tree(tree.uri, *filesystem(masks), {}).images():
        if len(parts) == 2 and (found := re.fullmatch(r"(n\d{8})_(.+)", parts[1])):
            wordnet, file = found.groups()
            yield Row(
                f"{parts[0]}/{wordnet}/{file}", wordnet, {}, parts[0], f"{masks.rstrip('/')}/{name}"
            )


def _metadata(tree: Tree) -> Found:
    image, label = (tree.options.get(*one) for one in (("image", "file_name"), ("class", "label")))
    wanted = tuple(one for one in tree.options.get("attributes", "").split(",") if one)
    table = tree.options.get("table", "metadata.csv")

    def read(row: Cells) -> Row:
        known = {image, label, "split", None}  # None: of cells beyond the header
        attributes = wanted or [name for name in row if name not in known]
        return Row(
            row[image],
            row[label],
            {name: row[name] for name in attributes},
            row.get("split", "all"),
        )

    return _rows_of(tree, table, tree.table(table, (image, label, *wanted)), image, read)


# What reads each layout, its options, and how it is laid out, in words.
LAYOUTS: dict[str, tuple[Callable[[Tree], Found], tuple[str, ...], str]] = {
    "waterbirds": (_waterbirds, (), "metadata.csv and what its img_filename names"),
    "celeba": (
        _celeba,
        ("target", "attribute"),
        "list_attr_celeba.csv, list_eval_partition.csv and img_align_celeba/",
    ),
    "spawrious": (_spawrious, (), "0/LOCATION/CLASS/*.png for training, 1/... for the test"),
    "metashift": (_metashift, (), "SPLIT/CLASS/CLASS(CONTEXT)/*.jpg"),
    "imagenet9": (_imagenet9, (), "VARIATION/val/00_CLASS/*.JPEG"),
    "counteranimal": (
        _counteranimal,
        (),
        "INDEX CLASS/common-PLACE/*.jpg and INDEX CLASS/counter-PLACE/*.jpg",
    ),
    "hardimagenet": (
        _hardimagenet,
        ("masks",),
        "ImageNet's SPLIT/WORDNET_ID/*.JPEG, and in the folder of masks SPLIT/WORDNET_ID_*.JPEG",
    ),
    "metadata": (
        _metadata,
        ("table", "image", "class", "attributes"),
        "a CSV file with columns of the images' paths, their classes and attributes",
    ),
}
