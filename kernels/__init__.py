"""Fused forward and backward operations: Triton on GPUs, hand-fused PyTorch elsewhere."""

from whylens.kernels.class_disagreement import disagreement
from whylens.kernels.cutouts import cutouts
from whylens.kernels.frozen_conv import frozen_conv
from whylens.kernels.geglu import geglu
from whylens.kernels.group_norm_silu import group_norm_silu
from whylens.kernels.guided_ddim import guided_ddim_step

__all__ = [
    "cutouts",
    "disagreement",
    "frozen_conv",
    "geglu",
    "group_norm_silu",
    "guided_ddim_step",
]
