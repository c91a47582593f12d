"""What the terminal says of one image's decision."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whylens.jobs.people.explain import Explanation, sentences
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
