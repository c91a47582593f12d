"""What the terminal says of where a classifier is wrong."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whylens.jobs.people.search import Answer as Images
from whylens.jobs.people.terminal import show_images
from whylens.jobs.slices.by_text import Answer
from whylens.jobs.words import amount, plain_name
from whylens.runs import Run


def table_of(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    """An empty table of text columns, then number columns, narrow enough for 80 columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def show_systematic(run: Run, console: Console) -> None:
    """Systematic errors in real images, the largest first."""
    searched = run.table("searched").read().to_pylist()
    rows = run.table("systematic").read().to_pylist()
    table = table_of(
        "Real images that fail alike",
        ("called", "though it is without; shows"),
        ("images", "such images\nthat fail", "mean p"),
    )
    for row in sorted(rows, key=lambda row: -row["images"]):
        table.add_row(
            escape(plain_name(row["class_name"])),
            f"looks like {escape(plain_name(row['looks_like']))}"
            if row["looks_like"]
            else escape(", ".join(row["words"])) or "?",
            str(row["images"]),
            f"{row['rate_low']:.0%} to {row['rate_high']:.0%}",
            f"{row['p']:.2f}",
        )
    if rows:
        console.print(table)
    console.print(
        f"{amount(len(rows), 'systematic error')} of "
        f"{amount(len(searched), 'class that was searched', 'classes that were searched')}"
    )


def show_repairs(run: Run, console: Console) -> None:
    """Repairs side by side, for each attribute."""
    table = table_of(
        "Accuracy by group, on images that no repair was fitted to",
        ("by", "repair", "worst group"),
        ("its\naccuracy", "overall"),
    )
    for row in run.table("repairs").read().to_pylist():
        table.add_row(
            escape(row["attribute"]),
            row["repair"],
            escape(f"{plain_name(row['worst_class'])}, {row['worst_value']}"),
            f"{row['worst_accuracy']:.1%}",
            f"{row['accuracy']:.1%}",
        )
    console.print(table)


def show_slices(run: Run, console: Console) -> None:
    """Slices of mistakes, the largest first."""
    rows = run.table("slices").read().to_pylist() if run.table("slices").units() else []
    searched = run.table("mistakes").read().to_pylist() if run.table("mistakes").units() else []
    table = table_of(
        "Mistakes that are alike",
        ("called", "shows", "is"),
        ("images", "such images\nthat fail", "leading\ncomponent"),
    )
    for row in sorted(rows, key=lambda row: -row["images"]):
        table.add_row(
            escape(plain_name(row["class_name"])),
            escape(", ".join(row["words"])) or "?",
            escape(", ".join(map(plain_name, row["labels"]))),
            str(row["images"]),
            f"{row['rate_low']:.0%} to {row['rate_high']:.0%}",
            f"{row['components'][0]} ({row['shares'][0]:.0%})" if row["components"] else "",
        )
    if rows:
        console.print(table)
    mistaken, inside = (sum(row[name] for row in searched) for name in ("mistaken", "in_slices"))
    console.print(f"{amount(len(rows), 'slice')}, of {inside} of {amount(mistaken, 'mistake')}")


def show_names(run: Run, console: Console) -> None:
    """What was named, with the words' scores."""
    table = table_of("Names", ("class", "what", "is named"), ())
    for row in run.table("names").read().to_pylist():
        said = (f"{w} {s:.2f}" for w, s in zip(row["words"], row["scores"], strict=True))
        table.add_row(
            escape(plain_name(row["class_name"])),
            f"{row['kind']} {row['number']}",
            escape(", ".join(said)),
        )
    console.print(table)


def show_answer(answer: Answer | Images, console: Console) -> None:
    """What a search finds: by a text what was named, and the images that show it."""
    if not isinstance(answer, Answer):
        show_images(answer, console)
        return
    table = table_of(
        f"What shows {escape(answer.text)}", ("class", "what", "is named"), ("cosine",)
    )
    for one in answer.things:
        table.add_row(
            escape(plain_name(one.class_name)),
            f"{one.kind} {one.number}",
            escape(", ".join(one.words)),
            f"{one.score:.2f}",
        )
    console.print(table)
    images = table_of("Images, of those by which things were named", ("image",), ("cosine",))
    for picture in answer.images:
        images.add_row(escape(picture.id), f"{picture.score:.2f}")
    console.print(images)
