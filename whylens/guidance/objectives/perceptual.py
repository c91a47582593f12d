"""LPIPS: distance in the features of a VGG-16, weighed as people see it.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric" (CVPR 2018),
equation 1, version 0.1 of its weights:

    d(x, y) = sum_l mean over positions of sum_c w_lc (u_l(x) - u_l(y))_c^2,

u_l the activations after the last ReLU of VGG-16's block l, of length one at each position.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whylens.errors import UsageError
from whylens.guidance.objectives.base import LocalObjective, Objective

# The last ReLU of each block in torchvision's vgg16().features.
ENDS = (3, 8, 15, 22, 29)
WIDTHS = (64, 128, 256, 512, 512)
# What LPIPS takes off and divides by, for images in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class PerceptualNetwork(nn.Module):
    """VGG-16's five blocks and the weights w_l [C_l] of their channels, frozen."""

    def __init__(self, layers: nn.Sequential, weights: list[Tensor]) -> None:
        super().__init__()
        starts = (0, *(end + 1 for end in ENDS))
        self.blocks = nn.ModuleList(
            layers[start : end + 1] for start, end in zip(starts, ENDS, strict=False)
        )
        for place, weight in enumerate(weights):
            self.register_buffer(f"weight_{place}", weight)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def features(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in [0, 1], at least 16 px -> unit activations of the five blocks."""
        hidden = (images * 2 - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        found = []
        for block in self.blocks:
            hidden = block(hidden)
            found.append(hidden / (hidden.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def distance(self, one: list[Tensor], other: list[Tensor]) -> Tensor:
        """[B], of two images' features."""
        parts = [
            ((a - b).square() * self.get_buffer(f"weight_{place}").view(1, -1, 1, 1))
            .sum(1)
            .mean((1, 2))
            for place, (a, b) in enumerate(zip(one, other, strict=True))
        ]
        return torch.stack(parts).sum(0)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """LPIPS [B] of images [B, 3, H, W] in [0, 1]."""
        return self.distance(self.features(one), self.features(other))


class PerceptualDistance(LocalObjective):
    """LPIPS to reference images [B, 3, H, W] in [0, 1]."""

    on_views = False

    def __init__(self, network: PerceptualNetwork, reference: Tensor) -> None:
        self.network = network
        with torch.no_grad():
            self.features = network.features(reference)

    @property
    def name(self) -> str:
        return "LPIPS"

    @property
    def description(self) -> str:
        return "the perceptual distance to the image (LPIPS)"

    def loss(self, images: Tensor) -> Tensor:
        return self.network.distance(self.network.features(images), self.features)

    def select(self, rows: Tensor) -> Objective:
        some = PerceptualDistance.__new__(PerceptualDistance)
        some.network, some.features = self.network, [part[rows] for part in self.features]
        return some


def load_perceptual(
    vgg: str | Path, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> PerceptualNetwork:
    """LPIPS from files; nothing is downloaded.

    Parameters
    ----------
    vgg
        State dict of torchvision's vgg16 (vgg16-397923af.pth), .pth or .safetensors.
    weights
        LPIPS' own vgg.pth, version 0.1 (7 kB); None: that of the package `lpips`, if installed.

    Raises
    ------
    UsageError
        If a file is missing or holds something else.
    """
    if weights is None:
        package = find_spec("lpips")
        if package is None or package.origin is None:
            raise UsageError(
                "LPIPS' own weights are missing: pip install lpips, or name the file vgg.pth of "
                "its version 0.1"
            )
        weights = Path(package.origin).parent / "weights" / "v0.1" / "vgg.pth"
    from torchvision.models import vgg16

    with torch.device("meta"):  # or 138 million weights are drawn, for nothing
        layers = vgg16(weights=None, init_weights=False).features
    layers.to_empty(device="cpu")
    state = _state(vgg, "VGG-16's weights")
    own = {
        name.removeprefix("features."): value
        for name, value in state.items()
        if name.startswith("features.")
    }
    wrong = "{} does not hold {}"
    try:
        layers.load_state_dict(own)
    except RuntimeError as error:
        raise UsageError(wrong.format(vgg, "the weights of torchvision's vgg16")) from error
    linear = _state(weights, "LPIPS' own weights")
    names = [f"lin{place}.model.1.weight" for place in range(len(ENDS))]
    shapes = [tuple(linear[name].shape) if name in linear else None for name in names]
    if shapes != [(1, width, 1, 1) for width in WIDTHS]:
        raise UsageError(wrong.format(weights, "LPIPS' weights for VGG-16, version 0.1"))
    return PerceptualNetwork(layers, [linear[name].flatten() for name in names]).to(device)


def _state(path: str | Path, what: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise UsageError(f"{what} are not at {path}: LPIPS can't be measured without them")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"{path} can't be read as {what} ({type(error).__name__})") from error
    return state
