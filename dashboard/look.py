"""How the page looks: its style sheet and its icon."""

from __future__ import annotations

from PIL import Image, ImageDraw

from whylens.jobs.report.page import stylesheet

PAGE_STYLE = """
.whylens.brand { font: 600 1.5rem/1 var(--serif); margin: 0 0 .5rem; }
.whylens { --sans: "Source Sans", sans-serif; --card: light-dark(#ffffff, #262521); }
.whylens h1 { font-size: 2.4rem; }
.whylens .cards, .whylens .telling { margin-top: 0; }
[data-testid="stMainBlockContainer"] { padding-top: 4.5rem; max-width: 84rem; }
"""


def style() -> str:
    """The report's parts as they look there, and what the page adds."""
    return f"{stylesheet('parts.css')}\n{PAGE_STYLE}"


def mark() -> Image.Image:
    """The page's icon. (Streamlit fetches named icons from a host outside.)"""
    icon = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(icon)
    for radius, colour in ((30, "#2d5f9e"), (18, "#b3401f"), (7, "#fbfaf7")):
        pen.ellipse((32 - radius, 32 - radius, 32 + radius, 32 + radius), fill=colour)
    return icon
