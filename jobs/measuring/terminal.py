"""What the terminal says of what was measured."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whylens.jobs.measuring.evaluation_report import labels, lines
from whylens.jobs.measuring.figures import short_names
from whylens.runs import Run


def show_leaderboard(run: Run, console: Console) -> None:
    """The classifiers of a score run, the least reliant on spurious features first."""
    leaders = run.table("leaderboard").read().to_pylist()
    names = short_names(leaders)
    table = Table(title="Spurious score: who relies least", title_justify="left")
    for name in ("#", "classifier"):
        table.add_column(name)
    for name in ("spurious\nscore", "ROC\nAUC", "accuracy", "spurious images\ncalled the class"):
        table.add_column(name, justify="right")
    for row in leaders:
        table.add_row(
            str(row["rank"]),
            escape(names[row["classifier"]]),
            f"{row['spurious_score']:.3f}",
            f"{row['roc_auc']:.3f}",
            f"{row['accuracy']:.1%}",
            f"{row['spurious_called']:.0%}",
        )
    console.print(table)


def show_evaluation(run: Run, console: Console) -> None:
    """The measures of each run's counterfactuals, a column a run, and what judges say of them."""
    rows = run.table("evaluation").read().to_pylist()
    table = Table(title="Counterfactuals, measured", title_justify="left")
    table.add_column("")
    for label in labels(rows):
        table.add_column(escape(label), justify="right", overflow="fold")
    table.add_row("Images", *(str(row["images"]) for row in rows))
    if any(row["failed"] for row in rows):
        table.add_row("Failed", *(str(row["failed"]) for row in rows))
    for title, line in lines(rows):
        table.add_row(escape(title), *(f"[bold]{c.text}[/]" if c.best else c.text for c in line))
    console.print(table)
