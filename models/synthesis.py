"""Runs a trained generator: conditioning images in, frames out, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from models.checkpoints import load_generator
from models.networks import build_generator
from models.networks.generator import PREVIOUS_FRAMES
from util.face.appearance import Appearance
from util.layout import Run
from util.tensors import to_image, to_tensor


class Synthesizer:
    """Runs the generator of a run frame by frame and feeds its last frames back to it.

    run, run_options: the trained run and its options (models.checkpoints.read_run_options); of the run's folder only opt.txt and the
        generator's weights are read, so Run(folder, folder) will do.
    which_epoch: 'latest' or an epoch.
    dtype: of the arithmetic; float32 or bfloat16.
    appearance: the colours of the person to draw (Appearance.read(run.appearance_path(name))), for a run whose options have `appearance`.
    Raises: UserError when the checkpoint is missing or does not fit the options exactly.
    """

    def __init__(
        self,
        run: Run,
        run_options: Mapping[str, Any],
        which_epoch: str,
        device: torch.device,
        dtype: torch.dtype,
        appearance: Appearance | None = None,
    ):
        if run_options["appearance"] and appearance is None:
            raise ValueError("this run's generator needs the person's appearance")
        generator = build_generator(run_options)
        load_generator(generator, run, which_epoch)
        self._generator = generator.eval().to(device=device, dtype=dtype, memory_format=torch.channels_last)
        self._eye_gaze = run_options["eye_gaze"]
        self._appearance = appearance if run_options["appearance"] else None
        self._conditioning_frames = run_options["conditioning_frames"]
        self._device, self._dtype = device, dtype
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.reset()

    def reset(self) -> None:
        """Forget all earlier frames: the next one is the first of a sequence."""
        self._conditioning: deque[torch.Tensor] = deque(maxlen=self._conditioning_frames)
        self._previous: deque[torch.Tensor] = deque(maxlen=PREVIOUS_FRAMES)

    @torch.inference_mode()
    def step(self, nmfc: np.ndarray, gaze: np.ndarray) -> np.ndarray:
        """The next frame of a sequence.

        nmfc, gaze: uint8 [H, W, 3], sides multiples of 2^n_downsample_G; gaze is ignored by a run without eye gaze.
        Returns: uint8 [H, W, 3] RGB.
        """
        images = np.concatenate([nmfc, gaze], axis=-1) if self._eye_gaze else nmfc
        current = self._to_network(images)
        # Before the first frame: its own conditioning, and blank frames.
        self._conditioning.extend([current] * (1 if self._conditioning else self._conditioning_frames))
        if not self._previous:
            self._previous.extend([current.new_zeros(1, 3, *current.shape[-2:])] * PREVIOUS_FRAMES)
        colours = [] if self._appearance is None else [self._to_network(self._appearance.image(nmfc))]
        A = torch.cat([*self._conditioning, *colours], dim=1).contiguous(memory_format=torch.channels_last)
        P = torch.cat(tuple(self._previous), dim=1).contiguous(memory_format=torch.channels_last)
        frame = self._generator(A, P)
        self._previous.append(frame)
        return to_image(frame[0])

    def _to_network(self, image: np.ndarray) -> torch.Tensor:
        return to_tensor(image)[None].to(self._device, self._dtype)


def load_synthesizer(run, run_options, which_epoch="latest", *, appearance=None, backend="auto", gpu_ids="auto", precision="auto"):
    from util.device import choose_device, choose_precision

    device = choose_device(gpu_ids or "auto")
    made = Synthesizer(run, run_options, which_epoch, device, choose_precision(precision, device), appearance)
    made.backend = made.reason = "torch"
    return made
