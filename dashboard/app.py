"""The dashboard's entry: run by Streamlit (`whylens dashboard ROOT`), one rerun per interaction."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from whylens.dashboard.entry import let_in
from whylens.dashboard.first import FIRST
from whylens.dashboard.kept import Reading, reading, runs_in
from whylens.dashboard.look import mark, style
from whylens.dashboard.offered import views
from whylens.dashboard.root import Root
from whylens.dashboard.view import RUN, SECTIONS, View, bound, literal, panel, remember
from whylens.errors import WhylensError


def main(arguments: Sequence[str]) -> None:
    """Draw the page that the URL names, of the run that it names."""
    st.set_page_config("whylens", page_icon=mark(), layout="wide")
    st.html(f"<style>{style()}</style>")
    st.logo(mark(), size="large")
    if not let_in():
        return
    if not arguments:
        st.info("Name a run folder, or a folder of runs: whylens dashboard ROOT")
        return
    try:
        shown = chosen(Root.of(arguments[0]))
    except WhylensError as error:
        st.error(literal(error))
        return
    offered = views(shown)
    pages = {
        view.name: st.Page(
            partial(draw, view, shown),
            title=view.title,
            icon=view.icon or None,
            url_path=view.name,
            default=view.name in FIRST,
        )
        for view in offered
    }
    remember(pages, shown.name)
    named: dict[str, list[Any]] = {}
    for section in SECTIONS:
        if found := [pages[view.name] for view in offered if view.section == section]:
            named[section] = found
    st.navigation(named, expanded=True).run()


def chosen(root: Root) -> Reading:
    """The run that the URL names, or the first: chosen in the sidebar where there are several.

    Raises
    ------
    UsageError
        If there is none, or it can't be opened.
    """
    names = runs_in(root.place)
    if not names:
        raise WhylensError(
            f"{root.place} is not a run folder, and there is none directly inside: it has no "
            "run.json"
        )
    name = names[0]
    if len(names) > 1:
        # An address without a run means the newest, whichever that is when it is opened.
        asked = st.sidebar.selectbox(
            "Run", names, None, **bound(RUN), placeholder=f"{names[0]} (newest)"
        )
        name = asked or names[0]
    if st.sidebar.button("Read again", icon=":material/refresh:", type="tertiary"):
        reading.cache_clear()
        runs_in.clear()
    return reading(root.folder(name), root.place, name)


def draw(view: View, shown: Reading) -> None:
    """A view, and below it what could not be read."""
    with panel():
        view.draw(shown)
    if busy := shown.busy():
        st.fragment(wait, run_every=2)(shown, busy)
    if problems := shown.run.problems:
        with st.expander(f"{len(problems)} of its files could not be read"):
            for problem in problems[:50]:
                st.warning(literal(problem))


def wait(shown: Reading, busy: Sequence[str]) -> None:
    """Say what is still being read, and draw the page again when it is there."""
    if not set(busy) & set(shown.busy()):
        st.rerun()
    st.caption(f"Still being read: {', '.join(busy)}. The page is drawn again when it is there.")


if __name__ == "__main__":
    main(sys.argv[1:])
