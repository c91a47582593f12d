"""The whylens command. Only the job that is asked for is imported, so that help is quick."""

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from whylens import logs
from whylens.errors import TERMINATED, UsageError, WhylensError
from whylens.jobs import demo
from whylens.jobs.cli.bench import bench
from whylens.jobs.cli.labels import app as labels
from whylens.jobs.cli.planted import app as planted
from whylens.jobs.cli.running import argument, command, option, options_of, signed
from whylens.jobs.cli.submission import CODES, submit
from whylens.jobs.cli.submission import app as submitted
from whylens.jobs.registry import Listed, jobs, named

app = typer.Typer(
    help="Why does an image classifier decide what it decides, and where is it wrong?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# The exit code after Ctrl-C.
STOPPED = 130
REPORT = "Write a run's report.html again."
SITE = "Write a run's findings as a folder of web pages, which opens without a server."


def _add(name: str, text: str, job: Listed, given: Mapping[str, Any], asked: str | None) -> None:
    """Add a job's command; only the one that is asked for is imported."""
    if name != asked:
        app.command(name, help=text)(lambda: None)
        return
    made = command(job.job(), given)
    app.command(name, help=f"{text}\n\n{made.__doc__}")(made)


def _add_showing(
    name: str, text: str, place: str, own: Sequence[inspect.Parameter], asked: str | None
) -> None:
    """Add a command that shows a run, whose options are the limits of all parts of the report.

    place: "module:Spec" of what it takes, in a module whose `run` does it
    own: its options beside the limits
    """
    if asked != name:
        app.command(name, help=text)(lambda: None)
        return
    from whylens.jobs.report.part import limits
    from whylens.jobs.spec import make_spec

    def show(**options: Any) -> None:
        given = {key: value for key, value in options.items() if value is not None}
        shown = {key: given.pop(key) for key in limits().model_fields if key in given}
        spec = make_spec(named(place), {**given, "limits": shown})
        typer.echo(named(f"{place.partition(':')[0]}:run")(spec))

    folder = argument("run", str, "Run folder.")
    app.command(name, help=text)(signed(show, [folder, *own, *options_of(limits(), {})], text))


@app.command()
def spufix(
    source: Annotated[str, typer.Option(help="Run folder of a components or investigate job.")],
    out: Annotated[str, typer.Option(help="File to write, *.safetensors.")],
    onto: Annotated[
        str | None,
        typer.Option(help="Run in which another classifier embedded the same images: repair it."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="refit: the head anew; formula: minus max(alpha, 0).")
    ] = "refit",
    by: Annotated[
        str | None,
        typer.Option(help="labels or findings; labels where there are any, if not said."),
    ] = None,
    budget: Annotated[
        float, typer.Option(help="refit: accuracy on training images that may be lost.")
    ] = 0.015,
) -> None:
    """Repair a classifier by its spurious components; the result is a classifier, spufix:FILE."""
    from whylens.jobs.spec import make_spec

    module = importlib.import_module("whylens.jobs.people.repair")
    settings = {"source": source, "out": out, "onto": onto, "method": method, "by": by}
    done = module.repair_run(make_spec(module.RepairSpec, {**settings, "budget": budget}))
    count = sum(len(components) for components in done.spurious.values())
    typer.echo(f"{done.base}: {count} spurious components of {len(done.spurious)} classes")
    for name, what in (("images", "the run's images"), ("mined", "mined images, own class")):
        typer.echo(f"  accuracy on {what}: {done.before[name]:.1%} -> {done.after[name]:.1%}")
    typer.echo(f"Use it as the classifier {done.name}")


@app.command()
def figure(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run folders; the first with images of a use shows it."),
    ],
    out: Annotated[str, typer.Option(help="PNG to write.")] = "figure.png",
    columns: Annotated[int, typer.Option(min=1, max=12, help="Pairs of images in a row.")] = 6,
) -> None:
    """Draw runs' generated images as one picture, before and after, a row a use."""
    from whylens.jobs.spec import make_spec

    module = importlib.import_module("whylens.jobs.report.figure")
    settings = {"runs": runs, "out": out, "columns": columns}
    typer.echo(module.write(make_spec(module.FigureSpec, settings)))


@app.command()
def search(
    run: Annotated[str, typer.Argument(help="Run folder; its sources are looked in too.")],
    class_: Annotated[str | None, typer.Option("--class", help="A class, name or number.")] = None,
    component: Annotated[int | None, typer.Option(help="Images that activate it most.")] = None,
    neuron: Annotated[int | None, typer.Option(help="Images that activate it most.")] = None,
    like: Annotated[str | None, typer.Option(help="Id of an image: its neighbours.")] = None,
    text: Annotated[
        str | None,
        typer.Option(help="What shows it, of all that the names job named: its run is asked."),
    ] = None,
    of_class: Annotated[
        bool, typer.Option("--of-class", help="Neighbours in the class's alphas, not in phi.")
    ] = False,
    among_class: Annotated[
        bool, typer.Option("--among-class", help="Only the class's images.")
    ] = False,
    without_class: Annotated[
        bool, typer.Option("--without-class", help="Only images that do not show the class.")
    ] = False,
    collection: Annotated[str, typer.Option(help="main, or second.")] = "main",
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, no table.")] = False,
) -> None:
    """Images that activate a component or a neuron most, lie near an image, or show a text.

    Four questions: --class X --component L, --neuron N, --like IMAGE_ID, or --text WORDS.
    """
    if text is not None:
        if any(one is not None for one in (class_, component, neuron, like)):
            raise UsageError("--text asks by itself: leave --class, --component and the like out")
        _search_text(run, text, count, as_json)
        return
    module = importlib.import_module("whylens.jobs.people.search")
    question = module.Question(
        class_name=class_, component=component, neuron=neuron, like=like, of_class=of_class,
        among_class=among_class, without_class=without_class, collection=collection, count=count,
    )  # fmt: skip
    answer = module.search(run, question)
    if as_json:
        import json

        typer.echo(json.dumps(answer.record()))
    else:
        from whylens.jobs.people.terminal import show_images

        show_images(answer)


def _search_text(run: str, text: str, count: int, as_json: bool) -> None:
    answer = importlib.import_module("whylens.jobs.slices.by_text").find(run, text, count)
    if as_json:
        import json

        typer.echo(json.dumps(answer.record()))
    else:
        from rich.console import Console

        from whylens.jobs.slices.terminal import show_found

        show_found(answer, Console())


@app.command()
def explain(
    image: Annotated[str, typer.Argument(help="Image file.")],
    run: Annotated[str, typer.Option(help="Run folder of an investigate or components job.")],
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class to explain; the predicted one if none.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Components shown.")] = 8,
    exemplars: Annotated[int, typer.Option(min=0, help="Images beside a component.")] = 4,
    out: Annotated[
        str | None, typer.Option(help="Folder to write to [default: RUN/explained/IMAGE].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, no table.")] = False,
) -> None:
    """Why one image is what the classifier says: its components' contributions, and SpuFix."""
    module = importlib.import_module("whylens.jobs.people.explain")
    spec = module.ExplainSpec(
        image=image, run=run, class_name=class_name, top=top, exemplars=exemplars, out=out
    )
    found, folder = module.run(spec)
    if as_json:
        import json

        typer.echo(json.dumps(found.record()))
        return
    from rich.console import Console

    from whylens.jobs.people.terminal import show_explanation

    show_explanation(found, Console())
    typer.echo(f"Look at {os.path.join(folder, 'explain.html')}")


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
        for name, job in known.items():
            _add(name, job.help, job, {}, asked)
        _add("demo", demo.HELP, known["investigate"], demo.SETTINGS, asked)
        _add_showing("report", REPORT, "whylens.jobs.report.page:ReportSpec", (), asked)
        folder = option("out", str, "Folder to write; its index.html is the first page.")
        _add_showing("site", SITE, "whylens.jobs.report.site:SiteSpec", (folder,), asked)
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
