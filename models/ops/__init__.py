"""Image operators of optical flow."""

from models.ops.resample import resample2d

__all__ = ["resample2d"]
