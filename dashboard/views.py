"""The dashboard's views: each draws one side of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st
from PIL import Image, ImageDraw

from whylens.dashboard.choices import matching
from whylens.errors import WhylensError
from whylens.jobs.people.labels import LABELS, add_label
from whylens.jobs.report import words
from whylens.jobs.report.data import Counterfactual, Finding, Neuron, RunData
from whylens.jobs.report.page import flat, part, stylesheet
from whylens.jobs.report.words import Verdict, verdict
from whylens.jobs.words import amount, percent
from whylens.runs import Run

RELIES = "Relies on something else"
PAGE_STYLE = """
.whylens.brand { font: 600 1.5rem/1 var(--serif); margin: 0 0 .5rem; }
.whylens { --sans: "Source Sans", sans-serif; --card: light-dark(#ffffff, #262521); }
.whylens h1 { font-size: 2.4rem; }
.whylens .cards, .whylens .telling { margin-top: 0; }
[data-testid="stMainBlockContainer"] { padding-top: 4.5rem; max-width: 84rem; }
"""


def style() -> str:
    """The report's parts as they look there, and what the page adds."""
    return f"{stylesheet('parts.css')}\n{PAGE_STYLE}"


def mark() -> Image.Image:
    """The page's icon. (Streamlit fetches named icons from a host outside.)"""
    icon = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(icon)
    for radius, colour in ((30, "#2d5f9e"), (18, "#b3401f"), (7, "#fbfaf7")):
        pen.ellipse((32 - radius, 32 - radius, 32 + radius, 32 + radius), fill=colour)
    return icon


def whole_report(data: RunData) -> None:
    """The page that a job wrote that only measures."""
    storage = Run.open(data.uri).storage
    if not storage.exists("report.html"):
        st.info(f"No report yet: it comes at the job's end, or by `whylens report {data.uri}`.")
        return
    st.iframe(storage.read("report.html").decode(), height=1800)


def overview(data: RunData) -> None:
    """What was investigated and found, at a glance."""
    _html(part("opening", data))
    for warning in data.warnings:
        st.warning(warning)
    _numbers(data)
    if data.findings:
        st.subheader("Findings", anchor=False)
        _ranking(data.findings)
    if any(summary.right is not None for summary in data.classes):
        st.subheader("Classes", anchor=False)
        _class_chart(data)


def findings(data: RunData) -> None:
    """One finding at a time, chosen by filters."""
    if not data.findings:
        st.info("No findings: the search did not run, has not finished, or found nothing.")
        return
    first, second, third, fourth = st.columns([2, 2, 1.4, 1.4], vertical_alignment="top")
    classes = first.multiselect("Classes", list(dict.fromkeys(f.class_name for f in data.findings)))
    verdicts = second.multiselect("Verdict", [v.value for v in Verdict])
    asked = third.text_input("Seems to be", placeholder="water")
    highest = max((f.suspicion or 0.0 for f in data.findings), default=0.0)
    least = 0.0
    if highest > 0:
        least = fourth.slider("Suspicion at least", 0.0, float(highest), 0.0, format="%.2f")
    fitting = matching(
        data.findings,
        classes=classes,
        verdicts=[Verdict(v) for v in verdicts],
        least_suspicion=least,
        words=asked,
    )
    if not fitting:
        st.info("No finding passes these filters.")
        return
    ranks = {finding.rank: finding for finding in fitting}
    chosen = st.selectbox(
        f"{amount(len(fitting), 'finding')} of {len(data.findings)}",
        list(ranks),
        format_func=lambda rank: finding_title(ranks[rank]),
    )
    finding = ranks[chosen]
    left, right = st.columns([1, 3])
    heat = left.toggle("Heat maps", value=True)
    longest = max(len(finding.exemplars), len(finding.mined), len(finding.generated), 1)
    most = right.slider("Images in a strip", 1, longest, min(6, longest)) if longest > 1 else 1
    _html(part("finding_article", finding if heat else without_heat(finding), most))
    _labelling(data, finding)
    curves = {f"seed {g.seed}": g.losses for g in finding.generated if g.losses}
    if curves:
        with st.expander("How the generated images' loss fell"):
            _losses(curves)


def counterfactuals(data: RunData) -> None:
    """The changed images, chosen by class and outcome."""
    rows = data.counterfactuals
    if not rows:
        st.info("No counterfactuals: this stage did not run.")
        return
    st.subheader("Counterfactuals", anchor=False)
    st.write(words.counterfactual_summary(rows))
    first, second, third = st.columns(3)
    sources = first.multiselect("From", list(dict.fromkeys(row.source for row in rows)))
    targets = second.multiselect("To", list(dict.fromkeys(row.target for row in rows)))
    outcomes = third.multiselect("Outcome", ["flipped", "not flipped", "failed"])
    shown = [
        row
        for row in rows
        if (not sources or row.source in sources)
        and (not targets or row.target in targets)
        and (not outcomes or outcome(row) in outcomes)
    ]
    _cards("counterfactual_card", shown, "counterfactual")


def disagreements(data: RunData) -> None:
    """The images on which the classifiers were pulled apart."""
    rows = data.disagreements
    if not rows:
        st.info("No disagreements: this stage did not run, or no second classifier was named.")
        return
    st.subheader("Disagreements", anchor=False)
    st.write(words.disagreement_summary(rows))
    classes = st.multiselect("Classes", list(dict.fromkeys(row.class_name for row in rows)))
    shown = [row for row in rows if not classes or row.class_name in classes]
    _cards("disagreement_card", shown, "disagreement")


def neurons(data: RunData) -> None:
    """One neuron at a time: its words, and images in which it rises and falls."""
    if not data.neurons:
        st.info("No neurons: start `whylens neurons` with this run as its source.")
        return
    st.subheader("Neurons", anchor=False)
    neuron = st.selectbox("Neuron", data.neurons, format_func=neuron_title)
    if neuron is not None:
        _html(part("neuron_article", neuron))


def rejected(data: RunData) -> None:
    """The files that were left out, and why."""
    st.subheader("Rejected files", anchor=False)
    if not data.rejected:
        st.info("None: every file could be read.")
        return
    st.write(f"{amount(len(data.rejected), 'file')} could not be used.")
    _table(
        [{"File": r.path, "Reason": r.reason, "Collection": r.collection} for r in data.rejected]
    )


def settings(data: RunData) -> None:
    """What the run was started with, and with which versions."""
    st.subheader("Settings", anchor=False)
    _pairs(data.spec)
    for title, key in (("Time taken, in seconds", "timings"), ("Versions", "versions")):
        values = data.manifest.get(key) or {}
        if values:
            st.subheader(title, anchor=False)
            _pairs(values)


def finding_title(finding: Finding) -> str:
    """A finding in a list: rank, class, what it seems to be, verdict."""
    seems = f": {', '.join(finding.guess)}" if finding.guess else ""
    return f"{finding.rank}. {finding.class_name}{seems} ({verdict(finding).value})"


def neuron_title(neuron: Neuron) -> str:
    """A neuron in a list: its number, the class that it raises, and its word."""
    return f"{neuron.index}: {neuron.word or 'no word'} raises {neuron.class_name}"


def outcome(row: Counterfactual) -> str:
    """How a counterfactual ended."""
    return "failed" if not row.after else "flipped" if row.flipped else "not flipped"


def without_heat(finding: Finding) -> Finding:
    """The finding without its heat maps."""
    return replace(
        finding,
        exemplars=tuple(replace(e, heatmap=None) for e in finding.exemplars),
        mined=tuple(replace(e, heatmap=None) for e in finding.mined),
    )


def _labelling(data: RunData, finding: Finding) -> None:
    with st.form("label", clear_on_submit=False):
        first, second, third, fourth = st.columns([3, 2, 3, 1], vertical_alignment="bottom")
        label = first.segmented_control("Your judgement", LABELS, default="unsure")
        who = second.text_input("Your name", key="who")
        note = third.text_input("Note", key=f"note-{finding.rank}")
        if fourth.form_submit_button("Save") and label:
            try:
                add_label(data.uri, finding, label, who, note)
            except (WhylensError, OSError) as error:
                st.error(str(error))
            else:
                st.rerun()


def _html(content: str) -> None:
    st.html(f'<div class="whylens">{content}</div>')


def _numbers(data: RunData) -> None:
    judged = [summary for summary in data.classes if summary.right is not None]
    seen = sum(summary.images for summary in judged)
    right = sum(summary.right or 0 for summary in judged)
    values = {
        "Images": f"{sum(data.images.values()):,}" if data.images else "?",
        "Classes": f"{len(data.classes):,}" if data.classes else "?",
        "Accuracy": percent(right / seen) if seen else "?",
        "Findings": str(len(data.findings)),
        "Generated images": str(sum(len(f.generated) for f in data.findings)),
        "Counterfactuals": str(len(data.counterfactuals)),
    }
    for column, (label, value) in zip(st.columns(len(values)), values.items(), strict=True):
        column.metric(label, value)


def _ranking(rows: Sequence[Finding]) -> None:
    highest = max((f.suspicion or 0.0 for f in rows), default=0.0) or 1.0
    table = [
        {
            "#": f.rank,
            "Class": f.class_name,
            "Seems to be": ", ".join(f.guess),
            "Suspicion": f.suspicion,
            "Without the object, still this class": f.sufficiency_share,
            "Verdict": verdict(f).value,
            **({"Truth": words.truth_label(f)} if f.truth is not None else {}),
        }
        for f in rows
    ]
    bar = st.column_config.ProgressColumn
    _table(
        table,
        {
            "Suspicion": bar(format="%.2f", min_value=0.0, max_value=highest),
            "Without the object, still this class": bar(
                format="percent", min_value=0.0, max_value=1.0
            ),
        },
    )


def _table(rows: list[dict[str, Any]], columns: Mapping[str, Any] | None = None) -> None:
    st.dataframe(rows, hide_index=True, column_config=columns)


def _pairs(values: Mapping[str, Any]) -> None:
    _table([{"Setting": name, "Value": value} for name, value in flat(values)])


def _class_chart(data: RunData) -> None:
    relying = {f.class_name for f in data.findings if verdict(f) is Verdict.RELIES}
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
    _chart(
        rows,
        {"type": "bar", "cornerRadiusEnd": 3},
        x=_axis("Accuracy", scale={"domain": [0, 1]}, axis={"format": "%"}),
        y=_axis("Class", "nominal", sort=None, title=None),
        color=_axis(RELIES, "nominal", scale=colours, legend={"orient": "top"}),
        tooltip=[_axis("Class", "nominal"), _axis("Accuracy", format=".1%"), _axis("Images")],
    )


def _losses(curves: Mapping[str, Sequence[float]]) -> None:
    rows: list[dict[str, Any]] = [
        {"Step": step, "Loss": loss, "Image": name}
        for name, losses in curves.items()
        for step, loss in enumerate(losses)
    ]
    _chart(rows, "line", x=_axis("Step"), y=_axis("Loss"), color=_axis("Image", "nominal"))


def _chart(rows: Sequence[Mapping[str, Any]], mark: Any, **encoding: Any) -> None:
    st.vega_lite_chart({"data": {"values": list(rows)}, "mark": mark, "encoding": encoding})


def _axis(field: str, kind: str = "quantitative", **options: Any) -> dict[str, Any]:
    return {"field": field, "type": kind, **options}


def _cards(macro: str, rows: Sequence[Any], noun: str, a_page: int = 12) -> None:
    if not rows:
        st.info(f"No {noun} passes these filters.")
        return
    pages = -(-len(rows) // a_page)
    number = 1
    if pages > 1:
        number = int(st.number_input(f"Page of {pages}", 1, pages, 1, width=140))
    shown = rows[(number - 1) * a_page : number * a_page]
    _html(f'<div class="cards">{"".join(part(macro, row) for row in shown)}</div>')
