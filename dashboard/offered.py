"""What the dashboard offers of a run: overview, settings, and a view of each part of the report."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from whylens.dashboard.views import overview, page, settings
from whylens.dashboard.views.drawing import show
from whylens.jobs.report.page import html, own_page
from whylens.jobs.report.part import Part, RunData, limited, parts

VIEWS = "whylens.dashboard.views"
View = Callable[[RunData], None]


def views(job: str) -> dict[str, View]:
    """What is offered of a job's run, by title."""
    if own_page(job):
        return {"Report": page.view, "Settings": settings.view}
    found = {part.title: view_of(part) for part in parts()}
    return {"Overview": overview.view, **found, "Settings": settings.view}


def view_of(part: Part[Any]) -> View:
    """The module of views that has the part's name, or else the report's section."""
    name = f"{VIEWS}.{part.name}"
    if importlib.util.find_spec(name) is None:
        return partial(section, part)
    view: View = importlib.import_module(name).view
    return view


def section(part: Part[Any], data: RunData) -> None:
    """The part as the report has it."""
    st.subheader(part.title, anchor=False)
    if data[part]:
        show(html(part, "body", data[part], part, limited({})))
    else:
        st.info(part.empty(data))
