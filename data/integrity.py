"""Checks before any image is decoded: are the files of a dataset complete, and do they belong together?"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from util.cli import UserError
from util.layout import KINDS, Dataset, Record, usable_frames
from util.layout import Sequence as FrameSequence

# kind of files -> command that makes them
COMMANDS = {"images": "detect.py", "nmfcs": "reconstruct.py", "landmarks70": "detect_landmarks70.py"}
# step that dataset.json must list as complete -> command
_STEPS = {"detect": "detect.py", "landmarks70": "detect_landmarks70.py", "reconstruct": "reconstruct.py"}

MIN_RUN = 10  # frames; shorter runs between bad frames are not trained on


def training_sequences(dataset: Dataset, name: str) -> list[tuple[FrameSequence, list[int]]]:
    """An identity's training sequences and their frame numbers.

    Raises: UserError when there are none, or one is incomplete.
    """
    sequences = dataset.sequences("train", name)
    if not sequences:
        raise UserError(
            f"no training data for {name} in {dataset.folder / 'train' / 'images'}; "
            f"run preprocessing/detect.py --dataset_name {dataset.home.name} --split train on a video of {name}"
        )
    return [(s, check_sequence(s, ("images", "nmfcs", "landmarks70"))) for s in sequences]


@dataclass(frozen=True)
class TrainingRun:
    """Consecutive frames of a stored sequence that all show the person well."""

    first: int  # place of its first frame in the stored sequence
    length: int


def usable_runs(record: Record | None, numbers: Sequence[int]) -> list[TrainingRun]:
    """The runs of usable frames among those of a stored sequence; none shorter than MIN_RUN, unless the sequence itself is."""
    good = usable_frames(record, numbers)
    edges = np.flatnonzero(np.diff(np.r_[False, good, False].astype(int)))
    least = min(MIN_RUN, len(numbers))
    return [TrainingRun(int(a), int(b - a)) for a, b in edges.reshape(-1, 2) if b - a >= least]


def tell_left_out(dataset: Dataset, name: str) -> str:
    """How many of an identity's training frames are not trained on and why, in a sentence; '' if all are."""
    record = dataset.read_record(name)
    numbers = [n for s in dataset.sequences("train", name) for n in s.frames()] if record and record.bad_frames else []
    reasons = record.tell_bad_frames(numbers) if numbers else ""
    return f"{name}: {int((~record.usable(numbers)).sum())} of {len(numbers)} training frames are left out: {reasons}" if reasons else ""


def check_sequence(sequence: FrameSequence, kinds: Sequence[str]) -> list[int]:
    """Check that a sequence has the same consecutive frames in all kinds and square images of one size; returns the frame numbers.

    Raises: UserError that names the missing files and the command that makes them.
    """
    numbers = sequence.frames(kinds[0])
    for kind in kinds:
        have = sequence.frames(kind)
        if have != numbers:
            command = "preprocessing/" + COMMANDS.get(kind, "reenact.py")
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
    sizes = {kind: png_size(sequence, kind, numbers[0]) for kind in kinds if KINDS[kind] == ".png"}
    (kind, size), *others = sizes.items()
    if size[0] != size[1]:
        raise UserError(
            f"{sequence.path(kind, numbers[0])} is {size[0]}x{size[1]} pixels; images must be square, run preprocessing/detect.py"
        )
    for other, other_size in others:
        if other_size != size and not kind.startswith("source_"):  # a driver's own frames may have another size than the pair's NMFCs
            raise UserError(
                f"{sequence.id}: {kind} are {size[0]} pixels wide but {other} {other_size[0]}; run preprocessing/{COMMANDS[other]} again"
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


def common_face_model(dataset: Dataset, names: Sequence[str]) -> dict[str, str] | None:
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


def png_size(sequence: FrameSequence, kind: str, number: int) -> tuple[int, int]:
    """Width and height from a PNG file's head, without decoding it."""
    path = sequence.path(kind, number)
    with path.open("rb") as f:
        head = f.read(24)
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        raise UserError(f"{path} is not a readable image; delete it and run preprocessing/{COMMANDS.get(kind, 'reenact.py')} again")
    return struct.unpack(">II", head[16:])
