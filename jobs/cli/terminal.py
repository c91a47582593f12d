"""What a job says on the terminal when it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from whylens.runs import Run

if TYPE_CHECKING:
    from whylens.jobs.people.search import Answer


def show_findings(run: Run, console: Console) -> None:
    """The findings as a table, and in the planted world what is true of them."""
    from whylens.jobs.findings.truth import score

    if not run.table("findings").units():
        console.print("No findings: no component could be judged.")
        return
    rows = run.table("findings").read().to_pylist()
    planted = any(row["truth"] is not None for row in rows)
    table = Table(title="What the classifier relies on beside its objects", title_justify="left")
    for name in ("#", "class", "seems to be", "suspicion"):
        table.add_column(name)
    table.add_column("called so without\nthe object", justify="right")
    if planted:
        table.add_column("truth")
    for row in rows:
        cells = [
            str(row["rank"]),
            row["class_name"].split(",")[0],
            ", ".join(row["guess"][:3]) or "?",
            _bar(row["suspicion"]),
            f"{row['sufficiency_share']:.0%}",
        ]
        table.add_row(*cells, *([_truth(row)] if planted else []))
    console.print(table)
    result = score(run)
    if result is not None:
        console.print(f"[bold]{result}[/bold]")


def show_leaderboard(run: Run, console: Console) -> None:
    """The classifiers of a score run, the least reliant on spurious features first."""
    from whylens.jobs.measuring.figures import short_names

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
            names[row["classifier"]],
            f"{row['spurious_score']:.3f}",
            f"{row['roc_auc']:.3f}",
            f"{row['accuracy']:.1%}",
            f"{row['spurious_called']:.0%}",
        )
    console.print(table)


def show_evaluation(run: Run, console: Console) -> None:
    """The measures of each run's counterfactuals, a column a run, and what judges say of them."""
    from rich.markup import escape

    from whylens.jobs.measuring.evaluation_report import labels, lines

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


def show_images(answer: Answer, console: Console | None = None) -> None:
    """What a search found, as a table."""
    from rich.markup import escape

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


def show_explanation(found: Any, console: Console) -> None:
    """An image's decision as a table of contributions, and what SpuFix would change."""
    from whylens.jobs.people.explanation_page import sentences
    from whylens.jobs.people.waterfall import signed, steps
    from whylens.jobs.words import plain_name

    bars = steps(found)
    largest = max((abs(b.value) for b in bars if b.kind != "total"), default=1.0) or 1.0
    name = plain_name(found.class_name)
    table = Table(title=f"Why {name}?", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("what")
    table.add_column("seems to be")
    table.add_column("adds", justify="right")
    table.add_column("")
    table.add_column("what is known")
    for bar in bars:
        one = bar.contribution
        if bar.kind == "total":
            table.add_row(f"[bold]{bar.label}", "", f"[bold]{bar.value:.2f}", "", "")
            continue
        length = "█" * round(12 * abs(bar.value) / largest)
        tone = "blue" if bar.value >= 0 else "yellow"
        known = "" if one is None else one.standing
        table.add_row(
            bar.label,
            "" if one is None else ", ".join(one.words[:2]),
            signed(bar.value),
            f"[{tone}]{length}[/{tone}]",
            f"[red]{known}[/red]" if one is not None and one.spurious else known,
        )
    console.print(table)
    console.print(" ".join(sentences(found)), soft_wrap=True)


def _truth(row: dict[str, Any]) -> str:
    return f"[green]planted: {row['truth']}[/green]" if row["truth"] else "[red]not planted[/red]"


def _bar(value: float) -> str:
    filled = round(10 * min(max(value, 0.0), 1.0))
    return f"{'█' * filled}{'░' * (10 - filled)} {value:.2f}"
