"""Building blocks shared by the generator and the discriminators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.norm import norm_act_pad, reflection_pad


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
        return norm_act_pad(x)


class ResnetBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), 3x3 convolutions with reflection padding; [B, C, H, W] -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm2d(channels),
        )
        # One block under two names: published checkpoints hold these tensors twice.
        self.resnetblock_sequential = block
        self.conv_block = block

    def forward(self, x: Tensor) -> Tensor:
        return _residual_blocks([self], reflection_pad(x, 1))


def apply_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run layers one after the other.

    The same as calling them, but a normalisation takes along the activation and the padding that follow it (models.ops.norm), and the
    bias of a convolution before a normalisation is left out: subtracting the mean takes it away.
    """
    todo = list(layers)

    def take(kind: type | tuple[type, ...]) -> nn.Module | None:
        return todo.pop(0) if todo and isinstance(todo[0], kind) else None

    while todo:
        if blocks := _take_while(todo, ResnetBlock):
            x = _residual_blocks(blocks, reflection_pad(x, 1))
        elif take(InstanceNorm2d):
            activation, padding = take((nn.ReLU, nn.LeakyReLU)), take(nn.ReflectionPad2d)
            slope = 1.0 if activation is None else getattr(activation, "negative_slope", 0.0)
            if blocks := [] if padding else _take_while(todo, ResnetBlock):
                x = _residual_blocks(blocks, norm_act_pad(x, slope=slope, pad=1))
            else:
                x = norm_act_pad(x, slope=slope, pad=padding.padding[0] if padding else 0)
        elif layer := take(nn.ReflectionPad2d):
            x = reflection_pad(x, layer.padding[0])
        elif layer := take((nn.Conv2d, nn.ConvTranspose2d)):
            x = _convolve(layer, x) if todo and isinstance(todo[0], InstanceNorm2d) else layer(x)
        else:
            x = todo.pop(0)(x)
    return x


def _take_while(todo: list[nn.Module], kind: type) -> list[nn.Module]:
    count = next((i for i, layer in enumerate(todo) if not isinstance(layer, kind)), len(todo))
    taken, todo[:count] = todo[:count], []
    return taken


def _residual_blocks(blocks: Sequence[nn.Module], padded: Tensor) -> Tensor:
    """Residual blocks in a row, on an input that has its padding of one pixel already; each makes the padding of the next."""
    for i, block in enumerate(blocks):
        first, second = (layer for layer in block.conv_block if isinstance(layer, nn.Conv2d))
        x = norm_act_pad(_convolve(first, padded), slope=0.0, pad=1)
        padded = norm_act_pad(_convolve(second, x), residual=padded, residual_pad=1, pad=0 if i == len(blocks) - 1 else 1)
    return padded


def _convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution without its bias."""
    if isinstance(layer, nn.ConvTranspose2d):
        return F.conv_transpose2d(x, layer.weight, None, layer.stride, layer.padding, layer.output_padding)
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding)


def init_weights(module: nn.Module) -> None:
    """Draw the weights of every convolution from N(0, 0.02); the biases start at zero."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(m.weight, 0.0, 0.02)
            nn.init.zeros_(m.bias)
