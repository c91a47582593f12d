"""Peak memory and time of a gradient through the whole chain, by the number of its steps.

    python tests/benchmarks/memory.py                  # the GPU where there is one, else the CPU
    python tests/benchmarks/memory.py --rounds 1 --batch 1
    python tests/benchmarks/memory.py --sampler FOLDER?dtype=bfloat16

One measurement is what the optimiser differentiates: from latents and the deltas of both prompts
through chain and decoder, and back from a gradient at the image. The default (segments of about
twice the root of the steps) stands beside plain autograd (all steps held), least memory (one step
held) and truncation to the last four steps.

Memory is the largest sum of what was made during the measurement and lived at once: on a CPU by
watching every tensor, on a GPU by the allocator. Times are the best of all rounds, in which the
ways take turns. Prints a table and, as its last line, JSON:

peak_mb         of the default, by steps; `plain_`, `least_` and `truncated_peak_mb` beside it
step_mb         what plain autograd holds for one more step
over_root       the largest of peak_mb / (constant + step_mb * (2 sqrt(steps) + 1)), the constant
                being what plain autograd holds beside its steps: at most 1 if it grows no faster
time_ratio      time of the default / time of plain autograd: the largest over the steps
time_ratios     the same by steps, `least_time_ratios` that of one step held
"""

import argparse
import json
import math
import runpy
import time
from dataclasses import replace
from pathlib import Path

import torch

from whylens.diffusion import condition, denoise, load_sampler, result

PeakMemory = runpy.run_path(str(Path(__file__).parents[1] / "diffusion" / "peak_memory.py"))[
    "PeakMemory"
]
STEPS = (5, 10, 20, 40)
TRUNCATED = 4


def gradients(sampler, batch, steps, **options):
    """One gradient, as the optimiser takes it."""
    plain = condition(sampler, ["a photo of a star on grass"] * batch)
    latents = sampler.initial_latents(range(batch)).requires_grad_()
    shape = (batch, steps, *plain.text.shape[1:])
    deltas = [torch.zeros(shape, device=sampler.device) for _ in range(2)]
    for delta in deltas:
        delta.requires_grad_()
    states = denoise(
        sampler,
        latents,
        replace(plain, text_delta=deltas[0], null_delta=deltas[1]),
        steps=steps,
        guidance_scale=3.0,
        **options,
    )
    images = sampler.decode(result(states))
    return torch.autograd.grad(images, [latents, *deltas], torch.ones_like(images))


def peak_mb(sampler, *arguments, **options):
    """Largest amount that lived at once, beside the sampler itself."""
    if sampler.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        gradients(sampler, *arguments, **options)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with PeakMemory() as peak:
        gradients(sampler, *arguments, **options)
    return peak.megabytes


def seconds(sampler, *arguments, **options):
    """Time of one gradient."""
    if sampler.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    gradients(sampler, *arguments, **options)
    if sampler.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sampler", default="planted")
    parser.add_argument("--batch", type=int, default=4, help="problems at once")
    parser.add_argument("--rounds", type=int, default=3, help="times each way is timed")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler, batch = load_sampler(arguments.sampler, device), arguments.batch
    gradients(sampler, batch, 2)

    peaks = {name: {} for name in ("default", "plain", "least", "truncated")}
    best = {name: {} for name in ("default", "plain", "least")}
    print(f"{'steps':>5} {'way':>10} {'peak MB':>8} {'seconds':>8}")
    for steps in STEPS:
        ways = {
            "default": {},
            "plain": {"segment": steps},
            "least": {"segment": 1},
            "truncated": {"gradient_steps": TRUNCATED},
        }
        for name, options in ways.items():
            peaks[name][steps] = peak_mb(sampler, batch, steps, **options)
        for _ in range(arguments.rounds):
            for name in best:
                taken = seconds(sampler, batch, steps, **ways[name])
                best[name][steps] = min(taken, best[name].get(steps, math.inf))
        for name in ways:
            taken = f"{best[name][steps]:8.2f}" if name in best else ""
            print(f"{steps:>5} {name:>10} {peaks[name][steps]:>8.1f} {taken}", flush=True)
    plain = peaks["plain"]
    step_mb = (plain[STEPS[-1]] - plain[STEPS[0]]) / (STEPS[-1] - STEPS[0])
    constant = plain[STEPS[0]] - STEPS[0] * step_mb
    ratios = {
        name: {steps: best[name][steps] / best["plain"][steps] for steps in STEPS}
        for name in ("default", "least")
    }
    bounds = {steps: constant + step_mb * (2 * math.sqrt(steps) + 1) for steps in STEPS}
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "peak_mb": rounded(peaks["default"], 1),
        "time_ratio": round(max(ratios["default"].values()), 3),
        "time_ratios": rounded(ratios["default"], 3),
        "least_time_ratios": rounded(ratios["least"], 3),
        **{f"{name}_peak_mb": rounded(peaks[name], 1) for name in ("plain", "least", "truncated")},
        "step_mb": round(step_mb, 1),
        "over_root": round(max(peaks["default"][s] / bounds[s] for s in STEPS), 3),
    }
    print(json.dumps(result))


def rounded(values, digits):
    return {str(steps): round(value, digits) for steps, value in values.items()}


if __name__ == "__main__":
    main()
