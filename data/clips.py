"""Prepared videos as training clips. Stateless: a clip depends on its index alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from data.augmentation.expressions import random_expressions
from data.augmentation.head_motion import HeadMotion, head_fields, move_points, no_motion, random_head_motion
from data.augmentation.mesh_motion import Fit, HeadMesh, change_mesh, head_directions
from data.augmentation.transforms import jitter_landmarks, jitter_nmfc, random_jitter
from data.frames import Frames, frames_nbytes, read_frames
from data.heads import (
    SequenceHeads,
    compute_sequence_heads,
    find_appearance,
    fit_nbytes,
    read_appearance,
    read_fit,
    read_sequence_heads,
    shapes_nbytes,
    stored_sequence_heads,
)
from data.integrity import TrainingRun, common_face_model, tell_left_out, training_sequences, usable_runs
from util.caches.flow import flows_nbytes
from util.caches.memory import Budget, KeyedLocks, OnceCache, quarter_of_memory
from util.caches.persons import Persons
from util.cli import UserError
from util.face.appearance import Appearance
from util.face.eye_gaze import draw_eye_gaze
from util.image_io import resize_image, resize_nmfc
from util.layout import Dataset
from util.layout import Sequence as FrameSequence

if TYPE_CHECKING:
    import torch


class FlowReader(Protocol):
    def __call__(self, sequence: FrameSequence, part: slice) -> dict[int, np.ndarray]:
        """A sequence's optical flow among its frames `part`: step -> float16 [frames - step, 2, h, w]."""


_FILMED_DEG = 3.0  # a head that looks this near to where it looks in a frame counts as filmed

# By an identity's name.
PersonReader = Callable[[str], Persons]
# By an identity's name: its face model, None where it is not known.
MeshReader = Callable[[str], HeadMesh | None]


@dataclass(frozen=True)
class ClipIndex:
    """Which clip: frames [start, start + length) of a run of usable frames, and the seed of its jitter."""

    sequence: int  # which run, as in VideoDataset.lengths
    start: int
    length: int
    seed: int


class VideoDataset:
    """Clips of the training sequences of one person or several.

    `dataset[ClipIndex(...)]` depends on its index alone and may be called from several threads. It returns a dict of tensors
    (T = length; frames are consecutive):
      image      uint8 [T, H, W, 3]        RGB
      nmfc       uint8 [T + context, H, W, 3]    the frames before the first come first, clamped at the run's start
      gaze       uint8 [T + context, H, W, 3]    likewise
      landmarks  float32 [T, 70, 2]        x, y in pixels at load size, without jitter
      motion     with `move_heads`: what move_heads (data.augmentation) needs to move the head in image, nmfc and flows;
                 gaze and landmarks are where it will be
      colours    uint8 [CELLS ** 3, 3]  with `appearance`, or with `move_heads` where the mesh is known: the person's (util.face.appearance)
      backdrop   uint8 [H, W, 3]        with `appearance`
      flows      {step: float16 [T - step, 2, h, w]}  with `flows` only; entry i warps frame i of the clip onto frame i + step

    dataset, names: whose sequences.
    load_size: side of the images in pixels; stored images of another size are resized.
    augment: jitter the conditioning (data.augmentation.transforms.random_jitter).
    move_heads: share of the clips, 0..1, in which the head is moved, in frames and conditioning alike; needs `persons`.
    change_expressions: share of the moved clips, 0..1, in which the expression changes too, where the face model is known.
    appearance: give the person's colours and backdrop with every clip.
    context: frames of conditioning before a clip's first: the generator looks at one more.
    cache_gb: keep decoded frames, flow, masks and shapes of heads in memory up to this many gigabytes (None: a quarter of the memory
        there is, at most 16). Sequences beyond that are read again for every clip; their head shapes are cached on disk.
    flows: reads a sequence's cached flow.
    persons: reads the cached masks of an identity. meshes: its face model.
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
        change_expressions: float = 0.0,
        appearance: bool = False,
        context: int = 2,
        cache_gb: float | None = None,
        flows: FlowReader | None = None,
        persons: PersonReader | None = None,
        meshes: MeshReader | None = None,
    ):
        self.load_size = load_size
        self.sequences: list[FrameSequence] = []
        self._names: list[str] = []  # whose each sequence is
        self._numbers: list[list[int]] = []
        self._runs: list[tuple[int, TrainingRun]] = []  # sequence, and frames of it that clips are taken from
        for name in names:
            record, before = dataset.read_record(name), len(self._runs)
            for sequence, numbers in training_sequences(dataset, name):
                self._runs += [(len(self.sequences), run) for run in usable_runs(record, numbers)]
                self._numbers.append(numbers)
                self.sequences.append(sequence)
                self._names.append(name)
            if len(self._runs) == before:
                raise UserError(f"{tell_left_out(dataset, name)}; that leaves nothing to train on: film {name} again")
        self.face_model = common_face_model(dataset, names)
        # all or none: the clips of a batch bring the same things
        known = all((record := dataset.read_record(name)) and record.face_model for name in names)
        self._meshes: MeshReader = meshes if meshes and known else lambda name: None
        self._augment = augment
        self._move_heads = move_heads
        self._change_expressions = change_expressions
        self._with_appearance = appearance
        self._context = context
        self._flows = flows
        self._persons = persons if move_heads else None
        self._dataset = dataset
        self._first_frames = _first_frames(self._names, self._numbers)
        budget = Budget(quarter_of_memory() if cache_gb is None else cache_gb * 1e9)
        # by sequence
        self._cache: OnceCache[int, Frames] = OnceCache(budget)
        self._flow_cache: OnceCache[int, dict[int, np.ndarray]] = OnceCache(budget)
        self._head_cache: OnceCache[int, SequenceHeads] = OnceCache(budget)
        self._fit_cache: OnceCache[int, Fit | None] = OnceCache(budget)
        self._stored_heads: dict[int, str] = {}  # keys of the files of those for which memory had no room
        self._storing: KeyedLocks[int] = KeyedLocks()
        # by identity
        self._person_cache: OnceCache[str, Persons] = OnceCache(budget)
        self._appearance_cache: OnceCache[str, Appearance] = OnceCache(budget)
        self._stored_appearances: dict[str, str] = {}  # keys of the files of those that were found
        self._directions: OnceCache[str, np.ndarray] = OnceCache(budget)

    @property
    def lengths(self) -> list[int]:
        """Number of frames of each run that clips are taken from."""
        return [run.length for _, run in self._runs]

    @property
    def identities(self) -> list[str]:
        """Whose each run is."""
        return [self._names[sequence] for sequence, _ in self._runs]

    @property
    def description(self) -> list[list]:
        """Names and lengths of the runs, and where they begin if that is not at a sequence's start; tells whether data have changed."""
        return [[self.sequences[i].id, run.length, *([run.first] if run.first else [])] for i, run in self._runs]

    def __getitem__(self, clip: ClipIndex) -> dict[str, torch.Tensor | dict[int, torch.Tensor]]:
        import torch

        sequence, run = self._runs[clip.sequence]
        if clip.start < 0 or clip.length < 1 or clip.start + clip.length > run.length:
            raise IndexError(f"{clip} lies outside of a run of {run.length} frames")
        start = run.first + clip.start  # from here on places are those in the stored sequence
        last = start + clip.length
        first = max(run.first, start - self._context)
        frames = self._frames(sequence, first, last)
        rows = np.maximum(np.arange(start - self._context, last), run.first) - first  # of the conditioning, in `frames`
        own = slice(start - first, None)  # the clip's frames among `frames`, which begin with their context
        images, nmfcs, landmarks = frames.images[own], frames.nmfcs, frames.landmarks
        flows = self._read_flows(sequence, slice(start, last))
        rng = np.random.default_rng(clip.seed)
        jitter = random_jitter(rng, self.load_size)
        motion = None
        if self._persons is not None:
            nmfcs, landmarks, motion = self._move(sequence, slice(first, last), frames, own, rows, rng)
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
            item["motion"] = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in motion.items()}
        if self._with_appearance or (motion is not None and "sources" in motion):
            appearance = self.appearance(self._names[sequence])
            item["colours"] = torch.from_numpy(appearance.colours)
        if self._with_appearance:
            item["backdrop"] = torch.from_numpy(appearance.backdrop_of_size(self.load_size, self.load_size))
        return item

    def _move(
        self, sequence: int, part: slice, frames: Frames, own: slice, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """A motion for the head in a sequence's frames `part`, or none by chance.

        Returns: NMFC images and landmarks of the frames as they are to be, and the `motion` of move_heads.
        """
        name, size = self._names[sequence], self.load_size
        known, mesh = self._heads(sequence, part), self._meshes(name)
        masks, shapes, fit = known.masks, known.shapes, None if mesh is None else self._fit(sequence, part)
        motion = {"masks": masks[own], "background": known.background}
        if fit is not None:
            motion["filmed"] = frames.nmfcs[own]
        count = len(masks)
        drawn = random_head_motion(rng) if rng.random() < self._move_heads else None
        if drawn is not None and fit is not None and self._is_filmed(name, fit, drawn):
            # the video itself shows how the head looks there, and shows it better: turned frames would contradict it
            drawn = replace(drawn, turn=np.zeros(2))
        heads = no_motion(count) if drawn is None else head_fields(drawn, shapes, size)
        motion["frames"] = (heads * shapes.fade[..., None])[own]
        if drawn is None or not motion["frames"].any():  # a clip without a face stays as well
            if fit is None:
                motion["nmfcs"] = no_motion(count)[rows]
            else:
                motion["sources"] = np.zeros((count - own.start, size // 2, size // 2, 4), np.float32)
            return frames.nmfcs, frames.landmarks, motion
        if fit is None:
            motion["nmfcs"] = heads[rows]
            landmarks = np.stack([move_points(f, x, size) for f, x in zip(heads, frames.landmarks)]).astype(np.float32)
            return frames.nmfcs, landmarks, motion
        return self._change(mesh, fit, drawn, shapes.fade[own], frames, rng, motion)

    def _change(
        self,
        mesh: HeadMesh,
        fit: Fit,
        drawn: HeadMotion,
        fade: np.ndarray,
        frames: Frames,
        rng: np.random.Generator,
        motion: dict[str, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """As `_move`, with the mesh drawn anew."""
        expression = fit.expression
        if rng.random() < self._change_expressions:
            expression = random_expressions(rng, mesh.names, mesh.bounds, expression)
        changed = change_mesh(mesh, fit, expression, drawn, fade, self.load_size // 2)
        nmfcs = np.stack([resize_nmfc(x, self.load_size) for x in changed.nmfcs])
        landmarks = (frames.landmarks + changed.moved * self.load_size).astype(np.float32)
        return nmfcs, landmarks, motion | {"sources": changed.sources}

    def _is_filmed(self, name: str, fit: Fit, motion: HeadMotion) -> bool:
        """Whether an identity's frames show the head looking nearly where the motion turns it, from its fit in frames of a clip."""

        def find() -> np.ndarray:
            own = [i for i, other in enumerate(self._names) if other == name]
            return np.concatenate([head_directions(self._fit(i, slice(None)).cameras) for i in own])

        filmed = self._directions.get_or_make(name, find, lambda _: 0)  # small, and many files
        away = filmed - (head_directions(fit.cameras).mean(0) + motion.turn)
        return bool((np.linalg.norm(away, axis=1) < np.radians(_FILMED_DEG)).any())

    def appearance(self, name: str) -> Appearance:
        """What an identity looks like."""

        def make() -> Appearance:
            known = self._stored_appearances.get(name)
            kept = known and read_appearance(self._dataset, name, known)
            if not kept:
                mesh = self._meshes(name)
                kept, key = find_appearance(self._dataset, name, self._frames_of(name), None if mesh is None else mesh.mouth)
                self._stored_appearances[name] = key
            return kept

        return self._appearance_cache.get_or_make(name, make, lambda made: made.colours.nbytes + made.backdrop.nbytes)

    def _fit(self, sequence: int, part: slice) -> Fit:
        """What the face model found in frames of a sequence."""
        name, frames = self._names[sequence], [(self.sequences[sequence], n) for n in self._numbers[sequence]]
        kept = self._fit_cache.get(sequence, fit_nbytes(len(frames)), lambda: read_fit(self._dataset, name, frames))
        kept = kept[part] if kept is not None else read_fit(self._dataset, name, frames[part])
        if kept is None:
            raise UserError(f"the fits of '{name}' are incomplete; run preprocessing/reconstruct.py on {name} again")
        return kept

    def _frames_of(self, name: str) -> list[tuple[FrameSequence, int]]:
        """All training frames of an identity."""
        return [(s, n) for s, numbers, other in zip(self.sequences, self._numbers, self._names) if other == name for n in numbers]

    def _frames(self, sequence: int, first: int, last: int) -> Frames:
        frames = self._whole_sequence(sequence)
        if frames is None:  # no room to keep it
            return read_frames(self.sequences[sequence], self._numbers[sequence][first:last], self.load_size)
        return frames[first:last]

    def _whole_sequence(self, sequence: int) -> Frames | None:
        """All frames of a sequence, if the budget has room to cache them."""
        numbers = self._numbers[sequence]
        need = frames_nbytes(len(numbers), self.load_size)
        return self._cache.get(sequence, need, lambda: read_frames(self.sequences[sequence], numbers, self.load_size))

    def _heads(self, sequence: int, part: slice) -> SequenceHeads:
        """What moving heads needs of frames of a sequence; computed once, then kept in memory or, where that has no room, on disk."""
        kept = self._head_cache.peek(sequence)
        if kept is not None:
            return kept[part]
        if sequence in self._stored_heads:
            kept = read_sequence_heads(self.sequences[sequence], self.load_size, self._stored_heads[sequence], part)
            if kept is not None:
                return kept
        name, numbers = self._names[sequence], self._numbers[sequence]
        person = self._person(name)
        masks = person.masks[self._first_frames[sequence] :][: len(numbers)]
        need = shapes_nbytes(len(numbers))
        if self._person_cache.peek(name) is None:  # no room for all masks of the identity: this sequence's are kept with it
            masks = masks.copy()
            need += masks.nbytes + person.background.nbytes

        def compute() -> SequenceHeads:
            frames = self._whole_sequence(sequence) or read_frames(self.sequences[sequence], numbers, self.load_size)
            return compute_sequence_heads(frames.nmfcs, frames.landmarks, masks, person.background)

        kept = self._head_cache.get(sequence, need, compute)
        if kept is None:
            with self._storing[sequence]:
                kept, key = stored_sequence_heads(self.sequences[sequence], numbers, self.load_size, masks, person.background)
                self._stored_heads[sequence] = key
        return kept[part]

    def _person(self, name: str) -> Persons:
        """An identity's masks, and its background at load size."""

        def make() -> Persons:
            found = self._persons(name)
            return Persons(found.masks, resize_image(found.background, self.load_size))

        return self._person_cache.get_or_make(name, make, lambda person: person.nbytes)

    def _read_flows(self, sequence: int, part: slice) -> dict[int, np.ndarray]:
        """The flow among frames `part` of a sequence; all of it is kept where the budget has room."""
        if self._flows is None:
            return {}
        read, count = self._flows, len(self._numbers[sequence])
        whole = self._flow_cache.get(
            sequence, flows_nbytes(count, self.load_size), lambda: read(self.sequences[sequence], part=slice(0, count))
        )
        if whole is None:
            return read(self.sequences[sequence], part=part)
        return {s: f[part.start : max(part.start, part.stop - s)] for s, f in whole.items()}


def _first_frames(identities: Sequence[str], numbers: Sequence[Sequence[int]]) -> list[int]:
    """For each sequence, how many frames of its identity come before it."""
    before: dict[str, int] = {}
    first = []
    for name, own in zip(identities, numbers):
        first.append(before.get(name, 0))
        before[name] = first[-1] + len(own)
    return first
