"""Reference optical flow between real frames: one interface, several methods.

A method takes two images and says where each pixel of the target comes from in the source: target(p) ~ source(p + flow(p)),
flow in pixels, x first. Training needs it from each frame back to an earlier one (so it warps the earlier frame onto the
later) and reads it from util.caches.flow. `choose_flow` says which method is used, `FlowChoice.create` makes it:

- `flownet2`: FlowNet2 (Ilg et al. 2017) from a published checkpoint, plain (`flownet2`) or tuned on faces (`flownet2_face`);
- `dis`: Dense Inverse Search (Kroeger et al. 2016), which needs no checkpoint.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from models.checkpoints import load_weights
from models.flownet2_pytorch import FlowNet2
from models.ops import resample2d
from util.caches.flow import Estimate
from util.cli import UserError, say, warn_once
from util.hashing import sha256_of
from util.layout import flownet2_checkpoint
from util.threads import one_opencv_thread

FLOW_METHODS = ("dis", "flownet2")
# Squared RGB distance, in -1..1 units and summed over the channels, under which a warped pixel counts as the same point.
TRUST_THRESHOLD = 0.02
# Pixels of the pairs that go through FlowNet2 at once: 32 pairs of 256 x 256 fill a GPU, 4 keep a processor's caches busy.
_PIXELS_AT_ONCE = {"cuda": 32 * 256 * 256, "cpu": 4 * 256 * 256}
_PAIRS_READ = 64  # pairs taken from the caller at once


class FlowMethod(Protocol):
    def estimate(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        """pairs: (target, source), uint8 RGB [H, W, 3], all of one size. Yields each one's flow, float32 [2, H, W] in pixels, in order."""

    def __call__(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """target, source: [B, 3, H, W] RGB in -1..1. Returns flow_px [B, 2, H, W] and confidence [B, 1, H, W] (0 or 1)."""


@dataclass(frozen=True)
class FlowChoice:
    """A method and what it is made from. Nothing is loaded before `create`."""

    name: str  # dis, flownet2 or flownet2_face; in opt.txt and in the cache's path
    checkpoint: Path | None = None

    @cached_property
    def made_from(self) -> str:
        """SHA-256 of the checkpoint, '' without one: flows of another file are not taken for this one's."""
        return sha256_of(self.checkpoint) if self.checkpoint else ""

    def create(self, device: torch.device | str = "cpu", threads: int | None = None) -> FlowMethod:
        """Make the method.

        device: of FlowNet2; DIS runs on the CPU. threads: of DIS; None: one per core.
        Raises: UserError when the checkpoint does not fit.
        """
        return DISFlow(threads) if self.checkpoint is None else FlowNet2Flow(self.checkpoint, torch.device(device))

    def make_estimate(self, device: torch.device | str = "cpu", threads: int | None = None) -> Estimate:
        """`estimate` of the method. threads: of this process's work on the CPU, for one of several worker processes."""
        if threads:
            torch.set_num_threads(threads)
        return self.create(device, threads).estimate


def choose_flow(
    method: str = "auto", faceflow: bool = True, checkpoint: Path | None = None, before: str | None = None, folder: Path | None = None
) -> FlowChoice:
    """Choose the flow method for --flow, --no_faceflow and --flownet2_checkpoint.

    method: one of FLOW_METHODS; or auto: FlowNet2 if a checkpoint is there, else DIS; what is not plain is said in one line.
    faceflow: prefer the checkpoint that is tuned on faces. checkpoint: this file, of which nothing else is known.
    before: name of the choice that an earlier run made with auto; chosen again where it is available, so that runs go on as they began.
    folder: where checkpoints are looked for (models/flownet2_pytorch).
    Raises: UserError for an unknown method, or FlowNet2 without a checkpoint.
    """
    if method not in ("auto", *FLOW_METHODS):
        raise UserError(f"--flow {method} is unknown; choose auto or one of {', '.join(FLOW_METHODS)}")
    if method == "dis":
        return FlowChoice("dis")
    if checkpoint is not None:
        if not checkpoint.is_file():
            raise UserError(f"--flownet2_checkpoint: there is no file {checkpoint}")
        return FlowChoice("flownet2", checkpoint)
    places = {"flownet2_face": flownet2_checkpoint(True, folder), "flownet2": flownet2_checkpoint(False, folder)}
    wanted = ["flownet2_face", "flownet2"] if faceflow else ["flownet2"]
    found = [FlowChoice(name, places[name]) for name in wanted if places[name].is_file()]
    if method == "auto" and faceflow and before:
        again = [c for c in (*found, FlowChoice("dis")) if c.name == before]
        if again:
            return again[0]
    if not found and method == "flownet2":
        raise UserError(
            f"--flow flownet2: there is no FlowNet2 checkpoint; put it at {' or '.join(str(places[n]) for n in wanted)}, "
            "name one with --flownet2_checkpoint, or use --flow dis"
        )
    if not found:
        say(f"optical flow: DIS, since there is no FlowNet2 checkpoint in {places['flownet2'].parent}")
        return FlowChoice("dis")
    if found[0].name != wanted[0]:
        say(f"optical flow: plain FlowNet2, since there is no face-tuned one ({places[wanted[0]]})")
    return found[0]


class DISFlow:
    """Dense Inverse Search (Kroeger et al. 2016) of OpenCV, on grey images, on the CPU; pairs are spread over threads."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or os.cpu_count() or 1
        self._of_thread = threading.local()  # an OpenCV estimator keeps buffers, so each thread has its own

    def estimate(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        with one_opencv_thread(), ThreadPoolExecutor(self._threads) as pool:  # a thread a pair is enough
            yield from pool.map(self._of_pair, pairs)

    def _of_pair(self, pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        if not hasattr(self._of_thread, "dis"):
            self._of_thread.dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in pair]
        return np.ascontiguousarray(self._of_thread.dis.calc(*grey, None).transpose(2, 0, 1))

    def __call__(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        def pixels(images: Tensor) -> np.ndarray:
            return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()

        flows = list(self.estimate(zip(pixels(target), pixels(source))))
        flow_px = torch.from_numpy(np.stack(flows)).to(target.device)
        return flow_px, trusted(target, resample2d(source, flow_px))


class FlowNet2Flow:
    """FlowNet2 in batches: in half precision on a GPU, in float32 on the CPU. Images of any size (see FlowNet2.forward)."""

    def __init__(self, checkpoint: Path, device: torch.device):
        with torch.device("meta"):
            network = FlowNet2()
        network = network.to_empty(device="cpu")  # random weights for all its parameters would take seconds
        load_weights(network, checkpoint)
        self._device = device
        self._network = network.eval().requires_grad_(False)
        self._use(torch.float16 if device.type == "cuda" else torch.float32)

    def _use(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._network.to(self._device, dtype, memory_format=torch.channels_last)

    def estimate(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        pairs = iter(pairs)
        while group := list(islice(pairs, _PAIRS_READ)):
            images = torch.from_numpy(np.stack([np.stack(pair) for pair in group]))  # [B, 2, H, W, 3]
            for part in images.split(self._pairs_at_once(images.shape[2:4])):
                yield from self._flow(part.to(self._device).permute(0, 4, 1, 2, 3) / 255).cpu().numpy()

    def __call__(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        both = (torch.stack([target, source], 2) + 1) / 2
        parts = both.split(self._pairs_at_once(target.shape[-2:]))
        flow_px = torch.cat([self._flow(part.to(self._device)) for part in parts]).to(target.device)
        return flow_px, trusted(target, resample2d(source, flow_px.to(source)))

    def _pairs_at_once(self, size: tuple[int, int]) -> int:
        return max(1, _PIXELS_AT_ONCE["cuda" if self._device.type == "cuda" else "cpu"] // (size[0] * size[1]))

    @torch.no_grad()
    def _flow(self, pairs: Tensor) -> Tensor:
        """pairs: [B, 3, 2, H, W] in 0..1. Returns float32 [B, 2, H, W], pixels."""
        flow = self._network(pairs.to(self._dtype)).float()
        if self._dtype is torch.float16 and not torch.isfinite(flow).all():
            warn_once("FlowNet2 left the range of half precision with this checkpoint: going on in float32, slower")
            self._use(torch.float32)
            return self._flow(pairs)
        if not torch.isfinite(flow).all():
            raise UserError("FlowNet2 gives no usable flow (infinite or NaN) with this checkpoint; use another file, or --flow dis")
        return flow


def trusted(target: Tensor, warped: Tensor) -> Tensor:
    """Where a warped real image agrees with the real image it was warped to: [..., 3, H, W] in -1..1 -> float [..., 1, H, W], 0 or 1."""
    return ((target - warped).square().sum(dim=-3, keepdim=True) < TRUST_THRESHOLD).float()
