"""What the terminal says of findings."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whylens.jobs.truth import score
from whylens.jobs.words import percent
from whylens.runs import Run


def show_findings(run: Run, console: Console) -> None:
    """The findings as a table, with the interval that decides; in the planted world, the truth."""
    if not run.table("findings").units():
        console.print("No findings: no component could be judged.")
        return
    rows = run.table("findings").read().to_pylist()
    planted = any(row["truth"] is not None for row in rows)
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        title="What the classifier relies on beside its objects",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("#", "class", "seems to be", "suspicion"):
        table.add_column(name)
    table.add_column("called so\nwithout", justify="right")
    table.add_column("p there,\n90 %", justify="right")
    table.add_column("verdict", no_wrap=True)
    if planted:
        table.add_column("planted")
    for row in rows:
        cells = [
            str(row["rank"]),
            escape(row["class_name"].split(",")[0]),
            escape(", ".join(row["guess"][:3])) or "?",
            f"{row['suspicion']:.2f}",
            f"{row['sufficiency_share']:.0%}",
            _interval(row),
            "suspicious" if row["suspicious"] else "[dim]none[/dim]",
        ]
        table.add_row(*cells, *([_truth(row)] if planted else []))
    console.print(table)
    result = score(run)
    if result is not None:
        console.print(f"[bold]{result}[/bold]")


def _truth(row: dict[str, Any]) -> str:
    if row["truth"]:
        return f"[green]{escape(row['truth'])}[/green]"
    return "[red]no[/red]"


def _interval(row: dict[str, Any]) -> str:
    low, high = row["strata_p_low"], row["strata_p_high"]
    if low is None or high is None:
        return "one class"
    return f"{percent(max(low, 0.0))} to {percent(min(high, 1.0))}"
