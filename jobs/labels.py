"""What people say of findings: rows that are only ever added, with who and when."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pyarrow as pa

from whylens.errors import UsageError
from whylens.jobs.report_data import Finding
from whylens.runs import Run

TABLE = "labels"
LABELS = ("spurious", "not spurious", "unsure")
SCHEMA = pa.schema(
    [
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("component", pa.int32()),
        *((name, pa.string()) for name in ("label", "who", "when", "note")),
    ]
)


def add_label(
    folder: str,
    finding: Finding,
    label: str,
    who: str,
    note: str = "",
    now: datetime | None = None,
) -> None:
    """Add one row to the run's table labels, as a part of its own.

    UsageError for an unknown label or nobody's.
    """
    who = " ".join(who.split())
    if label not in LABELS:
        raise UsageError(f"A label is one of {', '.join(LABELS)}, not {label!r}.")
    if not who:
        raise UsageError("Say who you are: a label without a name is worth nothing later.")
    when = now or datetime.now(UTC)
    row = {
        "class_index": finding.class_index,
        "class_name": finding.class_name,
        "component": finding.component,
        "label": label,
        "who": who,
        "when": when.isoformat(),
        "note": note.strip(),
    }
    slug = re.sub(r"[^a-z0-9]+", "-", who.casefold()).strip("-")[:40] or "somebody"
    unit = f"{when:%Y%m%dT%H%M%S%f}-{slug}"
    Run.open(folder).table(TABLE).write(unit, pa.Table.from_pylist([row], schema=SCHEMA))
