"""Ctrl-C and SIGTERM during training."""

from __future__ import annotations

import signal

from util.cli import say


class StopSignal:
    """While entered, Ctrl-C and SIGTERM request a clean stop after the current clip; the second one stops at once.

    received: the signal's number, 0 before there was one.
    """

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> StopSignal:
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        say("stopping after this clip, with a checkpoint (a second Ctrl-C stops at once, without one)")
