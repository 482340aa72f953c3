"""The generator with all that is around it, as one function of images: what every back end runs and scripts/export.py writes.

Inside are the scaling of the conditioning images, the look-up of the person's colours, the backdrop, and the conversion of the generated
frame to an image, so that a back end does them where it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.networks import Generator
from models.networks.generator import PREVIOUS_FRAMES
from util.face.appearance import Appearance, cell_of

NMFC, GAZE, PREVIOUS = "nmfc", "eye_gaze", "previous"  # inputs; the last one is an output as well
IMAGE = "image"  # output
VERSION = 2  # raise it when converted networks must be converted again


@dataclass(frozen=True)
class Inputs:
    """What the network of a run takes; all from the run's options."""

    frames: int  # conditioning images of so many frames, the current one last
    eye_gaze: bool
    previous: bool  # whether it sees the frames that it generated before

    @classmethod
    def of(cls, run_options: Mapping[str, Any]) -> Inputs:
        return cls(run_options["conditioning_frames"], run_options["eye_gaze"], run_options["prev_output"])

    def names(self) -> list[str]:
        return [NMFC, *[GAZE] * self.eye_gaze, *[PREVIOUS] * self.previous]

    def shape(self, name: str, height: int, width: int) -> tuple[int, ...]:
        """uint8 [frames, H, W, 3] of the images, float32 [1, 6, H, W] (-1..1; zeros before the first frame) of the previous frames."""
        return (1, 3 * PREVIOUS_FRAMES, height, width) if name == PREVIOUS else (self.frames, height, width, 3)

    def example(self, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
        """Random pictures."""
        rng = np.random.default_rng(seed)
        shapes = {name: self.shape(name, height, width) for name in self.names()}
        return [
            rng.uniform(-1, 1, shape).astype(np.float32) if name == PREVIOUS else rng.integers(0, 256, shape, np.uint8)
            for name, shape in shapes.items()
        ]


class FrameNetwork(nn.Module):
    """A generator as a function of images.

    appearance: what the person looks like, for a generator that sees it.
    """

    def __init__(self, generator: Generator, inputs: Inputs, appearance: Appearance | None = None):
        super().__init__()
        self.generator, self.inputs, self.appearance = generator, inputs, appearance
        self.register_buffer("colours", None if appearance is None else torch.from_numpy(appearance.colours.copy()))
        self.register_buffer("backdrop", None)

    def of_size(self, height: int, width: int) -> FrameNetwork:
        """The same network for pictures of this size, which those with a backdrop have to know."""
        sized = FrameNetwork(self.generator, self.inputs, self.appearance)
        if self.appearance is not None and self.appearance.backdrop is not None:
            sized.backdrop = torch.from_numpy(self.appearance.backdrop_of_size(height, width))
        return sized.train(self.training)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """given: one for each of Inputs.names(), as Inputs.shape describes them.

        Returns: the image, uint8 [H, W, 3]; where the generator sees its earlier frames also `previous` for the next call.
        """
        by_name = dict(zip(self.inputs.names(), given))
        nmfc = by_name[NMFC]
        images = [x[i] for i in range(self.inputs.frames) for x in (nmfc, by_name.get(GAZE)) if x is not None]
        if self.colours is not None:
            cells = cell_of(nmfc[-1].int()).long()
            drawn = self.colours[cells]
            images.append(drawn if self.backdrop is None else torch.where(cells[..., None] > 0, drawn, self.backdrop))
        dtype = next(self.generator.parameters()).dtype
        conditioning = torch.cat(images, -1).permute(2, 0, 1)[None].float().div(255).to(dtype)
        previous = by_name.get(PREVIOUS)
        frame = self.generator(conditioning, None if previous is None else previous.to(dtype)).float()
        image = frame[0].permute(1, 2, 0).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return (image,) if previous is None else (image, torch.cat([previous[:, 3:], frame], 1))


class Backend(Protocol):
    """Runs a FrameNetwork for pictures of one size."""

    name: str  # what computes and in which arithmetic, "openvino bf16"

    def __call__(self, images: list[np.ndarray], previous: Any) -> tuple[np.ndarray, Any]:
        """One frame.

        images: those of Inputs.names() that are images. previous: what the call for the frame before returned; None: this is the first.
        Returns: the image, uint8 [H, W, 3], and what to give to the next call.
        """
