"""A run at a glance: what was asked, what was found, what is lacking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.view import View, go_to, link, literal, panel
from whylens.dashboard.views.drawing import axis, chart, show
from whylens.jobs.labelled import LABELLED
from whylens.jobs.report.page import html, opening
from whylens.jobs.report.part import Part, RunData, parts
from whylens.jobs.report.parts.failures import FAILURES
from whylens.jobs.report.parts.finding import Finding, Verdict, verdict
from whylens.jobs.report.parts.findings import FINDINGS, truth_label
from whylens.jobs.report.parts.rejected import REJECTED
from whylens.jobs.report.pictures import BLANK, picture
from whylens.jobs.words import amount, percent
from whylens.runs.run import lacking

# Findings whose pictures are looked through for those that say most, and rows of the ranking.
PICTURED_FINDINGS, RANKED = 12, 50
# Seconds between looks at what is being counted.
LOOKS = 2
# The view that a finding opens, and what names it in the URL.
OPENS, ASKED = "findings", "finding"
RELIES = "Relies on something else"
ORDER = (
    "Findings with a verdict come first, then by suspicion, which counts for less where the heat "
    "lies on the object or the feature drawn from grey is not taken for the class: so 0.68 may "
    "stand before 0.70."
)


def draw(reading: Reading) -> None:
    """What was investigated and found, at a glance."""
    with panel():
        counted = "" if reading.classes() is None else " counted"
        show(reading.kept(f"opening{counted}", _tables(), lambda: str(opening(told(reading)))))
    _notes(reading)
    counting = reading.classes() is None or reading.generated() is None
    st.fragment(_numbers, run_every=LOOKS if counting else None)(reading)
    if found := reading[FINDINGS]:
        st.subheader("Findings", anchor=False)
        with panel():
            _ranking(reading, found)
    with panel():
        _classes(reading)
    with st.expander("Method: what the words mean"):
        terms = "".join(html(part, "terms") for part in parts())
        show(f'<dl class="terms">{terms}</dl>')


def told(reading: Reading) -> RunData:
    """The run's data, with pictures of the first findings alone."""
    found = reading[FINDINGS]
    first = tuple(reading.pictured(finding, ["mined"]) for finding in found[:PICTURED_FINDINGS])
    with_rows = [part for part in parts() if part is not FINDINGS]
    data = reading.data(*with_rows, classes=True)
    return replace(data, rows={**data.rows, FINDINGS.name: (*first, *found[PICTURED_FINDINGS:])})


def _tables() -> list[str]:
    named = ["images", *(name for part in parts() for name in part.tables)]
    return [name for name in dict.fromkeys(named) if name != LABELLED]


def _notes(reading: Reading) -> None:
    """What the reader has to know first: warnings, what failed, what was left out."""
    record = reading.record
    for warning in record["warnings"]:
        st.warning(literal(warning))
    for sentence in lacking(record):
        st.warning(literal(f"Not finished: {sentence}."))
    with panel():
        shown: list[tuple[Part[Any], str]] = [(FAILURES, "failures"), (REJECTED, "rejected")]
        for part, view in shown:
            if rows := reading.light(part):
                with st.container(horizontal=True, vertical_alignment="center"):
                    st.html(f"<span>{part.sentence(rows)}</span>")
                    link(view, "Show them")


def _numbers(reading: Reading) -> None:
    """The run in numbers; "…" for what is being counted."""
    with panel():
        _metrics(reading)


def _metrics(reading: Reading) -> None:
    classes, images = reading.classes() or ((), {})
    generated, waiting = reading.generated(), "…" if reading.classes() is None else "?"
    judged = [summary for summary in classes if summary.right is not None]
    seen = sum(summary.images for summary in judged)
    right = sum(summary.right or 0 for summary in judged)
    values = {
        "Images": f"{sum(images.values()):,}" if images else waiting,
        "Classes": f"{len(classes):,}" if classes else waiting,
        "Accuracy": percent(right / seen) if seen else waiting,
        **{
            part.title: f"{len(reading.light(part)):,}"
            for part in parts()
            if part.always or len(reading.light(part))
        },
        "Generated images": "…" if generated is None else f"{generated:,}",
        "Duration": duration(reading.record["timings"]),
    }
    with st.container(horizontal=True):
        for label, value in values.items():
            st.metric(label, value, width="content")


def duration(timings: object) -> str:
    """How long the stages took together, in the largest unit that fits; "?" where none is noted."""
    spent = (
        [v for v in timings.values() if isinstance(v, int | float)]
        if isinstance(timings, dict)
        else []
    )
    if not spent:
        return "?"
    minutes, seconds = divmod(round(sum(spent)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _ranking(reading: Reading, found: Sequence[Finding]) -> None:
    """The first findings, a row each with a picture, that opens what is chosen."""
    st.caption(ORDER)
    highest = max((f.suspicion or 0.0 for f in found), default=0.0) or 1.0
    shown = [
        {
            "Image": reading.kept(
                f"first {f.class_index}-{f.component}",
                ("exemplars",),
                partial(first_picture, reading, f),
            ),
            "#": f.rank,
            "Class": f.class_name,
            "Seems to be": ", ".join(f.guess),
            "Suspicion": f.suspicion,
            "Without the object, still this class": f.sufficiency_share,
            "Verdict": verdict(f).value,
            **({"Truth": truth_label(f)} if f.truth is not None else {}),
        }
        for f in found[:RANKED]
    ]
    bar = st.column_config.ProgressColumn
    chosen = st.dataframe(
        shown,
        hide_index=True,
        key="ranking",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "Image": st.column_config.ImageColumn(""),
            "Suspicion": bar(format="%.2f", min_value=0.0, max_value=highest),
            "Without the object, still this class": bar(
                format="percent", min_value=0.0, max_value=1.0
            ),
        },
    )
    if rows := chosen["selection"]["rows"]:
        one = found[rows[0]]
        go_to(OPENS, **{ASKED: str(one.rank)})
    if len(found) > RANKED:
        st.caption(f"The first {RANKED} of {len(found):,}; all are under Findings.")


def first_picture(reading: Reading, finding: Finding) -> str:
    """The image of the class that shows a finding most."""
    if not reading.run.has("exemplars"):
        return BLANK
    key = {"class_index": finding.class_index, "component": finding.component}
    table = reading.run.table("exemplars")
    found = table.where(key, ("place", "thumb"), near=finding.rank - 1)
    rows = [] if found is None else found.sort_by("place").to_pylist()
    return picture(rows[0]["thumb"] if rows else None)


def _classes(reading: Reading) -> None:
    judged = [s for s in (reading.classes() or ((),))[0] if s.right is not None and s.images]
    if not judged:
        return
    st.subheader("Classes", anchor=False)
    searched = reading.run.has("findings")
    relying = {f.class_name for f in reading[FINDINGS] if verdict(f) is Verdict.RELIES}
    worst = sorted(judged, key=lambda s: (s.right or 0) / s.images)[:60]
    rows = [
        {
            "Class": s.class_name,
            "Accuracy": (s.right or 0) / s.images,
            "Images": s.images,
            RELIES: "yes" if s.class_name in relying else "no" if searched else "not searched",
        }
        for s in worst
    ]
    if len(judged) > len(worst):
        every = amount(len(judged), "class", "classes")
        st.caption(f"The {len(worst)} of {every} that are least often right.")
    # Two hues that differ in lightness, too, and a third for what nobody looked for.
    colours = {"domain": ["no", "yes", "not searched"], "range": ["#6d93c4", "#b3401f", "#9a9a9a"]}
    chart(
        rows,
        {"type": "bar", "cornerRadiusEnd": 3},
        x=axis("Accuracy", scale={"domain": [0, 1]}, axis={"format": "%"}),
        y=axis("Class", "nominal", sort=None, title=None),
        color=axis(RELIES, "nominal", scale=colours, legend={"orient": "top"}),
        tooltip=[axis("Class", "nominal"), axis("Accuracy", format=".1%"), axis("Images")],
    )


VIEW = View("overview", "Overview", draw, "Why", 0, ":material/home:")
