"""Problems a second with a chain of one step, beside chains of four and of twenty.

    python tests/benchmarks/few_steps.py                  # the GPU where there is one, else the CPU
    python tests/benchmarks/few_steps.py --sampler FOLDER?dtype=bfloat16 --batch 4

One measurement is one optimisation step of a batch: chain, decoder, views and the way back.
The long chain is guided at 3, the short ones are not, as Turbo models are used. What is sampled
plays no part in the time: the planted sampler stands in for a model of its size that needs one
step. Times are the best of all rounds, in which the chains take turns.

Prints a table and, as its last line, JSON:

speedup         problems a second of one step by those of twenty
speedup_four    those of four steps by those of twenty
seconds         of an optimisation step, by the chain's steps
"""

import argparse
import json
import math
import time

import torch

from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler
from whylens.guidance.objectives import TargetClass
from whylens.guidance.optimiser import optimise
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings

CHAINS = {20: 3.0, 4: 0.0, 1: 0.0}


def seconds(sampler, objective, batch, steps, cutouts):
    """Time from the first image of a batch to the next: one optimisation step."""
    settings = GuidanceSettings(
        chain={"steps": steps, "guidance_scale": CHAINS[steps]},
        optimiser={"steps": 2},
        views={"cutouts": cutouts},
    )
    problems = Problems.from_prompts(sampler, ["a photo of a star on grass"] * batch, range(batch))
    states = optimise(sampler, problems, objective, settings)
    next(states).losses.tolist()
    start = time.perf_counter()
    next(states).losses.tolist()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sampler", default="planted")
    parser.add_argument("--classifier", default="planted:biased")
    parser.add_argument("--batch", type=int, default=8, help="problems at once")
    parser.add_argument("--cutouts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="times each chain is timed")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler = load_sampler(arguments.sampler, device)
    classifier = load_classifier(arguments.classifier, device)
    targets = torch.ones(arguments.batch, dtype=torch.long, device=device)
    objective = TargetClass(classifier, targets)
    best = dict.fromkeys(CHAINS, math.inf)
    for _ in range(arguments.rounds):
        for steps in CHAINS:
            taken = seconds(sampler, objective, arguments.batch, steps, arguments.cutouts)
            best[steps] = min(best[steps], taken)
    print(f"{'steps':>5} {'seconds':>8} {'problems/s':>10}")
    for steps, taken in best.items():
        print(f"{steps:>5} {taken:>8.3f} {arguments.batch / taken:>10.2f}")
    print(
        json.dumps(
            {
                "speedup": round(best[20] / best[1], 2),
                "speedup_four": round(best[20] / best[4], 2),
                "seconds": {str(steps): round(taken, 4) for steps, taken in best.items()},
                "batch": arguments.batch,
                "device": device,
            }
        )
    )


if __name__ == "__main__":
    main()
