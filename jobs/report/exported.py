"""What a run found as plain tables: CSV for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from whylens.jobs.report.parts.finding import Finding, verdict

# Fields of rows that are a column as they are; pictures and what was optimised are left out.
PLAIN = (str, int, bool, float, str | None, int | None, float | None)
WORDS, NUMBERS = tuple[str, ...], Mapping[str, float]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV (RFC 4180, UTF-8), of all columns that any has; nothing of no rows."""
    text = io.StringIO()
    written = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    if rows:
        written.writeheader()
        written.writerows(rows)
    return text.getvalue().encode()


def plain_rows(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of a part with a column for each field of text, numbers or words."""
    return [_plain(row) for row in rows]


def finding_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings, or other components (rank 0), with their verdicts."""
    return [{**_plain(one), "verdict": verdict(one).value} for one in findings]


def _plain(row: Any) -> dict[str, Any]:
    kinds = get_type_hints(type(row))
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(row)):
        value = getattr(row, name)
        if kinds[name] in PLAIN:
            found[name] = value
        elif kinds[name] == WORDS:
            found[name] = ", ".join(value)
        elif kinds[name] == NUMBERS:
            found |= {f"{name}_{key}": number for key, number in value.items()}
    return found
