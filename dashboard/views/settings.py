"""What a run was started with, and with which versions."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.view import View
from whylens.dashboard.views.drawing import pairs


def draw(reading: Reading) -> None:
    """What the run was started with, and with which versions."""
    st.subheader("Settings", anchor=False)
    record = reading.record
    pairs(record["spec"])
    for title, key in (("Time taken, in seconds", "timings"), ("Versions", "versions")):
        values = record.get(key) or {}
        if values:
            st.subheader(title, anchor=False)
            pairs(values)


VIEW = View(
    "settings", "Settings", draw, "Run", 98, ":material/tune:", offered=lambda reading: True
)
