"""The page of a job that has one of its own."""

from __future__ import annotations

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.view import View, literal

# A report is whoever wrote it: it may show its own pictures and styles, and do nothing else.
ALONE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-src 'self'"
HEIGHT = 1800


def draw(reading: Reading) -> None:
    """The page that a job wrote that only measures, without scripts, in a frame of no origin."""
    storage = reading.run.runs[0].storage
    if not storage.exists("report.html"):
        st.info(
            "No report yet: it comes at the job's end, or by "
            f"`whylens report {literal(reading.run.folder)}`."
        )
        return
    page = storage.read("report.html")
    st.download_button("Save the report", page, "report.html", "text/html")
    st.iframe(framed(page.decode(errors="replace")), height=HEIGHT)


def framed(page: str) -> str:
    """A page around a foreign one: the inner frame runs no script and shares no origin."""
    quoted = page.replace("&", "&amp;").replace('"', "&quot;")
    return (
        f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{ALONE}">'
        "<style>html,body,iframe{margin:0;border:0;width:100%;height:100%}</style>"
        f'<iframe sandbox title="The report" srcdoc="{quoted}"></iframe>'
    )


VIEW = View(
    "report",
    "Report",
    draw,
    "Run",
    10,
    ":material/description:",
    offered=lambda reading: reading.measures,
)
