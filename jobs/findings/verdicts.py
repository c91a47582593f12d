"""Verdicts on components: which are suspicious, counted over all that the run looked at.

A class's part of the table components is written by the worker that judged it, which knows no other
class; how many components were looked at is known at the end. So verdicts are a table of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from whylens.jobs.columns import columns
from whylens.jobs.findings.stored import COMPONENTS
from whylens.neural_pca.ranking import verdict_q_values
from whylens.runs import Run
from whylens.runs.lineage import Lineage

VERDICTS = "verdicts"
KEY = ("class_index", "component")
SCHEMA = pa.schema(
    [*columns(pa.int32(), *KEY), ("q_value", pa.float64()), ("suspicious", pa.bool_())]
)


def write_verdicts(run: Run, false_discoveries: float) -> None:
    """Write the verdicts on all components of the run; again only where some were judged since."""
    judged = run.table(COMPONENTS).read([*KEY, "p_value", "logit_share"])
    q_value = verdict_q_values(judged["p_value"].to_numpy(), judged["logit_share"].to_numpy())
    written = pa.table(
        {
            **{name: judged[name] for name in KEY},
            "q_value": q_value,
            "suspicious": q_value <= false_discoveries,
        },
        schema=SCHEMA,
    )
    run.table(VERDICTS).keep("all", written)


def judged_rows(lineage: Lineage, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of the table components, of all columns or those named, with q_value and suspicious."""
    table = lineage.table(COMPONENTS)
    rows = table.read(None if names is None else [*dict.fromkeys((*KEY, *names))]).to_pylist()
    verdicts = {_key(row): row for row in lineage.table(VERDICTS).read().to_pylist()}
    return [{**row, **verdicts[_key(row)]} for row in rows]


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["class_index"], row["component"]
