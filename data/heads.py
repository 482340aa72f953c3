"""Cached data for moving heads in training: an identity's looks and fits, and the head shapes of its frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from data.appearance import FRAMES, measure_appearance
from data.augmentation.grid import GRID
from data.augmentation.head_shapes import HeadShapes, head_shapes
from data.augmentation.mesh_motion import Fit
from data.frames import READERS, read_frames, read_square
from util.caches.digests import file_digests
from util.caches.frame_file import read_rows, write_rows
from util.caches.keyed_file import read_keyed, write_keyed
from util.cli import UserError
from util.face.appearance import Appearance, MouthParts
from util.geometry import Cameras
from util.layout import Dataset, read_camera, read_table, usable_frames
from util.layout import Sequence as FrameSequence
from util.sampling import spread

SHAPES_VERSION = 4  # raise it when head shapes must be computed again
APPEARANCE_VERSION = 3  # raise it when a person's looks must be measured again
_SHAPES = tuple(f.name for f in fields(HeadShapes))


@dataclass(frozen=True)
class SequenceHeads:
    """The data that moving heads needs of the N frames of a sequence."""

    masks: np.ndarray  # uint8 [N, any, any], 255 where the person is
    background: np.ndarray  # uint8 [H, H, 4] at load size
    shapes: HeadShapes

    def __getitem__(self, part: slice) -> SequenceHeads:
        return SequenceHeads(self.masks[part], self.background, self.shapes[part])


def shapes_nbytes(count: int) -> int:
    """Bytes that the shapes of `count` frames take in memory: 32 KiB a frame."""
    return count * 4 * (2 * GRID * GRID + 2)


def fit_nbytes(count: int) -> int:
    """Bytes that the fits of `count` frames take in memory, at most: expressions of up to 150 weights, and a camera."""
    return count * 8 * (150 + 13)


def find_appearance(
    dataset: Dataset, name: str, frames: Sequence[tuple[FrameSequence, int]], mouth: MouthParts | None
) -> tuple[Appearance, str]:
    """What an identity looks like: from its file, if that was made from these frames, else measured and written there now; and its key.

    frames: all training frames; those that do not show the person well are left out. mouth: None where the face model is not known.
    Raises: UserError when a file is missing or damaged.
    """
    good = usable_frames(dataset.read_record(name), [number for _, number in frames])
    frames = [frame for frame, is_good in zip(frames, good) if is_good]
    frames = [frames[i] for i in spread(len(frames), FRAMES)]
    digest = _digest(f"{APPEARANCE_VERSION}", frames, ("images", "nmfcs"))
    if mouth is not None:
        for array in (mouth.colours, mouth.parts, mouth.depths):
            digest.update(np.ascontiguousarray(array))
    key = digest.hexdigest()
    found = read_appearance(dataset, name, key)
    if found is not None:
        return found, key
    with ThreadPoolExecutor(READERS) as pool:
        images, nmfcs = (
            np.stack(list(pool.map(lambda frame, kind=kind: read_square(frame[0], kind, frame[1], None), frames)))
            for kind in ("images", "nmfcs")
        )
    appearance = measure_appearance(images, nmfcs, mouth)
    write_keyed(dataset.appearance_path(name), key, colours=appearance.colours, backdrop=appearance.backdrop)
    return appearance, key


def read_appearance(dataset: Dataset, name: str, key: str) -> Appearance | None:
    """What find_appearance wrote; None when the file is missing, damaged, or has another key."""
    found = read_keyed(dataset.appearance_path(name), ("colours", "backdrop"), key)
    return None if found is None else Appearance(found["colours"], found["backdrop"])


def read_fit(dataset: Dataset, name: str, frames: Sequence[tuple[FrameSequence, int]]) -> Fit | None:
    """What the face model found in frames of an identity's training split; None where that is not there (as in parts of old datasets)."""
    files = [[sequence.path(kind, number) for sequence, number in frames] for kind in ("exp_coeffs", "misc")]
    if not dataset.id_coeffs_path("train", name).is_file() or not all(file.is_file() for kind in files for file in kind):
        return None
    cameras = [read_camera(file) for file in files[1]]
    expression = [read_table(file)[:, 0] for file in files[0]]
    if len({len(e) for e in expression}) > 1:
        raise UserError(f"{files[0][0].parent} has frames of different face models; run preprocessing/reconstruct.py again")
    return Fit(np.array(expression), Cameras(*(np.array(part) for part in zip(*cameras))))


def compute_sequence_heads(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray, background: np.ndarray) -> SequenceHeads:
    """nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: those of these frames."""
    return SequenceHeads(masks, background, head_shapes(nmfcs, landmarks, masks))


def stored_sequence_heads(
    sequence: FrameSequence, numbers: Sequence[int], load_size: int, masks: np.ndarray, background: np.ndarray
) -> tuple[SequenceHeads, str]:
    """The heads of a sequence from its file, if that was made from these frames; else computed now and written there. And the file's key.

    For what memory has no room for: reading the shapes takes a tenth of the time that computing them takes.
    """
    frames = [(sequence, number) for number in numbers]
    digest = _digest(f"{SHAPES_VERSION} {load_size} {len(numbers)}", frames, ("nmfcs", "landmarks70"))
    digest.update(np.ascontiguousarray(masks))
    digest.update(background)
    key = digest.hexdigest()
    heads = read_sequence_heads(sequence, load_size, key)
    if heads is None:
        frames = read_frames(sequence, numbers, load_size)
        heads = compute_sequence_heads(frames.nmfcs, frames.landmarks, masks, background)
        write_rows(sequence.head_shapes_path(load_size), key, masks=masks, background=background[None], **vars(heads.shapes))
    return heads, key


def read_sequence_heads(sequence: FrameSequence, load_size: int, key: str, part: slice = slice(None)) -> SequenceHeads | None:
    """What stored_sequence_heads wrote, of these frames; None when the file is missing, damaged, or has another key."""
    rows = dict.fromkeys(("masks", *_SHAPES), part)
    found = read_rows(sequence.head_shapes_path(load_size), {"background": slice(None), **rows}, key)
    if found is None:
        return None
    return SequenceHeads(found["masks"], found["background"][0], HeadShapes(**{name: found[name] for name in _SHAPES}))


def _digest(made_by: str, frames: Sequence[tuple[FrameSequence, int]], kinds: Sequence[str]) -> hashlib.blake2b:
    """A digest of how something is made and of the bytes of those frames' files."""
    digest = hashlib.blake2b(made_by.encode(), digest_size=16)
    digests = {(sequence, kind): file_digests(sequence, kind) for sequence in dict(frames) for kind in kinds}
    for sequence, number in frames:
        for kind in kinds:
            digest.update(digests[sequence, kind].get(number, b"missing"))  # whoever reads the file says so
    return digest
