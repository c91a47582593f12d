"""People's judgements of components: rows that are only ever added, with who and when."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import pyarrow as pa

from whylens.errors import UsageError
from whylens.jobs.columns import columns
from whylens.jobs.labelled import LABELLED, LABELS, SPURIOUS, WITHDRAWN, label_rows, verdicts
from whylens.runs import Run
from whylens.runs.lineage import Lineage

SCHEMA = pa.schema(
    [
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("component", pa.int32()),
        *columns(pa.string(), "label", "who", "when", "note"),
    ]
)


class Component(Protocol):
    """A component of a class: a finding, or what `find_component` gives."""

    @property
    def class_index(self) -> int: ...
    @property
    def class_name(self) -> str: ...
    @property
    def component(self) -> int: ...


@dataclass(frozen=True)
class Named:
    """A component that a run has."""

    class_index: int
    class_name: str
    component: int


def add_label(
    folder: str,
    component: Component,
    label: str,
    who: str,
    note: str = "",
    now: datetime | None = None,
) -> None:
    """Add one row to the run's table labels, as a part of its own.

    Whoever builds on the run sees it: `labelled.label_home` is where all do.

    It is on the disk when this returns. "withdrawn" takes back the person's latest label of the
    component. UsageError for an unknown label or nobody's.
    """
    _add(folder, [component], label, who, note, now)


def _add(
    folder: str,
    components: Iterable[Component],
    label: str,
    who: str,
    note: str,
    now: datetime | None,
) -> None:
    who = " ".join(who.split())
    if label not in (*LABELS, WITHDRAWN):
        raise UsageError(f"A label is one of {', '.join(LABELS)}, not {label!r}.")
    if not who:
        raise UsageError("Say who you are: a label without a name is worth nothing later.")
    when = now or datetime.now(UTC)
    rows = [
        {
            "class_index": component.class_index,
            "class_name": component.class_name,
            "component": component.component,
            "label": label,
            "who": who,
            "when": when.isoformat(),
            "note": note.strip(),
        }
        for component in components
    ]
    slug = re.sub(r"[^a-z0-9]+", "-", who.casefold()).strip("-")[:40] or "somebody"
    unit = f"{when:%Y%m%dT%H%M%S%f}-{slug}"
    Run.open(folder).table(LABELLED).write(unit, pa.Table.from_pylist(rows, schema=SCHEMA))


def spurious_components(folder: str) -> dict[int, list[int]]:
    """The components that count as spurious, by class index: the shape of the published list."""
    found: dict[int, list[int]] = {}
    for (k, component), verdict in sorted(verdicts(label_rows(Lineage(Run.open(folder)))).items()):
        if verdict == SPURIOUS:
            found.setdefault(k, []).append(component)
    return found


def find_component(folder: str, class_name: str, component: int) -> Named:
    """A component of the run by class (name, synonym or index) and its own index.

    Raises
    ------
    UsageError
        If the run has no such class or component.
    """
    (found,) = find_components(folder, {class_name: [component]})
    return found


def find_components(folder: str, wanted: Mapping[int | str, Iterable[int]]) -> list[Named]:
    """Components of the run by class; a whole number is an index, anything else a name.

    Raises
    ------
    UsageError
        Naming every class and component that the run does not have.
    """
    from whylens.images.matching import fold

    known = _components(Lineage(Run.open(folder)))
    names = {k: name for (k, _), name in known.items()}
    by_name: dict[str, set[int]] = {}
    for k, joined in names.items():
        for name in (joined, *joined.split(",")):
            by_name.setdefault(fold(name), set()).add(k)
    found: list[Named] = []
    problems = []
    for key, components in wanted.items():
        if str(key).isdecimal():
            matches = {int(key)} & set(names)
        else:
            matches = by_name.get(fold(str(key)), set())
        if len(matches) != 1:
            several = f"; it may be {' or '.join(map(str, sorted(matches)))}" if matches else ""
            problems.append(f"the class {str(key)!r}{several}")
            continue
        (k,) = matches
        missing = [c for c in components if (k, c) not in known]
        if missing:
            plural = "s" if len(missing) > 1 else ""
            listed = ", ".join(map(str, missing))
            problems.append(f"the component{plural} {listed} of the class {str(key)!r}")
        found.extend(Named(k, names[k], c) for c in components if (k, c) in known)
    if problems:
        raise UsageError(f"{folder} does not have: {'; '.join(problems)}")
    return found


def import_labels(
    folder: str,
    components: Mapping[int | str, Iterable[int]],
    who: str,
    note: str = "",
    now: datetime | None = None,
) -> int:
    """Label the listed components spurious, all in one part or none; how many.

    Raises
    ------
    UsageError
        Naming every class and component that the run does not have.
    """
    found = list(dict.fromkeys(find_components(folder, components)))
    if found:
        _add(folder, found, SPURIOUS, who, note, now)
    return len(found)


def _components(lineage: Lineage) -> dict[tuple[int, int], str]:
    """Class name by (class, component), of all that the run has."""
    table = lineage.table("components" if lineage.has("components") else "findings")
    rows = table.read(("class_index", "class_name", "component")).to_pylist()
    return {(row["class_index"], row["component"]): row["class_name"] for row in rows}
