"""Learning rate and window length over a training run, as functions of how far it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """`niter` epochs, then `niter_decay` epochs of linear decay of the learning rate.

    A window has `n_frames_total` frames, doubled every `niter_step` epochs (a clip is never longer than its sequence).
    With a time limit the run is as far as the larger of its share of epochs and its share of time, so it always ends decayed.
    """

    lr: float = 2e-4
    niter: int = 40
    niter_decay: int = 20
    niter_step: int = 5
    n_frames_total: int = 12

    @property
    def epochs(self) -> int:
        return self.niter + self.niter_decay

    def position(self, epoch: int, time_share: float | None = None) -> float:
        """How far the run is, in epochs: the number of complete ones, or more if `time_share` (0..1) of its time is over."""
        return float(epoch) if time_share is None else max(float(epoch), min(time_share, 1.0) * self.epochs)

    def learning_rate(self, position: float) -> float:
        """The rate at a position. By epochs alone it is constant within one and ends with lr / niter_decay, as published."""
        if position <= self.niter:
            return self.lr
        return self.lr * max(0.0, 1 - (position - self.niter) / self.niter_decay)

    def window(self, position: float) -> int:
        """Frames of a clip."""
        return self.n_frames_total * 2 ** int(position // self.niter_step)
