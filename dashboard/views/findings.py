"""One finding at a time, chosen by filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from whylens.dashboard.choices import matching
from whylens.dashboard.entry import person
from whylens.dashboard.kept import Reading
from whylens.dashboard.reviewing import write_label
from whylens.dashboard.saving import save_csv, save_png
from whylens.dashboard.view import View, bound, follow, lead, literal
from whylens.dashboard.views.drawing import axis, chart, show
from whylens.jobs.labelled import LABELS
from whylens.jobs.report.card import finding_card
from whylens.jobs.report.exported import finding_rows
from whylens.jobs.report.page import html
from whylens.jobs.report.parts.finding import Finding, Verdict, verdict
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.words import amount

# Findings in the list: a browser is slow with more.
LISTED = 500


def draw(reading: Reading) -> None:
    """One finding at a time, chosen by filters."""
    found = reading[FINDINGS]
    if not found:
        st.info(FINDINGS.empty(reading.data()))
        return
    first, second, third, fourth = st.columns([2, 2, 1.4, 1.4], vertical_alignment="top")
    names = list(dict.fromkeys(f.class_name for f in found))
    classes = first.multiselect("Classes", names, **bound("of"))
    verdicts = second.multiselect("Verdict", [v.value for v in Verdict], **bound("verdict"))
    asked = third.text_input("Seems to be", placeholder="water", **bound("words"))
    highest = max((f.suspicion or 0.0 for f in found), default=0.0)
    least = 0.0
    if highest > 0:
        least = fourth.slider(
            "Suspicion at least", 0.0, float(highest), 0.0, format="%.2f", **bound("least")
        )
    fitting = matching(
        found,
        classes=classes,
        verdicts=[Verdict(v) for v in verdicts],
        least_suspicion=least,
        words=asked,
    )
    if not fitting:
        st.info("No finding passes these filters.")
        return
    ranks = {str(f.rank): f for f in listed(fitting, st.query_params.get("finding"))}
    chosen = st.selectbox(
        f"{amount(len(fitting), 'finding')} of {len(found)}",
        list(ranks),
        format_func=lambda rank: finding_title(ranks[rank]),
        key=follow("finding", ranks, next(iter(ranks))),
    )
    if len(fitting) > len(ranks):
        st.caption(f"The first {len(ranks):,} can be chosen here: filters narrow the list.")
    lead("finding", chosen, next(iter(ranks)))
    finding = reading.pictured(ranks[chosen])
    left, right = st.columns([1, 3])
    heat = left.toggle("Heat maps", value=True, **bound("heat"))
    longest = max(len(finding.exemplars), len(finding.mined), len(finding.generated), 1)
    most = 1
    if longest > 1:
        most = right.slider("Images in a strip", 1, longest, min(6, longest), **bound("strip"))
    show(html(FINDINGS, "article", finding if heat else without_heat(finding), most))
    with st.container(horizontal=True):
        save_png(f"finding-{finding.rank}", lambda: finding_card(finding))
        every = f"Save {amount(len(fitting), 'finding')} as CSV"
        save_csv("findings", lambda: finding_rows(fitting), every)
    _labelling(reading, finding)
    curves = {f"seed {g.seed}": g.losses for g in finding.generated if g.losses}
    if curves:
        with st.expander("How the generated images' loss fell"):
            _losses(curves)


def listed(fitting: Sequence[Finding], named: str | None) -> list[Finding]:
    """The findings that can be chosen: the first LISTED, and the one of the rank `named`."""
    return [*fitting[:LISTED], *(f for f in fitting[LISTED:] if str(f.rank) == named)]


def finding_title(finding: Finding) -> str:
    """A finding in a list: rank, class, what it seems to be, verdict."""
    seems = f": {', '.join(finding.guess)}" if finding.guess else ""
    return f"{finding.rank}. {finding.class_name}{seems} ({verdict(finding).value})"


def without_heat(finding: Finding) -> Finding:
    """The finding without its heat maps."""
    return replace(
        finding,
        exemplars=tuple(replace(e, heatmap=None) for e in finding.exemplars),
        mined=tuple(replace(e, heatmap=None) for e in finding.mined),
    )


def _labelling(reading: Reading, finding: Finding) -> None:
    with st.form(f"label-{finding.rank}", clear_on_submit=False):
        label = st.segmented_control(
            "Your judgement",
            LABELS,
            default="unsure",
            required=True,
            key=f"label-of-{finding.rank}",
            persist_state="session",
        )
        first, second, third = st.columns([2, 3, 1], vertical_alignment="bottom")
        who = person() or first.text_input("Your name", key="who", persist_state="session")
        note = second.text_input("Note", key=f"note-{finding.rank}", persist_state="session")
        if third.form_submit_button("Save") and label:
            if problem := write_label(reading, finding, label, who, note):
                st.error(literal(problem))
            else:
                st.rerun()


def _losses(curves: Mapping[str, Sequence[float]]) -> None:
    rows: list[dict[str, Any]] = [
        {"Step": step, "Loss": loss, "Image": name}
        for name, losses in curves.items()
        for step, loss in enumerate(losses)
    ]
    chart(rows, "line", x=axis("Step"), y=axis("Loss"), color=axis("Image", "nominal"))


VIEW = View(FINDINGS.name, FINDINGS.title, draw, "Why", 10, ":material/search:")
