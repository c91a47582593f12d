"""A view: a page of the dashboard, and the panels on it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import streamlit as st

from whylens.dashboard.kept import Reading

logger = logging.getLogger(__name__)

# The headings of the navigation, in order.
PAGES = "pages of the navigation"
# The parameter of the address that names the run, and the widget that chooses it.
RUN = "run"
SECTIONS = ("Why", "Pictures", "Run")


@dataclass(frozen=True)
class View:
    """A page of the dashboard: a module of `dashboard/views` that says `VIEW = View(...)` is one.

    name: its path in the URL; of a part of the report: the part's name, whose view it then is
    title: its entry in the navigation
    draw: draws it
    section: the heading that it stands under, one of SECTIONS
    place: where in the section, lower is earlier
    icon: of Material Symbols, as Streamlit names them
    offered: whether a run has it
    """

    name: str
    title: str
    draw: Callable[[Reading], None]
    section: str
    place: int = 50
    icon: str = ""
    offered: Callable[[Reading], bool] = lambda reading: not reading.measures


def remember(pages: Mapping[str, Any], run: str) -> None:
    """Keep the session's pages by the views' names, and the name of the run that they show."""
    st.session_state[PAGES] = pages, run


def link(view: str, label: str, **query: str) -> None:
    """A link to a view of the same run; nothing where the run has no such view."""
    pages, run = st.session_state.get(PAGES, ({}, ""))
    if view in pages:
        st.page_link(pages[view], label=label, query_params=_asked(run, query))


def go_to(view: str, **query: str) -> None:
    """Go on to a view of the same run; to nowhere where the run has no such view."""
    pages, _ = st.session_state.get(PAGES, ({}, ""))
    if view in pages:
        # The run stays in the address by itself, since a widget is bound to it.
        st.switch_page(pages[view], query_params=query)


def show_run(name: str) -> None:
    """Show another run of the root: for what a widget calls, before the page is drawn."""
    st.session_state[RUN] = name


def bound(key: str) -> dict[str, Any]:
    """Options of a widget whose value stands in the address under this name."""
    return {"key": key, "bind": "query-params"}


def follow(name: str, known: Container[str], first: str) -> str:
    """The key of a widget whose value, a text, is the parameter `name` of the address.

    What the address names is chosen, also when Back has changed it, and the `first` where it names
    nothing; `lead` has to be called with what the widget says.
    """
    asked = st.query_params.get(name, first)
    if asked in known and asked != st.session_state.get(f"{name} seen"):
        st.session_state[f"{name} chosen"] = asked
    return f"{name} chosen"


def lead(name: str, value: str, first: str) -> None:
    """Write what a widget says into the address; an empty address means the `first`."""
    st.session_state[f"{name} seen"] = value
    if value != st.query_params.get(name, first):
        st.query_params[name] = value


def _asked(run: str, query: Mapping[str, str]) -> dict[str, str]:
    return {"run": run, **query} if run else dict(query)


@contextmanager
def panel() -> Iterator[None]:
    """What goes wrong inside is said in its place, with the file that it is about."""
    try:
        yield
    except Exception as error:
        say_error(error)


def say_error(error: Exception) -> bool:
    """Say what went wrong where the page stands; the traceback is in the log. True: it is said."""
    logger.warning("something could not be shown", exc_info=error)
    st.error(literal(f"This can't be shown: {error or type(error).__name__}"))
    return True


def literal(text: object) -> str:
    """Text as Markdown that shows it as it is: no emphasis, link, picture, formula or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$:.@&-])", r"\\\1", str(text))
