"""All judged components: a gallery by class, and a page of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.looking import alphas, component
from whylens.dashboard.reviewing import reviewer, write_label
from whylens.dashboard.saving import save_csv, save_png
from whylens.dashboard.view import View, bound, literal, panel
from whylens.dashboard.views.drawing import axis, chart, show
from whylens.jobs.labelled import LABELS
from whylens.jobs.people.evidence import mined_images, neighbours
from whylens.jobs.people.review import by_suspicion
from whylens.jobs.report.card import finding_card
from whylens.jobs.report.exported import finding_rows
from whylens.jobs.report.page import html
from whylens.jobs.report.parts.finding import Finding, Key, Verdict, verdict
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.words import amount

A_PAGE = 12
BINS = 30
NOT_LABELLED = "not labelled"


def draw(reading: Reading) -> None:
    """All judged components: a gallery by class, or the one that the URL names."""
    every = reading.judged()
    st.subheader("Spurious features", anchor=False)
    if not every:
        st.info("Nothing yet: the search for components did not run or has not finished.")
        return
    key = asked(st.query_params.get("component", ""))
    if key is not None and key in every:
        _page(reading, every[key], every)
        return
    if key is not None:
        st.warning("The run has no such component.")
    _gallery(reading, list(every.values()))


def asked(text: str) -> Key | None:
    """The component of a URL: "3-0", class and component."""
    first, _, second = text.partition("-")
    return (int(first), int(second)) if first.isdecimal() and second.isdecimal() else None


def open_component(key: Key | None) -> None:
    """Show a component, or the gallery."""
    if key is None:
        st.query_params.pop("component", None)
    else:
        st.query_params["component"] = f"{key[0]}-{key[1]}"


def _gallery(reading: Reading, every: Sequence[Finding]) -> None:
    counted = reading.counted()
    names = sorted({one.class_name for one in every})
    first, second, third, fourth = st.columns([2, 2, 2, 1.4], vertical_alignment="top")
    classes = first.multiselect("Classes", names, **bound("of"))
    wanted = second.multiselect("Verdict", [v.value for v in Verdict], **bound("verdict"))
    labels = third.multiselect("Labelled", [*LABELS, NOT_LABELLED], **bound("labelled"))
    words = fourth.text_input("Seems to be", placeholder="water", **bound("words"))
    fitting = [
        one
        for one in every
        if (not classes or one.class_name in classes)
        and (not wanted or verdict(one).value in wanted)
        and (not labels or counted.get(one.key, NOT_LABELLED) in labels)
        and (not words or any(words.casefold() in word.casefold() for word in one.guess))
    ]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"{amount(len(fitting), 'component')} of {len(every):,}. Classes come by their most "
            "suspicious component; within a class, findings first, then by suspicion."
        )
        save_csv("components", lambda: finding_rows(by_class(fitting)))
    pages = -(-len(fitting) // A_PAGE)
    if not pages:
        st.info("No component passes these filters.")
        return
    number = 1
    if pages > 1:
        number = int(st.number_input(f"Page of {pages:,}", 1, pages, 1, width=140, **bound("page")))
    here = by_class(fitting)[(number - 1) * A_PAGE : number * A_PAGE]
    for name in dict.fromkeys(one.class_name for one in here):
        st.markdown(f"#### {literal(name)}")
        cards = [one for one in here if one.class_name == name]
        for start in range(0, len(cards), 3):
            for column, one in zip(st.columns(3), cards[start : start + 3], strict=False):
                with column.container(border=True, height="stretch"):
                    _card(reading, one, counted.get(one.key))


def by_class(fitting: Sequence[Finding]) -> list[Finding]:
    """Classes by their most suspicious component; within a class findings, then by suspicion."""
    best: dict[int, tuple[bool, int, float, Key]] = {}
    for one in sorted(fitting, key=by_suspicion):
        best.setdefault(one.class_index, by_suspicion(one))
    return sorted(fitting, key=lambda one: (best[one.class_index], by_suspicion(one)))


def _card(reading: Reading, one: Finding, label: str | None) -> None:
    finding = component(reading, one.key)
    if finding is not None:
        show(html(FINDINGS, "small", finding, one.guess, label))
    st.button(
        f"Component {one.component}",
        key=f"open-{one.class_index}-{one.component}",
        icon=":material/open_in_full:",
        type="tertiary",
        on_click=open_component,
        args=(one.key,),
    )


def _page(reading: Reading, one: Finding, known: Mapping[Key, Finding]) -> None:
    st.button("All components", icon=":material/arrow_back:", on_click=open_component, args=(None,))
    finding = component(reading, one.key)
    if finding is None:
        st.error(f"Component {one.component} of {one.class_name} can't be read.")
        return
    show(html(FINDINGS, "article", finding, 6))
    save_png(f"component-{one.class_index}-{one.component}", lambda: finding_card(finding))
    _judge(reading, one)
    if not reading.run.has("components"):
        return  # findings alone were kept: there are no directions to calculate with
    left, right = st.columns([3, 2])
    with left, panel():
        _histogram(reading, one)
    with right, panel():
        _neighbours(reading, one, known)


def _judge(reading: Reading, one: Finding) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        who = reviewer()
        note = st.text_input("Note", key=f"note-{one.class_index}-{one.component}", max_chars=500)
        chosen = [
            label for label in LABELS
            if st.button(label.capitalize(), key=f"say-{label}", disabled=not who,
                         help=None if who else "Say who you are first.")
        ]  # fmt: skip
    for label in chosen:
        if problem := write_label(reading, one, label, who, note or ""):
            st.error(literal(problem))
        else:
            st.rerun()


def _histogram(reading: Reading, one: Finding) -> None:
    found = alphas(reading, one.class_index)
    if found is None or not found.ids:
        st.caption("No histogram of alpha: the images' features can't be read.")
        return
    of = {
        f"{one.class_name} images": found.alphas[:, one.component],
        "mined without the object": np.array(
            [alpha for _, alpha, _ in mined_images(reading.run, one.key)]
        ),
    }
    st.markdown("##### Alpha, its contribution to the logit")
    chart(
        histogram(of),
        {"type": "bar", "opacity": 0.65, "binSpacing": 0},
        x=axis("alpha", bin={"binned": True}, title="alpha"),
        x2=axis("end"),
        y=axis("share", stack=None, title="share of the images", axis={"format": "%"}),
        color=axis(
            "images", "nominal", legend={"orient": "top", "title": None},
            scale={"domain": list(of), "range": ["#0072b2", "#d55e00"]},
        ),
    )  # fmt: skip
    if found.total > len(found.ids):
        st.caption(f"Of {len(found.ids):,} of the class's {found.total:,} images.")


def histogram(of: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Bars of several samples of alpha in the same bins: each sample's shares add up to 1."""
    every = np.concatenate(list(of.values()))
    edges = np.histogram_bin_edges(every, BINS)
    return [
        {"images": name, "alpha": float(low), "end": float(high), "share": float(count) / len(some)}
        for name, some in of.items()
        for low, high, count in zip(edges, edges[1:], np.histogram(some, edges)[0], strict=False)
        if count
    ]


def _neighbours(reading: Reading, one: Finding, known: Mapping[Key, Finding]) -> None:
    st.markdown("##### The class's components most like it")
    for place, cosine in neighbours(reading.run, one.key):
        other = known.get((one.class_index, place))
        if other is None:
            continue
        words = f": {', '.join(other.guess[:2])}" if other.guess else ""
        st.button(
            literal(f"Component {place}{words} (cosine {cosine:.2f}, "
                    f"suspicion {other.suspicion or 0.0:.2f})"),
            key=f"near-{place}", type="tertiary", on_click=open_component, args=(other.key,),
        )  # fmt: skip


VIEW = View("components", "Spurious features", draw, "Why", 12, ":material/grid_view:")
