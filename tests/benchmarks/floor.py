"""What an optimisation step takes beside the bare networks' calls that it makes.

    python tests/benchmarks/floor.py
    python tests/benchmarks/floor.py --rounds 10

On the planted sampler, a batch of 8, T = 10, 4 cutouts. The bare calls are the step's own number of
them, forward and backward: T of the U-Net on both halves of guidance, the decoder, the classifier
on all views, and its look at the image itself. Both take turns; on a CPU the time is the process's
own, so that others' work on the machine counts less. Prints, as its last line, JSON:

ratio_stored      a step that computes nothing again / the bare calls, the median over rounds
ratio_recomputed  the same of the default checkpoint segments
ratio_least       the same where each step of the chain is computed again
"""

import argparse
import json
import statistics
import time

import torch

from whylens.bench.setups import PROMPT
from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler
from whylens.diffusion.schedules import schedule
from whylens.guidance import GuidanceSettings, Problems, TargetClass, optimise

BATCH, STEPS, CUTOUTS = 8, 10, 4
SEGMENTS = {"stored": STEPS, "recomputed": None, "least": 1}


def clock(device):
    """Seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def bare_step(sampler, classifier):
    """A call of all that a step asks of the networks."""
    text, _ = sampler.embed_prompts([PROMPT] * 2 * BATCH)
    latents = torch.randn(2 * BATCH, *sampler.latent_shape, device=sampler.device)
    side = classifier.image_size
    views = torch.rand(CUTOUTS * BATCH, 3, side, side, device=sampler.device)
    for tensor in (text, latents, views):
        tensor.requires_grad_()
    times = [step.time for step in schedule(sampler, STEPS)]

    def call():
        # All forward calls first, as in a chain whose steps are held.
        outputs = [sampler.predict(latents, at, text) for at in times]
        for out in outputs[::-1]:
            torch.autograd.grad(out, [latents, text], torch.ones_like(out))
        images = sampler.decode(latents[:BATCH])
        torch.autograd.grad(images, latents, torch.ones_like(images))
        logits = classifier.logits(views)
        torch.autograd.grad(logits, views, torch.ones_like(logits))
        with torch.no_grad():
            classifier.logits(views[:BATCH])

    return call


def steps(sampler, classifier, segment):
    """Optimisation steps, one at each `next`, for ever; one is made before."""
    settings = GuidanceSettings(
        chain={"steps": STEPS, "segment": segment},
        optimiser={"steps": 10**6},
        views={"cutouts": CUTOUTS},
    )
    problems = Problems.from_prompts(sampler, [PROMPT] * BATCH, range(BATCH))
    targets = torch.arange(BATCH, device=sampler.device)
    states = optimise(sampler, problems, TargetClass(classifier, targets), settings)
    for _ in range(2):
        next(states)
    return lambda: next(states)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = load_sampler("planted?dtype=float32", device)
    classifier = load_classifier("planted:biased", device)
    calls = {name: steps(sampler, classifier, segment) for name, segment in SEGMENTS.items()}
    bare = bare_step(sampler, classifier)
    bare()
    seconds = {name: [] for name in ("bare", *calls)}
    for _ in range(rounds):
        for name, call in {"bare": bare, **calls}.items():
            begun = clock(device)
            call()
            seconds[name].append(clock(device) - begun)
    ratios = {
        f"ratio_{name}": round(
            statistics.median(a / b for a, b in zip(seconds[name], seconds["bare"], strict=True)), 3
        )
        for name in calls
    }
    print({name: [round(one, 3) for one in found] for name, found in seconds.items()})
    print(json.dumps({**ratios, "bare_seconds": round(statistics.median(seconds["bare"]), 3)}))


if __name__ == "__main__":
    main()
