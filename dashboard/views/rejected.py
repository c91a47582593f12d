"""The files that were left out, and why."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.view import View
from whylens.dashboard.views.drawing import table
from whylens.jobs.report.parts.rejected import REJECTED
from whylens.jobs.words import amount


def draw(reading: Reading) -> None:
    """The files that were left out, and why."""
    st.subheader(REJECTED.title, anchor=False)
    if not reading[REJECTED]:
        st.info(REJECTED.empty(reading.data()))
        return
    st.write(f"{amount(len(reading[REJECTED]), 'file')} could not be used.")
    table(
        [
            {"File": r.file, "Reason": r.reason, "Collection": r.collection}
            for r in reading[REJECTED]
        ]
    )


VIEW = View(REJECTED.name, REJECTED.title, draw, "Run", 90, ":material/block:")
