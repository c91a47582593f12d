"""What a run found as plain tables: CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whylens.jobs.report.parts.finding import Finding, verdict


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows that all have the same columns as CSV (RFC 4180, UTF-8); nothing of no rows."""
    if not rows:
        return b""
    text = io.StringIO()
    written = csv.DictWriter(text, list(rows[0]))
    written.writeheader()
    written.writerows(rows)
    return text.getvalue().encode()


def finding_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings, or other components (rank 0), a row each: what is known of them in numbers."""
    return [
        {
            "rank": one.rank,
            "class_index": one.class_index,
            "class_name": one.class_name,
            "component": one.component,
            "seems_to_be": ", ".join(one.guess),
            "verdict": verdict(one).value,
            "suspicion": one.suspicion,
            "sufficiency_share": one.sufficiency_share,
            "sufficiency_mean_p": one.sufficiency_mean_p,
            "strata_p": one.strata_p,
            "strata_p_low": one.strata_p_low,
            "strata_p_high": one.strata_p_high,
            "expected_p": one.expected_p,
            "asked_p": one.asked_p,
            "q_value": one.q_value,
        }
        for one in findings
    ]
