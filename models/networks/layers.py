"""Building blocks shared by the generator and the discriminators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm2d(nn.Module):
    """Instance normalisation without affine parameters, always with the statistics of the current image.

    The buffers exist because published checkpoints carry them: they are loaded and saved, and otherwise unused.
    [B, C, H, W] -> the same; each channel of each image gets mean 0 and variance 1 (biased, eps 1e-5).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, eps=1e-5)


def init_weights(module: nn.Module) -> None:
    """Draw the weights of every convolution from N(0, 0.02); the biases start at zero."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(m.weight, 0.0, 0.02)
            nn.init.zeros_(m.bias)
