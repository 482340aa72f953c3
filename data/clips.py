"""Prepared videos as training clips (stateless: an index says everything) and as a stream of test frames."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from data.augmentation.head_geometry import Head, measure_head
from data.augmentation.head_motion import head_fields, move_points, no_motion, random_head_motion
from data.augmentation.head_shapes import HeadShapes, head_shapes
from data.augmentation.transforms import jitter_landmarks, jitter_nmfc, random_jitter, resize_image, resize_nmfc
from util import layout
from util.ahead import map_ahead
from util.caches.persons import Persons
from util.cli import UserError
from util.face.eye_gaze import draw_eye_gaze
from util.image_io import read_image
from util.layout import Dataset, Record, read_camera, read_table
from util.sampling import spread

if TYPE_CHECKING:
    import torch

# A sequence's optical flow: step -> float16 [frames - step, 2, h, w].
FlowReader = Callable[[layout.Sequence], dict[int, np.ndarray]]
# By an identity's name.
PersonReader = Callable[[str], Persons]

CONTEXT = 2  # frames of conditioning before the current one
# kind of files -> command that makes them; and the steps that dataset.json must list as complete
_COMMANDS = {"images": "detect.py", "nmfcs": "reconstruct.py", "landmarks70": "detect_landmarks70.py"}
_STEPS = {"detect": "detect.py", "landmarks70": "detect_landmarks70.py", "reconstruct": "reconstruct.py"}
_READERS = 4
_HEAD_FRAMES = 100  # that a person's head is measured from


@dataclass(frozen=True)
class ClipIndex:
    """Which clip: frames [start, start + length) of a sequence, and the seed of its jitter."""

    sequence: int
    start: int
    length: int
    seed: int


@dataclass
class _Frames:
    """Consecutive frames at load size."""

    images: np.ndarray  # uint8 [N, H, W, 3]
    nmfcs: np.ndarray  # uint8 [N, H, W, 3]
    landmarks: np.ndarray  # float32 [N, 70, 2] in pixels at load size
    shapes: HeadShapes | None = None  # when heads are moved and the frames are kept

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.images, self.nmfcs, self.landmarks, *(vars(self.shapes).values() if self.shapes else ())))


@dataclass(frozen=True)
class _Person:
    """Where frames show the person, and what is behind."""

    masks: np.ndarray  # uint8 [N, any, any], 255 where the person is
    background: np.ndarray  # uint8 [H, W, 4] at load size, as in util.caches.persons
    head: Head


class VideoDataset:
    """Clips of the training sequences of one person or several.

    `dataset[ClipIndex(...)]` depends on its index alone and may be called from several threads. It returns a dict of tensors
    (T = length; frames are consecutive):
      image      uint8 [T, H, W, 3]        RGB
      nmfc       uint8 [T + 2, H, W, 3]    the two frames before the first come first, clamped at the sequence's start
      gaze       uint8 [T + 2, H, W, 3]    likewise
      landmarks  float32 [T, 70, 2]        x, y in pixels at load size, without jitter
      motion     with `move_heads`: what move_heads (data.augmentation) needs to move the head in image, nmfc and flows;
                 gaze and landmarks are where it will be
      flows      {step: float16 [T - step, 2, h, w]}  with `flows` only; entry i warps frame i of the clip onto frame i + step

    dataset, names: whose sequences.
    load_size: side of the images in pixels; stored images of another size are resized.
    augment: jitter the conditioning (data.augmentation.transforms.random_jitter).
    move_heads: share of the clips, 0..1, in which the head is moved, in frames and conditioning alike; needs `persons`.
    perspective: move them as the person's camera sees it, by the head's measured depth; else as a camera far away
        would, by the face model's own axes.
    cache_gb: keep decoded frames and flow in memory up to this many gigabytes (None: a quarter of the memory there is, at most
        16); sequences beyond that are read anew for every clip.
    flows: reads a sequence's cached flow.
    persons: reads where an identity's training frames show the person.
    Raises: UserError, before any image is decoded, when there is nothing to train on or a sequence is incomplete.
    """

    def __init__(
        self,
        dataset: Dataset,
        names: Sequence[str],
        load_size: int,
        *,
        augment: bool = True,
        move_heads: float = 0.0,
        perspective: bool = False,
        cache_gb: float | None = None,
        flows: FlowReader | None = None,
        persons: PersonReader | None = None,
    ):
        self.load_size = load_size
        self.sequences: list[layout.Sequence] = []
        self._names: list[str] = []  # whose each sequence is
        self._numbers: list[list[int]] = []
        for name in names:
            sequences = dataset.sequences("train", name)
            if not sequences:
                raise UserError(
                    f"no training data for {name} in {dataset.folder / 'train' / 'images'}; "
                    f"run preprocessing/detect.py --dataset_name {dataset.home.name} --split train on a video of {name}"
                )
            for sequence in sequences:
                self._numbers.append(check_sequence(sequence, ("images", "nmfcs", "landmarks70")))
                self.sequences.append(sequence)
                self._names.append(name)
        self.face_model = _common_face_model(dataset, names)
        self._augment = augment
        self._move_heads = move_heads
        self._perspective = perspective
        self._flows = flows
        self._persons = persons if move_heads else None
        self._budget = _quarter_of_memory() if cache_gb is None else cache_gb * 1e9
        self._cache: dict[int, _Frames] = {}
        self._flow_cache: dict[int, dict[int, np.ndarray]] = {}
        self._person_cache: dict[str, _Person] = {}
        self._lock = Lock()

    @property
    def lengths(self) -> list[int]:
        """Number of frames of each sequence."""
        return [len(n) for n in self._numbers]

    def __getitem__(self, clip: ClipIndex) -> dict[str, torch.Tensor | dict[int, torch.Tensor]]:
        import torch

        last = clip.start + clip.length
        if clip.start < 0 or clip.length < 1 or last > len(self._numbers[clip.sequence]):
            raise IndexError(f"{clip} lies outside of a sequence of {len(self._numbers[clip.sequence])} frames")
        first = max(0, clip.start - CONTEXT)
        frames = self._frames(clip.sequence, first, last)
        rows = np.maximum(np.arange(clip.start - CONTEXT, last), 0) - first  # of the conditioning, in `frames`
        own = slice(clip.start - first, None)  # the clip's frames among `frames`, which begin with their context
        images, nmfcs, landmarks = frames.images[own], frames.nmfcs, frames.landmarks
        flows = {s: f[clip.start : max(clip.start, last - s)] for s, f in self._read_flows(clip.sequence).items()}
        rng = np.random.default_rng(clip.seed)
        jitter = random_jitter(rng, self.load_size)
        motion = None
        if self._persons is not None:
            heads, motion = self._move(clip, frames, own, rows, rng)
            if heads.any():
                landmarks = np.stack([move_points(f, x, self.load_size) for f, x in zip(heads, landmarks)]).astype(np.float32)
        places = landmarks[own]
        if self._augment:
            nmfcs = np.stack([jitter_nmfc(x, jitter) for x in nmfcs])
            landmarks = jitter_landmarks(landmarks, jitter)
        gaze = np.stack([draw_eye_gaze(x, self.load_size) for x in landmarks])
        item = {
            "image": torch.from_numpy(images.copy()),
            "nmfc": torch.from_numpy(nmfcs[rows]),
            "gaze": torch.from_numpy(gaze[rows]),
            "landmarks": torch.from_numpy(places.copy()),
        }
        if self._flows is not None:
            item["flows"] = {s: torch.from_numpy(f.copy()) for s, f in flows.items()}
        if motion is not None:
            item["motion"] = {k: torch.from_numpy(v) for k, v in motion.items()}
        return item

    def _move(
        self, clip: ClipIndex, frames: _Frames, own: slice, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A motion for the head, or none by chance: the fields of all frames' heads, and what move_heads needs."""
        person = self._person(clip.sequence)
        stop = clip.start + clip.length
        masks = person.masks[stop - len(frames.nmfcs) : stop]
        rest = {"masks": masks[own].copy(), "background": person.background}
        if rng.random() >= self._move_heads:
            still = no_motion(len(frames.nmfcs))
            return still, {"frames": still[own], "nmfcs": still[rows], **rest}
        shapes = frames.shapes if frames.shapes is not None else head_shapes(frames.nmfcs, frames.landmarks, masks, person.head)
        heads, meshes = head_fields(random_head_motion(rng), shapes, self.load_size, person.head.perspective)
        return heads, {"frames": heads[own] * shapes.fade[own][..., None], "nmfcs": meshes[rows], **rest}

    def _frames(self, sequence: int, first: int, last: int) -> _Frames:
        frames = self._cache.get(sequence)
        if frames is None:
            frames = self._load(sequence)
        if frames is None:  # no room to keep it
            return read_frames(self.sequences[sequence], self._numbers[sequence][first:last], self.load_size)
        shapes = None if frames.shapes is None else frames.shapes[first:last]
        return _Frames(frames.images[first:last], frames.nmfcs[first:last], frames.landmarks[first:last], shapes)

    def _load(self, sequence: int) -> _Frames | None:
        """Read and keep a whole sequence, if the budget allows."""
        person = None if self._persons is None else self._person(sequence)
        with self._lock:
            if sequence not in self._cache:
                need = len(self._numbers[sequence]) * self.load_size**2 * 6
                if need > self._budget:
                    return None
                frames = read_frames(self.sequences[sequence], self._numbers[sequence], self.load_size)
                if person is not None:
                    frames = replace(frames, shapes=head_shapes(frames.nmfcs, frames.landmarks, person.masks, person.head))
                self._cache[sequence] = frames
                self._budget -= self._cache[sequence].nbytes
            return self._cache[sequence]

    def _person(self, sequence: int) -> _Person:
        """The person of a sequence, with the masks of its frames."""
        name = self._names[sequence]
        with self._lock:
            if name not in self._person_cache:
                found = self._persons(name)
                background = resize_image(found.background, self.load_size)
                self._person_cache[name] = _Person(found.masks, background, self._head(name, found.masks))
            person = self._person_cache[name]
        before = sum(len(n) for n, other in zip(self._numbers[:sequence], self._names) if other == name)
        return replace(person, masks=person.masks[before : before + len(self._numbers[sequence])])

    def _head(self, name: str, masks: np.ndarray) -> Head:
        """A person's head, measured from some of all training frames."""
        frames = [(s, n) for s, numbers, other in zip(self.sequences, self._numbers, self._names) if other == name for n in numbers]
        chosen = spread(len(frames), _HEAD_FRAMES)

        with ThreadPoolExecutor(_READERS) as pool:
            nmfcs = list(pool.map(lambda i: _read_square(frames[i][0], "nmfcs", frames[i][1], None), chosen))
        landmarks = [read_landmarks(frames[i][0], "landmarks70", frames[i][1]) for i in chosen]
        paths = [frames[i][0].path("misc", frames[i][1]) for i in chosen]
        cameras = None
        if self._perspective and all(p.is_file() for p in paths):
            cameras = np.array([scale * rotation for scale, rotation, _ in map(read_camera, paths)])
        return measure_head(np.stack(nmfcs), np.stack(landmarks), masks[chosen], cameras, perspective=self._perspective)

    def _read_flows(self, sequence: int) -> dict[int, np.ndarray]:
        if self._flows is None:
            return {}
        with self._lock:
            if sequence in self._flow_cache:
                return self._flow_cache[sequence]
            flows = self._flows(self.sequences[sequence])
            size = sum(f.nbytes for f in flows.values())
            if size <= self._budget:
                self._budget -= size
                self._flow_cache[sequence] = flows
            return flows


def _quarter_of_memory() -> float:
    """Bytes; of the container's memory if it is limited."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        total = 8e9
    with suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(total / 4, 16e9)


def read_frames(sequence: layout.Sequence, numbers: Sequence[int], load_size: int) -> _Frames:
    """Decode some frames of a sequence on a few threads.

    Raises: UserError when a file is missing or unreadable, or its size differs from the sequence's.
    """
    size = _png_size(sequence, "images", numbers[0])[0]

    def read(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = _read_square(sequence, "images", number, size)
        nmfc = _read_square(sequence, "nmfcs", number, size)
        landmarks = read_landmarks(sequence, "landmarks70", number)
        return resize_image(image, load_size), resize_nmfc(nmfc, load_size), (landmarks * (load_size / size)).astype(np.float32)

    with ThreadPoolExecutor(_READERS) as pool:
        images, nmfcs, landmarks = zip(*pool.map(read, numbers))
    return _Frames(np.stack(images), np.stack(nmfcs), np.stack(landmarks))


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

    sequence: layout.Sequence
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
        return cls(sequence, kinds, load_size, _png_size(sequence, kinds[1], numbers[0])[0], numbers[:how_many])

    def __len__(self) -> int:
        return len(self.numbers)

    def paths(self) -> list[Path]:
        """All files that the frames are read from."""
        return [self.sequence.path(kind, number) for kind in self.kinds if kind for number in self.numbers]

    def __iter__(self) -> Iterator[DrivingFrame]:
        return map_ahead(self._read, self.numbers, threads=_READERS, depth=2 * _READERS)

    def _read(self, number: int) -> DrivingFrame:
        images, nmfcs, points = self.kinds
        landmarks, gaze = None, np.zeros((self.load_size, self.load_size, 3), np.uint8)
        if points:
            landmarks = (read_landmarks(self.sequence, points, number) * (self.load_size / self.image_size)).astype(np.float32)
            gaze = draw_eye_gaze(landmarks, self.load_size)
        image = resize_image(_read_square(self.sequence, images, number, None), self.load_size) if images else None
        nmfc = resize_nmfc(_read_square(self.sequence, nmfcs, number, self.image_size), self.load_size)
        return DrivingFrame(number, image, nmfc, gaze, landmarks)


def check_sequence(sequence: layout.Sequence, kinds: Sequence[str]) -> list[int]:
    """Check that a sequence has the same consecutive frames in all kinds and square images of one size; returns the frame numbers.

    Raises: UserError that names the missing files and the command that makes them.
    """
    numbers = sequence.frames(kinds[0])
    for kind in kinds:
        have = sequence.frames(kind)
        if have != numbers:
            command = "preprocessing/" + _COMMANDS.get(kind, "reenact.py")
            if not have:
                raise UserError(f"{sequence.id} has no {kind} ({sequence.folder(kind)} is missing or empty); run {command} first")
            odd = sorted(set(have) ^ set(numbers))[0]
            raise UserError(
                f"{sequence.id} has {len(numbers)} {kinds[0]} but {len(have)} {kind} (first difference: frame {odd:06d}); "
                f"run {command} again"
            )
    if not numbers or numbers[-1] - numbers[0] + 1 != len(numbers):
        hole = next((a + 1 for a, b in zip(numbers, numbers[1:]) if b != a + 1), 0)
        raise UserError(
            f"{sequence.folder(kinds[0])} lacks frame {hole:06d}; frames must be consecutive, run preprocessing/detect.py again"
        )
    sizes = {kind: _png_size(sequence, kind, numbers[0]) for kind in kinds if layout.KINDS[kind] == ".png"}
    (kind, size), *others = sizes.items()
    if size[0] != size[1]:
        raise UserError(
            f"{sequence.path(kind, numbers[0])} is {size[0]}x{size[1]} pixels; images must be square, run preprocessing/detect.py"
        )
    for other, other_size in others:
        if other_size != size and not kind.startswith("source_"):  # a driver's own frames may have another size than the pair's NMFCs
            raise UserError(
                f"{sequence.id}: {kind} are {size[0]} pixels wide but {other} {other_size[0]}; run preprocessing/{_COMMANDS[other]} again"
            )
    return numbers


def check_steps(dataset: Dataset, name: str) -> Record | None:
    """The identity's record, once it says that all steps of preprocessing are complete; None if it has none.

    Files alone prove nothing: a step that was interrupted, or is out of date, leaves files too.
    Raises: UserError that names the command to run.
    """
    record = dataset.read_record(name)
    for step, command in _STEPS.items() if record else ():
        if step not in record.steps:
            raise UserError(
                f"preprocessing of {name} is not complete; run preprocessing/{command} --dataset_name {dataset.home.name} (again)"
            )
    return record


def read_landmarks(sequence: layout.Sequence, kind: str, number: int) -> np.ndarray:
    """Read the 70 landmarks of a frame, float64 [70, 2] in pixels of the stored image."""
    path = sequence.path(kind, number)
    landmarks = read_table(path)
    if landmarks.shape != (70, 2) or not np.isfinite(landmarks).all():
        raise UserError(f"{path} does not hold 70 points; delete it and run preprocessing/{_COMMANDS.get(kind, 'reenact.py')} again")
    return landmarks


def _read_square(sequence: layout.Sequence, kind: str, number: int, size: int | None) -> np.ndarray:
    path = sequence.path(kind, number)
    image = read_image(path)
    side = size or image.shape[0]
    if image.shape[:2] != (side, side):
        raise UserError(
            f"{path} is {image.shape[1]}x{image.shape[0]} pixels where {side}x{side} are expected; "
            f"run preprocessing/{_COMMANDS.get(kind, 'reenact.py')} again"
        )
    return image


def _png_size(sequence: layout.Sequence, kind: str, number: int) -> tuple[int, int]:
    """Width and height from a PNG file's head, without decoding it."""
    path = sequence.path(kind, number)
    with path.open("rb") as f:
        head = f.read(24)
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        raise UserError(f"{path} is not a readable image; delete it and run preprocessing/{_COMMANDS.get(kind, 'reenact.py')} again")
    return struct.unpack(">II", head[16:])


def _common_face_model(dataset: Dataset, names: Sequence[str]) -> dict[str, str] | None:
    """The face model that all persons' NMFCs were drawn with; None when no record says (a dataset of the original system).

    Raises: UserError when persons differ: the same colour would mean different points of the face.
    """
    models: dict[str, Record] = {}
    for name in names:
        record = check_steps(dataset, name)
        if record and record.face_model:
            models[str(sorted(record.face_model.items()))] = record
    if len(models) > 1:
        a, b, *_ = models.values()
        shown = [f"{r.name} (with {r.face_model['name']} {r.face_model.get('version', '')})" for r in (a, b)]
        raise UserError(
            f"{shown[0]} and {shown[1]} were fitted with different face models; run preprocessing/reconstruct.py "
            f"--dataset_name {dataset.home.name} --face_model {a.face_model['name']} so that all use one"
        )
    return next(iter(models.values())).face_model if models else None
