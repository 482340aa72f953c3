"""Mean losses between two lines of the log."""

from __future__ import annotations

import math

import torch

from util.cli import UserError


class LossMeter:
    """Means of the losses since the last reading, kept on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means, and start again ({} when nothing was added). Waits for the device.

        Raises: UserError when a loss is not finite.
        """
        if not self._sums:
            return {}
        values = torch.stack(list(self._sums.values())).tolist()
        means = {name: value / count for (name, count), value in zip(self._counts.items(), values)}
        self._sums, self._counts = {}, {}
        bad = [k for k, v in means.items() if not math.isfinite(v)]
        if bad:
            raise diverged(", ".join(bad))
        return means


def diverged(what: str) -> UserError:
    """The error of a training whose `what` is not finite."""
    return UserError(
        f"training diverged: {what} became infinite or NaN. The last checkpoint is sound: run again with --continue_train and half the "
        "--lr, or with --precision fp32"
    )
