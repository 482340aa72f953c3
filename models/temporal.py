"""Which frames belong together over time: conditioning windows, chunks, and the triplets of the temporal discriminators.

Pure functions on [B, T, ...] tensors. Temporal scale i looks at three frames at distance STEPS[i]; a triplet is named by its
last frame, its end. Flow of step s has one entry per pair: entry i leads from frame i to frame i + s (see models/flow.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.generator import CONDITIONING_FRAMES
from util.caches.flow import STEPS

TRIPLET = 3
HISTORY = (TRIPLET - 1) * max(STEPS)  # frames before the current one that the widest triplet reaches


def history_length(scales: int, warp: bool, previous_frames: int) -> int:
    """Frames before a chunk that its step looks back at: in triplets of the first `scales` of STEPS, in the warp loss (the frame before),
    and in the generator, which sees `previous_frames`."""
    return max([(TRIPLET - 1) * step for step in STEPS[:scales]] + [int(warp), previous_frames])


def conditioning_windows(conditioning: Tensor, length: int, frames: int = CONDITIONING_FRAMES, channels: int | None = None) -> Tensor:
    """What the generator sees: each frame's conditioning images after those of the `frames` - 1 before it, oldest first.

    conditioning: [B, T + context, C, H, W], context at least frames - 1. length: T. channels: how many of C are shown of every frame (None:
        all); the others, the person's colours, say nothing about an earlier frame that the first ones do not, and are shown of the frame
        itself alone.
    Returns: [B, T, (frames - 1) channels + C, H, W].
    """
    earlier = (conditioning[:, -length - k : -k, :channels] for k in range(frames - 1, 0, -1))
    return torch.cat([*earlier, conditioning[:, -length:]], dim=2)


def chunks(length: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive chunks of at most `size` frames that make up `length` frames."""
    return ((start, min(start + size, length)) for start in range(0, length, size))


def triplet_ends(start: int, stop: int, step: int) -> range:
    """Ends of all triplets at distance `step` whose last frame lies in [start, stop) and whose first exists (>= 0)."""
    return range(max(start, (TRIPLET - 1) * step), stop)


def triplets(frames: Tensor, ends: range, step: int, first: int = 0) -> Tensor:
    """Frames end - 2 step, end - step, end side by side, for every end.

    frames: [B, T, C, H, W], of which the first is frame number `first`. Returns: [B, len(ends), 3 C, H, W].
    """
    low, high = ends.start - first, ends.stop - first
    return torch.cat([frames[:, low - k * step : high - k * step] for k in reversed(range(TRIPLET))], dim=2)


def triplet_flows(flows: Tensor, ends: range, step: int) -> Tensor:
    """The two flows between the frames of every triplet, of flows [B, T - step, 2, h, w]: [B, len(ends), 4, h, w]."""
    first = flows[:, ends.start - 2 * step : ends.stop - 2 * step]
    second = flows[:, ends.start - step : ends.stop - step]
    return torch.cat([first, second], dim=2)


def upsample_flow(flow_px: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring flow on a coarser grid, [B, T, C, h, w] in pixels of the full image, to [B, T, C, H, W] float32 (values stay)."""
    b, t = flow_px.shape[:2]
    full = F.interpolate(flow_px.flatten(0, 1).float(), size=size, mode="bilinear", align_corners=False)
    return full.unflatten(0, (b, t))
