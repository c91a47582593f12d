"""What a run was started with, and with which versions."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.views.drawing import pairs
from whylens.jobs.report.part import RunData


def view(data: RunData) -> None:
    """What the run was started with, and with which versions."""
    st.subheader("Settings", anchor=False)
    pairs(data.spec)
    for title, key in (("Time taken, in seconds", "timings"), ("Versions", "versions")):
        values = data.manifest.get(key) or {}
        if values:
            st.subheader(title, anchor=False)
            pairs(values)
