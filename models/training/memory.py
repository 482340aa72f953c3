"""Chooses the batch size by GPU memory, and gives advice when memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch

from util.cli import UserError

# Memory of a training step with the default networks at 256x256, measured on an H200: weights, moments and gradients; each frame's.
_GB_FIXED, _GB_PER_FRAME = 6.0, 0.9


def choose_batch_size(device: torch.device, *, frames: int, load_size: int, ngf: int) -> int:
    """The most clips of 1, 2, 4 that the device's free memory holds; 1 without a GPU.

    frames: of a chunk. load_size: side of the images in pixels. ngf: base width of the generator.
    """
    if device.type != "cuda":
        return 1
    free_gb = torch.cuda.mem_get_info(device)[0] / 1e9
    per_clip_gb = _GB_PER_FRAME * frames * (load_size / 256) ** 2 * ngf / 64
    return max((n for n in (1, 2, 4) if _GB_FIXED + n * per_clip_gb <= free_gb), default=1)


@contextlib.contextmanager
def advice_when_out_of_memory(sizes: Mapping[str, int]) -> Iterator[None]:
    """Turn PyTorch's out-of-memory error into a UserError that proposes to halve `sizes` (option -> value), where they are above 1."""
    try:
        yield
    except torch.OutOfMemoryError as e:
        halves = [f"--{name} {value // 2}" for name, value in sizes.items() if value > 1]
        raise UserError(f"out of GPU memory ({str(e).splitlines()[0][:160]}); try {', '.join(halves)}, or a smaller --loadSize") from None
