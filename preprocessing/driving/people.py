"""What reenactment reads of an identity in a dataset: its frames, its fit, its motion, its target profile."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocessing.driving.driver import read_motion
from preprocessing.driving.filters import even_out, repeated_frames, steady_motion
from preprocessing.driving.heads import Person
from preprocessing.driving.motion import Motion
from preprocessing.driving.profile import TargetProfile
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import FACE_MODELS, load_face_model, model_version, resolve_kind
from util.cli import UserError, say
from util.geometry import Cameras
from util.identities import RecordedFrames, identities_with_frames
from util.image_io import read_image
from util.layout import PROFILE_REMEDY, SPLITS, Dataset, Record, continues, read_camera, read_table
from util.layout import Sequence as FrameSequence
from util.numeric import fill_gaps

ORIGINAL_FPS = Fraction(25)  # of a dataset of the original system, which does not record it


@dataclass(frozen=True)
class Frames(RecordedFrames):
    """The frames of an identity that take part."""

    name: str
    split: str
    frames: list[tuple[FrameSequence, int]]
    record: Record | None


def find_frames(dataset: Dataset, name: str, split: str, option: str) -> Frames:
    """The frames of an identity in a split, once its preprocessing is complete. Raises: UserError."""
    identities_with_frames(dataset, name)
    command = f"--dataset_name {dataset.home.name}"
    record = dataset.read_record(name)
    frames = [(s, f) for s in dataset.sequences(split, name) for f in s.frames()]
    if not frames:
        other = next(s for s in SPLITS if s != split)
        raise UserError(f"'{name}' has no frames in {split}; use {option} {other}")
    if record and "landmarks70" not in record.steps:
        raise UserError(f"the landmarks of '{name}' are not complete; run preprocessing/detect_landmarks70.py {command}")
    lacking = [k for k in ("landmarks70", "misc", "exp_coeffs") if any(s.frames(k) != s.frames() for s in dict(frames))]
    if (record and "reconstruct" not in record.steps) or lacking or not dataset.id_coeffs_path(split, name).is_file():
        step = "detect_landmarks70" if "landmarks70" in lacking else "reconstruct"
        raise UserError(f"'{name}' is not reconstructed completely; run preprocessing/{step}.py {command}")
    return Frames(name, split, frames, record)


def common_face_model(dataset: Dataset, people: Sequence[Frames], asked: str) -> str:
    """The face model that all were fitted with. Raises: UserError when they differ, or from the one that was asked for.

    Where no record names one: the one that was asked for, with auto the one that has as many coefficients, else what auto stands for.
    """
    remedy = f"run preprocessing/reconstruct.py --dataset_name {dataset.home.name} --face_model"
    kinds: dict[str, str] = {}
    for f in people:
        if f.record and f.record.face_model:
            model = f.record.face_model
            kinds[f.name] = model["name"]
            kind = resolve_kind(model["name"])
            if model["version"] != model_version(kind):
                raise UserError(
                    f"'{f.name}' was fitted with version {model['version']} of {kind}, now it is {model_version(kind)}; {remedy} {kind}"
                )
    if len(set(kinds.values())) > 1:
        (a, kind_a), (b, kind_b) = kinds.items()
        raise UserError(f"'{a}' was fitted with the face model {kind_a} and '{b}' with {kind_b}; {remedy} {kind_b}, without --name")
    kind = next(iter(kinds.values()), None)
    if kind and asked not in ("auto", kind):
        raise UserError(f"{' and '.join(kinds)} were fitted with the face model {kind}, not {asked}; {remedy} {asked}, or leave it out")
    if not kind and asked == "auto" and people:
        kind = unrecorded_face_model(dataset, people[0].name, people[0].split)
    return kind or resolve_kind(asked)


def unrecorded_face_model(dataset: Dataset, name: str, split: str) -> str | None:
    """The face model that has as many coefficients as an identity without a record; None when none here has, or it has none."""
    try:
        identity = read_table(dataset.id_coeffs_path(split, name))
        sequence = dataset.sequences(split, name)[0]
        expression = read_table(sequence.path("exp_coeffs", sequence.frames("exp_coeffs")[0]))
    except (UserError, IndexError):
        return None
    for kind in dict.fromkeys((resolve_kind("auto"), *FACE_MODELS)):
        try:
            model = load_face_model(kind)
        except UserError:  # this one is not here
            continue
        if (len(model.identity_basis), len(model.expression_names)) == (len(identity), len(expression)):
            return kind
    return None


def read_person(dataset: Dataset, f: Frames, model: MorphableModel) -> Person:
    """Everything of an identity's frames but the images. Raises: UserError when files are damaged or of another face model."""
    cameras = [read_camera(s.path("misc", n)) for s, n in f.frames]
    identity = read_table(dataset.id_coeffs_path(f.split, f.name))[:, 0]
    tables = [read_table(s.path("exp_coeffs", n))[:, 0] for s, n in f.frames]
    sizes = {len(t) for t in tables}
    if len(identity) != len(model.identity_basis) or sizes != {len(model.expression_names)}:
        raise UserError(
            f"the coefficients of '{f.name}' ({len(identity)} identity, {min(sizes)} expression) are not of the face model {model.name}; "
            f"run preprocessing/reconstruct.py --dataset_name {dataset.home.name} --face_model {model.name}"
        )
    landmarks = [read_table(s.path("landmarks70", n)) for s, n in f.frames]
    if {t.shape for t in landmarks} != {(70, 2)}:
        raise UserError(f"the landmarks of '{f.name}' are not 70 points a frame; run preprocessing/detect_landmarks70.py again")
    sequence, number = f.frames[0]
    return Person(
        identity,
        np.stack(tables),
        Cameras(*(np.array([c[i] for c in cameras]) for i in range(3))),
        np.stack(landmarks),
        read_image(sequence.path("images", number)).shape[0],
        f.record.fps if f.record else ORIGINAL_FPS,
        continues(f.frames, f.record),
    )


def identity_motion(dataset: Dataset, source: Frames, model: MorphableModel, smoothing: bool) -> Motion:
    """The source's motion, without jitter and repeated frames if wanted."""
    person = read_person(dataset, source, model)
    motion = read_motion(model, person)
    usable = source.usable
    if not usable.all():
        reasons = source.record.tell_bad_frames(source.numbers)
        if not usable.any():
            raise UserError(f"no frame of '{source.name}' in {source.split} shows the person well: {reasons}")
        say(f"{source.name}: {reasons}; there the expression goes over from the frame before to the one behind")
        motion = bridged(motion, ~usable)
    if not smoothing:
        return motion
    repeated = repeated_frames(picture_changes(source), float(person.fps))
    if repeated.any():
        say(f"{source.name}: {repeated.sum()} of {len(repeated)} frames repeat the one before; the motion is spread evenly over them")
        motion = even_out(motion, repeated, person.joined)
    return steady_motion(motion, person.joined, model.expression_bounds)


def bridged(motion: Motion, bad: np.ndarray) -> Motion:
    """The motion with expression, gaze and openings of bad frames, bool [N], interpolated between the good ones.

    The pose stays as it was fitted: it is read from the whole head, and interpolated by the fit where there was no face.
    """
    keys = ("expression", "pupils", "eyes", "lids", "lips")
    return replace(motion, **{k: fill_gaps(v, bad) for k in keys if (v := getattr(motion, k)) is not None})


def picture_changes(source: Frames) -> np.ndarray:
    """Mean absolute difference of every frame's picture to the one before (the first: 0), [N]."""
    changes, last = np.zeros(len(source.frames)), None
    with ThreadPoolExecutor(2) as pool:
        for i, image in enumerate(pool.map(lambda at: read_image(at[0].path("images", at[1])).astype(np.int16), source.frames)):
            changes[i] = np.abs(image - last).mean() if last is not None and last.shape == image.shape else 0
            last = image
    return changes


# ---- target profiles ----


def read_profile(dataset: Dataset, f: Frames, model: MorphableModel) -> TargetProfile:
    """The target profile of an identity from these frames. Raises: UserError as `read_person`."""
    crop_box = f.record.crop_box if f.record else ()
    return TargetProfile.of(model, read_person(dataset, f, model), f.name, crop_box, f.split, f.numbers, f.usable)


def profile_of_dataset(dataset: Dataset, name: str, split: str = "train") -> TargetProfile | None:
    """The target profile of an identity; None, and one message, when it cannot be made.

    It cannot where frames are not reconstructed, or with a face model that is unknown: a dataset of the original system can be trained
    on all the same.
    """
    try:
        frames = find_frames(dataset, name, split, "--split")
        recorded = frames.record and frames.record.face_model
        kind = common_face_model(dataset, [frames], "auto") if recorded else unrecorded_face_model(dataset, name, split)
        if kind is None:
            raise UserError("its coefficients are of no face model that is here")
        return read_profile(dataset, frames, load_face_model(kind))
    except UserError as e:
        say(f"{name}: no target profile is made, so driving needs the dataset ({e})")
        return None


def load_profile(path: Path) -> TargetProfile:
    """Read a stored target profile. Raises: UserError when the file is missing or damaged."""
    try:
        return TargetProfile.from_bytes(path.read_bytes(), path)
    except FileNotFoundError:
        raise UserError(f"there is no target profile {path}; {PROFILE_REMEDY}") from None
