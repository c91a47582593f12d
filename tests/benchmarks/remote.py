"""A classifier in an actor beside the same one in the sampler's process: same results, what a
boundary costs, what several samplers get of one classifier.

    python tests/benchmarks/remote.py            # bundled:efficientnet_lite0 at 512 px; minutes

An objective, -log p, is asked for values and gradients of a batch of images: by one process beside
the classifier, and by one to four samplers (threads that ask the actor) at once. A sampler's own
work, which takes a GPU of its own in practice, is a pause as long as the classifier's forward and
backward pass. Times are medians; the ways take turns. As its last line it prints JSON:

equal           largest difference of values and gradients, remote from colocated, over the largest
boundary_ms     milliseconds that a question takes longer remote than colocated
bytes           bytes that cross for a question: images to the actor, gradients and values back
throughput      images a second of 1, 2, 3 and 4 samplers on the one classifier, over that of one
"""

import argparse
import json
import statistics
import threading
import time

import torch

from whylens.classifiers import load_classifier
from whylens.cluster.classifiers import connected, serve
from whylens.cluster.placement import Placement
from whylens.cluster.session import session
from whylens.guidance.objectives import TargetClass


def seconds(ask):
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--classifier", default="bundled:efficientnet_lite0")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    images = torch.rand(options.batch, 3, options.side, options.side)
    targets = torch.arange(options.batch)
    placement = Placement(num_gpus=0, num_cpus=1, classifiers="remote")
    with session() as ray:
        (actor,) = serve(ray, [options.classifier], placement).values()
        colocated = TargetClass(load_classifier(options.classifier), targets)
        remote = TargetClass(connected(actor, "cpu"), targets)
        torch.set_num_threads(1)  # as the actor, which books one core
        found, wanted = remote.value_and_gradient(images), colocated.value_and_gradient(images)
        equal = max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)
        )
        times = {"colocated": [], "remote": []}
        for _ in range(options.repeat):
            times["colocated"].append(seconds(lambda: colocated.value_and_gradient(images)))
            times["remote"].append(seconds(lambda: remote.value_and_gradient(images)))
        here, there = (statistics.median(times[way]) for way in ("colocated", "remote"))

        def sampler(count):
            for _ in range(count):
                time.sleep(here)
                remote.value_and_gradient(images)

        rates = []
        for samplers in range(1, 5):
            threads = [
                threading.Thread(target=sampler, args=(options.repeat,)) for _ in range(samplers)
            ]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rates.append(samplers * options.repeat / (time.perf_counter() - began))
    crossed = sum(t.numel() * t.element_size() for t in (images, *found))
    print(f"colocated {1000 * here:.1f} ms, remote {1000 * there:.1f} ms a question")
    print(
        json.dumps(
            {
                "equal": equal,
                "boundary_ms": round(1000 * (there - here), 2),
                "bytes": crossed,
                "throughput": [round(rate / rates[0], 2) for rate in rates],
                "colocated_ms": round(1000 * here, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
