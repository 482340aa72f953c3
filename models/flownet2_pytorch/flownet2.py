"""The chain of FlowNet2: FlowNetC, FlowNetS twice, FlowNetSD beside them, and the fusion of both (Ilg et al. 2017, figure 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.flownet2_pytorch.networks import FlowNetC, FlowNetFusion, FlowNetS, FlowNetSD
from models.ops import channelnorm, resample2d

MULTIPLE = 64  # the networks halve the resolution six times


class FlowNet2(nn.Module):
    """Optical flow from the first frame of a pair to the second: frame 1(p) ~ frame 2(p + flow(p))."""

    def __init__(self, rgb_max: float = 1.0, div_flow: float = 20.0):
        """rgb_max: value of white. div_flow: the networks work in flow divided by this."""
        super().__init__()
        self.rgb_max = rgb_max
        self.div_flow = div_flow
        self.flownetc = FlowNetC()
        self.flownets_1 = FlowNetS()
        self.flownets_2 = FlowNetS()
        self.flownets_d = FlowNetSD()
        self.flownetfusion = FlowNetFusion()

    def forward(self, pairs: Tensor) -> Tensor:
        """pairs: [B, 3, 2, H, W] RGB in 0..rgb_max. Returns the flow [B, 2, H, W] in pixels, x first, of the same type.

        Sizes that are no multiples of 64 are resized to the next smaller one (64 at least), and the flow back and scaled.
        """
        h, w = pairs.shape[-2:]
        size = (max(h // MULTIPLE, 1) * MULTIPLE, max(w // MULTIPLE, 1) * MULTIPLE)
        if size == (h, w):
            return self._flow(pairs)
        frames = F.interpolate(pairs.flatten(1, 2), size=size, mode="bilinear", align_corners=False)
        flow = self._flow(frames.unflatten(1, (3, 2)))
        flow = F.interpolate(flow, size=(h, w), mode="bilinear", align_corners=False)
        return torch.stack([flow[:, 0] * (w / size[1]), flow[:, 1] * (h / size[0])], dim=1)

    def _flow(self, pairs: Tensor) -> Tensor:
        pairs = (pairs - pairs.mean(dim=(2, 3, 4), keepdim=True)) / self.rgb_max
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        both = torch.cat([first, second], dim=1)

        flow = _upsample(self.flownetc(first, second) * self.div_flow, "bilinear")
        flow = _upsample(self.flownets_1(self._with_warped(both, flow)) * self.div_flow, "bilinear")
        large = _upsample(self.flownets_2(self._with_warped(both, flow)) * self.div_flow, "nearest")
        small = _upsample(self.flownets_d(both) / self.div_flow, "nearest")

        errors = [channelnorm(first - resample2d(second, flow)) for flow in (small, large)]
        return self.flownetfusion(torch.cat([first, small, large, channelnorm(small), channelnorm(large), *errors], dim=1))

    def _with_warped(self, both: Tensor, flow: Tensor) -> Tensor:
        """[both frames, frame 2 warped by the flow, flow / div_flow, brightness error]: [B, 12, H, W]."""
        first, second = both[:, :3], both[:, 3:]
        warped = resample2d(second, flow)
        return torch.cat([both, warped, flow / self.div_flow, channelnorm(first - warped)], dim=1)


def _upsample(flow: Tensor, mode: str) -> Tensor:
    return F.interpolate(flow, scale_factor=4, mode=mode, align_corners=False if mode == "bilinear" else None)
