"""Frames of a sequence with their NMFC images and landmarks, at load size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.integrity import COMMANDS, png_size
from util.cli import UserError
from util.image_io import read_image, resize_image, resize_nmfc
from util.layout import Sequence as FrameSequence
from util.layout import read_table

READERS = 4  # threads that decode a sequence's files: a clip is there soon, and other loaders still get cores
_READ_ALONE = 32  # frames; as few are read by the caller itself: with six loaders, threads of each one's own cost a fifth of the rate


@dataclass(frozen=True)
class Frames:
    """Consecutive frames at load size, H x H pixels."""

    images: np.ndarray  # uint8 [N, H, H, 3] RGB
    nmfcs: np.ndarray  # uint8 [N, H, H, 3]
    landmarks: np.ndarray  # float32 [N, 70, 2] in pixels at load size

    def __getitem__(self, part: slice) -> Frames:
        return Frames(self.images[part], self.nmfcs[part], self.landmarks[part])


def frames_nbytes(count: int, load_size: int) -> int:
    """Bytes that `count` frames take in memory."""
    return count * (load_size * load_size * 6 + 70 * 2 * 4)


def read_frames(sequence: FrameSequence, numbers: Sequence[int], load_size: int) -> Frames:
    """Decode some frames of a sequence, many on a few threads.

    Raises: UserError when a file is missing or unreadable, or its size differs from the sequence's.
    """
    size, count = png_size(sequence, "images", numbers[0])[0], len(numbers)
    images, nmfcs = np.empty((2, count, load_size, load_size, 3), np.uint8)
    landmarks = np.empty((count, 70, 2), np.float32)

    def read(i: int) -> None:
        images[i] = resize_image(read_square(sequence, "images", numbers[i], size), load_size)
        nmfcs[i] = resize_nmfc(read_square(sequence, "nmfcs", numbers[i], size), load_size)
        landmarks[i] = read_landmarks(sequence, "landmarks70", numbers[i]) * (load_size / size)

    if count <= _READ_ALONE:
        for i in range(count):
            read(i)
    else:
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(read, range(count)))
    return Frames(images, nmfcs, landmarks)


def read_landmarks(sequence: FrameSequence, kind: str, number: int) -> np.ndarray:
    """Read the 70 landmarks of a frame, float64 [70, 2] in pixels of the stored image."""
    path = sequence.path(kind, number)
    landmarks = read_table(path)
    if landmarks.shape != (70, 2) or not np.isfinite(landmarks).all():
        raise UserError(f"{path} does not hold 70 points; delete it and run preprocessing/{COMMANDS.get(kind, 'reenact.py')} again")
    return landmarks


def read_square(sequence: FrameSequence, kind: str, number: int, size: int | None) -> np.ndarray:
    path = sequence.path(kind, number)
    image = read_image(path)
    side = size or image.shape[0]
    if image.shape[:2] != (side, side):
        raise UserError(
            f"{path} is {image.shape[1]}x{image.shape[0]} pixels where {side}x{side} are expected; "
            f"run preprocessing/{COMMANDS.get(kind, 'reenact.py')} again"
        )
    return image
