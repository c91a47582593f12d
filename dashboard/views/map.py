"""Images or components in the plane: what is drawn round is shown as a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.looking import component
from whylens.dashboard.view import View, literal
from whylens.dashboard.views.drawing import show, strip
from whylens.jobs.people.evidence import thumbs
from whylens.jobs.people.map import Places, map_of_components, map_of_images
from whylens.jobs.report.page import html
from whylens.jobs.report.parts.finding import Finding, Verdict, verdict
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.words import amount, percent

IMAGES, COMPONENTS = "images", "components"
# Of Okabe and Ito, told apart with every kind of colour vision; shapes differ, too.
WRONG, RIGHT, OTHER = "#d55e00", "#0072b2", "#999999"
SHOWN = 24


def draw(reading: Reading) -> None:
    """Images or components in the plane: what is drawn round is shown as a gallery."""
    st.subheader("Map", anchor=False)
    run = reading.run
    offered = [
        what
        for what, there in (
            (IMAGES, run.has("images")),
            (COMPONENTS, run.has("components") and bool(reading.judged())),
        )
        if there
    ]
    if not offered:
        st.info("Nothing to draw yet: no images were embedded.")
        return
    what = st.segmented_control(
        "Of", offered, default=offered[0], required=True, key="map_of", bind="query-params"
    )
    if what == COMPONENTS:
        _components(reading)
    else:
        _images(reading)


def _images(reading: Reading) -> None:
    found = reading.kept("map of images", ("images",), lambda: map_of_images(reading.run))
    names = found.names
    chosen = st.multiselect("Classes", sorted(names.values()), key="of", bind="query-params")
    kept = [i for i, k in enumerate(found.classes.tolist()) if not chosen or names.get(k) in chosen]
    wrong = found.classes != found.predicted
    groups = {
        f"rightly classified ({sum(not wrong[i] for i in kept):,})": (
            [i for i in kept if not wrong[i]], RIGHT, "circle"),
        f"taken for another class ({sum(wrong[i] for i in kept):,})": (
            [i for i in kept if wrong[i]], WRONG, "x"),
    }  # fmt: skip
    words = [
        f"{names.get(k, k)}" + (f", called {names.get(p, p)}" if k != p else "")
        for k, p in zip(found.classes.tolist(), found.predicted.tolist(), strict=True)
    ]
    seen = f"{len(found.ids):,} of {amount(found.total, 'image')}"
    rows = _chart(found.map, groups, words, f"The features of {seen}")
    if not rows:
        st.caption("Draw a line round points to see their images (lasso or box, top right).")
        return
    st.write(
        f"{amount(len(rows), 'image')}, of which "
        f"{percent(float(np.mean(wrong[rows])))} are taken for another class."
    )
    shown = sorted(rows, key=lambda i: not wrong[i])[:SHOWN]
    pictures = thumbs(reading.run, [found.ids[i] for i in shown], "main")
    strip([(pictures.get(found.ids[i]), f"Image {found.ids[i]}", words[i]) for i in shown], 8)


def _components(reading: Reading) -> None:
    every = reading.judged()
    keys = list(every)
    found = reading.kept(
        "map of components",
        ("components", "verdicts", "findings"),
        lambda: map_of_components(reading.run, keys),
    )
    looks = {
        Verdict.RELIES: (WRONG, "diamond"),
        Verdict.PULLS: ("#e69f00", "square"),
        Verdict.WEAK: (OTHER, "circle"),
        Verdict.UNCHECKED: ("#56b4e9", "cross"),
    }
    groups = {
        f"{kind.value} ({len(rows):,})": (rows, *looks[kind])
        for kind in (Verdict.WEAK, Verdict.UNCHECKED, Verdict.PULLS, Verdict.RELIES)
        if (rows := [i for i, key in enumerate(keys) if verdict(every[key]) is kind])
    }
    words = [
        f"{one.class_name}, component {one.component}"
        + (f": {', '.join(one.guess[:2])}" if one.guess else "")
        for one in every.values()
    ]
    rows = _chart(found, groups, words, f"The directions of {amount(len(keys), 'component')}")
    if not rows:
        st.caption("Draw a line round points to see the components (lasso or box, top right).")
        return
    chosen = sorted((every[keys[i]] for i in rows), key=lambda one: -(one.suspicion or 0.0))
    st.write(amount(len(chosen), "component"))
    _gallery(reading, chosen[:12])


def _gallery(reading: Reading, chosen: Sequence[Finding]) -> None:
    for start in range(0, len(chosen), 3):
        for column, one in zip(st.columns(3), chosen[start : start + 3], strict=False):
            with column.container(border=True, height="stretch"):
                if (shown := component(reading, one.key)) is not None:
                    st.caption(literal(one.class_name))
                    show(html(FINDINGS, "small", shown, one.guess, None))


def _chart(
    found: Places,
    groups: dict[str, tuple[list[int], str, str]],
    words: Sequence[str],
    title: str,
) -> list[int]:
    """Points by group; the rows of those that a viewer drew round."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, (rows, colour, shape) in groups.items():
        figure.add_trace(
            go.Scattergl(
                x=found.places[rows, 0],
                y=found.places[rows, 1],
                mode="markers",
                name=name,
                text=[words[i] for i in rows],
                customdata=rows,
                hovertemplate="%{text}<extra></extra>",
                marker={"color": colour, "symbol": shape, "size": 7, "opacity": 0.7},
            )
        )
    first, second = (f"{place} principal component ({percent(float(share))} of the variance)"
                     for place, share in zip(("1st", "2nd"), found.share, strict=True))  # fmt: skip
    figure.update_layout(
        height=560,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        legend={"orientation": "h", "y": -0.12},
        dragmode="lasso",
        xaxis_title=first,
        yaxis_title=second,
    )
    chosen: Any = st.plotly_chart(
        figure,
        key=f"map {title}",
        on_select="rerun",
        selection_mode=("lasso", "box"),
        config={"displaylogo": False, "displayModeBar": True},
        alt=f"{title} in two dimensions: {', '.join(groups)}",
    )
    return [_row(point) for point in chosen.selection.points]


def _row(point: dict[str, Any]) -> int:
    data = point["customdata"]
    return int(data[0] if isinstance(data, list) else data)


VIEW = View("map", "Map", draw, "Why", 40, ":material/scatter_plot:")
