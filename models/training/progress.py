"""The position of a run in its schedule."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """The position of a run in its schedule; saved with its state."""

    epoch: int = 0  # complete epochs
    clip: int = 0  # clips done in the present epoch
    steps: int = 0  # optimiser steps in all
    frames: int = 0  # frames in all
    seconds: float = 0.0  # of training in all
    share: float = 0.0  # fraction of the schedule that is over by time limits, 0..1
    temporary: list[int] = field(default_factory=list)  # epochs with a numbered checkpoint that newer ones replace, oldest first
