"""What the terminal says of images that were found."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whylens.jobs.images.search import Answer


def show_images(answer: Answer, console: Console | None = None) -> None:
    """What a search found, as a table."""
    table = Table(title=escape(answer.title), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("image", overflow="fold")
    table.add_column(answer.measure, justify="right")
    for name in ("label", "predicted"):
        table.add_column(name)
        table.add_column("p", justify="right")
    if answer.class_name is not None:
        table.add_column(f"p of {escape(answer.class_name.split(',')[0])}", justify="right")
    for place, image in enumerate(answer.images, start=1):
        cells = [str(place), escape(image.id), f"{image.value:.3f}"]
        for called, p in ((image.label, image.p_label), (image.predicted, image.p_predicted)):
            cells += [escape((called or "").split(",")[0]), "" if p is None else f"{p:.2f}"]
        if answer.class_name is not None:
            cells.append("not in top 5" if image.p_class is None else f"{image.p_class:.2f}")
        table.add_row(*cells)
    (console or Console()).print(table)
