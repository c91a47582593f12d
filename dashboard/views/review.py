"""Judging components one after the other, by keys."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.looking import component
from whylens.dashboard.reviewing import Sitting, reviewer
from whylens.dashboard.view import View, bound, literal, panel
from whylens.dashboard.views.components import asked, open_component
from whylens.dashboard.views.drawing import show, table
from whylens.jobs.labelled import by_time
from whylens.jobs.people.review import (
    Order,
    agreement,
    differing,
    mean_kappa,
    queue,
    views_of,
)
from whylens.jobs.report.page import html
from whylens.jobs.report.parts.finding import Finding, Key
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.words import amount, percent

logger = logging.getLogger(__name__)

# The button, what is written, the key, and what it says.
KEYS = (
    ("Spurious", "spurious", "S", "It responds to something other than the class's object."),
    ("Not spurious", "not spurious", "N", "It responds to the object, or to a part of it."),
    ("Unsure", "unsure", "U", "It can't be told from these images."),
)
# How many components ahead are looked up while a person looks at one.
AHEAD = 2


def draw(reading: Reading) -> None:
    """Judging components one after the other, by keys."""
    st.subheader("Review", anchor=False)
    every = reading.judged()
    if not every:
        st.info("There is nothing to judge yet: the search for components has not finished.")
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        who = reviewer()
    if not who:
        st.info("Say who you are to begin: each label is kept with a name.")
        return
    orders = {order.value: order for order in Order}
    names = sorted({one.class_name for one in every.values()})
    with right.popover("What comes next", width="stretch"):
        order = st.selectbox("Order", list(orders), **bound("order"))
        classes = st.multiselect("Classes", names, **bound("of"))
    chosen = {k: one for k, one in every.items() if not classes or one.class_name in classes}
    sitting = st.session_state.setdefault(f"sitting {reading.name}", Sitting())
    # Here and not below, where keys are answered: the address comes after what they show.
    sitting.follow(asked(st.query_params.get("component", "")), chosen)
    _judging(reading, chosen, who, orders[order], sitting)
    with panel():
        _reviewers(reading, every)


@st.fragment
def _judging(
    reading: Reading, chosen: Mapping[Key, Finding], who: str, order: Order, sitting: Sitting
) -> None:
    views = views_of(reading.labels())
    left = sitting.waiting(queue(chosen.values(), views, who, order))
    if sitting.at not in chosen:
        sitting.at = left[0].key if left else None
    sitting.told = sitting.at
    open_component(sitting.at)
    if order is Order.SPLIT:
        st.caption(f"{amount(len(left), 'component')} on which others differ")
    else:
        done = len(chosen) - len(left)
        words = f"{done:,} of {len(chosen):,} judged by {literal(who)}"
        st.progress(done / max(len(chosen), 1), words)
    one = None if sitting.at is None else chosen[sitting.at]
    said = "" if one is None else views.get(one.key, {}).get(who.casefold(), "")
    with st.container(horizontal=True, key="keys"):
        for label, written, key, what in KEYS:
            st.button(
                label,
                # Of this component: a key that is pressed before the next one is seen is not of it.
                key=f"judge {written} {sitting.at}",
                shortcut=key,
                help=what,
                disabled=one is None,
                type="primary" if said == written else "secondary",
                on_click=sitting.judge,
                args=(reading, one, written, who),
            )
        st.button("Skip", shortcut="Right", disabled=one is None, on_click=sitting.skip)
        st.button("Back", shortcut="Left", disabled=not sitting.past, on_click=sitting.back)
        st.button(
            "Undo",
            shortcut="Z",
            help="Take back your last label.",
            disabled=not sitting.done,
            on_click=sitting.undo,
            args=(reading, reading.judged(), who),
        )
    if sitting.problem:
        st.error(literal(sitting.problem))
    if one is None:
        st.success(f"Nothing is left to judge for {literal(who)}.")
        return
    with panel():
        show(_account(reading, one.key))
    ahead = [other.key for other in left if other.key != sitting.at][:AHEAD]
    threading.Thread(target=_prepare, args=(reading, ahead), daemon=True).start()


def _account(reading: Reading, key: Key) -> str:
    shown = component(reading, key)
    return "" if shown is None else html(FINDINGS, "article", shown, 6)


def _prepare(reading: Reading, keys: Sequence[Key]) -> None:
    """Look up what will be shown next: its images, and their pictures as the page has them."""
    for key in keys:
        try:
            _account(reading, key)
        except Exception as error:  # it is said where the component is shown
            logger.debug("component %s could not be prepared: %s", key, error)


def _reviewers(reading: Reading, every: Mapping[Key, Finding]) -> None:
    """How far reviewers agree, and on what they don't."""
    rows = by_time(row for said in reading.labels().values() for row in said)
    pairs = agreement(rows)
    if not pairs:
        return
    with st.expander("Agreement of reviewers"):
        if (kappa := mean_kappa(pairs)) is not None:
            st.write(f"Cohen's kappa, mean over pairs: {kappa:.2f} (1: always, 0: as by chance).")
        table(
            [
                {
                    "Reviewers": f"{one.first}, {one.second}",
                    "Both judged": one.both,
                    "Said the same": percent(one.same / one.both),
                    "Cohen's kappa": None if one.kappa is None else round(one.kappa, 2),
                }
                for one in pairs
            ]
        )
        views = views_of(reading.labels())
        if differ := differing(every.values(), views):
            st.write("They differ on these; the order “where reviewers differ” shows them.")
            table(
                [
                    {
                        "Class": one.class_name,
                        "Component": one.component,
                        "Seems to be": ", ".join(one.guess[:2]),
                        "Said": "; ".join(f"{w}: {v}" for w, v in views[one.key].items()),
                    }
                    for one in differ
                ]
            )


VIEW = View("review", "Review", draw, "Why", 15, ":material/rate_review:")
