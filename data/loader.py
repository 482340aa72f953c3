"""Chooses the clips of a run, and loads them ahead of the training step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from data.clips import ClipIndex, VideoDataset

if TYPE_CHECKING:
    import torch


class ClipOrder:
    """Which clips a run learns from, in which order: an endless stream, of which any clip can be told by its number.

    The stream is a row of turns. A turn takes a clip of every identity, in random order, so that all are learnt from equally however long
    their videos are. An identity goes through its own sequences, in random order and each once before any comes again; of a sequence
    it takes a random window of `n_frames` frames (or the whole sequence, if it is shorter). A clip depends on its number, `n_frames`
    and the seed alone, so training can be resumed anywhere.
    lengths: frames of each sequence. identities: whose each sequence is; None: all are of one.
    """

    def __init__(self, lengths: Sequence[int], seed: int, identities: Sequence[str] | None = None):
        members: dict[str, list[int]] = {}
        for sequence, name in enumerate(identities or [""] * len(lengths)):
            members.setdefault(name, []).append(sequence)
        self._lengths, self._seed = lengths, seed
        self._own_sequences = list(members.values())
        # each identity has a seed of its own; the first the run's, so that the stream of one identity is the one it always was
        own = range(1, len(self._own_sequences))
        self._seeds = [seed, *(int(np.random.default_rng([seed, i]).integers(2**63)) for i in own)]

    def clips(self, numbers: Iterable[int], n_frames: int) -> list[ClipIndex]:
        """The clips of those numbers."""
        return [self._clip(number, n_frames) for number in numbers]

    def _clip(self, number: int, n_frames: int) -> ClipIndex:
        turn, place = divmod(number, len(self._own_sequences))
        identity = int(np.random.default_rng([self._seed, turn]).permutation(len(self._own_sequences))[place])
        sequences, own_seed = self._own_sequences[identity], self._seeds[identity]
        own_turn, place = divmod(turn, len(sequences))
        sequence = sequences[int(np.random.default_rng([own_seed, own_turn]).permutation(len(sequences))[place])]
        rng = np.random.default_rng([own_seed, own_turn, place])
        length = min(n_frames, self._lengths[sequence])
        start = int(rng.integers(self._lengths[sequence] - length + 1))
        return ClipIndex(sequence, start, length, int(rng.integers(2**63)))


def load_clips(
    dataset: VideoDataset, batches: Iterable[Sequence[ClipIndex]], *, workers: int = 1, pin_memory: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield batches of clips in order: the dict of VideoDataset with a batch dimension in front of every tensor.

    Clips of a batch are cut to the shortest one's length. Batches are prepared ahead, on threads (the work is in OpenCV, NumPy and
    PyTorch, which run side by side, and the decoded frames are kept once). `batches` may be endless. pin_memory: put the tensors into
    page-locked memory for copies to a GPU.
    """

    def prepare(group: Sequence[ClipIndex]) -> dict[str, Any]:
        length = min(c.length for c in group)
        return _stack([dataset[ClipIndex(c.sequence, c.start, length, c.seed)] for c in group], pin_memory)

    pool = ThreadPoolExecutor(workers, initializer=_single_threaded)
    waiting: deque[Future] = deque()
    try:
        for group in batches:
            waiting.append(pool.submit(prepare, group))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _single_threaded() -> None:
    """Keep PyTorch and OpenCV from splitting small operations over threads of their own: they take the cores from the networks."""
    import torch

    torch.set_num_threads(1)  # of the calling thread (OpenMP)
    cv2.setNumThreads(1)  # of the whole process


def _stack(items: list[Any], pin_memory: bool) -> Any:
    import torch

    if isinstance(items[0], dict):
        return {key: _stack([item[key] for item in items], pin_memory) for key in items[0]}
    # straight into page-locked memory: one copy less
    batch: torch.Tensor = torch.empty((len(items), *items[0].shape), dtype=items[0].dtype, pin_memory=pin_memory)
    return torch.stack(items, out=batch)
