"""Components of classes of ImageNet's size, beside the straightforward way.

    python tests/benchmarks/neural_pca.py                 # 20 classes, N = 1,300, D = 2,048
    python tests/benchmarks/neural_pca.py --workers 1     # classes one by one, BLAS on both cores

The straightforward way does what the published code does ("Spurious Features Everywhere",
neural_pca/pca.py and activation_space.py): numpy.cov of psi in double precision, numpy.linalg.eigh,
eigenvectors sorted, alphas of all components, alphas sorted per component that is kept. Ours:
`class_components`, alphas of the kept components, the five largest of each. Both run in the same
workers, in turns, class by class; a worker has a core and as many BLAS threads as cores / workers.

Prints a line a class and, as its last line, JSON:
  speedup            median of the straightforward way's time / median of ours
  cpu_speedup        the same of processor time, which other programs on the machine disturb less
  variance_error     largest relative error of the variance that the top 128 hold
  alpha_error        largest relative error of the alphas of components that an eigengap of 1 % or
                     more sets apart: largest difference over images / largest alpha
  apart              how many components are set apart so, of all
  in_double          classes that had to be done in double precision (see neural_pca/eigen.py)
  peak_mb            memory that ours takes for a class at most, beside the features, per worker
  hours_1000_classes, straightforward_hours_1000_classes
                     time for 1,000 such classes on as many cores, extrapolated (linear in classes)

Memory does not grow with the number of classes: a worker holds one class at a time.
"""

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

COUNT, SIZE, TOP = 1300, 2048, 128


def made(seed):
    """Non-negative features [COUNT, SIZE] with float16's digits, as jobs read them, and a weight.

    Of low rank with falling variances, plus noise, cut at zero as a ReLU does.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    rank = 300
    factors = generator.normal(size=(COUNT, rank)) * np.arange(1, rank + 1) ** -0.6
    features = factors @ generator.normal(size=(rank, SIZE))
    features += 0.5 * generator.normal(size=(COUNT, SIZE)) + generator.normal(size=SIZE)
    stored = np.maximum(features, 0).astype(np.float16)
    return stored.astype(np.float32), generator.normal(size=SIZE) / 45


def straightforward(features, weight):
    """Eigenvalues [D], alphas [N, D], order [N, TOP], as the published code has it."""
    import numpy as np

    psi = features.astype(np.float64) * weight
    centred = psi - psi.mean(0)
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    alphas = centred @ vectors * vectors.sum(0)
    ranked = np.stack([np.argsort(-alphas[:, index]) for index in range(TOP)], 1)
    return values, alphas, ranked


def ours(features, weight):
    """Components, alphas [N, TOP], exemplars [5, TOP]."""
    import numpy as np

    from whylens.neural_pca import class_components

    found = class_components(0, weight, 0.0, features, TOP)
    alphas = found.alphas(features)
    return found, alphas, np.argpartition(-alphas, 5, axis=0)[:5]


def timed(call, *arguments):
    """What the call returns, seconds, and seconds of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call(*arguments)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def one_class(seed):
    """Both ways on one class: times and errors."""
    import tracemalloc

    import numpy as np

    from whylens.neural_pca import eigen

    features, weight = made(seed)
    doubles = []
    largest = eigen._largest

    def counted(matrix, count):
        doubles.append(matrix.dtype == np.float64)
        return largest(matrix, count)

    eigen._largest = counted
    times, cpus = [], []
    # Twice, before and after the straightforward way: the faster one is less disturbed.
    for _ in range(2):
        (found, alphas, exemplars), wall, cpu = timed(ours, features, weight)
        times.append(wall)
        cpus.append(cpu)
        if len(times) == 1:
            (values, expected, ranked), plain, plain_cpu = timed(straightforward, features, weight)
    eigen._largest = largest
    values = values * (COUNT - 1) / COUNT
    falls = -np.diff(values[: TOP + 1]) / values[:TOP]
    apart = np.minimum(falls, np.concatenate([[1.0], falls[:-1]])) >= 0.01
    expected = expected[:, :TOP]
    error = np.abs(alphas - expected).max(0) / np.abs(expected).max(0)
    same = [set(exemplars[:, c]) == set(ranked[:5, c]) for c in np.flatnonzero(apart)]
    tracemalloc.start()
    ours(features, weight)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = found.variances.sum()
    return {
        "seed": seed,
        "ours_s": round(min(times), 3),
        "straightforward_s": round(plain, 3),
        "ours_cpu_s": round(min(cpus), 3),
        "straightforward_cpu_s": round(plain_cpu, 3),
        "variance_error": float(abs(held / values[:TOP].sum() - 1)),
        "alpha_error": float(error[apart].max()),
        "apart": int(apart.sum()),
        "same_exemplars": float(np.mean(same)),
        "in_double": any(doubles),
        "peak_mb": round(peak / 2**20, 1),
    }


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    threads = str(max(1, options.cores // options.workers))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = threads
    rows = []
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for row in pool.map(one_class, range(options.classes)):
            rows.append(row)
            print(json.dumps(row), flush=True)

    def median(name):
        return statistics.median(row[name] for row in rows)

    def largest(name):
        return max(row[name] for row in rows)

    each = 1000 / options.workers / 3600
    print(
        json.dumps(
            {
                "speedup": round(median("straightforward_s") / median("ours_s"), 2),
                "cpu_speedup": round(median("straightforward_cpu_s") / median("ours_cpu_s"), 2),
                "variance_error": largest("variance_error"),
                "alpha_error": largest("alpha_error"),
                "apart": sum(row["apart"] for row in rows),
                "same_exemplars": min(row["same_exemplars"] for row in rows),
                "in_double": sum(row["in_double"] for row in rows),
                "peak_mb": largest("peak_mb"),
                "hours_1000_classes": round(median("ours_s") * each, 4),
                "straightforward_hours_1000_classes": round(median("straightforward_s") * each, 3),
                "classes": options.classes,
                "workers": options.workers,
                "blas_threads": int(threads),
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
