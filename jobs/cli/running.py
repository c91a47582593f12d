"""Jobs and tools as commands: their specs' settings as options, and what they say at the end."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from whylens.errors import UsageError
from whylens.jobs.registry import Job, Listed, named

if TYPE_CHECKING:
    from pydantic import BaseModel

    from whylens.runs import Run

# The exit code of a job that did all but what its spec tolerates.
INCOMPLETE = 3
# What an option takes, and the flags that are not called as their setting.
SIMPLE = (str, int, float, bool, list[str])
FLAGS = {"assignments": "--set", "as_json": "--json", "class_name": "--class"}


@dataclass(frozen=True)
class Tool:
    """A command that is no job.

    name, help: the command's
    spec: what it takes, "module:Spec" of a module whose `run` does it
    given_by_place: the setting that is no option, if there is one
    show: what is said of what `run` gives, "module:function" of it and the console, or else its
        record as JSON; by default its text
    """

    name: str
    help: str
    spec: str
    given_by_place: str | None = None
    show: str | None = None


def job_command(listed: Listed, given: Mapping[str, Any]) -> Callable[..., None]:
    """The command that runs a job.

    `given` are settings that count where neither an option nor the spec file says otherwise.
    """
    job = listed.job()

    def run(**options: Any) -> None:
        file, assignments = options.pop("spec"), options.pop("assignments")
        done = job.run(_spec(job, given, file, options, assignments or []))
        _show(job, done)
        _tell_undone(done)

    offered = options_of(job.spec, given)
    simple = {parameter.name for parameter in offered}
    nested = ", ".join(name for name in job.spec.model_fields if name not in simple)
    return signed(
        run,
        [
            option("spec", str, "YAML file with settings; options go before it."),
            *offered,
            option("assignments", list[str], f"Any setting as PATH=VALUE, of {nested} too."),
        ],
        f"{job.help}\n\n{inspect.getdoc(job.spec)}",
    )


def tool_command(tool: Tool) -> Callable[..., None]:
    """The command of a tool; one that shows parts of the report has their limits as options."""
    from whylens.jobs.report.part import limits
    from whylens.jobs.spec import make_spec

    spec, do = named(tool.spec), named(f"{tool.spec.partition(':')[0]}:run")
    limited = limits() if "limits" in spec.model_fields else None

    def run(**options: Any) -> None:
        as_json = options.pop("as_json", None)
        settings = {name: value for name, value in options.items() if value not in (None, [])}
        if limited:
            names = settings.keys() & limited.model_fields.keys()
            settings["limits"] = {name: settings.pop(name) for name in names}
        found = do(make_spec(spec, settings))
        if as_json:
            typer.echo(json.dumps(found.record()))
        elif tool.show:
            from rich.console import Console

            named(tool.show)(found, Console())
        else:
            typer.echo(found)

    offered = options_of(spec, {}) + (options_of(limited, {}) if limited else [])
    if tool.show:
        offered.append(option("as_json", bool, "Print JSON, no table."))
    if (name := tool.given_by_place) is not None:
        info = spec.model_fields[name]
        offered = [one for one in offered if one.name != name]
        offered.insert(0, argument(name, info.annotation, info.description))
    return signed(run, offered, tool.help)


def options_of(model: type[BaseModel], given: Mapping[str, Any]) -> list[inspect.Parameter]:
    """An option for each setting that is a word, a number or a list of words."""
    parameters = []
    for name, info in model.model_fields.items():
        kind = _kind(info.annotation)
        if kind not in SIMPLE:
            continue
        default = given.get(name, None if info.is_required() else info.get_default())
        shown = "" if default is None or default is False else f" [default: {default}]"
        parameters.append(option(name, kind, f"{info.description}{shown}"))
    return parameters


def _kind(annotation: Any) -> Any:
    """What an option takes for a setting of a type: of one that may be left out, one of a few."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if get_origin(annotation) is Literal:
        return str
    return _kind(kinds[0]) if NoneType in get_args(annotation) and len(kinds) == 1 else annotation


def option(name: str, kind: Any, text: str) -> inspect.Parameter:
    """An option of a command, None where it is not given."""
    from rich.markup import escape

    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    shown = typer.Option(flag, help=escape(text), show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, shown],
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
