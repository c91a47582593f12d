"""How fast the fused operations are beside their plain PyTorch references, forward and backward.

    python tests/benchmarks/kernels.py            # the GPU where there is one, else the CPU
    python tests/benchmarks/kernels.py --seconds 3

Prints a table and, as its last line, JSON: times in milliseconds (median) and `ratio`, the
reference's time divided by the fused operation's (above 1: the fused one is faster).
"""

import argparse
import json
import statistics
import sys
import time

import torch

from whylens.kernels import class_disagreement, guided_ddim

STEP = {"guidance_scale": 3.0, "alpha_bar": 0.35, "alpha_bar_prev": 0.62, "prediction": "epsilon"}
SIZES = {
    # The planted world's latents, Stable Diffusion's at 512 px, and SDXL's at 1024 px.
    "cpu": {
        "ddim": [(32, 4, 16, 16), (4, 4, 64, 64)],
        "disagreement": [(32, 10), (32, 1000), (64, 21843)],
    },
    "cuda": {
        "ddim": [(32, 4, 16, 16), (32, 4, 64, 64), (16, 4, 128, 128)],
        "disagreement": [(32, 10), (32, 1000), (256, 21843)],
    },
}


def ddim_case(operation, shape, dtype, device):
    """A call of forward and backward of a guided step."""
    inputs = [torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(3)]
    weights = [torch.randn(shape, device=device, dtype=dtype) for _ in range(2)]

    def call():
        outputs = operation(*inputs, **STEP)
        torch.autograd.grad(outputs, inputs, weights)

    return call


def disagreement_case(operation, shape, dtype, device):
    """A call of forward and backward of the disagreement of two classifiers."""
    logits = [torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(2)]
    targets = [torch.randint(shape[1], shape[:1], device=device) for _ in range(2)]
    weights = torch.randn(shape[0], device=device)

    def call():
        torch.autograd.grad(operation(*logits, *targets), logits, weights)

    return call


def one_time(call, device):
    """Milliseconds of one call."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    before = time.perf_counter()
    call()
    return (time.perf_counter() - before) * 1e3


def medians(calls, device, seconds):
    """Median milliseconds of each call; taken in turns, so that both see the same machine."""
    for call in calls:
        for _ in range(5):
            call()
    times = [[] for _ in calls]
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times[0]) < 5:
        for call, found in zip(calls, times, strict=True):
            found.append(one_time(call, device))
    return [statistics.median(found) for found in times]


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each case")
    seconds = parser.parse_args().seconds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"a CPU, {torch.get_num_threads()} threads (no GPU: PyTorch paths, not Triton)"
    )
    print(f"Measured on {where}")
    operations = {
        "ddim": (ddim_case, guided_ddim.guided_ddim_step, guided_ddim.reference),
        "disagreement": (
            disagreement_case, class_disagreement.disagreement, class_disagreement.reference
        ),
    }  # fmt: skip
    dtypes = [torch.float32] if device == "cpu" else [torch.float32, torch.bfloat16]
    rows = []
    for name, (case, fused, reference) in operations.items():
        for shape in SIZES[device][name]:
            for dtype in dtypes:
                calls = [case(operation, shape, dtype, device) for operation in (fused, reference)]
                fused_ms, reference_ms = medians(calls, device, seconds)
                rows.append(
                    {
                        "operation": name,
                        "shape": list(shape),
                        "dtype": str(dtype).removeprefix("torch."),
                        "fused_ms": round(fused_ms, 4),
                        "reference_ms": round(reference_ms, 4),
                        "ratio": round(reference_ms / fused_ms, 2),
                    }
                )
                print("{operation:13} {shape!s:20} {dtype:9} {ratio:5.2f}x".format(**rows[-1]))
    print(json.dumps({"device": device, "where": where, "rows": rows}))


if __name__ == "__main__":
    sys.exit(main())
