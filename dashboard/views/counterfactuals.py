"""The changed images, chosen by class and outcome."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.view import View
from whylens.dashboard.views.drawing import cards
from whylens.jobs.report.parts.counterfactuals import COUNTERFACTUALS, Counterfactual


def draw(reading: Reading) -> None:
    """The changed images, chosen by class and outcome."""
    rows = reading[COUNTERFACTUALS]
    if not rows:
        st.info(COUNTERFACTUALS.empty(reading.data()))
        return
    st.subheader(COUNTERFACTUALS.title, anchor=False)
    st.write(COUNTERFACTUALS.sentence(rows))
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
    cards(COUNTERFACTUALS, shown)


def outcome(row: Counterfactual) -> str:
    """How a counterfactual ended."""
    return "failed" if not row.after else "flipped" if row.flipped else "not flipped"


VIEW = View(COUNTERFACTUALS.name, COUNTERFACTUALS.title, draw, "Pictures", 20, ":material/compare:")
