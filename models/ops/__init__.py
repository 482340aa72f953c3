"""Image operators of optical flow: CUDA kernels (csrc/) and a reference in plain PyTorch."""

from models.ops.channelnorm import channelnorm
from models.ops.correlation import correlation
from models.ops.resample2d import resample2d

__all__ = ["channelnorm", "correlation", "resample2d"]
