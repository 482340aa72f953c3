"""The autoregressive generator: conditioning images and the last generated frames in, the next frame out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.layers import InstanceNorm2d, ResnetBlock, apply_layers, init_weights

CONDITIONING_FRAMES = 3  # frames of conditioning images that the published generator sees, and any at most, the current one last
PREVIOUS_FRAMES = 2  # generated frames that it sees


def _encoder(input_nc: int, ngf: int, n_downsampling: int, n_blocks: int, half: bool) -> nn.Sequential:
    if half:
        layers = [nn.PixelUnshuffle(2), nn.ReflectionPad2d(1), nn.Conv2d(4 * input_nc, 2 * ngf, 3), InstanceNorm2d(2 * ngf)]
    else:
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7), InstanceNorm2d(ngf)]
    layers.append(nn.ReLU(inplace=True))
    for i in range(half, n_downsampling):
        nc = ngf * 2**i
        layers += [nn.Conv2d(nc, nc * 2, 3, stride=2, padding=1), InstanceNorm2d(nc * 2), nn.ReLU(inplace=True)]
    layers += [ResnetBlock(ngf * 2**n_downsampling) for _ in range(n_blocks)]
    return nn.Sequential(*layers)


class Generator(nn.Module):
    """Two encoders (conditioning A, previous frames P), summed, and a decoder.

    input_nc: channels of A; 18 = 3 frames of [NMFC, eye gaze].
    prev_output_nc: channels of P; 6 = 2 frames of RGB.
    no_prev_output: without the encoder of P; P is then ignored.
    margin: columns that the network works on beyond the pictures' right edge; they are cut off. Instance normalisation makes such networks
        put one strong spot into a picture, by which they steer a map's statistics (Karras et al. 2020); here is a place for it.
    half: the first and the last layer work on blocks of 2x2 pixels (Shi et al. 2016), instead of one halving and one doubling: no layer
        has the pictures' full size then, where the lean generator's few channels take 40 % of a processor's time.
    The residual blocks are shared out: n_blocks - n_blocks // 2 in each encoder, n_blocks // 2 in the decoder.
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        prev_output_nc: int,
        ngf: int = 64,
        n_downsampling: int = 3,
        n_blocks: int = 9,
        no_prev_output: bool = False,
        margin: int = 0,
        half: bool = False,
    ):
        super().__init__()
        if half and not n_downsampling:
            raise ValueError("half=True takes the place of one halving, so n_downsampling must be 1 or more")
        self.margin = margin
        decoder_blocks = n_blocks // 2
        encoder_blocks = n_blocks - decoder_blocks
        self.multiple = 2**n_downsampling
        self.model_down_seg = _encoder(input_nc, ngf, n_downsampling, encoder_blocks, half)
        self.model_down_img = None if no_prev_output else _encoder(prev_output_nc, ngf, n_downsampling, encoder_blocks, half)
        self.model_res_img = nn.Sequential(*[ResnetBlock(ngf * 2**n_downsampling) for _ in range(decoder_blocks)])
        up = []
        for i in reversed(range(half, n_downsampling)):
            nc = ngf * 2**i
            double = nn.ConvTranspose2d(nc * 2, nc, 3, stride=2, padding=1, output_padding=1)
            up += [double, InstanceNorm2d(nc), nn.ReLU(inplace=True)]
        self.model_up_img = nn.Sequential(*up)
        if half:
            last = [nn.ReflectionPad2d(1), nn.Conv2d(2 * ngf, 4 * output_nc, 3), nn.PixelShuffle(2)]
        else:
            last = [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7)]
        self.model_final_img = nn.Sequential(*last, nn.Tanh())
        init_weights(self)

    def forward(self, A: Tensor, P: Tensor | None = None) -> Tensor:
        """Generate one frame.

        A: [B, input_nc, H, W] conditioning of the last frames, oldest first, 0..1 (models.temporal.conditioning_windows); H and W
            multiples of 2^n_downsampling.
        P: [B, prev_output_nc, H, W] the last two generated frames, oldest first, -1..1; zeros before the first frame.
        Returns: [B, output_nc, H, W] in -1..1.
        """
        return self.decode(self.encode(A), P)

    def encode(self, A: Tensor) -> Tensor:
        """Features of the conditioning, for `decode`. They do not depend on earlier frames, so many frames can be encoded at once."""
        if A.shape[-1] % self.multiple or A.shape[-2] % self.multiple:
            raise ValueError(f"image size {tuple(A.shape[-2:])} is no multiple of {self.multiple}")
        return apply_layers(self.model_down_seg, self._widened(A, 1.0))  # white: no conditioning image has that colour

    def decode(self, features: Tensor, P: Tensor | None = None) -> Tensor:
        """The frame from `encode`'s features and the last two frames; shapes as in `forward`."""
        if self.model_down_img is not None:
            features = features + apply_layers(self.model_down_img, self._widened(P, 0.0))
        wide = apply_layers((*self.model_res_img, *self.model_up_img, *self.model_final_img), features)
        return wide[..., : wide.shape[-1] - self.margin]

    def _widened(self, x: Tensor, value: float) -> Tensor:
        return F.pad(x, (0, self.margin), value=value) if self.margin else x


def conditioning_channels(eye_gaze: bool) -> int:
    """Channels of the conditioning images that all networks see of a frame: NMFC (3), and eye gaze (3) when it is used."""
    return 6 if eye_gaze else 3


def input_channels(run_options: Mapping[str, Any]) -> int:
    """Channels of A of a run's generator."""
    return run_options["conditioning_frames"] * conditioning_channels(run_options["eye_gaze"]) + 3 * run_options["appearance"]


def build_generator(run_options: Mapping[str, Any]) -> Generator:
    """The generator of a run, from models.checkpoints.read_run_options (or the training options as a mapping)."""
    return Generator(
        input_channels(run_options),
        3,
        PREVIOUS_FRAMES * 3,
        ngf=run_options["ngf"],
        n_downsampling=run_options["n_downsample_G"],
        n_blocks=run_options["n_blocks"],
        no_prev_output=not run_options["prev_output"],
        margin=run_options["margin"],
        half=run_options["half"],
    )
