"""Cached data for moving heads in training: the measures of an identity's head, and the head shapes of its frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from data.augmentation.head_geometry import GRID, Head, measure_head
from data.augmentation.head_shapes import HeadShapes, head_shapes
from data.frames import READERS, read_frames, read_landmarks, read_square
from util.caches.digests import file_digests
from util.caches.frame_file import read_rows, write_rows
from util.caches.keyed_file import read_keyed, write_keyed
from util.layout import Dataset, read_camera, usable_frames
from util.layout import Sequence as FrameSequence
from util.sampling import spread

HEAD_VERSION = 1  # raise it when heads must be measured again
SHAPES_VERSION = 1  # raise it when head shapes must be computed again
_HEAD_FRAMES = 100  # frames that a head is measured from: enough for all poses of a video, and read in a second
_SHAPES = tuple(f.name for f in fields(HeadShapes))


@dataclass(frozen=True)
class Person:
    """One identity: mattes of its training frames, background, and measures of the head."""

    masks: np.ndarray  # uint8 [N, any, any], 255 where the person is
    background: np.ndarray  # uint8 [H, H, 4] at load size, as in util.caches.persons
    head: Head

    @property
    def nbytes(self) -> int:
        return self.masks.nbytes + self.background.nbytes


@dataclass(frozen=True)
class SequenceHeads:
    """The data that moving heads needs of the N frames of a sequence."""

    masks: np.ndarray  # uint8 [N, any, any], 255 where the person is
    background: np.ndarray  # uint8 [H, H, 4] at load size
    perspective: float  # as in data.augmentation.head_geometry.Head
    shapes: HeadShapes

    def __getitem__(self, part: slice) -> SequenceHeads:
        return SequenceHeads(self.masks[part], self.background, self.perspective, self.shapes[part])


def shapes_nbytes(count: int) -> int:
    """Bytes that the shapes of `count` frames take in memory: 64 KiB a frame."""
    return count * 4 * (4 * GRID * GRID + 4)


def find_head(dataset: Dataset, name: str, frames: Sequence[tuple[FrameSequence, int]], masks: np.ndarray, perspective: bool) -> Head:
    """An identity's head: from its file, if that was made from these frames, else measured now and written there.

    frames: all training frames; those that do not show the person well are left out. masks: uint8 [frames, any, any], 255 where the person
        is. perspective: as in `measure_head`.
    Raises: UserError when a file is missing or damaged.
    """
    good = usable_frames(dataset.read_record(name), [number for _, number in frames])
    frames, masks = [frame for frame, is_good in zip(frames, good) if is_good], masks[good]
    chosen = spread(len(frames), _HEAD_FRAMES)
    cameras = [frames[i][0].path("misc", frames[i][1]) for i in chosen] if perspective else []
    if not all(path.is_file() for path in cameras):
        cameras = []
    digest = hashlib.blake2b(f"{HEAD_VERSION} {perspective} {len(frames)}".encode(), digest_size=16)
    digests = {(s, kind): file_digests(s, kind) for s in {frames[i][0] for i in chosen} for kind in ("nmfcs", "landmarks70")}
    for sequence, number in (frames[i] for i in chosen):
        for kind in ("nmfcs", "landmarks70"):
            digest.update(digests[sequence, kind].get(number, b"missing"))  # whoever reads the file says so
    for path in cameras:
        digest.update(path.read_bytes())
    digest.update(np.ascontiguousarray(masks[chosen]))
    path, key = dataset.heads_path(name, perspective), digest.hexdigest()
    found = read_keyed(path, ("box", "outline", "perspective"), key)
    if found is not None:
        return Head(found["box"] if found["box"].size else None, float(found["outline"]), float(found["perspective"]))

    with ThreadPoolExecutor(READERS) as pool:
        nmfcs = list(pool.map(lambda i: read_square(frames[i][0], "nmfcs", frames[i][1], None), chosen))
    landmarks = [read_landmarks(frames[i][0], "landmarks70", frames[i][1]) for i in chosen]
    fitted = np.array([scale * rotation for scale, rotation, _ in map(read_camera, cameras)]) if cameras else None
    head = measure_head(np.stack(nmfcs), np.stack(landmarks), masks[chosen], fitted, perspective=perspective)
    box = np.empty(0) if head.box is None else np.asarray(head.box, np.float64)
    write_keyed(path, key, box=box, outline=np.float64(head.outline), perspective=np.float64(head.perspective))
    return head


def compute_sequence_heads(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray, person: Person) -> SequenceHeads:
    """nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: those of these frames."""
    return SequenceHeads(masks, person.background, person.head.perspective, head_shapes(nmfcs, landmarks, masks, person.head))


def stored_sequence_heads(
    sequence: FrameSequence, numbers: Sequence[int], load_size: int, masks: np.ndarray, person: Person
) -> tuple[SequenceHeads, str]:
    """The heads of a sequence from its file, if that was made from these frames; else computed now and written there. And the file's key.

    For what memory has no room for: reading the shapes takes a tenth of the time that computing them takes.
    """
    digest = hashlib.blake2b(f"{SHAPES_VERSION} {load_size} {len(numbers)} {person.head}".encode(), digest_size=16)
    digests = [file_digests(sequence, kind) for kind in ("nmfcs", "landmarks70")]
    for number in numbers:
        for own in digests:
            digest.update(own.get(number, b"missing"))  # whoever reads the file says so
    digest.update(np.ascontiguousarray(masks))
    digest.update(person.background)
    key = digest.hexdigest()
    heads = read_sequence_heads(sequence, load_size, key)
    if heads is None:
        frames = read_frames(sequence, numbers, load_size)
        heads = compute_sequence_heads(frames.nmfcs, frames.landmarks, masks, person)
        whole = {"background": person.background[None], "perspective": np.array([heads.perspective])}
        write_rows(sequence.head_shapes_path(load_size), key, masks=masks, **whole, **vars(heads.shapes))
    return heads, key


def read_sequence_heads(sequence: FrameSequence, load_size: int, key: str, part: slice = slice(None)) -> SequenceHeads | None:
    """What stored_sequence_heads wrote, of these frames; None when the file is missing, damaged, or has another key."""
    whole, rows = dict.fromkeys(("background", "perspective"), slice(None)), dict.fromkeys(("masks", *_SHAPES), part)
    found = read_rows(sequence.head_shapes_path(load_size), {**whole, **rows}, key)
    if found is None:
        return None
    shapes = HeadShapes(**{name: found[name] for name in _SHAPES})
    return SequenceHeads(found["masks"], found["background"][0], float(found["perspective"][0]), shapes)
