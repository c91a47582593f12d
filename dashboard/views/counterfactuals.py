"""The changed images, chosen by class and outcome: one of them large, then all."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from whylens.dashboard.kept import Reading, reading, runs_in
from whylens.dashboard.overlays import changed, may_change
from whylens.dashboard.root import Root
from whylens.dashboard.saving import save_csv, save_png
from whylens.dashboard.slider import slider
from whylens.dashboard.view import View, bound, follow, lead, literal, panel
from whylens.dashboard.views.drawing import cards, show
from whylens.jobs.report.card import counterfactual_card
from whylens.jobs.report.exported import plain_rows
from whylens.jobs.report.page import html
from whylens.jobs.report.parts.counterfactuals import COUNTERFACTUALS, Counterfactual
from whylens.jobs.report.pictures import picture
from whylens.jobs.words import amount, percent

PLAIN, CHANGED, MASK = "as it is", "what changed", "what could change"


def draw(shown_run: Reading) -> None:
    """The changed images, chosen by class and outcome."""
    rows = shown_run[COUNTERFACTUALS]
    if not rows:
        st.info(COUNTERFACTUALS.empty(shown_run.data()))
        return
    st.subheader(COUNTERFACTUALS.title, anchor=False)
    st.write(COUNTERFACTUALS.sentence(rows))
    first, second, third = st.columns(3)
    sources = first.multiselect(
        "From", list(dict.fromkeys(row.source for row in rows)), **bound("from")
    )
    targets = second.multiselect(
        "To", list(dict.fromkeys(row.target for row in rows)), **bound("to")
    )
    outcomes = third.multiselect(
        "Outcome", ["flipped", "not flipped", "failed"], **bound("outcome")
    )
    shown = {
        str(place): row
        for place, row in enumerate(rows, 1)
        if (not sources or row.source in sources)
        and (not targets or row.target in targets)
        and (not outcomes or outcome(row) in outcomes)
    }
    made = {place: row for place, row in shown.items() if row.before and row.after}
    if made:
        with panel():
            _large(shown_run, made)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader("All of these", anchor=False)
            save_csv(COUNTERFACTUALS.name, lambda: plain_rows(list(shown.values())))
    cards(COUNTERFACTUALS, list(shown.values()))


def outcome(row: Counterfactual) -> str:
    """How a counterfactual ended."""
    return "failed" if not row.after else "flipped" if row.flipped else "not flipped"


def titled(row: Counterfactual) -> str:
    """A counterfactual in a list."""
    return f"{row.source} → {row.target}: {row.image_id} ({outcome(row)})"


@st.fragment
def _large(shown_run: Reading, rows: Mapping[str, Counterfactual]) -> None:
    """One of the rows, which are known by their places in the table."""
    places = list(rows)
    key = follow("counterfactual", rows, places[0])
    if st.session_state.get(key) not in rows:
        st.session_state[key] = places[0]

    def step(by: int) -> None:
        at = places.index(st.session_state[key])
        st.session_state[key] = places[(at + by) % len(places)]

    with st.container(horizontal=True, vertical_alignment="bottom"):
        place = st.selectbox(
            f"One of {amount(len(rows), 'image')}",
            places,
            format_func=lambda place: titled(rows[place]),
            key=key,
        )
        for name, shortcut, by in (("Previous", "Left", -1), ("Next", "Right", 1)):
            st.button(name, shortcut=shortcut, on_click=step, args=(by,), disabled=len(rows) < 2)
    lead("counterfactual", place, places[0])
    row = rows[place]
    left, right = st.columns(2, gap="large")
    with left:
        _picture(row)
    with right:
        show(html(COUNTERFACTUALS, "account", row))
    show(html(COUNTERFACTUALS, "story", row))
    save_png(f"counterfactual-{place}", lambda: counterfactual_card(row))
    _beside(shown_run, row)


def _beside(shown_run: Reading, row: Counterfactual) -> None:
    """The same image towards the same class in other runs: methods and settings side by side."""
    root = Root.of(shown_run.root)
    others = [name for name in runs_in(root.place) if name != shown_run.name]
    if not others:
        return
    names = st.multiselect(
        "The same image in other runs",
        others,
        help="Runs of another method, or other settings.",
        **bound("others"),
    )
    for column, name in zip(st.columns(max(len(names), 1)), names, strict=False):
        with column, panel():
            other = reading(root.folder(name), root.place, name)
            same = [
                one
                for one in other[COUNTERFACTUALS]
                if (one.image_id, one.target) == (row.image_id, row.target)
            ]
            method = other.run.setting("method")
            st.caption(literal(f"{name}{f', by {method}' if method else ''}"))
            if same:
                show(html(COUNTERFACTUALS, "card", same[0]))
            else:
                st.write("It did not change this image towards this class.")


def _picture(row: Counterfactual) -> None:
    before, after = row.before or b"", row.after or b""
    views = {PLAIN: after}
    if row.difference and (tinted := changed(after, row.difference)):
        views[CHANGED] = tinted
    if row.optimisation.mask and (dimmed := may_change(before, row.optimisation.mask)):
        views[MASK] = dimmed
    how = st.segmented_control(
        "Show", list(views), default=PLAIN, required=True, **bound("overlay")
    )
    slider(
        picture(before),
        picture(views[how or PLAIN]),
        before_alt=f"Before: {row.image_id}, {row.source} {percent(row.p_source_before)}",
        after_alt=f"After, {how}: {row.target} {percent(row.p_target_after)}",
        key="before-after",
        words=("before", "after" if how == PLAIN else str(how)),
    )


VIEW = View(COUNTERFACTUALS.name, COUNTERFACTUALS.title, draw, "Pictures", 20, ":material/compare:")
