"""Exact and approximate search for components' exemplars, beside torch's matmul and topk.

    python tests/benchmarks/index.py                  # 500,000 rows: 6 GB, minutes on two cores
    python tests/benchmarks/index.py --rows 50000

Features are made up, as ImageNet classes through an EfficientNet-Lite0 would look: sparse concepts,
some of a class, some of its usual surroundings, some of anything, through a ReLU. The constants are
set so that they have what `bundled:efficientnet_lite0` gives for 2,400 pictures put together from
photographs: zeros 0.54 (there 0.42), variance in the first 32, 128 and 256 directions 0.46, 0.76,
0.90 (0.50, 0.73, 0.84), a norm that varies by 9 % (11 %), and, of the variance of a component's
scores, 0.59, 0.77 and 0.91 in the first 64, 128, 256 directions (0.69, 0.79, 0.87 held out).

Queries are d_l of 40 classes, 32 components each. The approximate index is set to its recall on
components of other classes. Times are the sum, over blocks of queries, of the best of all
repetitions; the three ways take turns at each block. As its last line it prints JSON:

exact_ratio     seconds of torch / seconds of the exact index (Flat); above 1: the index is faster
speedup         seconds of the exact index / seconds of the approximate one
recall          share of the exact top five that the approximate one finds
build_s         training, adding all rows, and setting the effort of the approximate one
size_mb         the approximate one on disk
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from whylens.neural_pca import FeatureIndex, class_components
from whylens.neural_pca.index import calibrated, recall_of, save_index

SIZE, COUNT = 1280, 5
PER_CLASS, CLASSES, COMPONENTS = 500, 40, 32
BLOCKS = 4
# Rows that torch multiplies at a time: its scores then take 42 MB, the index's own blocks 5 MB.
CHUNK = 8192


def clustered(rows, seed=0):
    """(features [rows, SIZE] float32, labels [rows]) of rows / PER_CLASS classes."""
    rng = np.random.default_rng(seed)
    concepts, classes = 400, max(2 * CLASSES, rows // PER_CLASS)
    lights = rng.gamma(1.0, 1.0, (concepts, SIZE)) * (rng.random((concepts, SIZE)) < 0.02)
    lights /= np.linalg.norm(lights, axis=1, keepdims=True)
    lights *= (np.arange(concepts)[:, None] / 20 + 1) ** -0.5
    lights = lights.astype(np.float32)
    own = np.stack([rng.choice(concepts, 10, replace=False) for _ in range(classes)])
    strength = rng.gamma(4.0, 0.25, own.shape).astype(np.float32)
    around = np.stack([rng.choice(concepts, 40, replace=False) for _ in range(classes)])
    labels = np.arange(rows) % classes
    features = np.empty((rows, SIZE), np.float32)
    for start in range(0, rows, 10_000):
        of = labels[start : start + 10_000]
        row = np.arange(len(of))[:, None]

        def amounts(count, of=of):
            return rng.gamma(2.0, 0.5, (len(of), count)).astype(np.float32)

        shown = np.zeros((len(of), concepts), np.float32)
        np.add.at(shown, (row, own[of]), strength[of] * amounts(10))
        usual = np.take_along_axis(around[of], rng.integers(40, size=(len(of), 6)), 1)
        np.add.at(shown, (row, usual), amounts(6))
        np.add.at(shown, (row, rng.integers(concepts, size=(len(of), 6))), amounts(6))
        part = shown @ lights + 0.03 * rng.standard_normal((len(of), SIZE), dtype=np.float32)
        part = np.maximum(part - 0.6 * part.mean(), 0)
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        features[start : start + len(of)] = part * (norms / norms.mean()) ** -0.7
    return features, labels


def directions(features, labels, classes):
    """d_l of some classes, [classes * COMPONENTS, SIZE]; a class's row of the head is its mean's
    difference from all, as a linear discriminant's."""
    means = features[:: max(1, len(features) // 20_000)].mean(0, dtype=np.float64)
    found = []
    for k in classes:
        of_class = features[labels == k]
        weight = of_class.mean(0, dtype=np.float64) - means
        weight /= np.linalg.norm(weight)
        found.append(class_components(int(k), weight, 0.0, of_class, COMPONENTS).directions)
    return np.concatenate(found).astype(np.float32)


def with_torch(features, queries):
    """Top COUNT of matmul and topk, a chunk of rows at a time."""
    scores = rows = None
    for start in range(0, len(features), CHUNK):
        more, places = (queries @ features[start : start + CHUNK].T).topk(COUNT, 1)
        places += start
        if scores is None:
            scores, rows = more, places
            continue
        both = torch.cat([scores, more], 1)
        scores, order = both.topk(COUNT, 1)
        rows = torch.cat([rows, places], 1).gather(1, order)
    return rows.numpy()


def measure(ways, queries, repeats):
    """(seconds, rows) of each way, by turns a block of queries; the best repetition of each."""
    blocks = np.array_split(queries, BLOCKS)
    best = np.full((len(ways), BLOCKS), np.inf)
    rows = [[None] * BLOCKS for _ in ways]
    for _ in range(repeats):
        for number, block in enumerate(blocks):
            for place, way in enumerate(ways):
                before = time.perf_counter()
                rows[place][number] = way(block)
                best[place, number] = min(best[place, number], time.perf_counter() - before)
    return best.sum(1), [np.concatenate(found) for found in rows]


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the index")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--factory", default="PCAR384,IVF4096,PQ192x4fsr,Refine(SQfp16)",
                        help="the approximate index, as a faiss factory string")  # fmt: skip
    parser.add_argument("--target", type=float, default=0.953,
                        help="recall it is set to, on other classes' components")  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    features, labels = clustered(options.rows)
    classes = labels.max() + 1
    asked = np.linspace(0, classes - 1, CLASSES).astype(int)
    others = np.setdiff1d(np.arange(classes), asked)[:: max(1, classes // 20)][:16]
    queries, known = (directions(features, labels, some) for some in (asked, others))
    print(f"{options.rows} rows, {len(queries)} queries, {options.threads} threads", flush=True)

    names = [str(row) for row in range(options.rows)]
    exact = FeatureIndex.build(features, names, fingerprint="made up")
    # The index's own memory from here on: one copy for the index and for torch.
    store = faiss.downcast_index(exact.index).get_xb()
    features = faiss.rev_swig_ptr(store, options.rows * SIZE).reshape(-1, SIZE)
    before = time.perf_counter()
    step = max(1, options.rows // 160_000)
    trained = FeatureIndex.train(
        features[::step], names[::step], fingerprint="made up", factory=options.factory
    )
    approximate, expected = calibrated(
        trained.filled(features, names), features, known, count=COUNT, recall=options.target
    )
    build_s = time.perf_counter() - before
    told = f"{options.factory}: {approximate.search_parameters}"
    print(f"{told}, recall {expected:.3f} on other classes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        save_index(approximate, Path(folder))
        size_mb = (Path(folder) / "index.faiss").stat().st_size / 1e6

    seconds, rows = measure(
        [
            lambda block: exact.search(block, COUNT)[1],
            lambda block: with_torch(torch.from_numpy(features), torch.from_numpy(block)),
            lambda block: approximate.search(block, COUNT)[1],
        ],
        queries,
        options.repeats,
    )
    agreed = recall_of(rows[0], rows[1])
    if agreed < 0.999:
        sys.exit(f"the exact ways agree in {agreed:.4f} of their answers only")
    record = {
        "rows": options.rows,
        "threads": options.threads,
        "factory": options.factory,
        "search_parameters": approximate.search_parameters,
        "exact_s": round(seconds[0], 2),
        "torch_s": round(seconds[1], 2),
        "approximate_s": round(seconds[2], 3),
        "exact_ratio": round(seconds[1] / seconds[0], 3),
        "speedup": round(seconds[0] / seconds[2], 2),
        "recall": round(recall_of(rows[2], rows[0]), 4),
        "build_s": round(build_s, 1),
        "size_mb": round(size_mb, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
