"""The page of a job that has one of its own."""

from __future__ import annotations

import streamlit as st

from whylens.jobs.report.part import RunData
from whylens.runs import Run


def view(data: RunData) -> None:
    """The page that a job wrote that only measures."""
    storage = Run.open(data.uri).storage
    if not storage.exists("report.html"):
        st.info(f"No report yet: it comes at the job's end, or by `whylens report {data.uri}`.")
        return
    st.iframe(storage.read("report.html").decode(), height=1800)
