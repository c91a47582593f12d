"""A real ImageNet classifier on real photos: what a user's first own investigation does.

    python tests/real_photos.py --out out/photos

The photos are the cut-out stamps of Debian's package tuxpaint-stamps-default (GPL, so read where
they are installed and never copied into the repo) flattened on plain backgrounds, and the pictures
that scikit-image bundles, in class subfolders. Says why, and does nothing, where they are missing.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

STAMPS = Path("/usr/share/tuxpaint/stamps")
# Drawings, letters and signs are no photos.
NO_PHOTOS = {"cartoon", "symbols", "people", "toys", "flags", "roadsigns", "seasonal", "houses"}
GROUNDS = {"white": (255, 255, 255), "grey": (150, 150, 150), "sky": (165, 200, 235)}
PICTURES = {"chelsea": "tabby", "coffee": "espresso", "rocket": "missile"}
SIDE = 320
MISSING = "the photos aren't installed: apt-get install tuxpaint-stamps-default"


def stamps() -> list[Path]:
    """The stamps that are photos."""
    found = sorted(STAMPS.rglob("*.png"))
    return [p for p in found if not NO_PHOTOS & set(p.relative_to(STAMPS).parts[:-1])]


def class_of(stamp: Path, known: dict[str, int]) -> str:
    """The ImageNet class that a stamp's file name begins or ends with, else its folder's name."""
    words = [w for w in re.split(r"[^a-z]+", stamp.stem.lower()) if w]
    for size in range(len(words), 0, -1):
        for part in (words[:size], words[-size:]):
            if " ".join(part) in known:
                return " ".join(part)
    return stamp.parent.name


def prepare(folder: Path) -> int:
    """Write the photos below `folder`, one subfolder a class; how many there are."""
    from whylens.classifiers.timm_models import imagenet_names
    from whylens.images.matching import synonyms

    known = synonyms(imagenet_names())
    count = 0
    for stamp in stamps():
        target = folder / class_of(stamp, known)
        target.mkdir(parents=True, exist_ok=True)
        with Image.open(stamp) as opened:
            cut = opened.convert("RGBA")
        scale = (SIDE - 60) / max(cut.size)
        cut = cut.resize((max(1, int(cut.width * scale)), max(1, int(cut.height * scale))))
        for name, colour in GROUNDS.items():
            picture = Image.new("RGBA", (SIDE, SIDE), (*colour, 255))
            picture.alpha_composite(cut, ((SIDE - cut.width) // 2, (SIDE - cut.height) // 2))
            picture.convert("RGB").save(target / f"{stamp.stem}-{name}.jpg", quality=92)
            count += 1
    return count + bundled_pictures(folder)


def bundled_pictures(folder: Path) -> int:
    """scikit-image's own colour photos that need no download."""
    from skimage import data

    count = 0
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        try:
            pixels = np.asarray(getattr(data, name)())
        except Exception:
            print(f"scikit-image's picture {name} is not on this machine")
            continue
        target = folder / PICTURES.get(name, "other")
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target / f"skimage-{name}.png")
        count += 1
    return count


def command(photos: Path, out: Path) -> list[str]:
    """The investigation, as a user would type it."""
    return [
        *("whylens", "investigate", "--images", str(photos), "--out", str(out)),
        *("--classifier", "bundled:efficientnet_lite0"),
        *("--against", "bundled:efficientnet_lite2"),
        *("--set", "exemplars.findings=12"),
    ]


def main() -> int:
    """Prepare the photos and run the investigation; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/photos"))
    out = parser.parse_args().out
    if not STAMPS.is_dir():
        print(f"skipped: {MISSING}")
        return 0
    photos = out / "photos"
    if not (out / "photos.done").exists():
        shutil.rmtree(photos, ignore_errors=True)
        print(f"{prepare(photos)} photos in {photos}")
        (out / "photos.done").touch()
    words = command(photos, out / "run")
    print(" ".join(words))
    return subprocess.run([Path(sys.executable).parent / words[0], *words[1:]]).returncode


if __name__ == "__main__":
    sys.exit(main())
