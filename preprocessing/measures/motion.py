"""Measures of motion: landmarks and face model found again in the synthesised frames, compared with the driving frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocessing.driving.motion import ANGLES, head_rotation, to_angles
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model, resolve_kind
from preprocessing.fitting.refit import CURVES, Found, Refit, find, refit
from util.cli import UserError
from util.face.landmarks import INNER
from util.geometry import Cameras
from util.layout import read_camera, read_table
from util.metrics import correlation, expression_distance, eye_landmark_distance, identity_distance, rotation_distance
from util.numeric import fill_gaps
from util.results.evaluation import Evaluation, Skip
from util.results.frames import ResultFrames


def choose_face_model(frames: ResultFrames, asked: str = "auto") -> MorphableModel:
    """The face model to fit with: the one asked for; for 'auto' the dataset's, or mesh478 where that is missing.

    Raises: UserError when the one asked for cannot be loaded.
    """
    record = frames.dataset.read_record(frames.target) if frames.dataset else None
    kind = record.face_model["name"] if asked == "auto" and record and record.face_model else asked
    try:
        return load_face_model(resolve_kind(kind))
    except UserError:
        if asked != "auto":
            raise
        frames.notes.append(f"the dataset's face model {kind} is not on this machine: fitted with mesh478 instead")
        return load_face_model("mesh478")


def find_in(frames: ResultFrames, kind: str, desc: str) -> Found:
    """The landmarks of 'real' or 'fake' frames; what is found in frames that do not count is as if it were missed.

    Raises: UserError when MediaPipe cannot be used, or shows a face in less than half of the frames.
    """
    found = find(frames.paths[kind], desc)
    if frames.counted.all():
        return found
    missed = found.missed | ~frames.counted
    return Found(fill_gaps(found.dense, missed), missed)


def fitted_distances(real: Refit, fake: Refit) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """DAI-L1, AED-L1 and ARD-L1, and the last two of every frame [N] (nan where a face was not found)."""
    per_frame = {
        "AED-L1": expression_distance(real.expression, fake.expression),
        "ARD-L1": rotation_distance(real.angles_deg, fake.angles_deg),
    }
    means = {name: float(np.nanmean(values)) for name, values in per_frame.items()}
    return {"DAI-L1": identity_distance(real.fit.identity, fake.fit.identity), **means}, per_frame


def eye_distances(frames: ResultFrames, real: Found, fake: Found) -> np.ndarray:
    """The distance in every frame, [N] pixels of the synthesised frames; nan where a face was not found."""
    return eye_landmark_distance(real.landmarks * (frames.size / frames.read_size("real")), fake.landmarks)


def motion(evaluation: Evaluation, frames: ResultFrames, face_model: str) -> None:
    """All measures of landmarks and of the fitted face model.

    face_model: 'auto' or a name of FACE_MODELS. Raises: Skip without driving frames; UserError when no face is found.
    """
    found = find_in(frames, "fake", "landmarks of the synthesised frames")
    evaluation.values["faces-found"] = float((~found.missed[frames.counted]).mean())
    model = choose_face_model(frames, face_model)
    fake = refit(model, found)
    if frames.driven:
        identities(evaluation, frames, model, fake)
    if "real" not in frames.paths:
        raise Skip("a file drives: there are no frames to compare with" if frames.driven else "there are no real frames")
    real = refit(model, find_in(frames, "real", "landmarks of the frames that drive"))
    if not frames.driven:
        distances = eye_distances(frames, real.found, found)
        evaluation.per_frame["eye-landmarks"] = distances.tolist()
        evaluation.values["eye-landmarks"] = float(np.nanmean(distances))
        means, per_frame = fitted_distances(real, fake)
        evaluation.values |= means
        evaluation.per_frame |= {name: values.tolist() for name, values in per_frame.items()}
    correlations(evaluation, frames, model, real, fake)


def identities(evaluation: Evaluation, frames: ResultFrames, model: MorphableModel, fake: Refit) -> None:
    """Distances of the synthesised identity to the target's and the driver's, which the dataset knows."""
    for role, name in (("target", frames.target), ("source", frames.source)):
        paths = [frames.dataset.id_coeffs_path(split, name) for split in ("train", "test")] if frames.dataset and name else []
        path = next((p for p in paths if p.is_file()), None)
        own = read_table(path)[:, 0] if path else np.zeros(0)
        if own.shape == fake.fit.identity.shape:
            evaluation.values[f"identity-distance-{role}"] = identity_distance(own, fake.fit.identity)
        elif role == "target":
            evaluation.skipped["identity-distance-target"] = f"the dataset with {name}'s identity in the model {model.name} is not here"


def correlations(evaluation: Evaluation, frames: ResultFrames, model: MorphableModel, real: Refit, fake: Refit) -> None:
    """Correlations over time, and the ratios of movement and jitter (docs/formats.md, "Measures").

    Raises: Skip when the target's cameras are missing.
    """
    own, new = real.curves(model), fake.curves(model)
    pair = frames.dataset.read_pair(frames.target, frames.source) if frames.dataset and frames.source else None
    if pair and pair.mode == "face":
        own |= target_angles(frames, pair.target_split, pair.target_frames[: len(frames.numbers)])
    still = []
    for name, least in CURVES.items():
        if np.nanstd(own[name]) < least:
            still.append(name)
            continue
        evaluation.values[f"{name}-correlation"] = correlation(own[name], new[name])
    if still:
        evaluation.skipped[f"correlation of {', '.join(still)}"] = "hardly moves in the frames that drive"
    variance = np.nanvar(real.expression, 0)
    each = np.array([correlation(a, b) for a, b in zip(real.expression.T, fake.expression.T)])
    each = np.where(np.isfinite(each), each, 0.0)  # nan: a weight that never moves in the synthesised frames
    if variance.sum() > 1e-6:
        evaluation.values["expression-correlation"] = float((variance * each).sum() / variance.sum())
    for name, order in (("movement-ratio", 1), ("jitter-ratio", 2)):
        changes = []
        for some, size in ((fake, frames.size), (real, frames.read_size("real"))):
            points = some.found.landmarks[:, INNER] / size
            changes.append(np.nanmedian(np.linalg.norm(np.diff(points, order, axis=0), axis=-1)))
        if changes[1] > 0:
            evaluation.values[name], evaluation.real[name] = float(changes[0] / changes[1]), 1.0


def target_angles(frames: ResultFrames, split: str, numbers: Sequence[int]) -> dict[str, np.ndarray]:
    """Yaw, pitch and roll of the target's own frames, degrees, each [N]. Raises: Skip when a camera is missing."""
    places = {n: s for s in frames.dataset.sequences(split, frames.target, "misc") for n in s.frames("misc")} if frames.dataset else {}
    if missing := sorted(set(numbers) - set(places)):
        raise Skip(f"the camera of {frames.target}'s frame {missing[0]} is not in the dataset")
    rotation = np.array([read_camera(places[n].path("misc", n))[1] for n in numbers])
    count = len(numbers)
    return dict(zip(ANGLES, to_angles(head_rotation(Cameras(np.ones(count), rotation, np.zeros((count, 3)))))))
