"""A command's time limit as a position in the training schedule."""

from __future__ import annotations

import time


class Clock:
    """Fits what is left of the schedule into a command's time limit.

    started: when the command began (time.monotonic, s). max_minutes: the limit, None for none.
    done: fraction of the schedule that earlier commands did, 0..1. reserve_s: time kept for saving at the end.
    """

    def __init__(self, started: float, max_minutes: float | None, done: float, reserve_s: float):
        self._before = done
        self._begin = time.monotonic()
        self._end = None if max_minutes is None else max(started + 60 * max_minutes - reserve_s, self._begin + 1e-3)

    def done(self) -> float:
        """Fraction of the schedule that is over by time, 0..1."""
        if self._end is None:
            return self._before
        return self._before + (1 - self._before) * min(1.0, (time.monotonic() - self._begin) / (self._end - self._begin))
