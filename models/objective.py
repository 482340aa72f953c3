"""The losses of a chunk: what the discriminators compare, every loss by name, and the table of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import temporal
from models.clip import Chunk
from models.flow import trusted
from models.losses import VGGLoss, feature_matching, gradient_loss, lsgan, warp_loss
from models.ops import resample2d
from models.roi import crop
from util.caches.flow import STEPS

FLOW_SCALE = 20.0  # pixels; the temporal discriminators see flow divided by this, so that it is of the colours' order of magnitude
_LOCAL = (("Dm", "mouth"), ("De", "eyes"))  # discriminators of a window, and the window


@dataclass
class Pair:
    """What one discriminator compares."""

    label: str  # of the discriminator
    real: Tensor  # [N, C, H, W]
    fake: Tensor


class Objective:
    """All losses of a chunk by name. `weights`, by the same names, says how they are summed.

    discriminators: by label: D (frame), Dm (mouth), De (eyes), D_T0..2 (three frames over time).
    vgg: None: no VGG loss.
    autocast: the context that the networks run in.
    roi_px: side of the mouth's and the eyes' windows. n_scales_temporal: how many temporal discriminators there are.
    lambda_...: weights of feature matching, VGG, warp, L1 and gradient loss; the last three are not computed at 0.
    """

    def __init__(
        self,
        discriminators: nn.ModuleDict,
        vgg: VGGLoss | None,
        autocast: Callable[[], AbstractContextManager],
        *,
        roi_px: int,
        n_scales_temporal: int,
        lambda_feat: float,
        lambda_vgg: float,
        lambda_warp: float,
        lambda_L1: float,
        lambda_gradient: float,
    ):
        self._discriminators = discriminators
        self._vgg = vgg
        self._autocast = autocast
        self._roi_px = roi_px
        self._n_scales_temporal = n_scales_temporal
        self._use_warp, self._use_L1, self._use_gradient = lambda_warp > 0, lambda_L1 > 0, lambda_gradient > 0
        self.weights = {"G_warp": lambda_warp, "G_VGG": lambda_vgg}
        for label in discriminators:
            self.weights |= {f"G_GAN_{label}": 1.0, f"G_feat_{label}": lambda_feat, f"G_L1_{label}": lambda_L1}
            self.weights[f"G_gradient_{label}"] = lambda_gradient
            self.weights |= {f"{label}_real": 0.5, f"{label}_fake": 0.5}

    def __call__(self, chunk: Chunk, real: Tensor, conditioning: Tensor, fake: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The generator's losses and the discriminators', by name.

        real: [B, h + n, 3, H, W] in -1..1. conditioning: [B, n, C, H, W] in 0..1. fake: [B, n, 3, H, W].
        """
        for_generator: dict[str, Tensor] = {}
        for_discriminators: dict[str, Tensor] = {}
        n = fake.shape[1]
        frames = self.frame_pairs(chunk.corners, real[:, -n:], conditioning, fake)
        for pair in (*frames, *self.triplet_pairs(chunk, real, fake)):
            network = self._discriminators[pair.label]
            with self._autocast():
                of_real, of_fake = network(channels_last(pair.real)), network(channels_last(pair.fake))
            for_generator[f"G_GAN_{pair.label}"] = lsgan(of_fake, True)
            for_generator[f"G_feat_{pair.label}"] = feature_matching(of_fake, of_real)
            for_discriminators[f"{pair.label}_real"] = lsgan(of_real, True)
            for_discriminators[f"{pair.label}_fake"] = lsgan(of_fake, False)
            if not pair.label.startswith("D_T"):  # the frame, and again its mouth and its eyes
                shown, truth = pair.fake[:, -3:], pair.real[:, -3:]
                if self._use_L1:
                    for_generator[f"G_L1_{pair.label}"] = F.l1_loss(shown, truth)
                if self._use_gradient:
                    for_generator[f"G_gradient_{pair.label}"] = gradient_loss(shown, truth)
        if self._vgg is not None:
            with self._autocast():
                for_generator["G_VGG"] = self._vgg(fake.flatten(0, 1), real[:, -n:].flatten(0, 1))
        if self._use_warp and real.shape[1] > 1:
            for_generator["G_warp"] = warp_loss_of(chunk, real, fake)
        return for_generator, for_discriminators

    def frame_pairs(self, corners: dict[str, Tensor], real: Tensor, conditioning: Tensor, fake: Tensor) -> Iterator[Pair]:
        """Single frames with their conditioning images: the whole frame, the mouth, the eyes. All [B, n, ...]."""
        real, fake = (torch.cat([conditioning, x], dim=2).flatten(0, 1) for x in (real, fake))
        yield Pair("D", real, fake)
        for label, region in _LOCAL:
            if label in self._discriminators:
                corner = corners[region].flatten(0, 1)
                yield Pair(label, *(crop(x, corner, self._roi_px) for x in (real, fake)))

    def triplet_pairs(self, chunk: Chunk, real: Tensor, fake: Tensor) -> Iterator[Pair]:
        """Three frames at distance 1, 3, 9 that end in the chunk, with the flow between them; scales with too few frames have none."""
        generated = torch.cat([chunk.history, fake], dim=1)
        before, total = chunk.history.shape[1], real.shape[1]
        for scale, step in enumerate(STEPS[: self._n_scales_temporal]):
            ends = temporal.triplet_ends(before, total, step)
            if not len(ends):
                continue
            flows = temporal.triplet_flows(chunk.flows[step], ends, step)
            flows = temporal.upsample_flow(flows, real.shape[-2:]) / FLOW_SCALE
            pair = (torch.cat([temporal.triplets(x, ends, step), flows], dim=2).flatten(0, 1) for x in (real, generated))
            yield Pair(f"D_T{scale}", *pair)


def warp_loss_of(chunk: Chunk, real: Tensor, fake: Tensor) -> Tensor:
    """Warp loss of a chunk: each frame but the clip's first against the one before it, warped by the reference flow where that is trusted.

    real: [B, h + n, 3, H, W] in -1..1. fake: [B, n, 3, H, W].
    """
    before, total = chunk.history.shape[1], real.shape[1]
    first = max(before, 1)
    flow = temporal.upsample_flow(chunk.flows[1][:, first - 1 :], real.shape[-2:]).flatten(0, 1)
    generated = torch.cat([chunk.history, fake.detach()], dim=1)
    trust = trusted(real[:, first:].flatten(0, 1), resample2d(real[:, first - 1 : total - 1].flatten(0, 1), flow))
    warped = resample2d(generated[:, first - 1 : total - 1].flatten(0, 1), flow)
    return warp_loss(fake[:, first - before :].flatten(0, 1), warped, trust)


def channels_last(x: Tensor) -> Tensor:
    """The same values in the memory layout that the networks' convolutions work in."""
    return x.contiguous(memory_format=torch.channels_last)
