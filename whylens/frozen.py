"""Layers of networks whose weights never train, which keep little for backward.

A walk over a loaded network gives its layers these classes, so that parameters, names, hooks and
fingerprints stay what they are.
"""

from torch import Tensor, nn

from whylens.kernels import frozen_conv, group_norm_silu


class FrozenConv2d(nn.Conv2d):
    """A convolution that keeps nothing of its input (`whylens.kernels.frozen_conv`)."""

    def forward(self, input: Tensor) -> Tensor:
        """As torch.nn.Conv2d."""
        return frozen_conv(
            input,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=[int(side) for side in self.padding],
            dilation=self.dilation,
            groups=self.groups,
        )


class FrozenGroupNorm(nn.GroupNorm):
    """Group normalisation that keeps a channels-last layout (`whylens.kernels.group_norm_silu`)."""

    def forward(self, input: Tensor) -> Tensor:
        """As torch.nn.GroupNorm."""
        return self._normalised(input, silu=False)

    def _normalised(self, input: Tensor, *, silu: bool) -> Tensor:
        return group_norm_silu(
            input, self.weight, self.bias, groups=self.num_groups, eps=self.eps, silu=silu
        )


class FrozenGroupNormSilu(FrozenGroupNorm):
    """Group normalisation and the SiLU behind it, which keep x and its statistics alone."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...], normalised and activated."""
        return self._normalised(input, silu=True)


def freeze_convolutions(network: nn.Module) -> None:
    """Let the network's frozen convolutions keep nothing of their inputs.

    What is not exactly a torch.nn.Conv2d, pads with other than given zeros or has weights that
    train stays as it is.
    """
    for layer in network.modules():
        if (
            type(layer) is nn.Conv2d
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
            and is_frozen(layer)
        ):
            layer.__class__ = FrozenConv2d


def is_frozen(layer: nn.Module) -> bool:
    """Whether no parameter of a layer asks for a gradient."""
    return not any(parameter.requires_grad for parameter in layer.parameters())
