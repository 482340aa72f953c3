"""The average of a generator's weights over its training, which is what a checkpoint's G holds."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of a network's weights.

    The decay at update n is min(decay, (1 + n) / (10 + n)): small at first, so that the random weights are soon forgotten.
    The average makes better and steadier pictures than the last weights (Yazici et al. 2019).
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False)

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)
