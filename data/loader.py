"""Which clips make an epoch, and reading them ahead of the training step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from data.video_dataset import ClipIndex, VideoDataset

if TYPE_CHECKING:
    import torch


def epoch_clips(lengths: Sequence[int], n_frames: int, epoch: int, seed: int) -> list[ClipIndex]:
    """One random window of `n_frames` frames (or all of them, if fewer) of every sequence, in random order.

    lengths: frames of each sequence. The same (lengths, n_frames, epoch, seed) always give the same list, so a training
    run can be resumed in the middle of an epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    clips = []
    for sequence in rng.permutation(len(lengths)).tolist():
        length = min(n_frames, lengths[sequence])
        start = int(rng.integers(lengths[sequence] - length + 1))
        clips.append(ClipIndex(sequence, start, length, int(rng.integers(2**63))))
    return clips


def load_clips(
    dataset: VideoDataset, clips: Sequence[ClipIndex], *, batch_size: int = 1, ahead: int = 2, pin_memory: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the clips in order as batches: the dict of VideoDataset with a batch dimension in front of every tensor.

    Clips of a batch are cut to the shortest one's length; the last batch may hold fewer. Up to `ahead` batches are prepared
    on a thread meanwhile (threads, not processes: the work is in OpenCV, NumPy and PyTorch, which run side by side, and the
    decoded frames are kept once). pin_memory: put the tensors into page-locked memory for copies to a GPU.
    """
    groups = [clips[i : i + batch_size] for i in range(0, len(clips), batch_size)]

    def prepare(group: Sequence[ClipIndex]) -> dict[str, Any]:
        length = min(c.length for c in group)
        return _stack([dataset[ClipIndex(c.sequence, c.start, length, c.seed)] for c in group], pin_memory)

    pool = ThreadPoolExecutor(1, initializer=_single_threaded)
    waiting: deque[Future] = deque()
    try:
        for group in groups:
            waiting.append(pool.submit(prepare, group))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _single_threaded() -> None:
    """Keep PyTorch from splitting this thread's small operations over threads of its own: they take the cores from the networks."""
    import torch

    torch.set_num_threads(1)  # of the calling thread (OpenMP)


def _stack(items: list[Any], pin_memory: bool) -> Any:
    import torch

    if isinstance(items[0], dict):
        return {key: _stack([item[key] for item in items], pin_memory) for key in items[0]}
    batch: torch.Tensor = torch.stack(items) if len(items) > 1 else items[0][None]
    return batch.pin_memory() if pin_memory else batch
