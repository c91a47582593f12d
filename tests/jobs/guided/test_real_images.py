"""Real images for the sampler: one that can't be read fails alone."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from whylens.images import open_collection
from whylens.jobs.guided.real_images import RealImages


def test_an_image_that_cannot_be_read_any_more_fails_alone(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / name)
    real = RealImages.__new__(RealImages)
    real.collection = open_collection(str(tmp_path))
    real.sampler = SimpleNamespace(image_size=64, device="cpu")
    (tmp_path / "a.png").write_bytes(b"")
    loaded = real.load(["a.png", "b.png"])
    assert loaded.failed == ["empty file", None]
    assert loaded.fit == [1]
    assert loaded.images.shape == (2, 3, 64, 64)
    assert abs(float(loaded.images[1].mean()) - 90 / 255) < 1e-6
