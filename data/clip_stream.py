"""Training batches on the device."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from data.augmentation.head_motion import look_up, move_heads
from data.clips import ClipIndex, VideoDataset
from data.loader import ClipOrder, load_clips
from util.face.roi import REGIONS, window
from util.tensors import to_device

if TYPE_CHECKING:
    import torch

_LOADERS = {"cuda": 6, "cpu": 1}  # threads that prepare batches: six keep up with an H200; without a GPU the networks need the cores


class ClipStream:
    """Batches of random clips of a dataset, without end.

    videos: where the clips come from. roi_px: side of the mouth's and the eyes' windows, in pixels.
    seed: which clips come in which order. device: where the batches are to be.
    """

    def __init__(self, videos: VideoDataset, device: torch.device, *, roi_px: int, seed: int):
        self._videos = videos
        self._device = device
        self._roi_px = roi_px
        self._order = ClipOrder(videos.lengths, seed, videos.identities)

    @property
    def lengths(self) -> list[int]:
        """Number of frames of each sequence."""
        return self._videos.lengths

    def batches(self, first: int, n_frames: int, batch_size: int, *, part: int = 0, parts: int = 1) -> Iterator[dict[str, Any]]:
        """The batches of the clips number `first`, `first + 1`, ... of the stream (data.loader.ClipOrder); close it after use.

        n_frames: of a clip, where its sequence has as many. batch_size: clips of a batch.
        part, parts: of `parts` processes that share the stream, the number of this one. In every round the processes take
            consecutive batches, whose clips are all cut to the shortest of the round, so that all processes take the same steps.
        Yields: the dict of VideoDataset with a batch dimension B in front, on the device, heads moved where that is asked for; and
            corners, {region: int64 [B, T, 2]}: left and top of the mouth's and the eyes' windows; and, where the videos give colours,
            appearance uint8 [B, T + context, H, W, 3]: the person drawn by the NMFC images, before the backdrop.
        """
        rounds = itertools.count(first, batch_size * parts)
        indices = (self._own_part(range(i, i + batch_size * parts), n_frames, batch_size, part) for i in rounds)
        on_gpu = self._device.type == "cuda"
        with contextlib.closing(load_clips(self._videos, indices, workers=_LOADERS[self._device.type], pin_memory=on_gpu)) as loaded:
            for batch in loaded:
                yield self._on_device(batch)

    def _own_part(self, numbers: range, n_frames: int, batch_size: int, part: int) -> Sequence[ClipIndex]:
        clips = self._order.clips(numbers, n_frames)
        length = min(c.length for c in clips)
        return [replace(c, length=length) for c in clips[part * batch_size : (part + 1) * batch_size]]

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        corners = self._windows(batch["landmarks"].numpy())
        batch = to_device({**batch, "corners": corners}, self._device)
        batch = move_heads(batch) if "motion" in batch else batch
        colours = batch.pop("colours", None)
        if "backdrop" in batch:
            batch["appearance"] = look_up(colours, batch["nmfc"], batch.pop("backdrop"))
        return batch

    def _windows(self, landmarks: np.ndarray) -> dict[str, torch.Tensor]:
        """Corners of the windows, int64 [B, T, 2], of landmarks [B, T, 70, 2]."""
        import torch

        side = self._videos.load_size
        return {region: torch.from_numpy(window(landmarks, region, self._roi_px, side, side)) for region in REGIONS}
