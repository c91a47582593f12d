"""`whylens planted`: the planted world from the command line."""

import importlib
import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from whylens.errors import UsageError
from whylens.jobs.cli.running import signed

app = typer.Typer(help="The planted world: train its networks, check them, draw it.")


@app.command("train")
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


# What may be checked instead of the weights: a module of whylens.planted.checks and its function.
CHECKS = {
    "discovery": "whether neural PCA finds the planted links and SpuFix repairs them, on "
    "classifiers trained for it; half an hour on a laptop.",
    "disagreements": "whether images on which planted classifiers disagree show how they fail; "
    "some minutes.",
    "neurons": "whether images of neurons show what they respond to; some minutes.",
    "counterfactuals": "whether counterfactuals show the target and change nothing else, beside "
    "earlier methods; hours for 200 images.",
    "confirm": "whether generated disagreements lead to the drawings, of 20,000 unlabelled ones, "
    "that the biased classifier fails on; some minutes.",
    "errors": "whether slices of mistakes are named by the planted features; a minute.",
    "names": "whether the CLIP-like model names what the biased classifier's components respond "
    "to; a minute.",
    "groups": "what repairs gain by class and shown feature, beside one that is told the groups; "
    "a minute.",
}
# Those that leave pictures in the folder.
PICTURED = ("counterfactuals", "confirm", "disagreements", "neurons")


def planted_check(
    samples: Annotated[int, typer.Option(min=0, help="Images to sample; 0: none.")] = 512,
    sheet: Annotated[str | None, typer.Option(help="PNG to write a sheet of samples to.")] = None,
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
    **checks: bool,
) -> None:
    """Measure the shipped weights; prints JSON."""
    import json
    from pathlib import Path

    asked = [name for name, wanted in checks.items() if wanted]
    if len(asked) > 1:
        *others, last = (f"--{name}" for name in CHECKS)
        raise UsageError(f"one check at a time: {', '.join(others)} or {last}")
    if not asked:
        module = importlib.import_module("whylens.planted.checks.weights")
        record = module.check(samples=samples, sheet=Path(sheet) if sheet else None)
    else:
        (name,) = asked
        module = importlib.import_module(f"whylens.planted.checks.{name}")
        more = [images] if name == "counterfactuals" else []
        record = getattr(module, f"check_{name}")(Path(work), *more)
    if "discovery" in asked:
        figure = importlib.import_module("whylens.planted.checks.discovery_figure")
        figure.draw_discovery(record, Path(work) / "discovery.png")
        typer.echo(f"Look at {Path(work) / 'discovery.png'}", err=True)
    elif set(asked) & set(PICTURED):
        typer.echo(f"Look at the pictures in {work}", err=True)
    typer.echo(json.dumps(record))


def _offering(function: Callable[..., None]) -> Callable[..., None]:
    """The function with a flag for each of the checks, which it takes as keywords."""
    *own, _ = inspect.signature(function).parameters.values()
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{name}", help=f"Check instead {what}")],
        )
        for name, what in CHECKS.items()
    ]
    return signed(function, [*own, *flags], inspect.getdoc(function) or "")


app.command("check")(_offering(planted_check))
