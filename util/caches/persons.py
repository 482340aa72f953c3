"""Person mattes and background of an identity's training frames, computed once and cached on disk.

The file (util.layout.Dataset.persons_path, util.caches.frame_file) holds:
    key         digest of what it was computed from
    masks       uint8 [frames, MASK_SIDE, MASK_SIDE], 255 where the person is, for all training frames in order
    background  uint8 [1, H, W, 4] at the frames' size: mean RGB of the pixels without a person in frames that are no bad ones, and 255
                where the background was ever visible (elsewhere the colours are inpainted)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from util.ahead import map_ahead
from util.caches.digests import frames_key
from util.caches.frame_file import PackedRows, has_rows, read_rows, write_rows
from util.cli import UserError
from util.image_io import read_image
from util.layout import Dataset, Record, usable_frames

VERSION = 2  # raise it when the files must be computed again
MASK_SIDE = 128
_BACKGROUND_MARGIN = 0.03  # of the image's side: pixels nearer than this to the person do not count as background

# uint8 RGB [H, W, 3] -> float32 [H, W], 1 where a person is
PersonMask = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Persons:
    masks: np.ndarray  # uint8 [N, MASK_SIDE, MASK_SIDE]
    background: np.ndarray  # uint8 [H, W, 4]: RGB, and 255 where it is known

    @property
    def nbytes(self) -> int:
        return self.masks.nbytes + self.background.nbytes


def read_persons(dataset: Dataset, name: str, key: str | None = None, part: slice = slice(None)) -> Persons | None:
    """Cached mattes of an identity; None when the file is missing, damaged, or has another key (`key` None: any key will do).

    part: of its training frames, counted over all sequences; the mattes of others are not read.
    """
    found = read_rows(dataset.persons_path(name), {"masks": part, "background": slice(None)}, key)
    return None if found is None else Persons(found["masks"], found["background"][0])


def require_persons(dataset: Dataset, name: str, part: slice = slice(None)) -> Persons:
    """The cached mattes of an identity, as read_persons. Raises: UserError when there are none, or they are damaged."""
    persons = read_persons(dataset, name, part=part)
    if persons is None:
        raise UserError(f"{dataset.persons_path(name)} is missing or damaged; delete it and run again")
    return persons


def write_persons(dataset: Dataset, name: str, key: str, persons: Persons) -> None:
    write_rows(dataset.persons_path(name), key, masks=persons.masks, background=persons.background[None])


def persons_key(dataset: Dataset, name: str, record: Record | None) -> str:
    """Digest of what an identity's mattes are made from: the bytes of all training frames, and which of them show the person well."""
    sequences = dataset.sequences("train", name)
    usable = usable_frames(record, [n for s in sequences for n in s.frames()])
    left_out = "" if usable.all() else f" without {np.flatnonzero(~usable).tolist()}"
    return frames_key(f"{VERSION} {MASK_SIDE} {_BACKGROUND_MARGIN}{left_out}", sequences)


def ensure_persons(
    dataset: Dataset, name: str, create_mask: Callable[[], PersonMask | None], done: Callable[[], object] = lambda: None
) -> bool:
    """Compute and cache an identity's masks and background, unless the file is there.

    create_mask: builds the segmenter; called only when something is to be computed. done: called after each frame.
    Returns: whether the file is there now; False when create_mask gives None.
    """
    record = dataset.read_record(name)
    key = persons_key(dataset, name, record)
    if has_rows(dataset.persons_path(name), ("masks", "background"), key):
        return True
    mask = create_mask()
    if mask is None:
        return False
    usable = usable_frames(record, [n for s in dataset.sequences("train", name) for n in s.frames()])
    masks, seen, weight, shape = PackedRows(), 0.0, 0.0, None
    for image, good in zip(_frames(dataset, name), usable if usable.any() else ~usable):
        shape = image.shape if shape is None else shape
        if image.shape != shape:
            remedy = "run preprocessing/detect.py again"
            raise UserError(
                f"the training frames of '{name}' have several sizes, one is {image.shape[1]}x{image.shape[0]} pixels; {remedy}"
            )
        person = mask(image)
        masks.append((255 * cv2.resize(person, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)).round().astype(np.uint8))
        reach = 2 * round(_BACKGROUND_MARGIN * image.shape[0]) + 1
        clear = (cv2.dilate(person, np.ones((reach, reach), np.uint8)) < 0.2)[..., None].astype(np.float32)
        if good:
            seen, weight = seen + image * clear, weight + clear
        done()
    never = (weight[..., 0] == 0).astype(np.uint8)
    background = (seen / np.maximum(weight, 1)).round().astype(np.uint8)
    background = cv2.inpaint(background, never, 3, cv2.INPAINT_TELEA) if not never.all() else background
    background = np.dstack([background, 255 * (1 - never)])
    write_rows(dataset.persons_path(name), key, masks=masks, background=background[None])
    return True


def _frames(dataset: Dataset, name: str) -> Iterator[np.ndarray]:
    paths = (s.path("images", frame) for s in dataset.sequences("train", name) for frame in s.frames())
    return map_ahead(read_image, paths)
