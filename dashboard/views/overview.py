"""A run at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from whylens.dashboard.views.drawing import axis, chart, show, table
from whylens.jobs.report.page import opening
from whylens.jobs.report.part import RunData, parts
from whylens.jobs.report.parts.finding import Finding, Verdict, verdict
from whylens.jobs.report.parts.findings import FINDINGS, truth_label
from whylens.jobs.words import percent

RELIES = "Relies on something else"


def view(data: RunData) -> None:
    """What was investigated and found, at a glance."""
    show(opening(data))
    for warning in data.warnings:
        st.warning(warning)
    _numbers(data)
    if data[FINDINGS]:
        st.subheader("Findings", anchor=False)
        _ranking(data[FINDINGS])
    if any(summary.right is not None for summary in data.classes):
        st.subheader("Classes", anchor=False)
        _class_chart(data)


def _numbers(data: RunData) -> None:
    judged = [summary for summary in data.classes if summary.right is not None]
    seen = sum(summary.images for summary in judged)
    right = sum(summary.right or 0 for summary in judged)
    values = {
        "Images": f"{sum(data.images.values()):,}" if data.images else "?",
        "Classes": f"{len(data.classes):,}" if data.classes else "?",
        "Accuracy": percent(right / seen) if seen else "?",
        **{part.title: str(len(data[part])) for part in parts() if part.always or data[part]},
        "Generated images": str(sum(len(f.generated) for f in data[FINDINGS])),
    }
    for column, (label, value) in zip(st.columns(len(values)), values.items(), strict=True):
        column.metric(label, value)


def _ranking(rows: Sequence[Finding]) -> None:
    highest = max((f.suspicion or 0.0 for f in rows), default=0.0) or 1.0
    shown = [
        {
            "#": f.rank,
            "Class": f.class_name,
            "Seems to be": ", ".join(f.guess),
            "Suspicion": f.suspicion,
            "Without the object, still this class": f.sufficiency_share,
            "Verdict": verdict(f).value,
            **({"Truth": truth_label(f)} if f.truth is not None else {}),
        }
        for f in rows
    ]
    bar = st.column_config.ProgressColumn
    table(
        shown,
        {
            "Suspicion": bar(format="%.2f", min_value=0.0, max_value=highest),
            "Without the object, still this class": bar(
                format="percent", min_value=0.0, max_value=1.0
            ),
        },
    )


def _class_chart(data: RunData) -> None:
    relying = {f.class_name for f in data[FINDINGS] if verdict(f) is Verdict.RELIES}
    rows = [
        {
            "Class": s.class_name,
            "Accuracy": (s.right or 0) / s.images,
            "Images": s.images,
            RELIES: "yes" if s.class_name in relying else "no",
        }
        for s in sorted(data.classes, key=lambda s: (s.right or 0) / s.images)[:60]
    ]
    colours = {"domain": ["no", "yes"], "range": ["#6d93c4", "#d0633f"]}
    chart(
        rows,
        {"type": "bar", "cornerRadiusEnd": 3},
        x=axis("Accuracy", scale={"domain": [0, 1]}, axis={"format": "%"}),
        y=axis("Class", "nominal", sort=None, title=None),
        color=axis(RELIES, "nominal", scale=colours, legend={"orient": "top"}),
        tooltip=[axis("Class", "nominal"), axis("Accuracy", format=".1%"), axis("Images")],
    )
