"""Problems a second against the loop that whylens replaces, at equal settings and equal loss.

    python tests/benchmarks/guided.py
    python tests/benchmarks/guided.py --problems 32 --steps 12

On the planted sampler, T = 10, 4 cutouts, in batches of 8; the loop (whylens.guidance.baselines.
reference) takes one problem after the other. Both have the same problems and settings, plain Adam,
and the same views: squares at the same places, with the same noise, which the loop makes in plain
PyTorch. (Its own cutouts would be no equal ones here: they end at pixels' borders, and the planted
classifier's input is as large as the image, so that adaptive pooling would repeat pixels where
whylens interpolates. In the papers a cutout is never smaller than the input. `seconds_of_views`
says what either takes.)

What is timed is float32; the loop does half of a batch before whylens does it and half after, and
on a CPU the time is that of the process's one thread, so that others' work on the machine counts
less. Rounding leads many a problem to another image there, since plain Adam makes full steps of it:
what two runs differ by grows some thirtyfold a step. How much that comes to `rounding` says. So
whether losses are equal is asked in float64, where they differ by 1e-15 at the start. A final loss
is what one measure, cross-entropy without views, says of a problem's best image. Prints, as its
last line, JSON:

speedup       seconds of the loop / seconds of whylens, for all problems
loss_ratio    in float64: mean of the final losses of whylens / that of the loop
loss_differs  in float64: the largest relative difference of a problem's final losses
losses        in float64: both means
fell          in float64: by how much the mean loss fell from the start, of both
rounding      in float32: the ratio of means, and [low, high] of it, 95 % over problems drawn anew
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


def prompt_of(number):
    return PROMPTS[number % len(PROMPTS)]


def target_of(number):
    return number % 10


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


class Comparison:
    """Problems of one sampler and classifier, solved by both."""

    def __init__(self, dtype, device, settings):
        self.sampler = load_sampler(f"planted?dtype={dtype}", device)
        self.classifier = load_classifier("planted:biased", device).to(self.sampler.dtype)
        self.device, self.settings = device, settings
        self.seconds = {"loop": 0.0, "whylens": 0.0}
        self.losses = {"loop": [], "whylens": []}
        self.starts = []

    def run(self, count):
        for first in range(0, count, BATCH):
            numbers = range(first, first + BATCH)
            self._loop(numbers[: BATCH // 2])
            self._whylens(numbers)
            self._loop(numbers[BATCH // 2 :])
            told = {name: [round(loss, 4) for loss in each] for name, each in self.losses.items()}
            print(f"{self.sampler.name}, {first + BATCH}: {self.seconds} {told}", flush=True)

    def _whylens(self, numbers):
        targets = torch.tensor([target_of(number) for number in numbers], device=self.device)
        begun = clock(self.device)
        problems = Problems.from_prompts(self.sampler, [prompt_of(n) for n in numbers], numbers)
        objective = TargetClass(self.classifier, targets)
        solutions = solve(self.sampler, problems, objective, self.settings)
        self.seconds["whylens"] += clock(self.device) - begun
        for number, solution in zip(numbers, solutions, strict=True):
            self.losses["whylens"].append(self._judged(solution.image, number))
            self.starts.append(self._judged(solution.start_image, number))

    def _loop(self, numbers):
        for number in numbers:
            task = prompt_of(number), target_of(number), number, self.settings
            begun = clock(self.device)
            run = reference_loop(self.sampler, self.classifier, *task, same_views)
            self.seconds["loop"] += clock(self.device) - begun
            self.losses["loop"].append(self._judged(run.image[0], number))

    @torch.no_grad()
    def _judged(self, image, number):
        wanted = torch.tensor([target_of(number)], device=self.device)
        logits = self.classifier.logits(image[None].to(self.device))
        return float(F.cross_entropy(logits, wanted))

    @property
    def means(self):
        return {name: statistics.mean(found) for name, found in self.losses.items()}

    @property
    def ratio(self):
        return self.means["whylens"] / self.means["loop"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=16, help="timed; a multiple of 8")
    parser.add_argument("--exact", type=int, default=8, help="in float64; a multiple of 8")
    parser.add_argument("--steps", type=int, default=10, help="optimisation steps")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)  # several wait for each other on a busy machine, and that counts, too
    settings = GuidanceSettings(
        chain={"steps": 10, "segment": "auto"},
        optimiser={"steps": arguments.steps, "relative_epsilon": 0.0},
        views={"cutouts": 4},
    )
    timed, exact = (Comparison(dtype, device, settings) for dtype in ("float32", "float64"))
    timed.run(arguments.problems)
    exact.run(arguments.exact)
    pairs = list(zip(exact.losses["whylens"], exact.losses["loop"], strict=True))
    start, side = statistics.mean(exact.starts), timed.sampler.image_size
    each = arguments.problems * arguments.steps
    result = {
        "speedup": round(timed.seconds["loop"] / timed.seconds["whylens"], 2),
        "loss_ratio": round(exact.ratio, 6),
        "loss_differs": max(abs(ours - loop) / loop for ours, loop in pairs),
        "losses": {name: round(mean, 4) for name, mean in exact.means.items()},
        "fell": {name: round(start - mean, 3) for name, mean in exact.means.items()},
        "rounding": [
            round(timed.ratio, 3),
            interval(timed.losses["whylens"], timed.losses["loop"]),
        ],
        "seconds": {name: round(taken / each, 3) for name, taken in timed.seconds.items()},
        "seconds_of_views": {
            name: round(seconds_of_views(look, settings, timed.classifier, side, device), 5)
            for name, look in (("same", same_views), ("own", cutouts))
        },
        "problems": [arguments.problems, arguments.exact],
        "steps": arguments.steps,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
