"""A job as a command: its spec's settings as options, and what it says when it is done."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whylens.errors import UsageError
from whylens.jobs.registry import Job, named

if TYPE_CHECKING:
    from pydantic import BaseModel

    from whylens.runs import Run

# The exit code of a job that did all but what its spec tolerates.
INCOMPLETE = 3
SIMPLE = (str, int, float, bool, str | None, list[str])


def command(job: Job, given: Mapping[str, Any]) -> Callable[..., None]:
    """The command that runs a job.

    `given` are settings that count where neither an option nor the spec file says otherwise.
    """

    def run(**options: Any) -> None:
        file, assignments = options.pop("spec"), options.pop("assignments")
        done = job.run(_spec(job, given, file, options, assignments or []))
        _show(job, done)
        _tell_undone(done)

    listed = options_of(job.spec, given)
    simple = {parameter.name for parameter in listed}
    nested = ", ".join(name for name in job.spec.model_fields if name not in simple)
    return signed(
        run,
        [
            option("spec", str, "YAML file with settings; options go before it."),
            *listed,
            option("set", list[str], f"Any setting as PATH=VALUE, of {nested} too."),
        ],
        inspect.getdoc(job.spec) or "",
    )


def options_of(model: type[BaseModel], given: Mapping[str, Any]) -> list[inspect.Parameter]:
    """An option for each setting that is a word, a number or a list of words."""
    parameters = []
    for name, info in model.model_fields.items():
        if info.annotation not in SIMPLE:
            continue
        default = given.get(name, None if info.is_required() else info.get_default())
        shown = "" if default is None else f" [default: {default}]"
        parameters.append(option(name, info.annotation, f"{info.description}{shown}"))
    return parameters


def option(name: str, kind: Any, text: str) -> inspect.Parameter:
    """An option of a command, None where it is not given."""
    from rich.markup import escape

    flag = f"--{name.replace('_', '-')}"
    return inspect.Parameter(
        "assignments" if name == "set" else name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            kind | None, typer.Option(flag, help=escape(text), show_default=False)
        ],
    )


def argument(name: str, kind: Any, text: str) -> inspect.Parameter:
    """An argument of a command, which has to be given."""
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        annotation=Annotated[kind, typer.Argument(metavar=name.upper(), help=text)],
    )


def signed(
    function: Callable[..., None], parameters: list[inspect.Parameter], text: str
) -> Callable[..., None]:
    """The function with the parameters and the help that typer reads."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__doc__ = text
    return function


def _spec(
    job: Job, given: Mapping[str, Any], file: str | None, options: Any, assignments: list[str]
) -> Any:
    """What was asked for: options before the file's settings, those before what is given."""
    from whylens.jobs.spec import make_spec, read_yaml

    settings = _over(_over({}, given), read_yaml(file) if file else {})
    # A list that isn't given is None or empty, by the version of typer.
    settings.update({name: value for name, value in options.items() if value not in (None, [])})
    for assignment in assignments:
        assign(settings, assignment)
    return make_spec(job.spec, settings)


def _over(settings: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others above them, which count: of a mapping, those that it has."""
    both = dict(settings)
    for name, value in above.items():
        below = both.get(name)
        if isinstance(value, dict):
            both[name] = _over(below if isinstance(below, dict) else {}, value)
        else:
            both[name] = value
    return both


def assign(settings: dict[str, Any], assignment: str) -> None:
    """Put PATH=VALUE into settings.

    Raises
    ------
    UsageError
        If it is no such thing, its value is not YAML, or its path leads through a value.
    """
    import yaml

    path, equals, value = assignment.partition("=")
    if not equals:
        raise UsageError(f"--set takes PATH=VALUE, not {assignment!r}")
    *folders, last = path.split(".")
    place = settings
    for folder in folders:
        place = place.setdefault(folder, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {assignment}: {folder!r} holds no settings")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {assignment}: the value is not YAML: {error}") from None


def _show(job: Job, run: Run) -> None:
    """What was done, and where it is."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    if job.show:
        named(job.show)(run, console)
    else:
        console.print(_tally(run, job.tables), soft_wrap=True)
    folder = escape(run.folder)
    console.print(f"The run is in {folder}", soft_wrap=True)
    if os.path.exists(os.path.join(run.folder, "report.html")):
        report = escape(os.path.join(run.folder, "report.html"))
        console.print(f"Look at {report}, or: whylens dashboard {folder}", soft_wrap=True)


def _tell_undone(run: Run) -> None:
    """Say what a run that is incomplete lacks.

    Raises
    ------
    typer.Exit
        With the exit code of an incomplete run.
    """
    undone = run.lacking()
    for lack in undone:
        typer.echo(
            f"whylens: incomplete: {lack}. Start the same command again to try them again",
            err=True,
        )
    if undone:
        raise typer.Exit(INCOMPLETE)


def _tally(run: Run, tables: Sequence[str]) -> str:
    """The tables that the run has, with their units."""
    from whylens.jobs.words import amount

    done = [(name, len(run.table(name).units())) for name in tables]
    said = [f"{name}: {amount(count, 'unit')}" for name, count in done if count]
    return "; ".join(said) or "Nothing was written"
