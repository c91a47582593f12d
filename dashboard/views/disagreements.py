"""The images on which the classifiers were pulled apart."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.saving import save_csv
from whylens.dashboard.view import View, bound
from whylens.dashboard.views.drawing import cards
from whylens.jobs.report.exported import plain_rows
from whylens.jobs.report.parts.disagreements import DISAGREEMENTS


def draw(reading: Reading) -> None:
    """The images on which the classifiers were pulled apart."""
    rows = reading[DISAGREEMENTS]
    if not rows:
        st.info(DISAGREEMENTS.empty(reading.data()))
        return
    st.subheader(DISAGREEMENTS.title, anchor=False)
    st.write(DISAGREEMENTS.sentence(rows))
    names = list(dict.fromkeys(row.class_name for row in rows))
    classes = st.multiselect("Classes", names, **bound("of"))
    shown = [row for row in rows if not classes or row.class_name in classes]
    save_csv(DISAGREEMENTS.name, lambda: plain_rows(shown))
    cards(DISAGREEMENTS, shown)


VIEW = View(DISAGREEMENTS.name, DISAGREEMENTS.title, draw, "Pictures", 30, ":material/call_split:")
