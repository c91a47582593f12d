"""Images per second of `whylens embed` beside a hand-written DataLoader loop, on the same cores.

    python tests/benchmarks/embed.py                  # 2,500 JPEG files of 400 px, two rounds
    python tests/benchmarks/embed.py --images 900 --rounds 1     # eight minutes

The loop is what one would write: a Dataset that opens a file with Pillow, cuts the centre square,
resizes it (bicubic, as embed does) and makes a tensor; in the main process features, head, softmax
and the top five. Results stay in a list: it writes nothing. How many loader processes and images a
batch are best depends on the machine: the loop is run with each of LOOPS, the best counts.
`embed` does the same as a stream through Ray Data, and besides says which images are broken, makes
a thumbnail of each, and writes its table in parts.

Both are timed at steady rate, from when 500 images are done to the end. Rounds alternate, so that
both see the same machine, and the best of each counts. Prints, as its last line, JSON: images per
second of both, and `ratio`, embed's divided by the loop's (above 1: embed is faster).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WARM = 500
UNIT = 100
CLASSIFIER = "bundled:efficientnet_lite0"
# (loader processes, images a batch). The main process has as many threads as there are cores.
LOOPS = [(2, 64), (1, 64), (2, 16), (1, 16)]


def write_images(folder, count):
    """JPEG files of 400 x 400 px, about 45 kB each as photos are: a photo, turned and shifted."""
    from PIL import Image
    from skimage import data

    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(0)
    for k in range(count):
        photo = photos[k % len(photos)]
        side = int(rng.integers(200, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, edge - side + 1)) for edge in photo.shape[:2])
        image = Image.fromarray(photo[top : top + side, left : left + side]).resize((400, 400))
        image.save(folder / f"{k:05d}.jpg", quality=92)


def loop(folder, loaders, size_of_batch):
    """The hand-written loop's images per second."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from whylens.classifiers import load_classifier

    classifier = load_classifier(CLASSIFIER)
    size = classifier.image_size
    torch.set_num_threads(len(os.sched_getaffinity(0)))

    class Images(Dataset):
        def __init__(self):
            self.paths = sorted(folder.iterdir())

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            image = Image.open(self.paths[index]).convert("RGB")
            side = min(image.size)
            left, top = ((edge - side) / 2 for edge in image.size)
            box = (left, top, left + side, top + side)
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    found, done, began = [], 0, None
    with torch.inference_mode():
        for batch in DataLoader(Images(), batch_size=size_of_batch, num_workers=loaders):
            phi = classifier.features(batch)
            top = classifier.head(phi).softmax(1).topk(5)
            found.append((phi.half().numpy(), top.values.numpy(), top.indices.numpy()))
            done += len(batch)
            if began is None and done >= WARM:
                began, start = time.perf_counter(), done
    return (done - start) / (time.perf_counter() - began)


def embed(folder, out):
    """embed's images per second: parts are timed by when they were written."""
    from whylens.jobs.images.embed import EmbedSpec
    from whylens.jobs.images.embed import run as run_embed

    spec = EmbedSpec(
        out=str(out), images=str(folder), classifier=CLASSIFIER, unit=UNIT, batch=64, stream_from=1
    )
    run_embed(spec)
    times = sorted(part.stat().st_mtime for part in (out / "tables" / "images").iterdir())
    first = -(-WARM // UNIT)
    return (len(times) - first) * UNIT / (times[-1] - times[first - 1])


def apart(name, folder, out, loaders=0, size_of_batch=0):
    """One measurement in a process of its own, as the other's threads and memory would disturb."""
    words = [sys.executable, __file__, "--only", name, "--folder", str(folder), "--out", str(out)]
    words += ["--loaders", str(loaders), "--size-of-batch", str(size_of_batch)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.split()[-1])


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=2500, help="a multiple of 100, above 500")
    parser.add_argument("--rounds", type=int, default=2)
    for name in ("--only", "--folder", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--loaders", "--size-of-batch"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    if asked.only:
        folder, out = Path(asked.folder), Path(asked.out)
        if asked.only == "loop":
            print(loop(folder, asked.loaders, asked.size_of_batch))
        else:
            print(embed(folder, out))
        return
    if asked.images % UNIT or asked.images <= WARM + UNIT:
        parser.error(f"--images is a multiple of {UNIT} above {WARM + UNIT}")
    rates = {"embed": [], "loop": []}
    with tempfile.TemporaryDirectory(prefix="whylens-embed-") as place:
        folder = Path(place, "images")
        folder.mkdir()
        write_images(folder, asked.images)
        for turn in range(asked.rounds):
            rates["embed"].append(apart("embed", folder, Path(place, f"run-{turn}")))
            print(f"embed: {rates['embed'][-1]:.1f} images/s", flush=True)
            for loaders, size_of_batch in LOOPS:
                rates["loop"].append(apart("loop", folder, place, loaders, size_of_batch))
                print(
                    f"loop, {loaders} loaders, batches of {size_of_batch}: "
                    f"{rates['loop'][-1]:.1f} images/s",
                    flush=True,
                )
    best = {name: max(found) for name, found in rates.items()}
    print(
        json.dumps(
            {
                "ratio": round(best["embed"] / best["loop"], 3),
                "embed_per_s": round(best["embed"], 1),
                "loop_per_s": round(best["loop"], 1),
                "rounds": {name: [round(r, 1) for r in found] for name, found in rates.items()},
                "images": asked.images,
                "cores": cores,
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
