"""The networks that FlowNet2 is made of. The names of their layers are the published checkpoints' keys.

Each returns its finest flow; level l has 1 / 2^l of the input's resolution.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops import correlation

SLOPE = 0.1  # of every LeakyReLU


def conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, kernel, stride, (kernel - 1) // 2), nn.LeakyReLU(SLOPE, inplace=True))


def inter_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1))  # no activation


def deconv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True))


def predict_flow(channels_in: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, 2, 3, padding=1)


def upsampled_flow(bias: bool = True) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=bias)


class _Decoder(nn.Module):
    """From the coarsest level to the finest: predict the flow, upsample it and the features, join them with the encoder's."""

    def decode(self, features: Mapping[int, Tensor]) -> Tensor:
        """features: by level, of the encoder. Returns the flow [B, 2, ...] at the finest of these levels."""
        coarsest = max(features)
        x = features[coarsest]
        flow = self.get_submodule(f"predict_flow{coarsest}")(x)
        for level in range(coarsest - 1, min(features) - 1, -1):
            upsampled = self.get_submodule(f"upsampled_flow{level + 1}_to_{level}")(flow)
            x = torch.cat([features[level], self.get_submodule(f"deconv{level}")(x), upsampled], dim=1)
            refined = self.get_submodule(f"inter_conv{level}")(x) if hasattr(self, f"inter_conv{level}") else x
            flow = self.get_submodule(f"predict_flow{level}")(refined)
        return flow


class FlowNetC(_Decoder):
    """Both frames encoded apart, then compared by correlation (Dosovitskiy et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 7, 2)
        self.conv2 = conv(64, 128, 5, 2)
        self.conv3 = conv(128, 256, 5, 2)
        self.conv_redir = conv(256, 32, 1)
        self.conv3_1 = conv(32 + 441, 256)
        self.conv4 = conv(256, 512, stride=2)
        self.conv4_1 = conv(512, 512)
        self.conv5 = conv(512, 512, stride=2)
        self.conv5_1 = conv(512, 512)
        self.conv6 = conv(512, 1024, stride=2)
        self.conv6_1 = conv(1024, 1024)
        _add_decoder(self, bias=True)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second: [B, 3, H, W]. Returns flow / div_flow [B, 2, H / 4, W / 4]."""
        level_2 = self.conv2(self.conv1(torch.cat([first, second])))  # the frames share the weights: one batch
        a, b = self.conv3(level_2).chunk(2)
        alike = F.leaky_relu(correlation(a, b, max_displacement=20, stride2=2), SLOPE, inplace=True)
        level_3 = self.conv3_1(torch.cat([self.conv_redir(a), alike], dim=1))
        level_4 = self.conv4_1(self.conv4(level_3))
        level_5 = self.conv5_1(self.conv5(level_4))
        level_6 = self.conv6_1(self.conv6(level_5))
        return self.decode({2: level_2.chunk(2)[0], 3: level_3, 4: level_4, 5: level_5, 6: level_6})


class FlowNetS(_Decoder):
    """One stack of both frames, what the flow so far makes of them, and that flow (Dosovitskiy et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(12, 64, 7, 2)
        self.conv2 = conv(64, 128, 5, 2)
        self.conv3 = conv(128, 256, 5, 2)
        self.conv3_1 = conv(256, 256)
        self.conv4 = conv(256, 512, stride=2)
        self.conv4_1 = conv(512, 512)
        self.conv5 = conv(512, 512, stride=2)
        self.conv5_1 = conv(512, 512)
        self.conv6 = conv(512, 1024, stride=2)
        self.conv6_1 = conv(1024, 1024)
        _add_decoder(self, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 12, H, W]. Returns flow / div_flow [B, 2, H / 4, W / 4]."""
        level_2 = self.conv2(self.conv1(x))
        level_3 = self.conv3_1(self.conv3(level_2))
        level_4 = self.conv4_1(self.conv4(level_3))
        level_5 = self.conv5_1(self.conv5(level_4))
        level_6 = self.conv6_1(self.conv6(level_5))
        return self.decode({2: level_2, 3: level_3, 4: level_4, 5: level_5, 6: level_6})


class FlowNetSD(_Decoder):
    """For small displacements: small kernels, and the flow predicted from smoothed features (Ilg et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = conv(6, 64)
        self.conv1 = conv(64, 64, stride=2)
        self.conv1_1 = conv(64, 128)
        self.conv2 = conv(128, 128, stride=2)
        self.conv2_1 = conv(128, 128)
        self.conv3 = conv(128, 256, stride=2)
        self.conv3_1 = conv(256, 256)
        self.conv4 = conv(256, 512, stride=2)
        self.conv4_1 = conv(512, 512)
        self.conv5 = conv(512, 512, stride=2)
        self.conv5_1 = conv(512, 512)
        self.conv6 = conv(512, 1024, stride=2)
        self.conv6_1 = conv(1024, 1024)
        self.deconv5 = deconv(1024, 512)
        self.deconv4 = deconv(1026, 256)
        self.deconv3 = deconv(770, 128)
        self.deconv2 = deconv(386, 64)
        self.inter_conv5 = inter_conv(1026, 512)
        self.inter_conv4 = inter_conv(770, 256)
        self.inter_conv3 = inter_conv(386, 128)
        self.inter_conv2 = inter_conv(194, 64)
        self.predict_flow6 = predict_flow(1024)
        self.predict_flow5 = predict_flow(512)
        self.predict_flow4 = predict_flow(256)
        self.predict_flow3 = predict_flow(128)
        self.predict_flow2 = predict_flow(64)
        self.upsampled_flow6_to_5 = upsampled_flow()
        self.upsampled_flow5_to_4 = upsampled_flow()
        self.upsampled_flow4_to_3 = upsampled_flow()
        self.upsampled_flow3_to_2 = upsampled_flow()

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 6, H, W], both frames. Returns flow * div_flow [B, 2, H / 4, W / 4]."""
        level_1 = self.conv1_1(self.conv1(self.conv0(x)))
        level_2 = self.conv2_1(self.conv2(level_1))
        level_3 = self.conv3_1(self.conv3(level_2))
        level_4 = self.conv4_1(self.conv4(level_3))
        level_5 = self.conv5_1(self.conv5(level_4))
        level_6 = self.conv6_1(self.conv6(level_5))
        return self.decode({2: level_2, 3: level_3, 4: level_4, 5: level_5, 6: level_6})


class FlowNetFusion(_Decoder):
    """From the flows for large and small displacements, and how well each explains the frames, to one at full resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = conv(11, 64)
        self.conv1 = conv(64, 64, stride=2)
        self.conv1_1 = conv(64, 128)
        self.conv2 = conv(128, 128, stride=2)
        self.conv2_1 = conv(128, 128)
        self.deconv1 = deconv(128, 32)
        self.deconv0 = deconv(162, 16)
        self.inter_conv1 = inter_conv(162, 32)
        self.inter_conv0 = inter_conv(82, 16)
        self.predict_flow2 = predict_flow(128)
        self.predict_flow1 = predict_flow(32)
        self.predict_flow0 = predict_flow(16)
        self.upsampled_flow2_to_1 = upsampled_flow()
        self.upsampled_flow1_to_0 = upsampled_flow()

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 11, H, W]. Returns the flow in pixels [B, 2, H, W]."""
        level_0 = self.conv0(x)
        level_1 = self.conv1_1(self.conv1(level_0))
        level_2 = self.conv2_1(self.conv2(level_1))
        return self.decode({0: level_0, 1: level_1, 2: level_2})


def _add_decoder(net: nn.Module, bias: bool) -> None:
    """The decoder that FlowNetC and FlowNetS share. bias: of the upsampled flows."""
    net.deconv5 = deconv(1024, 512)
    net.deconv4 = deconv(1026, 256)
    net.deconv3 = deconv(770, 128)
    net.deconv2 = deconv(386, 64)
    net.predict_flow6 = predict_flow(1024)
    net.predict_flow5 = predict_flow(1026)
    net.predict_flow4 = predict_flow(770)
    net.predict_flow3 = predict_flow(386)
    net.predict_flow2 = predict_flow(194)
    net.upsampled_flow6_to_5 = upsampled_flow(bias)
    net.upsampled_flow5_to_4 = upsampled_flow(bias)
    net.upsampled_flow4_to_3 = upsampled_flow(bias)
    net.upsampled_flow3_to_2 = upsampled_flow(bias)
