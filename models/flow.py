"""Reference optical flow between real frames: one interface, several methods.

A method takes two batches of images and says where each pixel of the target comes from in the source:
target(p) ~ source(p + flow(p)), flow in pixels, x first. Training needs it from each frame back to an earlier one (so it warps
the earlier frame onto the later) and reads it from util.flow_cache.
"""

from __future__ import annotations

import threading
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from models.ops import resample2d
from util.cli import UserError

FLOW_METHODS = ("dis", "flownet2")
# Squared RGB distance, in -1..1 units and summed over the channels, under which a warped pixel counts as the same point.
TRUST_THRESHOLD = 0.02


class FlowMethod(Protocol):
    name: str

    def estimate(self, target: np.ndarray, source: np.ndarray) -> np.ndarray:
        """target, source: uint8 RGB [H, W, 3]. Returns flow float32 [2, H, W] in pixels. Safe to call from several threads."""

    def __call__(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """target, source: [B, 3, H, W] RGB in -1..1. Returns flow_px [B, 2, H, W] and confidence [B, 1, H, W] (0 or 1)."""


def create_flow(method: str) -> FlowMethod:
    """Make the flow method of that name (one of FLOW_METHODS).

    Raises: UserError for a method that cannot be had.
    """
    if method == "dis":
        return DISFlow()
    if method == "flownet2":
        raise UserError("--flow flownet2 is not available yet; use --flow dis")
    raise UserError(f"--flow {method} is unknown; choose one of {', '.join(FLOW_METHODS)}")


class DISFlow:
    """Dense Inverse Search (Kroeger et al. 2016) of OpenCV, on grey images, on the CPU."""

    name = "dis"

    def __init__(self) -> None:
        self._of_thread = threading.local()  # an OpenCV estimator keeps buffers, so each thread has its own

    def estimate(self, target: np.ndarray, source: np.ndarray) -> np.ndarray:
        if not hasattr(self._of_thread, "dis"):
            self._of_thread.dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (target, source)]
        return np.ascontiguousarray(self._of_thread.dis.calc(*grey, None).transpose(2, 0, 1))

    def __call__(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        def pixels(images: Tensor) -> np.ndarray:
            return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()

        flows = [self.estimate(t, s) for t, s in zip(pixels(target), pixels(source))]
        flow_px = torch.from_numpy(np.stack(flows)).to(target.device)
        return flow_px, trusted(target, resample2d(source, flow_px))


def trusted(target: Tensor, warped: Tensor) -> Tensor:
    """Where a warped real image agrees with the real image it was warped to: [..., 3, H, W] in -1..1 -> float [..., 1, H, W], 0 or 1."""
    return ((target - warped).square().sum(dim=-3, keepdim=True) < TRUST_THRESHOLD).float()
