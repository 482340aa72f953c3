"""Learning rate and clip length over a training run, as functions of how far it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """`niter` epochs, then `niter_decay` epochs of linear decay of the learning rate.

    A clip has `n_frames_total` frames, doubled every `niter_step` epochs, and is never longer than its sequence. Positions are
    in epochs, 0 to `epochs`. An epoch has as many clips as there are sequences; where these hold fewer than `epoch_frames` frames, it has
    more clips in the same ratio, so that a short video is trained on for as long as one of that length.
    """

    lr: float = 2e-4
    niter: int = 40
    niter_decay: int = 20
    niter_step: int = 5
    n_frames_total: int = 12
    epoch_frames: int = 0

    @property
    def epochs(self) -> int:
        return self.niter + self.niter_decay

    def position(self, epoch: int, time_done: float = 0.0) -> float:
        """Where the run is: after `epoch` complete epochs, or further when a larger fraction `time_done` (0..1) of its time is over."""
        return max(float(epoch), time_done * self.epochs)

    def learning_rate(self, position: float) -> float:
        """The rate at a position. By epochs alone it is constant within one and ends with lr / niter_decay, as published."""
        if position <= self.niter:
            return self.lr
        return self.lr * max(0.0, 1 - (position - self.niter) / self.niter_decay)

    def clip_length(self, position: float) -> int:
        """Frames of a clip at a position, if its sequence has that many."""
        return self.n_frames_total * 2 ** min(int(position // self.niter_step), 20)

    def clips(self, lengths: Sequence[int]) -> int:
        """Clips of an epoch, with sequences of these lengths."""
        return max(len(lengths), math.ceil(len(lengths) * self.epoch_frames / sum(lengths)))

    def frames(self, lengths: Sequence[int]) -> int:
        """Frames of all clips of all epochs, with sequences of these lengths."""
        total = 0
        for epoch in range(self.epochs):
            length = self.clip_length(epoch)
            if length >= max(lengths):  # from here on every clip is a whole sequence
                total += (self.epochs - epoch) * sum(lengths)
                break
            total += sum(min(length, n) for n in lengths)
        return total * self.clips(lengths) // len(lengths)
