"""The whylens command. Only the job that is asked for is imported, so that help is quick."""

import importlib
import inspect
import logging
import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from whylens.errors import UsageError, WhylensError
from whylens.jobs.cli.labels import app as labels

app = typer.Typer(
    help="Why does an image classifier decide what it decides, and where is it wrong?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
planted = typer.Typer(help="The planted world: train its networks, check them, draw it.")


# The exit code after Ctrl-C.
STOPPED = 130


@dataclass(frozen=True)
class Job:
    """A job's home: module, spec class, function, and one line of help."""

    module: str
    spec: str
    function: str
    help: str


JOBS = {
    "investigate": Job(
        "investigate", "InvestigateSpec", "run", "From images to findings in pictures: all stages."
    ),
    "embed": Job("single", "EmbedSpec", "run_embed", "Features and predictions of a collection."),
    "index": Job("single", "IndexSpec", "run_index", "A faiss index of features, to search."),
    "components": Job(
        "single", "ComponentsSpec", "run_components", "Neural PCA of every class, judged."
    ),
    "exemplars": Job(
        "single", "ExemplarsSpec", "run_exemplars", "Findings in order, with images that show them."
    ),
    "visualisations": Job(
        "single",
        "VisualisationsJobSpec",
        "run_visualisations",
        "The image near grey in which a finding's component is strongest.",
    ),
    "generate": Job(
        "single", "GenerateJobSpec", "run_generate", "Images in which a finding's component rises."
    ),
    "counterfactuals": Job(
        "single",
        "CounterfactualsJobSpec",
        "run_counterfactuals",
        "The smallest change that makes a classifier say another class.",
    ),
    "disagreements": Job(
        "single",
        "DisagreementsJobSpec",
        "run_disagreements",
        "Images on which classifiers disagree most.",
    ),
    "neurons": Job(
        "single",
        "NeuronsJobSpec",
        "run_neurons",
        "What single features respond to, and images in which they rise or fall.",
    ),
    "evaluate": Job(
        "measuring.evaluate",
        "EvaluateSpec",
        "run",
        "Measures of counterfactuals, a row for each run.",
    ),
    "score": Job(
        "measuring.score",
        "ScoreSpec",
        "run",
        "How much classifiers rely on known spurious features.",
    ),
}


def _add_job(name: str, job: Job, wanted: bool) -> None:
    if not wanted:
        app.command(name, help=job.help)(lambda: None)
        return
    module = importlib.import_module(f"whylens.jobs.{job.module}")
    model = getattr(module, job.spec)

    def command(**options: Any) -> None:
        _run_job(job, module, model, options)

    parameters = [
        _option("spec", str | None, None, "YAML file with settings; options go before it."),
    ]
    for field, info in model.model_fields.items():
        simple = info.annotation in (str, int, float, bool, str | None, list[str])
        if simple:
            kind = str if info.annotation == (str | None) else info.annotation
            shown = "" if info.is_required() else f" [default: {info.get_default()}]"
            parameters.append(_option(field, kind | None, None, f"{info.description}{shown}"))
    nested = ", ".join(f for f in model.model_fields if f not in {p.name for p in parameters})
    parameters.append(
        _option("set", list[str] | None, None, f"Any setting as PATH=VALUE, of {nested} too.")
    )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(name, help=f"{job.help}\n\n{inspect.getdoc(model) or ''}")(command)


def _option(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    return inspect.Parameter(
        "assignments" if name == "set" else name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(flag, help=text, show_default=False)],
    )


def _run_job(job: Job, module: Any, model: Any, options: dict[str, Any]) -> None:
    from rich.console import Console

    from whylens.jobs.spec import make_spec, read_yaml

    file, assignments = options.pop("spec", None), options.pop("assignments", None)
    settings = read_yaml(file) if file else {}
    # A list that isn't given is None or empty, by the version of typer.
    settings.update({k: v for k, v in options.items() if v not in (None, [])})
    for assignment in assignments or []:
        _assign(settings, assignment)
    spec = make_spec(model, settings)
    run = getattr(module, job.function)(spec)
    console = Console()
    if run.table("findings").units():
        from whylens.jobs.cli.terminal import show_findings

        show_findings(run, console)
    if run.table("leaderboard").units():
        from whylens.jobs.cli.terminal import show_leaderboard

        show_leaderboard(run, console)
    if run.table("evaluation").units():
        from whylens.jobs.cli.terminal import show_evaluation

        show_evaluation(run, console)
    _say_where(run.folder, console)


def _say_where(folder: str, console: Any) -> None:
    console.print(f"The run is in {folder}")
    report = os.path.join(folder, "report.html")
    if os.path.exists(report):
        console.print(f"Look at {report}, or: whylens dashboard {folder}", soft_wrap=True)


def _assign(settings: dict[str, Any], assignment: str) -> None:
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


@app.command()
def demo(out: Annotated[str, typer.Option(help="Run folder to write.")] = "out/demo") -> None:
    """Investigate the biased planted classifier; some minutes on a laptop."""
    from whylens.jobs.demo import settings

    module = importlib.import_module("whylens.jobs.investigate")
    _run_job(JOBS["investigate"], module, module.InvestigateSpec, settings(out))


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
def report(
    run: Annotated[str, typer.Argument(help="Run folder.")],
) -> None:
    """Write a run's report.html again."""
    module = importlib.import_module("whylens.jobs.report.page")
    typer.echo(module.run(module.ReportSpec(run=run)))


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
    """Images that activate a component or a neuron most, or lie near an image.

    Three questions: --class X --component L, --neuron N, or --like IMAGE_ID.
    """
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
        from whylens.jobs.cli.terminal import show_images

        show_images(answer)


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

    from whylens.jobs.cli.terminal import show_explanation

    show_explanation(found, Console())
    typer.echo(f"Look at {os.path.join(folder, 'explain.html')}")


@app.command()
def dashboard(
    run: Annotated[str | None, typer.Argument(help="Run folder, or a folder of runs.")] = None,
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 8501,
) -> None:
    """Look at runs in the browser."""
    # The dashboard is above the jobs: it is started, not imported, as Streamlit would anyway.
    module = importlib.import_module("whylens.dashboard.launch")
    raise typer.Exit(module.launch(run, port=port))


@app.command()
def submit(
    job: Annotated[str, typer.Argument(help="The job: investigate, embed, ...")],
    spec: Annotated[str, typer.Argument(help="YAML file with the job's settings.")],
    address: Annotated[
        str, typer.Option(help="Ray's job server, such as http://HEAD:8265.")
    ] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option(help="Follow the job's log until it ends.")] = True,
) -> None:
    """Send a job to a Ray cluster; the installed whylens travels with it."""
    from whylens.jobs.spec import make_spec, read_yaml

    if job not in JOBS:
        raise UsageError(f"unknown job {job!r}; jobs: {', '.join(JOBS)}")
    home = JOBS[job]
    model = getattr(importlib.import_module(f"whylens.jobs.{home.module}"), home.spec)
    out = make_spec(model, read_yaml(spec)).out
    if "://" not in out and not os.path.isabs(out):
        raise UsageError(
            f"out: {out} would be lost with the job's working folder on the cluster: name a full "
            "path that its machines share, or a URL such as s3://bucket/run"
        )
    module = importlib.import_module("whylens.cluster.submit")
    ended = module.submit(job, spec, address=address, wait=wait)
    typer.echo(ended)
    if wait and ended != "SUCCEEDED":
        raise typer.Exit(1)


@planted.command("train")
def planted_train(
    work: Annotated[str, typer.Option(help="Folder for drawings, checkpoints and logs.")],
    weights: Annotated[
        str | None, typer.Option(help="Folder to write weights to; the package's by default.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="A stage to train; may be given more than once.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of drawings and initial weights.")] = 0,
) -> None:
    """Train the planted world's networks; hours on a laptop, goes on where it was stopped."""
    from pathlib import Path

    training = importlib.import_module("whylens.planted.training.stages")
    folder = Path(weights) if weights else training.WEIGHTS
    plan = training.TrainingPlan(Path(work), folder, seed)
    training.train(plan, stage or training.STAGES)


@planted.command("check")
def planted_check(
    samples: Annotated[int, typer.Option(min=0, help="Images to sample; 0: none.")] = 512,
    sheet: Annotated[str | None, typer.Option(help="PNG to write a sheet of samples to.")] = None,
    discovery: Annotated[
        bool,
        typer.Option(
            "--discovery",
            help="Check instead whether neural PCA finds the planted links and SpuFix repairs "
            "them, on classifiers trained for it; half an hour on a laptop.",
        ),
    ] = False,
    disagreements: Annotated[
        bool,
        typer.Option(
            "--disagreements",
            help="Check instead whether images on which planted classifiers disagree show how "
            "they fail; some minutes.",
        ),
    ] = False,
    neurons: Annotated[
        bool,
        typer.Option(
            "--neurons",
            help="Check instead whether images of neurons show what they respond to; some minutes.",
        ),
    ] = False,
    counterfactuals: Annotated[
        bool,
        typer.Option(
            "--counterfactuals",
            help="Check instead whether counterfactuals show the target and change nothing else, "
            "beside earlier methods; hours for 200 images.",
        ),
    ] = False,
    images: Annotated[
        int, typer.Option(min=2, help="Images that --counterfactuals changes, each many times.")
    ] = 200,
    work: Annotated[
        str,
        typer.Option(
            help="Folder for what --discovery trains and --counterfactuals makes (gone on with), "
            "and for pictures of the checks."
        ),
    ] = "out/discovery",
) -> None:
    """Measure the shipped weights; prints JSON."""
    import json
    from pathlib import Path

    if sum((discovery, disagreements, neurons, counterfactuals)) > 1:
        raise UsageError(
            "one check at a time: --discovery, --disagreements, --neurons or --counterfactuals"
        )
    if counterfactuals:
        module = importlib.import_module("whylens.planted.checks.counterfactuals")
        record = module.check_counterfactuals(Path(work), images)
        typer.echo(f"Look at the pictures in {work}", err=True)
    elif disagreements:
        module = importlib.import_module("whylens.planted.checks.disagreements")
        record = module.check_disagreements(Path(work))
        typer.echo(f"Look at the pictures in {work}", err=True)
    elif neurons:
        module = importlib.import_module("whylens.planted.checks.neurons")
        record = module.check_neurons(Path(work))
        typer.echo(f"Look at the pictures in {work}", err=True)
    elif discovery:
        module = importlib.import_module("whylens.planted.checks.discovery")
        record = module.check_discovery(Path(work))
        figure = importlib.import_module("whylens.planted.checks.discovery_figure")
        figure.draw_discovery(record, Path(work) / "discovery.png")
        typer.echo(f"Look at {Path(work) / 'discovery.png'}", err=True)
    else:
        module = importlib.import_module("whylens.planted.checks.weights")
        record = module.check(samples=samples, sheet=Path(sheet) if sheet else None)
    typer.echo(json.dumps(record))


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and more log.")] = False,
) -> None:
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    logging.getLogger("whylens").setLevel(level)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit code 0, 1 (a job can't go on), or 2 (asked for wrongly)."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    # --debug is understood wherever it stands.
    words = [*(["--debug"] if debug else []), *(w for w in words if w != "--debug")]
    asked = next((w for w in words if not w.startswith("-")), None)
    _quiet()
    try:
        for name, job in JOBS.items():
            _add_job(name, job, wanted=name == asked)
        app.add_typer(planted, name="planted")
        app.add_typer(labels, name="labels")
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
        if end.code == STOPPED:
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
