"""The only module that knows folder and file names (see docs/formats.md).

    datasets/<D>/original_videos/<name>.mp4
    datasets/<D>/dataset/<split>/<kind>/<sequence>/<frame:06d><suffix>     one file per frame
    datasets/<D>/dataset/<split>/landmarks478/<sequence>.npy               one file per sequence
    datasets/<D>/dataset/<split>/id_coeffs/<name>.txt                      one file per identity
    datasets/<D>/dataset/metadata/<name>/dataset.json                      one record per identity
    datasets/<D>/dataset/metadata/<name>/track.npz                         boxes of the face, one file per identity
    datasets/<D>/dataset/metadata/<target>_<source>/pair.json              one record per driven pair
    checkpoints/<D>/<run>/profiles/<name>.npz                              target profile of a trained person

A *sequence* is a run of consecutive frames: in `train` it is `<name>_<part:06d>` (usually 50 frames), in `test` it is
`<name>`; pairs made by reenact.py are called `<target>_<source>`. Frame numbers of test go on from train.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Sequence as Sequence_
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from util.cli import UserError, say
from util.hashing import sha256_of_kept
from util.image_io import write_bytes
from util.stored import brief_error, check_fields, has_type, load_json, load_rate

SPLITS = ("train", "test")
# what a frame may be instead of a good view of the person -> in words, after a number
FRAME_STATES = {
    "dark": "dark, blank or between two shots",
    "other shot": "of another shot",
    "lost": "without the face",
    "other face": "with another face in its place",
    "covered": "with a covered face",
}
# kind -> suffix of its per-frame files
KINDS = {
    "images": ".png",
    "nmfcs": ".png",
    "landmarks70": ".txt",
    "exp_coeffs": ".txt",
    "misc": ".txt",
    "source_images": ".png",
    "source_nmfcs": ".png",
    "source_landmarks70": ".txt",
}
PROFILE_REMEDY = "make it with scripts/write_profile.py where the dataset is, or train again"
_SETTLED_NS = 2_000_000_000  # a tick of the coarsest file system's clock (FAT)
_PART = re.compile(r"(?P<name>.+)_(?P<part>\d{6})")
_NAME = re.compile(r"(?!\.\.?$)[^\s/\\\x00-\x1f]+")


def root() -> Path:
    """The repository's root: every default path hangs below it, so commands run from any folder."""
    return Path(__file__).resolve().parents[1]


def flownet2_checkpoint(face: bool, folder: Path | None = None) -> Path:
    """FlowNet2's weights under the published names, plain or tuned on faces. folder: models/flownet2_pytorch if None."""
    return (folder or root() / "models" / "flownet2_pytorch") / f"FlowNet2_checkpoint.pth{'_faceflow' if face else ''}.tar"


@dataclass(frozen=True)
class Sequence:
    """A run of consecutive frames of one identity in one split."""

    dataset: Path  # datasets/<D>/dataset
    split: str
    id: str  # folder name: <name>_<part:06d>, <name>, or <target>_<source>

    def folder(self, kind: str) -> Path:
        return self.dataset / self.split / kind / self.id

    def path(self, kind: str, frame: int) -> Path:
        """Path of one frame's file of a kind in KINDS."""
        return Path(f"{self.dataset}/{self.split}/{kind}/{self.id}/{frame:06d}{KINDS[kind]}")  # a third of the time of four `/`

    def frames(self, kind: str = "images") -> list[int]:
        """Frame numbers present for a kind, ascending; [] when the folder is missing."""
        suffix = KINDS[kind]
        try:
            with os.scandir(self.folder(kind)) as entries:
                stems = [entry.name[: -len(suffix)] for entry in entries if entry.name.endswith(suffix)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(stem) for stem in stems if stem.isdigit())

    @property
    def dense_landmarks_path(self) -> Path:
        """float32 [frames, 478, 3]: x, y in pixels of the crop, z in the same unit (smaller is nearer)."""
        return self.dataset / self.split / "landmarks478" / f"{self.id}.npy"

    def flow_path(self, name: str, size: int) -> Path:
        """Cache of optical flow between this sequence's real frames, of method `name` at `size` pixels."""
        return self.dataset / self.split / "flows" / f"{name}_{size}" / f"{self.id}.rows"

    def digests_path(self, kind: str) -> Path:
        """Cache of the digests of this sequence's files of a kind (util.caches.digests)."""
        return self.dataset / self.split / "digests" / kind / f"{self.id}.json"

    def head_shapes_path(self, size: int) -> Path:
        """Cache of the head shapes of this sequence's frames at `size` pixels (data.augmentation.head_shapes)."""
        return self.dataset / self.split / "head_shapes" / str(size) / f"{self.id}.rows"


@dataclass(frozen=True)
class Record:
    """dataset.json: where an identity's frames come from and which steps are complete."""

    name: str
    fps: Fraction  # exact frame rate of the crops
    sources: list[dict[str, Any]] = field(default_factory=list)  # per part: file, sha256, frames, width, height
    # left, top, right, bottom in pixels of the upright source frame; what lies outside the frame repeats its border
    crop_box: list[int] = field(default_factory=list)
    crop_size: int = 256
    splits: dict[str, int] = field(default_factory=dict)  # split -> number of frames
    # split -> its first frame, counted over all parts of the source from 0; below 0 when that frame is repeated first
    source_start: dict[str, int] = field(default_factory=dict)
    face_model: dict[str, str] | None = None  # name, version
    # step -> what it was made from; a step is here only once all of its files are written
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_number: int = 0  # number of the frame that source_start["train"] tells of
    shots: list[int] = field(default_factory=list)  # numbers of the frames that begin another shot or part than the frame before
    # step -> [first number, last number, one of FRAME_STATES]: frames that the step found not to show the person well
    bad_frames: dict[str, list[list[Any]]] = field(default_factory=dict)
    coverage: list[dict[str, str]] = field(default_factory=list)  # what the frames show of the person (util.report.coverage)
    consent: str = ""  # the person's, in the user's words; empty: not stated

    def with_step(self, step: str, key: dict[str, Any]) -> Record:
        return replace(self, steps={**self.steps, step: key})

    def without_steps(self, *steps: str) -> Record:
        return replace(self, steps={k: v for k, v in self.steps.items() if k not in steps})

    def sound_source(self, split: str, dataset: Dataset | None = None) -> tuple[Path, float] | None:
        """The source file whose sound belongs to a split, and the moment in it (seconds) of the split's first frame.

        dataset: where to look for a file that was moved (Dataset.find_video); None: only where it was recorded.
        None when nothing is known of the source or its file is gone. The split may go on into the next part; this is
        the part in which it starts.
        """
        part = self.part_at(split)
        if part is None:
            return None
        source, frame = part
        path = dataset.find_video(source) if dataset else Path(source["file"])
        return (path, float(frame / self.fps)) if path and path.is_file() else None

    def part_at(self, split: str) -> tuple[dict[str, Any], int] | None:
        """The one of `sources` in which a split starts, and the split's first frame in it; None when that is not known."""
        frame = self.source_start.get(split)
        for source in self.sources if frame is not None else []:
            if frame < source["frames"]:
                return source, frame
            frame -= source["frames"]
        return None

    def source_index(self, number: int) -> int:
        """The frame of the source, counted over all parts from 0, of which a frame of this number is; below 0: the first, repeated."""
        return number - self.first_number + self.source_start.get("train", 0)

    def states(self, numbers: ArrayLike, step: str | None = None) -> np.ndarray:
        """What these frames are instead of a good view of the person, by a step or by all: FRAME_STATES' keys, '' for a good view."""
        numbers = np.asarray(numbers)
        found = np.full(numbers.shape, "", f"<U{max(map(len, FRAME_STATES))}")
        for first, last, state in itertools.chain(*(ranges for by, ranges in self.bad_frames.items() if step in (None, by))):
            found[(found == "") & (numbers >= first) & (numbers <= last)] = state
        return found

    def usable(self, numbers: ArrayLike) -> np.ndarray:
        """Which of these frames show the person well: bool, as many. The others are neither learnt from nor measured."""
        return self.states(numbers) == ""

    def tell_bad_frames(self, numbers: Sequence_[int]) -> str:
        """How many of these frames are not usable and why, as '12 dark or blank, 3 without the face'; '' if all are."""
        states = self.states(numbers)
        counts = {state: np.count_nonzero(states == state) for state in FRAME_STATES}
        return ", ".join(f"{count} {FRAME_STATES[state]}" for state, count in counts.items() if count)

    def with_bad_frames(self, step: str, numbers: ArrayLike, states: Sequence_[str]) -> Record:
        """The record with a step's findings: the state of every frame of these ascending numbers, '' where it shows the person well."""
        found: list[list[Any]] = []
        for number, state in zip(np.asarray(numbers).tolist(), states):
            if not state:
                continue
            if found and found[-1][1] == number - 1 and found[-1][2] == state:
                found[-1][1] = number
            else:
                found.append([number, number, state])
        rest = {k: v for k, v in self.bad_frames.items() if k != step}
        return replace(self, bad_frames={**rest, step: found} if found else rest)

    def is_done(self, step: str, key: dict[str, Any]) -> bool:
        """Whether `step` was completed from exactly `key` (JSON-comparable values)."""
        return self.steps.get(step) == json.loads(json.dumps(key))


@dataclass(frozen=True)
class Pair:
    """pair.json: what drives a target in test/source_*/<target>_<source>/, frame by frame. Written by preprocessing/reenact.py."""

    target: str
    source: str  # the source identity, or the stem of the file that drives; second half of the folder's name
    mode: str  # head: the source's pose and expression; face: the source's expression, the target's pose
    fps: Fraction  # frame rate of the pair: the source's; of a file that drives, the target's
    frames: list[int]  # first and last number; the source's own, or from 0 where those have gaps
    # identity: {"kind": "identity", "split": S's split}; file: {"kind": "arkit" or "template", "file": ..., "sha256": ...}
    driver: dict[str, Any]
    target_split: str
    # one per frame of the pair: the target's frame (in target_split) of that moment, running there and back when there are too
    # few. In face mode the pair's pose is exactly that frame's; in head mode it only says which frame belongs behind the head
    target_frames: list[int]
    made_from: dict[str, Any] = field(default_factory=dict)  # options and preprocessing steps: another one makes the pair again
    complete: bool = False  # False while the frames are being written

    @property
    def target_is_profile(self) -> bool:
        """Whether the target was driven by the profile of a trained run, not by its frames in the dataset."""
        return "profile" in (self.made_from.get("people", {}).get(self.target) or {})


@dataclass(frozen=True)
class Dataset:
    """datasets/<D>: all paths of one dataset."""

    home: Path

    @classmethod
    def open(cls, dataset_name: str, datasets_dir: str | Path | None = None) -> Dataset:
        if not dataset_name or not _NAME.fullmatch(dataset_name):
            raise UserError(f"'{dataset_name}' is not usable as a dataset's name; use letters, digits, '_' and '-'")
        return cls(Path(datasets_dir or root() / "datasets") / dataset_name)

    @classmethod
    def find(cls, dataset_name: str, datasets_dir: str | Path | None, recorded: str | Path | None) -> Dataset:
        """A dataset that may have been moved: in `datasets_dir` if that is given, else in the folder of datasets where it once was
        (`recorded`), else in this repository's; where it once was if it is in none."""
        places = [datasets_dir] if datasets_dir else [recorded, None]
        found = [cls.open(dataset_name, place) for place in places]
        return next((dataset for dataset in found if dataset.folder.is_dir()), found[0])

    @property
    def original_videos(self) -> Path:
        return self.home / "original_videos"

    def find_video(self, source: dict[str, Any]) -> Path | None:
        """The file of one of a record's `sources`, wherever it is now; None when there is none of the same SHA-256.

        Looked for where it was recorded, then in original_videos, then among the files of the same kind beside its recorded place.
        """
        recorded, sha256 = Path(source["file"]), source.get("sha256")
        if not sha256:  # there is nothing to know it by
            return recorded if recorded.is_file() else None

        def is_it(path: Path) -> bool:
            with suppress(OSError):  # may not be read
                return path.is_file() and sha256_of_kept(path) == sha256
            return False

        named = [recorded, self.original_videos / recorded.name]
        if found := next(filter(is_it, named), None):
            return found
        beside = [p for p in recorded.parent.glob("*") if p.suffix.lower() == recorded.suffix.lower()]
        others = [p for p in dict.fromkeys([*sorted(self.original_videos.rglob("*")), *sorted(beside)]) if p.is_file() and p not in named]
        if len(others) > 1:
            say(f"looking for {recorded.name} by its content among {len(others)} other files")
        return next(filter(is_it, others), None)

    def lost_video(self, name: str, source: dict[str, Any]) -> str:
        """The sentence for a video of the identity `name` that find_video does not find."""
        file = Path(source["file"])
        state = f"{file} is not the file any more that {name}'s crops were cut from" if file.is_file() else f"{file} is gone"
        return (
            f"{name}'s original video {state}, and neither {self.original_videos} nor the folder where it was holds another file of the "
            f"same content; put the original, under any name, into {self.original_videos}"
        )

    @property
    def folder(self) -> Path:
        return self.home / "dataset"

    def sequence(self, split: str, id: str) -> Sequence:
        return Sequence(self.folder, split, id)

    def train_sequence(self, name: str, part: int) -> Sequence:
        return self.sequence("train", f"{name}_{part:06d}")

    def sequences(self, split: str, name: str, kind: str = "images") -> list[Sequence]:
        """The sequences of exactly the identity `name` in a split, in order ("Ann" never finds "Anna" or "Ann_B")."""
        base = self.folder / split / kind
        try:
            changed_ns = base.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return []
        # where the folder changed just now, its time may stay the same when it changes once more
        known = _sequence_ids if changed_ns < time.time_ns() - _SETTLED_NS else _sequence_ids.__wrapped__
        return [self.sequence(split, id) for id in known(base, changed_ns).get(name, ())]

    def identities(self) -> list[str]:
        """Names of all identities with frames in any split, sorted."""
        names = set()
        for split in SPLITS:
            base = self.folder / split / "images"
            if base.is_dir():
                for p in base.iterdir():
                    match = _PART.fullmatch(p.name)
                    if p.is_dir():
                        names.add(match["name"] if match and split == "train" else p.name)
        return sorted(names)

    def identities_with(self, split: str, kinds: Sequence_[str]) -> set[str]:
        """Identities whose sequences in a split are there in all of these kinds. One look for all of them; files are not counted."""
        ids = []
        for kind in kinds:
            base = self.folder / split / kind
            ids.append({p.name for p in base.iterdir()} if base.is_dir() else set())
        names = {id: match["name"] if split == "train" and (match := _PART.fullmatch(id)) else id for id in set.union(*ids)}
        return set(names.values()) - {names[id] for id in set.union(*ids) - set.intersection(*ids)}

    def id_coeffs_path(self, split: str, name: str) -> Path:
        return self.folder / split / "id_coeffs" / f"{name}.txt"

    def persons_path(self, name: str) -> Path:
        """Cache of the person mattes of the training frames, and of the background."""
        return self.folder / "train" / "persons" / f"{name}.rows"

    def appearance_path(self, name: str) -> Path:
        """Cache of an identity's colours (util.face.appearance)."""
        return self.folder / "train" / "appearances" / f"{name}.npz"

    def record_path(self, name: str) -> Path:
        return self.folder / "metadata" / name / "dataset.json"

    def track_path(self, name: str) -> Path:
        """An identity's face boxes: `numbers`, int32 [N], and `boxes`, float32 [N, 4], pixels of the crop, nan where not found."""
        return self.folder / "metadata" / name / "track.npz"

    def lock_path(self, name: str) -> Path:
        """Held by the process that works on an identity (util.locks); gone afterwards."""
        return self.folder / "metadata" / f".{name}.lock"

    def read_record(self, name: str) -> Record | None:
        """The identity's dataset.json, or None for a dataset of the original system (it has none).

        Raises: UserError when the file is damaged.
        """
        path = self.record_path(name)
        try:
            fields = load_json(path.read_text())
            return _record(fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, ZeroDivisionError) as e:
            raise UserError(
                f"{path} is damaged ({brief_error(e)}); delete it and {name}'s frames (in train/images and test/images of "
                f"{self.folder}), and run "
                "preprocessing/detect.py again"
            ) from None

    def write_record(self, record: Record) -> None:
        text = json.dumps({**record.__dict__, "fps": str(record.fps)}, indent=1)
        write_bytes(self.record_path(record.name), text.encode())

    def consent(self, name: str) -> str:
        """What was said of an identity's consent; '' when that is nothing, or the identity has no record."""
        record = self.read_record(name)
        return record.consent if record else ""

    def pair(self, target: str, source: str) -> Sequence:
        """The sequence of a driven pair; its kinds are source_images, source_nmfcs and source_landmarks70."""
        return self.sequence("test", f"{target}_{source}")

    def pair_path(self, target: str, source: str) -> Path:
        return self.folder / "metadata" / f"{target}_{source}" / "pair.json"

    def read_pair(self, target: str, source: str) -> Pair | None:
        """The pair's record, or None when there is none (not made, or made by the original system).

        Raises: UserError when the file is damaged.
        """
        path = self.pair_path(target, source)
        try:
            fields = load_json(path.read_text())
            return _pair(fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, ZeroDivisionError) as e:
            raise UserError(f"{path} is damaged ({brief_error(e)}); delete it and run preprocessing/reenact.py again") from None

    def bad_frames(self, name: str, split: str, numbers: Sequence_[int]) -> list[int]:
        """Those of an identity's frames that do not show the person well; [] for numbers that are not those of the split's frames."""
        record = self.read_record(name)
        if record is None or not record.bad_frames:
            return []
        own = {n for s in self.sequences(split, name) for n in s.frames()}
        return [n for n, good in zip(numbers, record.usable(numbers)) if not good] if own.issuperset(numbers) else []

    def write_pair(self, pair: Pair) -> None:
        text = json.dumps({**pair.__dict__, "fps": str(pair.fps)}, indent=1)
        write_bytes(self.pair_path(pair.target, pair.source), text.encode())


_SOURCE = {"file": str, "frames": int}  # what is needed of a record's sources
_NAME_BYTES = 255  # no file system has longer names


def _record(fields: Any) -> Record:
    """Raises: ValueError, TypeError, KeyError."""
    bad_frames = dict[str, list[tuple[int, int, str]]]
    check_fields(Record, fields, fps=str, bad_frames=bad_frames)
    for source in fields.get("sources", []):
        if not all(has_type(source[key], kind) for key, kind in _SOURCE.items()) or not has_type(source.get("sha256"), str | None):
            raise ValueError(f"a source is {str(source)[:60]}")
        if "\0" in source["file"] or any(len(os.fsencode(part)) > _NAME_BYTES for part in Path(source["file"]).parts):
            raise ValueError("a source's file is none")
    if len(fields.get("crop_box", [])) not in (0, 4) or fields.get("crop_size", 1) < 1:
        raise ValueError("its crop box is none")
    if fields.get("face_model") is not None and not {"name", "version"} <= fields["face_model"].keys():
        raise ValueError(f"face_model is {fields['face_model']}")
    return Record(**{**fields, "fps": load_rate(fields["fps"])})


def _pair(fields: Any) -> Pair:
    """Raises: ValueError, TypeError, KeyError."""
    check_fields(Pair, fields, fps=str, frames=tuple[int, int])
    if fields["mode"] not in ("head", "face"):
        raise ValueError(f"mode is {fields['mode'][:40]!r}")
    people = fields.get("made_from", {}).get("people", {})
    if not has_type(people, dict[str, dict[str, Any] | None]):
        raise ValueError(f"people is {str(people)[:40]!r}")
    return Pair(**{**fields, "fps": load_rate(fields["fps"])})


def check_name(option: str, name: str | None) -> None:
    """Raises: UserError when what an option names (a person, a run) could not be a folder's name, or would lead out of its place."""
    if name is not None and (not name.strip() or name in (".", "..") or any(c in "/\\" or c < " " for c in name)):
        raise UserError(f"{option} '{name}' is no usable name; give a plain name without slashes")


@lru_cache(maxsize=8)
def _sequence_ids(base: Path, changed_ns: int) -> dict[str, list[str]]:
    """The sequences of every identity in a folder that was changed then: it is listed once, not for each of a thousand identities."""
    found: dict[str, list[str]] = {}
    with os.scandir(base) as entries:
        for entry in sorted((e for e in entries if e.is_dir()), key=lambda e: e.name):
            match = _PART.fullmatch(entry.name)
            for name in {entry.name, match["name"] if match else entry.name}:
                found.setdefault(name, []).append(entry.name)
    return found


def usable_frames(record: Record | None, numbers: ArrayLike) -> np.ndarray:
    """Record.usable; without a record, as in a dataset of the original system, all are."""
    return record.usable(numbers) if record else np.ones(np.shape(numbers), bool)


def continues(frames: list[tuple[Sequence, int]], record: Record | None) -> np.ndarray:
    """Whether each frame goes on from the one before: bool [N]. It does not behind a cut, a gap in the numbers, or another part."""
    numbers = np.array([number for _, number in frames])
    joined = np.r_[False, np.diff(numbers) == 1]
    if record:
        joined &= ~np.isin(numbers, record.shots)
    if record and len(record.sources) > 1:
        ends = np.cumsum([source["frames"] for source in record.sources])
        part = np.searchsorted(ends, [record.source_index(n) for n in numbers], side="right")
        joined &= np.r_[False, np.diff(part) == 0]
    return joined


def write_table(path: str | Path, values: np.ndarray, precision: int = 6) -> None:
    """Write numbers as text, one row a line (landmarks "x y", cameras, coefficients)."""
    rows = np.atleast_2d(np.asarray(values, np.float64))
    text = "\n".join(" ".join(f"{v:.{precision}f}" for v in row) for row in rows)
    write_bytes(path, (text + "\n").encode())


def read_table(path: str | Path) -> np.ndarray:
    """Read a text table as float64 [rows, columns] (a column vector is [n, 1]).

    Raises: UserError when the file is missing or holds something else.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"there is no {path}; run the step that makes it") from None
    except ValueError:  # no text
        lines = []
    with suppress(ValueError):  # a tenth of the time that numpy.loadtxt takes, which knows comments too, and says what is wrong
        rows = [list(map(float, line.split())) for line in lines]
        if rows and rows[0]:
            return np.array(rows, np.float64)
    try:
        return np.loadtxt(path, dtype=np.float64, ndmin=2)
    except ValueError as e:
        raise UserError(f"{path} is not a table of numbers ({e}); delete it and run the step that makes it again") from None


def write_camera(path: str | Path, scale: float, rotation: np.ndarray, translation: np.ndarray) -> None:
    """misc/<frame>.txt of a weak-perspective camera, x_px = scale * rotation @ X + translation.

    One row scale, three rows rotation [3, 3], three rows translation [3].
    """
    rows = [f"{scale:.8f}", *(" ".join(f"{v:.8f}" for v in r) for r in np.asarray(rotation)), *(f"{v:.6f}" for v in np.ravel(translation))]
    write_bytes(path, ("\n".join(rows) + "\n").encode())


def read_camera(path: str | Path) -> tuple[float, np.ndarray, np.ndarray]:
    """Read what write_camera wrote: scale, rotation float64 [3, 3], translation float64 [3]."""
    try:
        values = np.array(Path(path).read_text().split(), np.float64)
    except FileNotFoundError:
        raise UserError(f"there is no camera {path}; run preprocessing/reconstruct.py") from None
    except ValueError:
        values = np.empty(0)
    if values.size != 13:
        raise UserError(f"{path} is not a camera (13 numbers expected); delete it and run preprocessing/reconstruct.py again")
    return float(values[0]), values[1:10].reshape(3, 3), values[10:]


@dataclass(frozen=True)
class Run:
    """checkpoints/<D>/head2head_<T>: one trained person."""

    checkpoints: Path
    results: Path

    @classmethod
    def open(cls, dataset_name: str, name: str, checkpoints_dir: str | Path | None = None, results_dir: str | Path | None = None) -> Run:
        base = root()
        return cls(
            Path(checkpoints_dir or base / "checkpoints") / dataset_name / name,
            Path(results_dir or base / "results") / dataset_name / name,
        )

    @property
    def lock_path(self) -> Path:
        """Held by the process that trains the run (util.locks); gone afterwards."""
        return self.checkpoints.with_name(f".{self.checkpoints.name}.lock")

    def network_path(self, label: str, which_epoch: str | int = "latest") -> Path:
        """Weights of one network; label is G, D, Dm, De or D_T0..2."""
        return self.checkpoints / f"{which_epoch}_net_{label}.pth"

    @property
    def state_path(self) -> Path:
        """Complete training state, for an exact resume."""
        return self.checkpoints / "latest_state.pt"

    def profile_path(self, name: str | None = None) -> Path:
        """Target profile of a person that the run was trained on; driving needs it instead of the dataset.

        name: the person; None: the run's only one. Raises: UserError without a name when there is none, or several.
        """
        folder = self.checkpoints / "profiles"
        if name is None:
            found = sorted(folder.glob("*.npz"))
            if len(found) != 1:
                names = ", ".join(path.stem for path in found) or "none"
                raise UserError(f"{folder} does not hold one target profile (but {names}); name the person, or {PROFILE_REMEDY}")
            return found[0]
        return folder / f"{name}.npz"

    def appearance_path(self, name: str) -> Path:
        """Colours of a person that the run was trained on (util.face.appearance)."""
        return self.checkpoints / "appearances" / f"{name}.npz"

    def export_folder(self, format: str) -> Path:
        """What scripts/export.py writes."""
        return self.checkpoints / "export" / format

    @property
    def options_path(self) -> Path:
        return self.checkpoints / "opt.txt"

    @property
    def iteration_path(self) -> Path:
        return self.checkpoints / "iter.txt"

    @property
    def log_path(self) -> Path:
        """loss_log.txt, as the original names it: one JSON object a line."""
        return self.checkpoints / "loss_log.txt"

    @property
    def web(self) -> Path:
        return self.checkpoints / "web"

    def test_folder(self, id: str, which_epoch: str | int = "latest", split: str = "test") -> Path:
        """results/<D>/head2head_<T>/<epoch>_epoch/<split>/<id>: holds real/, fake/, ... and index.html."""
        return self.results / f"{which_epoch}_epoch" / split / id


@dataclass(frozen=True)
class PageFiles:
    """results/live: what the page (live/web) keeps between its starts."""

    home: Path

    @classmethod
    def open(cls, results_dir: str | Path | None = None) -> PageFiles:
        return cls(Path(results_dir or root() / "results") / "live")

    @property
    def recordings(self) -> Path:
        return self.home / "recordings"

    @property
    def uploads(self) -> Path:
        """Videos and motion that drive, and videos of new persons until they are moved into a dataset."""
        return self.home / "uploads"

    @property
    def pictures(self) -> Path:
        """Persons at rest, drawn once."""
        return self.home / "pictures"

    @property
    def jobs_lock(self) -> Path:
        """Held by the process that does a job."""
        return self.home / "jobs" / "working.lock"

    def jobs(self) -> list[str]:
        """Names of all jobs, sorted."""
        return sorted(path.stem for path in (self.home / "jobs").glob("*.json"))

    def job_path(self, name: str) -> Path:
        """What a job is to do and how it stands."""
        return self.home / "jobs" / f"{name}.json"

    def job_progress_path(self, name: str) -> Path:
        """How far a job is, rewritten while it runs."""
        return self.home / "jobs" / f"{name}.progress"

    def job_log_path(self, name: str) -> Path:
        """All that a job's commands printed."""
        return self.home / "jobs" / f"{name}.log"
