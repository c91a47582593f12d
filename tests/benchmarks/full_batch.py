"""What it gains that a problem which is finished gives its place to one that waits.

    python tests/benchmarks/full_batch.py
    python tests/benchmarks/full_batch.py --problems 32 --at-once 8

Counterfactuals of planted drawings with the job's own settings (20 steps at most, finished at a
loss of 0.3), of which memory holds some at once: as `optimise` takes them, and in parts, the next
when the last problem of one is finished. On a CPU the time is that of the process's one thread, so
that others' work on the machine counts less; the two take turns. Prints, as its last line, JSON:

gain        seconds in parts / seconds with places that are filled again
steps       of each problem
seconds     both
differs     the largest difference of a problem's final losses between the two: rounding, which
            steps of Adam make larger (in float64 batches equal single runs to 1e-9: tests/guidance)
"""

import argparse
import json
import statistics
import time

import torch

from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler
from whylens.guidance.counterfactuals import counterfactual_problems
from whylens.guidance.memory import Memory
from whylens.guidance.optimiser import optimise
from whylens.guidance.solutions import Solutions, followed
from whylens.images import open_collection
from whylens.images.tensors import to_tensor
from whylens.jobs.guided.counterfactual_plan import CounterfactualSpec
from whylens.jobs.words import article

TURNS = 3


def made(sampler, problems, objective, settings, parts, at_once):
    """Solutions of the problems' parts [n] in turn, and the seconds that they took."""
    memory = Memory(sampler)
    memory.most["problems"] = at_once
    memory.plan(at_once, settings)  # counts what is held, which is no part of an optimisation
    found = []
    begun = time.process_time()
    for rows in parts:
        part, wanted = problems.select(rows), objective.select(rows)
        found += followed(Solutions(part), optimise(sampler, part, wanted, settings, memory))
    return found, time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sampler = load_sampler("planted", asked.device)
    classifier = load_classifier("planted:biased", asked.device)
    collection = open_collection(f"planted:linked?count={asked.problems}&seed=5")
    images = torch.stack(
        [to_tensor(collection.load(one), sampler.image_size) for one in collection.records]
    ).to(asked.device)
    names = classifier.class_names
    shown = [classifier.class_index(one.class_name) for one in collection.records]
    targets = [(k + 1 + place % (len(names) - 1)) % len(names) for place, k in enumerate(shown)]
    before, after = (
        [f"a photo of {article(names[k])}" for k in classes] for classes in (shown, targets)
    )
    settings = CounterfactualSpec().guidance
    problems, objective = counterfactual_problems(
        sampler, images, before, after, torch.tensor(targets, device=asked.device), classifier,
        settings,
    )  # fmt: skip
    every = torch.arange(asked.problems)
    ways = {"parts": list(every.split(asked.at_once)), "filled": [every]}
    seconds = {name: [] for name in ways}
    solutions = {}
    for turn in range(TURNS):
        for name, parts in ways.items():
            solutions[name], took = made(
                sampler, problems, objective, settings, parts, asked.at_once
            )
            seconds[name].append(took)
            print(f"{name} {turn + 1}: {took:.1f} s", flush=True)
    best = {name: statistics.median(took) for name, took in seconds.items()}
    lengths = [len(one.loss_trajectory) - 1 for one in solutions["filled"]]
    differs = max(
        abs(one.loss_trajectory[-1] - other.loss_trajectory[-1])
        for one, other in zip(solutions["parts"], solutions["filled"], strict=True)
    )
    print(
        json.dumps(
            {
                "gain": round(best["parts"] / best["filled"], 3),
                "steps": lengths,
                "seconds": {name: round(took, 2) for name, took in best.items()},
                "differs": differs,
                "device": asked.device,
            }
        )
    )


if __name__ == "__main__":
    main()
