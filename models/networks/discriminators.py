"""The multi-scale PatchGAN discriminator used for images, mouth and eye windows, and frame triplets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.layers import InstanceNorm2d, apply_layers, init_weights

MAX_BASE_WIDTH = 64
MAX_WIDTH = 512


class MultiscaleDiscriminator(nn.Module):
    """`num_D` patch discriminators with the same layers, each on an input of half the size of the one before.

    State-dict names: scale<i>_layer<j>; scale num_D - 1 sees the full resolution.
    """

    def __init__(self, input_nc: int, ndf: int = 64, n_layers: int = 3, num_D: int = 2):
        super().__init__()
        self.n_layers = n_layers
        self.num_D = num_D
        for scale in range(num_D):
            width = min(MAX_BASE_WIDTH, ndf * 2 ** (num_D - 1 - scale))
            for j, layer in enumerate(_patch_layers(input_nc, width, n_layers)):
                setattr(self, f"scale{scale}_layer{j}", layer)
        init_weights(self)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Per scale, finest first, all n_layers + 2 feature maps of x [B, input_nc, H, W]; the last is the prediction [B, 1, h, w]."""
        results = []
        for scale in reversed(range(self.num_D)):
            if results:  # each next scale sees half the size
                x = _halved(x)
            features = [x]
            for j in range(self.n_layers + 2):
                features.append(apply_layers(getattr(self, f"scale{scale}_layer{j}"), features[-1]))
            results.append(features[1:])
        return results


def _halved(x: Tensor) -> Tensor:
    """3x3 average pooling, stride 2, padding 1, padding not counted.

    With padding of its own: up to PyTorch 2.12 or so, avg_pool2d with padding has wrong gradients for channels-last tensors on CUDA
    (https://github.com/pytorch/pytorch/issues/188344). They made the generator draw checkerboards.
    """
    pixels = x.new_ones(1, 1, *x.shape[-2:])
    sums, counts = (F.avg_pool2d(F.pad(t, (1, 1, 1, 1)), 3, stride=2) for t in (x, pixels))
    return sums / counts


def _patch_layers(input_nc: int, width: int, n_layers: int) -> list[nn.Sequential]:
    """4x4 convolutions, padding 2: n_layers of stride 2 (the first without norm), one of stride 1, the prediction of stride 1."""
    layers = [nn.Sequential(nn.Conv2d(input_nc, width, 4, stride=2, padding=2), nn.LeakyReLU(0.2, inplace=True))]
    for i in range(1, n_layers + 1):
        wider = min(width * 2, MAX_WIDTH)
        conv = nn.Conv2d(width, wider, 4, stride=2 if i < n_layers else 1, padding=2)
        layers.append(nn.Sequential(conv, InstanceNorm2d(wider), nn.LeakyReLU(0.2, inplace=True)))
        width = wider
    layers.append(nn.Sequential(nn.Conv2d(width, 1, 4, stride=1, padding=2)))
    return layers
