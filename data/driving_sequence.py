"""The frames that a test synthesises, read one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.frames import READERS, read_landmarks, read_square
from data.integrity import check_sequence, check_steps, png_size
from util.ahead import map_ahead
from util.cli import UserError
from util.face.eye_gaze import draw_eye_gaze
from util.image_io import resize_image, resize_nmfc
from util.layout import Dataset
from util.layout import Sequence as FrameSequence


@dataclass(frozen=True)
class DrivingFrame:
    """One frame to synthesise, at load size."""

    number: int  # of the frame, also its file's name
    image: np.ndarray | None  # uint8 [H, W, 3]: the truth in self reenactment, else the driver's frame (None if not stored)
    nmfc: np.ndarray  # uint8 [H, W, 3]
    gaze: np.ndarray  # uint8 [H, W, 3]
    landmarks: np.ndarray | None  # float32 [70, 2] in pixels at load size; None if the pair has none

    def conditioning(self) -> np.ndarray:
        """uint8 [H, W, 6]: NMFC and gaze."""
        return np.concatenate([self.nmfc, self.gaze], axis=-1)


@dataclass(frozen=True)
class DrivingSequence:
    """A test sequence, read in order with constant memory: iterate to get its DrivingFrames.

    Without a source: the target's own held-out frames (self reenactment). With one: the pair <target>_<source> that
    preprocessing/reenact.py made, whose images are the driver's.
    """

    sequence: FrameSequence
    kinds: tuple[str, str, str]  # images, NMFCs, landmarks
    load_size: int
    image_size: int  # side of the stored images
    numbers: list[int] = field(repr=False)

    @classmethod
    def open(
        cls, dataset: Dataset, target: str, source: str | None, load_size: int, how_many: int | None = None, eye_gaze: bool = True
    ) -> DrivingSequence:
        """Check the frames of a test and return it.

        how_many: only that many first frames. eye_gaze: False when a pair may lack landmarks; the gaze images are black then.
        Raises: UserError when there are none, or kinds of files do not match.
        """
        name = dataset.home.name
        if source is None:
            sequence, kinds = dataset.sequence("test", target), ("images", "nmfcs", "landmarks70")
            check_steps(dataset, target)
            if not sequence.frames(kinds[0]):
                raise UserError(
                    f"no test frames of {target} in {sequence.folder('images')}; "
                    f"run preprocessing/detect.py --dataset_name {name} with a --test_seq_ratio above 0"
                )
        else:
            sequence, kinds = dataset.pair(target, source), ("source_images", "source_nmfcs", "source_landmarks70")
            pair = dataset.read_pair(target, source)
            if not sequence.frames(kinds[1]) or (pair and not pair.complete):
                raise UserError(
                    f"no {'complete ' if pair else ''}conditioning images for {source} driving {target} in {sequence.folder(kinds[1])}; "
                    f"run preprocessing/reenact.py --dataset_name {name} --source_id {source} --target_id {target}"
                )
            if not sequence.folder("source_images").is_dir():
                kinds = ("", *kinds[1:])
            if not eye_gaze and not sequence.folder("source_landmarks70").is_dir():
                kinds = (*kinds[:2], "")
        numbers = check_sequence(sequence, [k for k in kinds if k])
        return cls(sequence, kinds, load_size, png_size(sequence, kinds[1], numbers[0])[0], numbers[:how_many])

    def __len__(self) -> int:
        return len(self.numbers)

    def paths(self) -> list[Path]:
        """All files that the frames are read from."""
        return [self.sequence.path(kind, number) for kind in self.kinds if kind for number in self.numbers]

    def __iter__(self) -> Iterator[DrivingFrame]:
        return map_ahead(self._read, self.numbers, threads=READERS, depth=2 * READERS)

    def _read(self, number: int) -> DrivingFrame:
        images, nmfcs, points = self.kinds
        landmarks, gaze = None, np.zeros((self.load_size, self.load_size, 3), np.uint8)
        if points:
            landmarks = (read_landmarks(self.sequence, points, number) * (self.load_size / self.image_size)).astype(np.float32)
            gaze = draw_eye_gaze(landmarks, self.load_size)
        image = resize_image(read_square(self.sequence, images, number, None), self.load_size) if images else None
        nmfc = resize_nmfc(read_square(self.sequence, nmfcs, number, self.image_size), self.load_size)
        return DrivingFrame(number, image, nmfc, gaze, landmarks)
