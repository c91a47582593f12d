"""What the dashboard offers of a run: its own views, and one of each part of the report."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache, partial
from typing import Any

import streamlit as st

import whylens.dashboard.views
from whylens.dashboard.kept import Reading
from whylens.dashboard.saving import save_csv
from whylens.dashboard.view import View
from whylens.dashboard.views.drawing import show
from whylens.jobs.report.exported import plain_rows
from whylens.jobs.report.page import html
from whylens.jobs.report.part import Part, limited, parts

PLAIN_ICON = ":material/article:"
# Parts are results, but for these.
OF_THE_RUN = ("rejected", "failures")


def views(reading: Reading) -> list[View]:
    """The views that a run has, in the order of the navigation."""
    own = {view.name: view for view in own_views()}
    generic = [] if reading.measures else [view_of(part) for part in parts()]
    found = [*own.values(), *(view for view in generic if view.name not in own)]
    return sorted((v for v in found if v.offered(reading)), key=lambda view: view.place)


@cache
def own_views() -> tuple[View, ...]:
    """The views that are modules of `dashboard/views`."""
    package = whylens.dashboard.views
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return tuple(module.VIEW for module in modules if hasattr(module, "VIEW"))


def view_of(part: Part[Any]) -> View:
    """The report's section as a view."""
    heading = "Run" if part.name in OF_THE_RUN else "Pictures"
    return View(part.name, part.title, partial(section, part), heading, part.place, PLAIN_ICON)


def section(part: Part[Any], reading: Reading) -> None:
    """The part as the report has it."""
    st.subheader(part.title, anchor=False)
    if rows := reading[part]:
        save_csv(part.name, lambda: plain_rows(rows))
        show(html(part, "body", rows, part, limited({})))
    else:
        st.info(part.empty(reading.data()))
