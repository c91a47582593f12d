"""`whylens bench`: all figures of a size on this machine."""

import platform
from dataclasses import asdict
from typing import Any

import torch

from whylens.bench.floor import measure_floor
from whylens.bench.operations import rows
from whylens.bench.peak import peak_flops, unet_flops
from whylens.bench.setups import Setup
from whylens.bench.steps import forget, time_reference, time_steps
from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler

Record = dict[str, Any]


def bench(
    setup: Setup,
    device: torch.device,
    *,
    steps: int = 3,
    reference: bool = True,
    operation_seconds: float = 0.3,
) -> Record:
    """Measure a setup: its steps, the floor under them, and the reference loop beside them.

    The operations of whylens.kernels are timed one by one for `operation_seconds` a shape; 0: not.

    Returns
    -------
    A record for JSON, seconds and GiB: `step` and `reference` (`time_steps`, `time_reference`),
    `floor` (`measure_floor`), and

    problems_per_second
        At the settings' optimisation steps an image.
    floor_ratio
        A step's seconds by the floor's, nothing recomputed.
    recomputed_ratio
        The same by the floor with the U-Net calls that this step computed again.
    mfu
        Floating point operations of a bare U-Net call, forward and backward, counted, by its
        seconds and what the device does in a large matrix product of the same dtype.
    step_mfu
        The same of the whole step, with the operations that a step needs and no more.
    speedup
        Problems a second by the reference loop's; None without it.
    operations
        The operations of whylens.kernels one by one (`whylens.bench.operations`).
    """
    sampler = load_sampler(setup.sampler, device)
    classifier = load_classifier(setup.classifier, device)
    taken = time_steps(sampler, classifier, setup, steps)
    floor = measure_floor(sampler, classifier, setup)
    chain, images = setup.guidance.chain, setup.guidance.optimiser.steps
    guided = 2 if chain.guidance_scale > 1 else 1
    flops = unet_flops(sampler, guided * setup.batch)
    dtype = sampler.denoiser.dtype
    peak = peak_flops(device, dtype)
    seconds_each = taken.best / taken.batch
    floor_each = floor.seconds(setup) / setup.batch
    again = floor.seconds(setup, again=taken.calls - chain.steps) / setup.batch
    record: Record = {
        **machine(device),
        "sampler": setup.sampler,
        "classifier": setup.classifier,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": setup.batch,
        "guidance": setup.guidance.model_dump(exclude={"editing", "regularisers"}),
        "step": {**asdict(taken), "best": taken.best},
        "problems_per_second": 1 / (seconds_each * max(images, 1)),
        "peak_gib": taken.peak_gib,
        "floor": {**asdict(floor), "step": floor.seconds(setup)},
        "floor_ratio": seconds_each / floor_each,
        "recomputed_ratio": seconds_each / again,
        "unet_flops": flops,
        "peak_flops": peak,
        "mfu": flops / floor.unet / peak,
        "step_mfu": flops / setup.batch * chain.steps / seconds_each / peak,
        "speedup": None,
        "operations": [],
    }
    del sampler, classifier
    forget(device)
    if operation_seconds > 0:
        record["operations"] = list(rows(device.type, seconds=operation_seconds))
    if reference:
        sampler = load_sampler(setup.plain.sampler, device)
        classifier = load_classifier(setup.plain.classifier, device)
        beside = time_reference(sampler, classifier, setup, steps)
        record["reference"] = {**asdict(beside), "best": beside.best}
        record["speedup"] = beside.best / seconds_each
    return record


def machine(device: torch.device) -> Record:
    """What it was measured on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {"device": device.type, "machine": name, "torch": torch.__version__}
