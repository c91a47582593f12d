"""What the terminal says of findings."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whylens.jobs.truth import score
from whylens.jobs.words import percent
from whylens.runs import Run


def show_findings(run: Run, console: Console) -> None:
    """The findings as a table, and in the planted world what is true of them."""
    if not run.table("findings").units():
        console.print("No findings: no component could be judged.")
        return
    rows = run.table("findings").read().to_pylist()
    planted = any(row["truth"] is not None for row in rows)
    table = Table(title="What the classifier relies on beside its objects", title_justify="left")
    for name in ("#", "class", "seems to be", "suspicion"):
        table.add_column(name)
    table.add_column("called so without\nthe object", justify="right")
    table.add_column("its probability there\n(90 % interval)", justify="right")
    table.add_column("asked for", justify="right")
    table.add_column("verdict")
    if planted:
        table.add_column("truth")
    for row in rows:
        cells = [
            str(row["rank"]),
            escape(row["class_name"].split(",")[0]),
            escape(", ".join(row["guess"][:3])) or "?",
            _bar(row["suspicion"]),
            f"{row['sufficiency_share']:.0%}",
            _interval(row),
            percent(row["asked_p"]),
            "suspicious" if row["suspicious"] else "[dim]none[/dim]",
        ]
        table.add_row(*cells, *([_truth(row)] if planted else []))
    console.print(table)
    result = score(run)
    if result is not None:
        console.print(f"[bold]{result}[/bold]")


def _truth(row: dict[str, Any]) -> str:
    if row["truth"]:
        return f"[green]planted: {escape(row['truth'])}[/green]"
    return "[red]not planted[/red]"


def _interval(row: dict[str, Any]) -> str:
    low, high = row["strata_p_low"], row["strata_p_high"]
    if low is None or high is None:
        return "all of one class"
    return f"{percent(row['strata_p'])} ({percent(max(low, 0.0))} to {percent(min(high, 1.0))})"


def _bar(value: float) -> str:
    filled = round(10 * min(max(value, 0.0), 1.0))
    return f"{'█' * filled}{'░' * (10 - filled)} {value:.2f}"
