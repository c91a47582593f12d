"""Problems a second against the loop that whylens replaces, at equal settings and equal loss.

    python tests/benchmarks/guided.py
    python tests/benchmarks/guided.py --problems 32 --steps 12

On the planted sampler, T = 10, 4 cutouts, in batches of 8; the loop (whylens.guidance.baselines.
reference) takes one problem after the other. Both have the same problems, settings and plain Adam,
and take turns, a batch each; on a CPU the time is that of the process's one thread, so that others'
work on the machine counts less. The views are at the same places, but the loop's crops end at
pixels' borders and its noise is another, so each problem goes a way of its own. Prints, as its
last line, JSON:

speedup      seconds of the loop / seconds of whylens, for all problems
loss_ratio   mean of the final losses of whylens / that of the loop; a final loss is that of a
             problem's best image, without views
losses       both means
fell         by how much the mean loss fell from the start, of both
seconds      of a problem's step, both
"""

import argparse
import json
import statistics
import time

import torch

from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler
from whylens.guidance import GuidanceSettings, Problems, TargetClass, solve
from whylens.guidance.baselines.reference import reference_loop

BATCH = 8
PROMPTS = ("a photo of a star on grass", "a photo of a fish", "a photo of a house on sand")


def clock(device):
    """Seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=16, help="a multiple of 8")
    parser.add_argument("--steps", type=int, default=10, help="optimisation steps")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)  # several wait for each other on a busy machine, and that counts, too
    sampler = load_sampler("planted?dtype=float32", device)
    classifier = load_classifier("planted:biased", device)
    settings = GuidanceSettings(
        chain={"steps": 10, "segment": "auto"},
        optimiser={"steps": arguments.steps, "relative_epsilon": 0.0},
        views={"cutouts": 4},
    )
    seconds = {"loop": 0.0, "whylens": 0.0}
    losses = {"loop": [], "whylens": []}
    starts = []
    for first in range(0, arguments.problems, BATCH):
        numbers = range(first, first + BATCH)
        prompts = [PROMPTS[number % len(PROMPTS)] for number in numbers]
        targets = torch.tensor([number % 10 for number in numbers], device=device)
        begun = clock(device)
        problems = Problems.from_prompts(sampler, prompts, numbers)
        solutions = solve(sampler, problems, TargetClass(classifier, targets), settings)
        seconds["whylens"] += clock(device) - begun
        losses["whylens"] += [min(solution.loss_trajectory) for solution in solutions]
        starts += [solution.loss_trajectory[0] for solution in solutions]
        for prompt, target, seed in zip(prompts, targets.tolist(), numbers, strict=True):
            begun = clock(device)
            run = reference_loop(sampler, classifier, prompt, target, seed, settings)
            seconds["loop"] += clock(device) - begun
            losses["loop"].append(run.loss)
        print(f"{first + BATCH} problems: {seconds}", flush=True)
    means = {name: statistics.mean(found) for name, found in losses.items()}
    steps = arguments.problems * arguments.steps
    result = {
        "speedup": round(seconds["loop"] / seconds["whylens"], 2),
        "loss_ratio": round(means["whylens"] / means["loop"], 4),
        "losses": {name: round(mean, 4) for name, mean in means.items()},
        "fell": {name: round(statistics.mean(starts) - mean, 3) for name, mean in means.items()},
        "seconds": {name: round(taken / steps, 3) for name, taken in seconds.items()},
        "problems": arguments.problems,
        "steps": arguments.steps,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
