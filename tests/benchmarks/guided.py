"""Problems a second against the loop that whylens replaces, at equal settings and equal loss.

    python tests/benchmarks/guided.py
    python tests/benchmarks/guided.py --problems 32 --steps 12

On the planted sampler, T = 10, 4 cutouts, in batches of 8; the loop (whylens.guidance.baselines.
reference) takes one problem after the other. Both have the same problems and settings, plain Adam,
and the same views: squares at the same places, with the same noise, which the loop makes in plain
PyTorch. (Its own cutouts would be no equal ones here: they end at pixels' borders, and the planted
classifier's input is as large as the image, so that adaptive pooling would repeat pixels where
whylens interpolates. In the papers a cutout is never smaller than the input. `seconds_of_views`
says what either takes.) They take turns, a batch each; on a CPU the time is that of the process's
one thread, so that others' work on the machine counts less. Rounding alone then leads a problem to
another image, and as often to a better as to a worse one: in float64 both take the same steps
(tests/guidance/test_reference.py). Prints, as its last line, JSON:

speedup       seconds of the loop / seconds of whylens, for all problems
loss_ratio    mean of the final losses of whylens / that of the loop; a final loss is what one
              measure, cross-entropy without views, says of a problem's best image
loss_interval [low, high] of it: 95 % over problems drawn anew, 10,000 times
losses        both means
fell          by how much the mean loss fell from the start, of both
seconds       of a problem's step, both
seconds_of_views
              of 4 views and back, in the loop: the same views, and its own cutouts
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch
from torch.nn import functional as F

from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler
from whylens.guidance import GuidanceSettings, Problems, TargetClass, solve
from whylens.guidance.baselines.reference import cutouts, reference_loop
from whylens.guidance.views import ViewGenerator
from whylens.kernels.cutouts import reference as area_pooled

BATCH = 8
PROMPTS = ("a photo of a star on grass", "a photo of a fish", "a photo of a house on sand")


def same_views(image, size, views):
    """Views [V, 3, size, size] of an image [1, 3, S, S], as whylens has them."""
    boxes = views.boxes.transpose(0, 1).to(image.device) * image.shape[-1]
    keys = views.keys.to(image.device)
    return area_pooled(image, boxes, keys, size=size, noise=views.noise)[:, 0]


def clock(device):
    """Seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds_of_views(look, settings, classifier, side, device):
    """Median seconds of the views of an image, and back."""
    generator, taken = ViewGenerator([0], settings.views), []
    for _ in range(30):
        image = torch.rand(1, 3, side, side, device=device, requires_grad=True)
        views = generator.draw([0], torch.device("cpu"))
        begun = clock(device)
        look(image, classifier.image_size, views).sum().backward()
        taken.append(clock(device) - begun)
    return statistics.median(taken)


def interval(ours, loop):
    """95 % of the ratio of means of problems drawn anew."""
    drawn = np.random.default_rng(0).integers(len(ours), size=(10_000, len(ours)))
    ratios = np.asarray(ours)[drawn].mean(1) / np.asarray(loop)[drawn].mean(1)
    return [round(float(edge), 4) for edge in np.quantile(ratios, [0.025, 0.975])]


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

    def judged(image, target):
        with torch.no_grad():
            wanted = torch.tensor([target], device=device)
            return float(F.cross_entropy(classifier.logits(image[None].to(device)), wanted))

    for first in range(0, arguments.problems, BATCH):
        numbers = range(first, first + BATCH)
        prompts = [PROMPTS[number % len(PROMPTS)] for number in numbers]
        targets = torch.tensor([number % 10 for number in numbers], device=device)
        begun = clock(device)
        problems = Problems.from_prompts(sampler, prompts, numbers)
        solutions = solve(sampler, problems, TargetClass(classifier, targets), settings)
        seconds["whylens"] += clock(device) - begun
        every = zip(solutions, targets.tolist(), strict=True)
        losses["whylens"] += [judged(solution.image, target) for solution, target in every]
        starts += [solution.loss_trajectory[0] for solution in solutions]
        for prompt, target, seed in zip(prompts, targets.tolist(), numbers, strict=True):
            begun = clock(device)
            run = reference_loop(sampler, classifier, prompt, target, seed, settings, same_views)
            seconds["loop"] += clock(device) - begun
            losses["loop"].append(judged(run.image[0], target))
        print(f"{first + BATCH} problems: {seconds} {losses}", flush=True)
    means = {name: statistics.mean(found) for name, found in losses.items()}
    steps = arguments.problems * arguments.steps
    result = {
        "speedup": round(seconds["loop"] / seconds["whylens"], 2),
        "loss_ratio": round(means["whylens"] / means["loop"], 4),
        "loss_interval": interval(losses["whylens"], losses["loop"]),
        "losses": {name: round(mean, 4) for name, mean in means.items()},
        "fell": {name: round(statistics.mean(starts) - mean, 3) for name, mean in means.items()},
        "seconds": {name: round(taken / steps, 3) for name, taken in seconds.items()},
        "seconds_of_views": {
            name: round(seconds_of_views(look, settings, classifier, sampler.image_size, device), 5)
            for name, look in (("same", same_views), ("own", cutouts))
        },
        "problems": arguments.problems,
        "steps": arguments.steps,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
