"""`whylens planted`: the planted world from the command line."""

import importlib
from typing import Annotated

import typer

from whylens.errors import UsageError

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


@app.command("check")
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
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help="Check instead whether generated disagreements lead to the drawings, of 20,000 "
            "unlabelled ones, that the biased classifier fails on; some minutes.",
        ),
    ] = False,
    errors: Annotated[
        bool,
        typer.Option(
            "--errors",
            help="Check instead whether slices of mistakes are named by the planted features; a "
            "minute.",
        ),
    ] = False,
    names: Annotated[
        bool,
        typer.Option(
            "--names",
            help="Check instead whether the CLIP-like model names what the biased classifier's "
            "components respond to; a minute.",
        ),
    ] = False,
    groups: Annotated[
        bool,
        typer.Option(
            "--groups",
            help="Check instead what repairs gain by class and shown feature, beside one that is "
            "told the groups; a minute.",
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

    asked = [name for name, wanted in (
        ("discovery", discovery), ("disagreements", disagreements), ("neurons", neurons),
        ("counterfactuals", counterfactuals), ("confirm", confirm), ("errors", errors),
        ("names", names), ("groups", groups),
    ) if wanted]  # fmt: skip
    if len(asked) > 1:
        raise UsageError(
            "one check at a time: --discovery, --disagreements, --neurons, --counterfactuals, "
            "--confirm, --errors, --names or --groups"
        )
    if not asked:
        module = importlib.import_module("whylens.planted.checks.weights")
        record = module.check(samples=samples, sheet=Path(sheet) if sheet else None)
    else:
        (name,) = asked
        module = importlib.import_module(f"whylens.planted.checks.{name}")
        more = [images] if counterfactuals else []
        record = getattr(module, f"check_{name}")(Path(work), *more)
    if discovery:
        figure = importlib.import_module("whylens.planted.checks.discovery_figure")
        figure.draw_discovery(record, Path(work) / "discovery.png")
        typer.echo(f"Look at {Path(work) / 'discovery.png'}", err=True)
    elif counterfactuals or confirm or disagreements or neurons:
        typer.echo(f"Look at the pictures in {work}", err=True)
    typer.echo(json.dumps(record))
