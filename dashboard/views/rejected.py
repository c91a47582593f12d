"""The files that were left out, and why."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.views.drawing import table
from whylens.jobs.report.part import RunData
from whylens.jobs.report.parts.rejected import REJECTED
from whylens.jobs.words import amount


def view(data: RunData) -> None:
    """The files that were left out, and why."""
    st.subheader(REJECTED.title, anchor=False)
    if not data[REJECTED]:
        st.info(REJECTED.empty(data))
        return
    st.write(f"{amount(len(data[REJECTED]), 'file')} could not be used.")
    table(
        [{"File": r.file, "Reason": r.reason, "Collection": r.collection} for r in data[REJECTED]]
    )
