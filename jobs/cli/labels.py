"""`whylens labels`: people's judgements of components from the command line."""

from typing import Annotated

import typer

app = typer.Typer(help="Mark components as spurious or not; export and import the list.")
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Run folder that has components.")]


@app.command("add")
def add(
    run: RunFolder,
    class_name: Annotated[
        str, typer.Argument(metavar="CLASS", help="Class by name, synonym or index.")
    ],
    component: Annotated[int, typer.Argument(min=0, help="Index of the class's component.")],
    label: Annotated[str, typer.Argument(help="spurious, not-spurious or unsure.")],
    who: Annotated[str, typer.Option(help="Who says so.")],
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Add a judgement; earlier ones are kept, and the latest of each person counts."""
    from whylens.jobs.people.labels import add_label, find_component

    found = find_component(run, class_name, component)
    add_label(run, found, label.replace("-", " "), who, note)
    typer.echo(f"{found.class_name}, component {component}: {label.replace('-', ' ')}")


@app.command("list")
def listing(run: RunFolder) -> None:
    """All judgements, and what each component counts as: what most persons say."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from whylens.jobs.labelled import label_rows, verdicts
    from whylens.runs import Run
    from whylens.runs.lineage import Lineage

    rows = label_rows(Lineage(Run.open(run)))
    if not rows:
        typer.echo("Nobody has judged a component of this run yet: whylens labels add")
        return
    counted = verdicts(rows)
    table = Table()
    for name in ("class", "component", "counts as", "who", "says", "when", "note"):
        table.add_column(name, justify="right" if name == "component" else "left")
    before = None
    for row in sorted(rows, key=lambda row: (row["class_index"], row["component"])):
        key = row["class_index"], row["component"]
        about = ["", "", ""]
        if key != before:
            name = escape(f"{row['class_name'].split(',')[0]} ({key[0]})")
            about = [name, str(row["component"]), counted[key]]
        said = (row["who"], row["label"], row["when"][:16], row["note"])
        table.add_row(*about, *map(escape, said))
        before = key
    Console().print(table)


@app.command("export")
def export(
    run: RunFolder, file: Annotated[str, typer.Argument(help="JSON file to write.")]
) -> None:
    """Write the components that count as spurious: {class index: [component, ...]}."""
    from whylens.jobs.people.labels_file import export_file

    typer.echo(f"{export_file(run, file)} spurious components written to {file}")


@app.command("import")
def importing(
    run: RunFolder,
    file: Annotated[str, typer.Argument(help="JSON file: {class index or name: [component, ...]}")],
    who: Annotated[str, typer.Option(help="Whose list it is.")],
) -> None:
    """Mark the components of a list as spurious: all of them or, if one is unknown, none."""
    from whylens.jobs.people.labels_file import import_file

    typer.echo(f"{import_file(run, file, who)} components marked as spurious by {who}")
