"""Images or components in the plane: what is drawn round is shown as a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from whylens.dashboard.groups import Group, by_class, by_mistake, by_suspicion, by_verdict
from whylens.dashboard.kept import Reading
from whylens.dashboard.looking import component
from whylens.dashboard.view import View, bound, literal
from whylens.dashboard.views.drawing import show, strip
from whylens.jobs.people.evidence import thumbs
from whylens.jobs.people.map import MAP, Places, component_points, image_points
from whylens.jobs.report.page import html
from whylens.jobs.report.parts.finding import Finding
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.words import amount, percent

IMAGES, COMPONENTS = "images", "components"
# Pictures of a gallery of images.
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
    what = st.segmented_control("Of", offered, default=offered[0], required=True, **bound("map_of"))
    if what == COMPONENTS:
        _components(reading)
    else:
        _images(reading)


def _images(reading: Reading) -> None:
    found = reading.kept("map of images", (MAP, "images"), lambda: image_points(reading.run))
    names = [found.names.get(k, str(k)) for k in found.classes.tolist()]
    left, right = st.columns([3, 1])
    chosen = left.multiselect("Classes", sorted(set(names)), **bound("of"))
    kept = [i for i, name in enumerate(names) if not chosen or name in chosen]
    wrong = found.classes != found.predicted
    colour = _colour(right, ("mistake", "class"), "image_colour")
    groups = by_mistake(wrong, kept) if colour == "mistake" else by_class(names, kept)
    words = [
        name + (f", called {found.names.get(p, p)}" if is_wrong else "")
        for name, p, is_wrong in zip(names, found.predicted.tolist(), wrong, strict=True)
    ]
    seen = f"{len(found.ids):,} of {amount(found.total, 'image')}"
    rows = _chart(found.map, groups, words, f"The features of {seen}")
    if not rows:
        st.caption(f"{seen}. Draw a line round points to see them (lasso or box, top right).")
        _how(reading, found.map)
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
    found = reading.kept(
        "map of components",
        (MAP, "components", "verdicts", "findings"),
        lambda: component_points(reading.run, list(every)),
    )
    placed = [every[key] for key in found.keys]
    colour = _colour(st, ("verdict", "suspicion", "class"), "component_colour")
    groups = {
        "verdict": lambda: by_verdict(placed),
        "suspicion": lambda: by_suspicion(placed),
        "class": lambda: by_class([one.class_name for one in placed], range(len(placed))),
    }[colour]()
    words = [
        f"{one.class_name}, component {one.component}"
        + (f": {', '.join(one.guess[:2])}" if one.guess else "")
        for one in placed
    ]
    rows = _chart(found.map, groups, words, f"The directions of {amount(len(placed), 'component')}")
    if not rows:
        st.caption("Draw a line round points to see the components (lasso or box, top right).")
        _how(reading, found.map)
        return
    chosen = sorted((placed[i] for i in rows), key=lambda one: -(one.suspicion or 0.0))
    st.write(amount(len(chosen), "component"))
    _gallery(reading, chosen[:12])


def _colour(where: Any, by: Sequence[str], key: str) -> str:
    """What points are told apart by."""
    chosen = where.segmented_control("Colour by", by, default=by[0], required=True, **bound(key))
    return str(chosen or by[0])


def _how(reading: Reading, found: Places) -> None:
    """How the map came about, and how to have another."""
    if not found.share:
        st.caption("UMAP: what is alike lies together; how far apart the rest lies means little.")
    elif not reading.run.has(MAP):
        st.caption(
            "Principal components. A UMAP, or more images, are a job: whylens map --source "
            f"{literal(reading.run.folder)} --out MAP --set map.method=umap; then open its run."
        )


def _gallery(reading: Reading, chosen: Sequence[Finding]) -> None:
    for start in range(0, len(chosen), 3):
        for column, one in zip(st.columns(3), chosen[start : start + 3], strict=False):
            with column.container(border=True, height="stretch"):
                if (shown := component(reading, one.key)) is not None:
                    st.caption(literal(one.class_name))
                    show(html(FINDINGS, "small", shown, one.guess, None))


def _chart(
    found: Places,
    groups: Sequence[Group],
    words: Sequence[str],
    title: str,
) -> list[int]:
    """Points by group; the rows of those that a viewer drew round."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for group in groups:
        figure.add_trace(
            go.Scattergl(
                x=found.places[group.rows, 0],
                y=found.places[group.rows, 1],
                mode="markers",
                name=_plain(group.title),
                text=[_plain(words[i]) for i in group.rows],
                customdata=group.rows,
                hovertemplate="%{text}<extra></extra>",
                marker={"color": group.colour, "symbol": group.shape, "size": 7, "opacity": 0.7},
            )
        )
    axes = [
        f"{place} principal component ({percent(share)} of the variance)"
        for place, share in zip(("1st", "2nd"), found.share, strict=False)
    ] or ["", ""]
    figure.update_layout(
        height=560,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        legend={"orientation": "h", "y": -0.12},
        dragmode="lasso",
        xaxis_title=axes[0],
        yaxis_title=axes[1],
    )
    chosen: Any = st.plotly_chart(
        figure,
        key=f"map {title}",
        on_select="rerun",
        selection_mode=("lasso", "box"),
        config={"displaylogo": False, "displayModeBar": True},
        alt=f"{title} in two dimensions: {', '.join(group.title for group in groups)}",
    )
    return [_row(point) for point in chosen.selection.points]


def _plain(text: str) -> str:
    """Text that plotly shows as it is: it takes some HTML, links too."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _row(point: dict[str, Any]) -> int:
    data = point["customdata"]
    return int(data[0] if isinstance(data, list) else data)


VIEW = View("map", "Map", draw, "Why", 40, ":material/scatter_plot:")
