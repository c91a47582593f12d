"""What the terminal says of images that were searched for, and of one image's decision."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whylens.jobs.people.explanation import Explanation
from whylens.jobs.people.explanation_page import sentences
from whylens.jobs.people.search import Answer
from whylens.jobs.people.waterfall import signed, steps
from whylens.jobs.words import plain_name


def show_explanation(found: Explanation, console: Console) -> None:
    """An image's decision as a table of contributions, and what SpuFix would change."""
    bars = steps(found)
    largest = max((abs(b.value) for b in bars if b.kind != "total"), default=1.0) or 1.0
    name = escape(plain_name(found.class_name))
    table = Table(title=f"Why {name}?", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("what")
    table.add_column("seems to be")
    table.add_column("adds", justify="right")
    table.add_column("")
    table.add_column("what is known")
    for bar in bars:
        one = bar.contribution
        if bar.kind == "total":
            table.add_row(f"[bold]{escape(bar.label)}", "", f"[bold]{bar.value:.2f}", "", "")
            continue
        length = "█" * round(12 * abs(bar.value) / largest)
        tone = "blue" if bar.value >= 0 else "yellow"
        known = "" if one is None else escape(one.standing)
        table.add_row(
            escape(bar.label),
            "" if one is None else escape(", ".join(one.words[:2])),
            signed(bar.value),
            f"[{tone}]{length}[/{tone}]",
            f"[red]{known}[/red]" if one is not None and one.spurious else known,
        )
    console.print(table)
    console.print(escape(" ".join(sentences(found))), soft_wrap=True)
    console.print(escape(f"Look at {found.folder}/explain.html"), soft_wrap=True)


def show_images(answer: Answer, console: Console) -> None:
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
    console.print(table)
