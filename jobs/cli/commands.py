"""The whylens command. Only the job that is asked for is imported, so that help is quick."""

import importlib
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from whylens import logs
from whylens.errors import TERMINATED, UsageError, WhylensError
from whylens.jobs import demo
from whylens.jobs.cli.bench import bench
from whylens.jobs.cli.labels import app as labels
from whylens.jobs.cli.planted import app as planted
from whylens.jobs.cli.running import Tool, job_command, tool_command
from whylens.jobs.cli.submission import CODES, submit
from whylens.jobs.cli.submission import app as submitted
from whylens.jobs.registry import jobs

app = typer.Typer(
    help="Why does an image classifier decide what it decides, and where is it wrong?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# The exit code after Ctrl-C.
STOPPED = 130
TOOLS = (
    Tool(
        "spufix",
        "Repair a classifier by its spurious components; the result is a classifier, spufix:FILE.",
        "whylens.jobs.people.repair:RepairSpec",
    ),
    Tool(
        "figure",
        "Draw runs' generated images as one picture, before and after, a row a use.",
        "whylens.jobs.report.figure:FigureSpec",
        given_by_place="runs",
    ),
    Tool(
        "search",
        "Images that activate a component or a neuron most, lie near an image, or show a text.\n\n"
        "Four questions: --class X --component L, --neuron N, --like IMAGE_ID, or --text WORDS.",
        "whylens.jobs.slices.by_text:SearchSpec",
        given_by_place="run",
        show="whylens.jobs.slices.terminal:show_answer",
    ),
    Tool(
        "explain",
        "Why one image is what the classifier says: its components' contributions, and SpuFix.",
        "whylens.jobs.people.explain:ExplainSpec",
        given_by_place="image",
        show="whylens.jobs.people.terminal:show_explanation",
    ),
    Tool(
        "report",
        "Write a run's report.html again.",
        "whylens.jobs.report.page:ReportSpec",
        given_by_place="run",
    ),
    Tool(
        "site",
        "Write a run's findings as a folder of web pages, which opens without a server.",
        "whylens.jobs.report.site:SiteSpec",
        given_by_place="run",
    ),
)


def _add(name: str, text: str, made: Callable[[], Callable[..., None]], asked: str | None) -> None:
    """Add a command; only the one that is asked for is made, and what it takes imported."""
    if name == asked:
        app.command(name)(made())
    else:
        app.command(name, help=text)(lambda: None)


@app.command()
def dashboard(
    run: Annotated[str | None, typer.Argument(help="Run folder, or a folder of runs.")] = None,
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 8501,
    address: Annotated[
        str,
        typer.Option(
            help="Address to serve on; 0.0.0.0: whoever reaches this machine sees the runs."
        ),
    ] = "localhost",
) -> None:
    """Look at runs in the browser."""
    # The dashboard is above the jobs: it is started, not imported, as Streamlit would anyway.
    module = importlib.import_module("whylens.dashboard.launch")
    module.launch(run, port=port, address=address)


app.command(epilog=CODES)(submit)
app.command()(bench)


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and more log.")] = False,
) -> None:
    try:
        logs.configure(logging.DEBUG if debug else logging.INFO)
    except ValueError as error:
        raise UsageError(str(error)) from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Exit codes: 0; 1, a job failed; 2, asked for wrongly; 3, a run is incomplete, within what its
    spec tolerates; 130 and 143, stopped by Ctrl-C or SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    # --debug is understood wherever it stands.
    words = [*(["--debug"] if debug else []), *(w for w in words if w != "--debug")]
    asked = next((w for w in words if not w.startswith("-")), None)
    _quiet()
    try:
        known = jobs()
        for tool in TOOLS:
            _add(tool.name, tool.help, partial(tool_command, tool), asked)
        for name, job in known.items():
            _add(name, job.help, partial(job_command, job, {}), asked)
        demonstrated = partial(job_command, known["investigate"], demo.SETTINGS)
        _add("demo", demo.HELP, demonstrated, asked)
        app.add_typer(planted, name="planted")
        app.add_typer(labels, name="labels")
        app.add_typer(submitted, name="jobs")
        app(words, prog_name="whylens")
    except WhylensError as error:
        if debug:
            raise
        typer.echo(f"whylens: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        _say_stopped()
        sys.exit(STOPPED)
    except SystemExit as end:
        # What typer makes of Ctrl-C once a command runs.
        if end.code in (STOPPED, TERMINATED):
            _say_stopped()
        raise


def _say_stopped() -> None:
    typer.echo(
        "whylens: stopped. What is finished is kept: start the same command again to go on",
        err=True,
    )


def _quiet() -> None:
    """Settings that have to be there before libraries are imported."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "TQDM_MININTERVAL": "0.5",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)
