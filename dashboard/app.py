"""The dashboard's page: run by Streamlit (`whylens dashboard RUN`), one rerun per interaction."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import streamlit as st

from whylens.dashboard.choices import find_runs
from whylens.dashboard.look import mark, style
from whylens.dashboard.offered import views
from whylens.errors import WhylensError
from whylens.jobs.report.data import load_run, progress
from whylens.jobs.report.part import RunData


@st.cache_data(show_spinner="Reading the run", max_entries=4)
def load(folder: str, parts: tuple[tuple[str, int], ...]) -> RunData:
    """The run's data; `parts` says how far the run is, so that a growing run is read again."""
    return load_run(folder)


def page(arguments: Sequence[str]) -> None:
    """Draw the page."""
    st.set_page_config("whylens", page_icon=mark(), layout="wide")
    st.html(f"<style>{style()}</style>")
    with st.sidebar:
        st.html('<p class="whylens brand">whylens</p>')
        where = st.text_input(
            "Run folder",
            value=arguments[0] if arguments else "",
            placeholder="runs/my-run",
            help="A run, a folder of runs, or an s3:// or gs:// URI.",
        )
        if not where:
            st.info("Name a run folder to begin.")
            return
        runs = find_runs(where)
        folder = where
        if len(runs) > 1:
            folder = runs[st.selectbox("Run", list(runs))]
        elif runs:
            folder = next(iter(runs.values()))
        try:
            data = load(folder, progress(folder))
        except WhylensError as error:
            st.error(str(error))
            return
        offered = views(str(data.manifest.get("job")))
        view = st.radio("Show", list(offered), key="view")
        if st.button("Read again", icon=":material/refresh:", type="tertiary"):
            load.clear()
            st.rerun()
    offered[view or next(iter(offered))](data)


if __name__ == "__main__":
    page(sys.argv[1:])
