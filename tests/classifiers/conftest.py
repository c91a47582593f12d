"""Classifiers of every family, loaded once, none of them from a model hub."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from whylens.classifiers import Classifier, load_classifier

FAMILIES = ("planted", "planted clip", "bundled", "checkpoint cnn", "checkpoint vit", "open_clip")
LARGE = ("bundled", "open_clip")  # their networks take seconds
CLASSES = ("tench, Tinca tinca", "tabby_cat", "7", "sea-lion", "Great Dane", "crane", "class six")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Read from the environment when the module is imported, which may have been long ago.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def names_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The name under which `load_classifier` finds a family's classifier."""
    import open_clip
    import timm

    folder = tmp_path_factory.mktemp("weights")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    made: dict[str, str] = {
        "planted": "planted:biased",
        "planted clip": "planted:clip",
        "bundled": "bundled:efficientnet_lite0",
    }

    def name(family: str) -> str:
        if family in made:
            return made[family]
        torch.manual_seed(3)
        if family == "open_clip":
            model: Any = open_clip.create_model("ViT-S-32-alt")
            torch.save(model.state_dict(), folder / "clip.pt")
            uri = f"open_clip:ViT-S-32-alt/{folder}/clip.pt?classes={folder}/classes.txt"
        else:
            architecture = {"checkpoint cnn": "test_resnet", "checkpoint vit": "test_vit"}[family]
            model = timm.create_model(architecture, num_classes=len(CLASSES))
            stir(model)
            save_file(model.state_dict(), folder / f"{architecture}.safetensors")
            uri = (
                f"checkpoint:{folder}/{architecture}.safetensors?arch={architecture}"
                f"&classes={folder}/classes.txt"
            )
        made[family] = uri
        return uri

    yield name
    for file in folder.iterdir():  # a CLIP is 170 MB
        os.unlink(file)


def stir(model: torch.nn.Module) -> None:
    """Give fresh weights a head that tells images apart, and batch norms that do something."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    layer = model.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.3)
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))


@pytest.fixture(scope="session")
def load(names_of: Callable[[str], str]) -> Callable[[str], Classifier]:
    """A family's classifier, loaded once."""
    loaded: dict[str, Classifier] = {}

    def classifier(family: str) -> Classifier:
        if family not in loaded:
            loaded[family] = load_classifier(names_of(family))
        return loaded[family]

    return classifier


@pytest.fixture(
    params=[
        pytest.param(family, marks=pytest.mark.slow if family in LARGE else ())
        for family in FAMILIES
    ]
)
def classifier(request: pytest.FixtureRequest, load: Callable[[str], Classifier]) -> Classifier:
    """Each family's classifier in turn."""
    return load(request.param)


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    """A cat, [3, 300, 451] in [0, 1]."""
    return picture("chelsea.png")


def picture(file: str) -> torch.Tensor:
    """One of the pictures in scikit-image's wheel, [3, H, W] in [0, 1]."""
    import numpy as np
    import skimage
    from PIL import Image

    path = Path(skimage.__file__).parent / "data" / file
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def odd_images(count: int = 100, longest: int = 120) -> list[Any]:
    """Images of smooth colours and noise, 9 to `longest` px a side, from portrait to panorama."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(7)
    images = []
    for _ in range(count):
        height, width = (int(side) for side in rng.integers(9, longest + 1, 2))
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int64)
        noisy = smooth + rng.integers(-20, 21, smooth.shape)
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return images
