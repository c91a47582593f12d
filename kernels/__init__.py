"""Fused forward and backward operations: Triton on GPUs, hand-fused PyTorch elsewhere."""

from whylens.kernels.class_disagreement import disagreement
from whylens.kernels.guided_ddim import guided_ddim_step

__all__ = ["disagreement", "guided_ddim_step"]
