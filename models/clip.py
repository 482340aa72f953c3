"""What a training step reads: a clip of frames on the device, and the chunks that it is cut into."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Clip:
    """A batch of windows of the videos, on the device; T consecutive frames each, as bytes until they are needed."""

    real: Tensor  # uint8 [B, T, H, W, 3] RGB
    conditioning: Tensor  # uint8 [B, T + context, H, W, C] NMFC (eye gaze, appearance), those of the frames before first
    corners: dict[str, Tensor]  # 'mouth', 'eyes' -> int64 [B, T, 2], left and top of the window in pixels
    flows: dict[int, Tensor]  # step s -> [B, T - s, 2, h, w] in pixels of the images; entry i warps frame i onto frame i + s

    @property
    def length(self) -> int:
        return self.real.shape[1]

    def chunk(self, start: int, stop: int, history: Tensor) -> Chunk:
        """Frames [start, stop) with what their losses look back at.

        history: [B, h, 3, H, W] the h <= start generated frames before `start`.
        """
        first = start - history.shape[1]
        return Chunk(
            real=self.real[:, first:stop],
            conditioning=self.conditioning[:, start : stop + self.conditioning.shape[1] - self.length],
            corners={k: v[:, start:stop] for k, v in self.corners.items()},
            flows={s: f[:, first : max(first, stop - s)] for s, f in self.flows.items()},
            history=history,
        )


@dataclass
class Chunk:
    """n frames to train on, after h frames of history (h + n = W). All that a step reads, with shapes that depend on h and n alone."""

    real: Tensor  # uint8 [B, W, H, W', 3]
    conditioning: Tensor  # uint8 [B, n + context, H, W', C]
    corners: dict[str, Tensor]  # [B, n, 2]
    flows: dict[int, Tensor]  # step s -> [B, max(W - s, 0), 2, h, w]
    history: Tensor  # float32 [B, h, 3, H, W'] generated frames in -1..1

    @property
    def length(self) -> int:
        return self.real.shape[1] - self.history.shape[1]

    def tensors(self) -> list[Tensor]:
        return [self.real, self.conditioning, self.history, *self.corners.values(), *self.flows.values()]


def to_rgb(images: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in -1..1."""
    return images.movedim(-1, -3).float() / 127.5 - 1
