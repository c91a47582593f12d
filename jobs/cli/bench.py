"""`whylens bench`: how fast guided generation is on this machine, as a table and as JSON."""

import importlib
import json
from typing import Annotated, Any

import typer


def bench(
    size: Annotated[
        str,
        typer.Option(
            help="planted: the shipped sampler; sd14, sdxl: Stable Diffusion 1.4's and SDXL's "
            "networks with random weights, nothing is fetched; tiny: to try whether it runs."
        ),
    ] = "planted",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU where there is one.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Problems at a time.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Another sampler, or the size's with other options.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimisation steps that are timed.")] = 3,
    reference: Annotated[
        bool, typer.Option(help="Time the papers' loop beside it, one problem at a time.")
    ] = True,
    operation_seconds: Annotated[
        float,
        typer.Option(min=0, help="Seconds for each shape of the fused operations; 0: not timed."),
    ] = 0.3,
) -> None:
    """Measure guided generation: beside its floor, the device's peak, and the papers' loop.

    The last line is JSON.
    """
    torch = importlib.import_module("torch")
    setups = importlib.import_module("whylens.bench.setups")
    report = importlib.import_module("whylens.bench.report")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    setup = setups.setup_of(size, batch=batch, sampler=sampler)
    record = report.bench(
        setup,
        torch.device(where),
        steps=steps,
        reference=reference,
        operation_seconds=operation_seconds,
    )
    record = {"size": size, **record}
    show(record)
    typer.echo(json.dumps(record))


def show(record: dict[str, Any]) -> None:
    """A record of `whylens.bench.report.bench` as a table."""
    from rich.console import Console
    from rich.table import Table

    floor, step = record["floor"], record["step"]
    table = Table(title=f"{record['size']}, {record['dtype']}, on {record['machine']}")
    for name in ("what", "measured", "is"):
        table.add_column(name, justify="right" if name == "measured" else "left")
    for what, value, words in (
        ("step", f"{step['best']:.3f} s", f"of {step['batch']} problems at a time"),
        ("problems", f"{record['problems_per_second']:.4g} a second", "at all optimisation steps"),
        ("floor", f"{floor['step']:.3f} s", "the bare networks' forward and backward"),
        ("step / floor", f"{record['floor_ratio']:.2f}", "nothing recomputed below"),
        ("", f"{record['recomputed_ratio']:.2f}", "with the U-Net calls that were recomputed"),
        ("U-Net", f"{record['mfu']:.1%}", f"of {record['peak_flops'] / 1e12:.3g} TFLOP/s"),
        ("", f"{record['step_mfu']:.1%}", "in a whole step"),
        ("memory", _gib(record["peak_gib"]), "at the fullest, weights included"),
    ):
        table.add_row(what, value, words)
    if record["speedup"] is not None:
        loop = record["reference"]
        table.add_row("papers' loop", f"{loop['best']:.3f} s", "a problem, float32, one at a time")
        table.add_row("", _gib(loop["peak_gib"]), "of memory")
        table.add_row("speedup", f"{record['speedup']:.2f}", "problems a second by the loop's")
    Console().print(table)
    if record["operations"]:
        Console().print(_operations(record["operations"]))


def _operations(rows: list[dict[str, Any]]) -> Any:
    """The fused operations one by one: how many times as fast, and what is held."""
    from rich.table import Table

    table = Table(title="Operations beside plain PyTorch, and what they hold for backward")
    for name in ("operation", "shape", "forward", "backward", "both", "MB held", "plain"):
        words = name in ("operation", "shape")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    for row in rows:
        ratios = [f"{row[which]['ratio']:.2f}x" for which in ("forward", "backward", "both")]
        shape = " x ".join(map(str, row["shape"]))
        table.add_row(row["operation"], shape, *ratios, *(f"{mb:.1f}" for mb in row["held_mb"]))
    return table


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} GiB"
