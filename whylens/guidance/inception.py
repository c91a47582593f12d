"""Features of Inception v3, in which the field's Frechet distances are (FID).

Heusel et al. 2017. Two files of weights are known: torchvision's own, and that of pytorch-fid, the
network of the first FID (of TensorFlow, 1008 classes) in torchvision's names. There pooling in
blocks counts no padding, and takes the largest in the last block. FIDs of one network say nothing
of those of the other.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import Inception3
from torchvision.models.inception import InceptionA, InceptionC, InceptionE

from whylens.classifiers.state_dicts import read_state
from whylens.errors import UsageError

# Side in pixels of what the network is shown, and the classes of the two files' heads.
SIDE, TENSORFLOW, TORCHVISION = 299, 1008, 1000


class _AveragedPool:
    """A block whose pooled branch is a mean of what is there: padding does not count."""

    branch_pool: nn.Module

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)  # type: ignore[misc]
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return [*others, self.branch_pool(pooled)]


class _LargestPool:
    """A block whose pooled branch is the largest around each place."""

    branch_pool: nn.Module

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)  # type: ignore[misc]
        return [*others, self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))]


class _A(_AveragedPool, InceptionA):  # type: ignore[misc]
    pass


class _C(_AveragedPool, InceptionC):  # type: ignore[misc]
    pass


class _E(_AveragedPool, InceptionE):  # type: ignore[misc]
    pass


class _LastE(_LargestPool, InceptionE):  # type: ignore[misc]
    pass


class InceptionFeatures(nn.Module):
    """The 2048 means over positions before an Inception's head, frozen."""

    def __init__(self, network: Inception3) -> None:
        super().__init__()
        self.network = network
        network.fc = nn.Identity()
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features [B, 2048]."""
        seen = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        features: Tensor = self.network(seen * 2 - 1)
        return features


def load_inception(path: str | Path, device: str | torch.device = "cpu") -> InceptionFeatures:
    """Inception v3 from a file, .pth or .safetensors; nothing is downloaded.

    Parameters
    ----------
    path
        pytorch-fid's pt_inception-2015-12-05-6726825d.pth, whose FIDs are those of the literature,
        or torchvision's inception_v3_google-0cc3c7bd.pth.

    Raises
    ------
    UsageError
        If the file is missing or holds something else.
    """
    found = read_state(str(path), "inception")
    weights = {name: value for name, value in found.items() if not name.startswith("AuxLogits.")}
    classes = len(weights.get("fc.weight", ()))
    wrong = UsageError(
        f"{path} does not hold Inception v3's weights as pytorch-fid or torchvision have them"
    )
    if classes not in (TENSORFLOW, TORCHVISION):
        raise wrong
    network = Inception3(
        num_classes=classes, aux_logits=False, transform_input=False, init_weights=False
    )
    if classes == TENSORFLOW:
        _pool_as_tensorflow(network)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise wrong from error
    return InceptionFeatures(network).to(device)


def _pool_as_tensorflow(network: Inception3) -> None:
    kinds: dict[type[nn.Module], type[nn.Module]] = {InceptionA: _A, InceptionC: _C, InceptionE: _E}
    for block in network.children():
        block.__class__ = kinds.get(type(block), type(block))
    network.Mixed_7c.__class__ = _LastE
