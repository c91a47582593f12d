"""Whether two runs of one command hold the same tables, `compare_runs.py BEFORE AFTER`.

Of both runs, the first made before a change of the code and the second after it:

- tables, rows and columns are the same, but for the renamed, added and ignored ones stated below;
- rows are matched by their table's key, since the names of parts hold a hash of the spec;
- numbers a and b differ by at most `--tolerance` * max(1, |a|, |b|): an absolute bound for
  probabilities and whatever is below 1, a relative one above. float16 may be one rounding apart,
  2^-10 of the number. Not-a-number equals itself only, integers and truth values are equal;
- strings are equal, lists and structs are compared element by element;
- bytes are pictures, compared as pixels: at most `--share` of them differ, none by more than
  `--levels` of 255 in any channel. Bytes that are no pictures are equal.

Prints a line a table, then the first differences, then all of it as one line of JSON. Exits with 1
if there is any difference, with 2 if one of the folders holds no finished run.
"""

import argparse
import io
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

# What names a row. Rows of equal keys, and of tables that aren't here, are compared in their order.
KEYS = {
    "census": ("part", "collection", "class_index"),
    "components": ("class_index", "component"),
    "counterfactuals": ("image_id", "target_class"),
    "disagreements": ("class_index", "classifier_a", "classifier_b", "place"),
    "evaluation": ("method", "classifier"),
    "exemplars": ("class_index", "component", "place"),
    "findings": ("class_index", "component"),
    "generated": ("class_index", "component", "kind", "place"),
    "images": ("collection", "id"),
    "inversions": ("image_id", "prompt"),
    "leaderboard": ("classifier",),
    "mined": ("class_index", "component", "place"),
    "neuron_exemplars": ("neuron", "by", "place"),
    "neuron_words": ("neuron", "prompt"),
    "neurons": ("neuron", "kind", "place"),
    "pairs": ("method", "pair"),
    "rejected": ("collection", "id"),
    "scouted": ("class_name", "classifier", "prompt", "seed"),
    "starts": ("class_index", "component", "prompt"),
    "listings": ("collection", "id"),
    "thumbnails": ("collection", "id"),
    "visualisations": ("class_index", "component"),
}
# table -> {name before: name after}; the keys above are names before.
RENAMED: Mapping[str, Mapping[str, str]] = {}
# table -> columns that only the run after has.
ADDED: Mapping[str, frozenset[str]] = dict.fromkeys(
    ("counterfactuals", "disagreements", "generated", "neurons"), frozenset({"objective"})
)
# table -> columns that are not compared: names of the runs' own folders and files, and times. The
# tables of `investigate` and `neurons` have none (`path` in `images` is the collection's own).
IGNORED: Mapping[str, frozenset[str]] = {"evaluation": frozenset({"run"})}
SHOWN = 20


@dataclass(frozen=True)
class Allowed:
    """How far values may be apart; see above."""

    tolerance: float = 1e-4
    levels: int = 2
    share: float = 0.01


@dataclass
class Comparison:
    """What was compared of one table, the largest differences in it, and those not allowed."""

    table: str
    rows: int = 0
    columns: int = 0
    numbers: int = 0
    number: float = 0.0  # |a - b| / max(1, |a|, |b|)
    number_at: str = ""
    pictures: int = 0
    other_pictures: int = 0  # pictures with any pixel that differs
    levels: int = 0
    share: float = 0.0
    picture_at: str = ""
    by_column: dict[str, int] = field(default_factory=dict)  # how many differences
    differences: list[str] = field(default_factory=list)

    def differ(self, where: str, what: str) -> None:
        self.differences.append(f"{self.table}: {where}: {what}")


def read(run: Path, table: str) -> pa.Table:
    """A table's finished parts by unit name."""
    parts = sorted((run / "tables" / table).glob("*.parquet"))
    read = [pq.read_table(part) for part in parts if not part.name.startswith(".")]
    return pa.concat_tables(read, promote_options="permissive")


def tables(run: Path) -> set[str]:
    return {part.parent.name for part in run.glob("tables/*/[!.]*.parquet")}


def compare_runs(before: Path, after: Path, allowed: Allowed) -> list[Comparison]:
    """Every table of both runs."""
    found = []
    there = tables(before), tables(after)
    for table in sorted(there[0] | there[1]):
        comparison = Comparison(table)
        for has, name in zip(there, ("before", "after"), strict=True):
            if table not in has:
                comparison.differ("table", f"missing {name}")
        if not comparison.differences:
            compare_tables(comparison, read(before, table), read(after, table), allowed)
        found.append(comparison)
    return found


def compare_tables(
    comparison: Comparison, before: pa.Table, after: pa.Table, allowed: Allowed
) -> None:
    """Two tables' columns, and the values of the rows that both have."""
    renamed = RENAMED.get(comparison.table, {})
    before = before.rename_columns([renamed.get(name, name) for name in before.column_names])
    ignored = IGNORED.get(comparison.table, frozenset())
    names = [name for name in before.column_names if name not in ignored]
    added = ADDED.get(comparison.table, frozenset()).difference(names)
    others = {*after.column_names} - added - ignored
    for name in names:
        if name not in others:
            comparison.differ(f"column {name}", "missing after")
    for name in sorted(others.difference(names)):
        comparison.differ(f"column {name}", "missing before")
    columns = []
    for name in names:
        if name in others:
            one, other = before.schema.field(name).type, after.schema.field(name).type
            if one == other:
                columns.append((name, one))
            else:
                comparison.differ(f"column {name}", f"{one} before, {other} after")
    comparison.columns = len(columns)

    key = [renamed.get(name, name) for name in KEYS.get(comparison.table, ())]
    if missing := [name for name in key if name not in {*before.column_names} & others]:
        comparison.differ("key", f"no column {', '.join(missing)}: state another in KEYS")
        return
    rows = by_key(before, key), by_key(after, key)
    for name in dict.fromkeys([*rows[0], *rows[1]]):
        for side, label in zip(rows, ("before", "after"), strict=True):
            if name not in side:
                comparison.differ(name, f"row missing {label}")
    values = [{name: t[name].to_pylist() for name, _ in columns} for t in (before, after)]
    for row, index in rows[0].items():
        if row in rows[1]:
            comparison.rows += 1
            for name, kind in columns:
                pair = values[0][name][index], values[1][name][rows[1][row]]
                found = len(comparison.differences)
                compare_values(comparison, kind, *pair, f"{row} {name}", allowed)
                if more := len(comparison.differences) - found:
                    comparison.by_column[name] = comparison.by_column.get(name, 0) + more


def by_key(table: pa.Table, key: list[str]) -> dict[str, int]:
    """Row numbers by what names the rows, e.g. "class_index=3 component=0"."""
    columns = [table[name].to_pylist() for name in key]
    seen: defaultdict[str, int] = defaultdict(int)
    rows = {}
    for index in range(len(table)):
        name = " ".join(f"{k}={c[index]}" for k, c in zip(key, columns, strict=True)) or "row"
        seen[name] += 1
        rows[name if key and seen[name] == 1 else f"{name} #{seen[name]}"] = index
    return rows


def compare_values(
    comparison: Comparison, kind: pa.DataType, a: Any, b: Any, where: str, allowed: Allowed
) -> None:
    """Two values of one Arrow type."""
    if a is None or b is None:
        if a is not b:
            comparison.differ(where, f"{a!r:.80} before, {b!r:.80} after")
    elif pa.types.is_struct(kind):
        for inner in kind:
            pair = a[inner.name], b[inner.name]
            compare_values(comparison, inner.type, *pair, f"{where}.{inner.name}", allowed)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        if len(a) != len(b):
            comparison.differ(where, f"{len(a)} items before, {len(b)} after")
        for index, pair in enumerate(zip(a, b, strict=False)):
            compare_values(comparison, kind.value_type, *pair, f"{where}[{index}]", allowed)
    elif pa.types.is_floating(kind):
        rounding = 2**-10 if pa.types.is_float16(kind) else 0.0
        compare_numbers(comparison, a, b, where, max(allowed.tolerance, rounding))
    elif pa.types.is_binary(kind):
        compare_pictures(comparison, a, b, where, allowed)
    elif a != b:
        comparison.differ(where, f"{a!r:.80} before, {b!r:.80} after")


def compare_numbers(comparison: Comparison, a: float, b: float, where: str, most: float) -> None:
    comparison.numbers += 1
    if a == b or (math.isnan(a) and math.isnan(b)):
        return
    apart = abs(a - b) / max(1.0, abs(a), abs(b))
    if apart > comparison.number and math.isfinite(apart):
        comparison.number, comparison.number_at = apart, where
    if not apart <= most:  # or not a number, where either isn't finite
        comparison.differ(where, f"{a:.9g} before, {b:.9g} after")


def compare_pictures(
    comparison: Comparison, a: bytes, b: bytes, where: str, allowed: Allowed
) -> None:
    comparison.pictures += 1
    if a == b:
        return
    comparison.other_pictures += 1
    one, other = pixels(a), pixels(b)
    if one is None or other is None:
        comparison.differ(where, f"other bytes ({len(a)} before, {len(b)} after), no picture")
    elif one.shape != other.shape:
        comparison.differ(where, f"a picture of {one.shape} before, {other.shape} after")
    else:
        apart = np.abs(one - other).max(axis=-1)  # [H, W]
        levels, share = int(apart.max()), float(np.mean(apart > 0))
        if (levels, share) > (comparison.levels, comparison.share):
            comparison.levels, comparison.share, comparison.picture_at = levels, share, where
        if levels > allowed.levels or share > allowed.share:
            comparison.differ(where, f"{share:.2%} of pixels differ, by up to {levels} levels")


def pixels(content: bytes) -> np.ndarray | None:
    """[H, W, channels] of a picture, or None where the bytes are none."""
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        return None
    array = np.asarray(image.convert("RGB") if image.mode == "P" else image, dtype=np.int16)
    return array if array.ndim == 3 else array[..., None]


def lines(comparisons: list[Comparison]) -> Iterator[str]:
    """A table of the tables, and the first differences."""
    widths = "{:<18}{:>6}{:>9}{:>9}{:>12}{:>10}{:>8}{:>8}{:>8}{:>13}"
    titles = ("table", "rows", "columns", "numbers", "largest", "pictures", "other", "levels")
    yield widths.format(*titles, "pixels", "differences")
    for c in comparisons:
        numbers, pictures = f"{c.number:.2g}", f"{c.share:.2%}"
        counts = (c.pictures, c.other_pictures, c.levels)
        yield widths.format(
            c.table, c.rows, c.columns, c.numbers, numbers, *counts, pictures, len(c.differences)
        )
    for c in comparisons:
        if c.number_at:
            yield f"largest number of {c.table}: {c.number:.3g} at {c.number_at}"
        if c.picture_at:
            yield (
                f"largest picture of {c.table}: {c.levels} levels, {c.share:.2%} at {c.picture_at}"
            )
        if c.by_column:
            counted = sorted(c.by_column.items(), key=lambda item: -item[1])
            yield f"differences of {c.table}: " + ", ".join(f"{n} {count}" for n, count in counted)
    found = [line for c in comparisons for line in c.differences]
    yield f"{len(found)} differences" + (f", the first {SHOWN}:" if len(found) > SHOWN else "")
    yield from found[:SHOWN]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="a run folder")
    parser.add_argument("after", type=Path, help="a run folder")
    for name, default in asdict(Allowed()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args(arguments)
    for run in (given.before, given.after):
        record = run / "run.json"
        if not record.is_file() or json.loads(record.read_text())["state"] != "finished":
            print(f"{run} holds no finished run", file=sys.stderr)
            return 2
    allowed = Allowed(given.tolerance, given.levels, given.share)
    comparisons = compare_runs(given.before, given.after, allowed)
    for line in lines(comparisons):
        print(line)
    equal = not any(c.differences for c in comparisons)
    found = [{**asdict(c), "differences": len(c.differences)} for c in comparisons]
    first = [line for c in comparisons for line in c.differences][:SHOWN]
    print(json.dumps({"equal": equal, **asdict(allowed), "tables": found, "differences": first}))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
