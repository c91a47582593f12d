"""A diffusers U-Net and autoencoder with layers that keep little for backward, and its blocks.

What PyTorch keeps of a call of Stable Diffusion's U-Net is a third each GEGLU's projection (with
what is made of it), inputs of convolutions with those of the SiLUs before them, and what attention
and normalisation need; the first two go. diffusers' code stays as it is: layers get other classes,
and an activation that went into the norm before it becomes an identity.
"""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.frozen import FrozenGroupNorm, FrozenGroupNormSilu, freeze_convolutions, is_frozen
from whylens.kernels import geglu


class FrozenGEGLU(GEGLU):  # type: ignore[misc]
    """diffusers' GEGLU, which keeps its input and no projection (`whylens.kernels.geglu`)."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., C] -> [..., D]."""
        return geglu(hidden_states, self.proj.weight, self.proj.bias)


class ActivatedLinear(nn.Linear):
    """SiLU, then a linear layer: a block's time embedding, whose SiLU was that of the norms."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C] -> [B, D]."""
        return F.linear(F.silu(input), self.weight, self.bias)


class ChannelsLastTransformer(Transformer2DModel):  # type: ignore[misc]
    """diffusers' transformer of a map's places, whose result is channels-last as its tokens are.

    diffusers makes it contiguous, and the convolutions behind it channels-last again.
    """

    def _get_output_for_continuous_inputs(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        batch_size: int,
        height: int,
        width: int,
        inner_dim: int,
    ) -> Tensor:
        if self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        hidden_states = hidden_states.reshape(batch_size, height, width, -1).permute(0, 3, 1, 2)
        if not self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        return hidden_states + residual


def lay_out(network: nn.Module) -> None:
    """Let a U-Net's or autoencoder's maps be channels-last from the first convolution on."""
    network.to(memory_format=torch.channels_last)
    for layer in network.modules():
        if type(layer) is Transformer2DModel:
            layer.__class__ = ChannelsLastTransformer


def freeze_layers(network: nn.Module) -> None:
    """Give a frozen U-Net or autoencoder layers that keep little; values stay what they were.

    Layers whose weights train, and those of other kinds, stay as they are.
    """
    freeze_convolutions(network)
    for block in network.modules():
        if isinstance(block, ResnetBlock2D):
            _fuse_block(block)
        elif _fusable(getattr(block, "conv_norm_out", None)) and _is_silu(
            getattr(block, "conv_act", None)
        ):
            block.conv_norm_out.__class__ = FrozenGroupNormSilu
            block.conv_act = nn.Identity()
    for layer in network.modules():
        if _fusable(layer):
            layer.__class__ = FrozenGroupNorm
        elif type(layer) is GEGLU and is_frozen(layer):
            layer.__class__ = FrozenGEGLU


def blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks that a denoiser or autoencoder repeats, of which nearly all its time is."""
    kinds = ResnetBlock2D | BasicTransformerBlock | JointTransformerBlock
    return [block for block in network.modules() if isinstance(block, kinds)]


def _fuse_block(block: Any) -> None:
    """Both norms of a block take over its SiLU, and its time embedding gets one of its own."""
    embedding = block.time_emb_proj
    if not (
        _is_silu(block.nonlinearity)
        and _fusable(block.norm1)
        and _fusable(block.norm2)
        # Which scales and shifts between norm and SiLU.
        and block.time_embedding_norm != "scale_shift"
        and (embedding is None or type(embedding) is nn.Linear)
    ):
        return
    block.norm1.__class__ = block.norm2.__class__ = FrozenGroupNormSilu
    block.nonlinearity = nn.Identity()
    if embedding is not None and not block.skip_time_act:
        embedding.__class__ = ActivatedLinear


def _fusable(layer: Any) -> bool:
    return type(layer) is nn.GroupNorm and layer.affine and is_frozen(layer)


def _is_silu(layer: Any) -> bool:
    return type(layer) is nn.SiLU
