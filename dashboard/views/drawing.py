"""What views draw with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
from markupsafe import Markup

from whylens.dashboard.view import bound
from whylens.jobs.report.page import flat, html
from whylens.jobs.report.part import Part
from whylens.jobs.report.pictures import picture


def show(content: str) -> None:
    """HTML of the report."""
    st.html(f'<div class="whylens">{content}</div>')


def strip(images: Sequence[tuple[bytes | None, str, str]], a_row: int = 6) -> None:
    """Pictures in rows: bytes, what they show (for who can't see them), and what stands below."""
    figures = Markup("").join(
        Markup('<figure class="tile"><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>')
        .format(picture(content), alt, caption)
        for content, alt, caption in images
    )  # fmt: skip
    columns = f"grid-template-columns:repeat({a_row},minmax(0,1fr))"
    show(f'<div class="strip" style="{columns}">{figures}</div>')


def table(rows: list[dict[str, Any]], columns: Mapping[str, Any] | None = None) -> None:
    """Rows that can be sorted and searched."""
    st.dataframe(rows, hide_index=True, column_config=columns)


def pairs(values: Mapping[str, Any]) -> None:
    """Settings by their dotted names."""
    table([{"Setting": name, "Value": value} for name, value in flat(values)])


def chart(rows: Sequence[Mapping[str, Any]], mark: Any, **encoding: Any) -> None:
    """A chart in Vega-Lite's terms."""
    st.vega_lite_chart({"data": {"values": list(rows)}, "mark": mark, "encoding": encoding})


def axis(field: str, kind: str = "quantitative", **options: Any) -> dict[str, Any]:
    """A channel of a chart."""
    return {"field": field, "type": kind, **options}


def cards(part: Part[Any], rows: Sequence[Any], a_page: int = 12) -> None:
    """A page of cards, as the part's template has them."""
    if not rows:
        st.info(f"No {part.title.lower().removesuffix('s')} passes these filters.")
        return
    pages = -(-len(rows) // a_page)
    number = 1
    if pages > 1:
        number = int(st.number_input(f"Page of {pages}", 1, pages, 1, width=140, **bound("page")))
    shown = rows[(number - 1) * a_page : number * a_page]
    show(f'<div class="cards">{"".join(html(part, "card", row) for row in shown)}</div>')
