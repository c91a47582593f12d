"""What the terminal says of what was measured."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whylens.jobs.measuring.evaluation_report import OF_PAIR, labels, lines, pairs
from whylens.jobs.measuring.figures import short_names
from whylens.runs import Run


def show_leaderboard(run: Run, console: Console) -> None:
    """The classifiers of a score run, the least reliant on spurious features first."""
    leaders = run.table("leaderboard").read().to_pylist()
    names = short_names(leaders)
    table = Table(title="Spurious score: who relies least", title_justify="left")
    for name in ("#", "classifier"):
        table.add_column(name)
    called = "spurious images\ncalled the class"
    for name in ("spurious\nscore", "joint\nscore", "ROC\nAUC", "accuracy", called):
        table.add_column(name, justify="right")
    for row in leaders:
        table.add_row(
            str(row["rank"]),
            escape(names[row["classifier"]]),
            f"{row['spurious_score']:.3f}",
            f"{row['joint_score']:.3f}",
            f"{row['roc_auc']:.3f}",
            f"{row['accuracy']:.1%}",
            f"{row['spurious_called']:.0%}",
        )
    console.print(table)
    if any(row["published_score"] is not None for row in leaders):
        console.print(_against_published(leaders, names))


def _against_published(leaders: list[dict[str, Any]], names: dict[str, str]) -> Table:
    """Each classifier that the published table has: its figures there, here, and the differences.

    Accuracy can only be that of the table where all of ImageNet's validation images were given.
    """
    table = Table(title="Against the published table of Spurious ImageNet", title_justify="left")
    table.add_column("classifier")
    for what in ("spurious score", "accuracy"):
        for name in ("published", "here", "difference"):
            table.add_column(f"{what}\n{name}", justify="right")
    for row in leaders:
        there = row["published_score"]
        if there is None:
            continue
        score = row["spurious_score"]
        cells = [f"{there:.3f}", f"{score:.3f}", f"{score - there:+.3f}"]
        if (there := row["published_accuracy"]) is not None:
            accuracy = row["accuracy"]
            cells += [f"{there:.1%}", f"{accuracy:.1%}", f"{100 * (accuracy - there):+.1f}"]
        table.add_row(escape(names[row["classifier"]]), *cells)
    return table


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
    for pair in pairs(run, rows):
        title = f"{pair.name} (features of {pair.features})"
        table = Table(title=escape(title), title_justify="left")
        for name in ("", "Images", *(one.title for one in OF_PAIR)):
            table.add_column(name, justify="right" if name else "left")
        for label, images, own in pair.lines:
            marked = (f"[bold]{cell.text}[/]" if cell.best else cell.text for cell in own)
            table.add_row(escape(label), str(images), *marked)
        console.print(table)
