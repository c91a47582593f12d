"""What a tiny autoencoder for all predictions but the last costs in quality, and saves in time.

    python tests/benchmarks/preview.py
    python tests/benchmarks/preview.py --problems 16 --steps 6

The same problems of the planted world are optimised towards a target class twice, with the loss on
the last three predictions: decoded by the sampler's own decoder, and the first two of them by the
planted tiny autoencoder (`planted?preview_vae=planted`). A judge that took no part looks at the
results. Times are of whole optimisations, in one process, in turns.

Prints a table and, as its last line, JSON:

loss, preview_loss          mean of the best plain loss: minus log p of the target
flipped, preview_flipped    part of the images that the classifier takes for the target
judged, preview_judged      part of the images in which the judge sees the target
start_judged                the same before any optimisation
decoder_ratio               time of the own decoder / time of the tiny one, forward and backward
time_ratio                  time of the optimisation without / with previews
psnr                        of the tiny decoder's images against the own one's, in dB, on average
                            over the predictions before the last
held_ratio                  bytes that the own decoder / the tiny one holds for backward
"""

import argparse
import json
import math
import time

import torch

from whylens.classifiers import load_classifier
from whylens.diffusion import condition, denoise, load_sampler
from whylens.diffusion.held import held_by
from whylens.diffusion.inversion import psnr
from whylens.guidance.objectives import TargetClass
from whylens.guidance.problems import Problems
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.solutions import solve

PREDICTIONS, BATCH = 3, 8
WORDS = ("star", "moon", "fish", "boat", "ring", "heart")


def decoder_seconds(decode, latents):
    """Time of a gradient through a decoder, its best of five."""
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        own = latents.clone().requires_grad_()
        torch.autograd.grad(decode(own).sum(), own)
        best = min(best, time.perf_counter() - start)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="optimisation steps")
    parser.add_argument("--chain", type=int, default=10, help="steps of the chain")
    arguments = parser.parse_args()
    samplers = {
        "own": load_sampler("planted"),
        "preview": load_sampler("planted?preview_vae=planted"),
    }
    classifier = load_classifier("planted:balanced")
    judge = load_classifier("planted:judge_object")
    settings = GuidanceSettings(
        chain={"steps": arguments.chain},
        optimiser={"steps": arguments.steps},
        views={"predictions": PREDICTIONS},
    )
    losses, flips, judged = ({name: [] for name in samplers} for _ in range(3))
    started, taken = [], dict.fromkeys(samplers, 0.0)
    for first in range(0, arguments.problems, BATCH):
        seeds = range(first, min(first + BATCH, arguments.problems))
        prompts = [f"a photo of a {WORDS[seed % len(WORDS)]} on grass" for seed in seeds]
        wanted = [WORDS[(seed + 1 + seed // len(WORDS)) % len(WORDS)] for seed in seeds]
        targets = torch.tensor([classifier.class_index(word) for word in wanted])
        seen = torch.tensor([judge.class_index(word) for word in wanted])
        for name, sampler in samplers.items():
            problems = Problems.from_prompts(sampler, prompts, seeds)
            start = time.perf_counter()
            found = solve(sampler, problems, TargetClass(classifier, targets), settings)
            taken[name] += time.perf_counter() - start
            images = torch.stack([solution.image for solution in found])
            losses[name] += [min(solution.loss_trajectory) for solution in found]
            flips[name] += (classifier.logits(images).argmax(1) == targets).tolist()
            judged[name] += (judge.logits(images).argmax(1) == seen).tolist()
        starts = torch.stack([solution.start_image for solution in found])
        started += (judge.logits(starts).argmax(1) == seen).tolist()
    sampler = samplers["preview"]
    with torch.no_grad():
        states = denoise(
            sampler, sampler.initial_latents(range(BATCH)), condition(sampler, prompts[:BATCH]),
            steps=arguments.chain, guidance_scale=3.0,
        )  # fmt: skip
        earlier = [state.x0 for state in states][-PREDICTIONS:-1]
        near = [psnr(sampler.preview(x0), sampler.decode(x0)).mean() for x0 in earlier]
    ways = (sampler.decode, sampler.preview)
    own, tiny = (decoder_seconds(way, earlier[-1]) for way in ways)
    latents = earlier[-1][:1].clone().requires_grad_()
    kept = [
        held_by(lambda way=way: way(latents), [sampler.vae, sampler._preview]).kept for way in ways
    ]

    def mean(values):
        return round(sum(values) / len(values), 4)

    print(f"{'':>8} {'loss':>8} {'flipped':>8} {'judged':>8} {'seconds':>8}")
    for name in samplers:
        print(
            f"{name:>8} {mean(losses[name]):>8} {mean(flips[name]):>8} {mean(judged[name]):>8} "
            f"{taken[name]:>8.1f}"
        )
    record = {
        "loss": mean(losses["own"]),
        "preview_loss": mean(losses["preview"]),
        "flipped": mean(flips["own"]),
        "preview_flipped": mean(flips["preview"]),
        "judged": mean(judged["own"]),
        "preview_judged": mean(judged["preview"]),
        "start_judged": mean(started),
        "decoder_ratio": round(own / tiny, 2),
        "time_ratio": round(taken["own"] / taken["preview"], 3),
        "psnr": round(float(torch.stack(near).mean()), 2),
        "held_ratio": round(kept[0] / kept[1], 2),
        "problems": arguments.problems,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
