"""Step 3 for one identity: the face model fitted to every frame, and the NMFC images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from preprocessing.driving.conditioner import draw_frames
from preprocessing.driving.coverage import coverage
from preprocessing.driving.heads import Person
from preprocessing.driving.people import ORIGINAL_FPS, Frames, read_person
from preprocessing.face_models.dense_points import DENSE_INDICES, N_POINTS, from_dense
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model, model_version, resolve_kind
from preprocessing.fitting.photometric import refine
from preprocessing.fitting.video import Fit, fit_video
from util.cli import UserError, say, warn
from util.face.landmarks import INNER, interocular_distance
from util.identities import IdentityFrames, collect_frames
from util.image_io import ImageStore, read_image, write_image
from util.layout import Dataset, Record, continues, read_table, write_camera, write_table
from util.layout import Sequence as FrameSequence
from util.report.coverage import Shown, from_record, lines, to_record
from util.stored import UNREADABLE, load_array

VERSION = 3  # of the fit; reconstructions of another version are made again
UPSTREAM = ("detect", "landmarks70")  # steps before this one
POOR_ERROR = 0.06  # inter-ocular distances; a mean landmark error above it causes a warning


def choose_model(dataset: Dataset, everyone: list[str], names: list[str], asked: str) -> str:
    """The face model for `names`, such that the dataset does not mix two: identities of one dataset drive one another.

    Raises: UserError when another identity, which this run leaves as it is, has another model.
    """
    records = {name: dataset.read_record(name) for name in everyone}
    used = {name: r.face_model["name"] for name, r in records.items() if r and r.face_model and "reconstruct" in r.steps}
    kinds = sorted(set(used.values()))
    if asked == "auto" and len(kinds) > 1:
        raise UserError(
            f"{dataset.folder} mixes the face models {' and '.join(kinds)}; run again without --name and with --face_model {kinds[0]}"
        )
    kind = resolve_kind(kinds[0] if asked == "auto" and kinds else asked)
    for name, other in used.items():
        if name not in names and other != kind:
            raise UserError(
                f"'{name}' of this dataset has the face model {other}, and two models must not be mixed; use --face_model {other}, "
                f"or leave out --name, so that all identities are made again with {kind}"
            )
    return kind


def reconstruction_key(kind: str, record: Record | None) -> dict[str, Any]:
    """What an identity's reconstruction is made from. kind: the face model. record: the identity's, None without one."""
    key = {"version": VERSION, "face_model": {"name": kind, "version": model_version(kind)}}
    return key | {"landmarks70": record.steps.get("landmarks70")} if record else key


def make_reconstruction(
    dataset: Dataset,
    name: str,
    kind: str,
    explicit: bool,
    renderer: str,
    models: dict[str, MorphableModel],
    images: ImageStore | None = None,
) -> None:
    """Reconstruct one identity, unless its reconstruction is complete. `models` caches loaded models. images: what make_crops remembers."""
    found = collect_frames(dataset, name)
    record, count = found.record, len(found.frames)
    id_paths = [dataset.id_coeffs_path(split, name) for split in found.splits]
    complete = found.is_complete("misc", "exp_coeffs", "nmfcs") and all(path.is_file() for path in id_paths)
    key = reconstruction_key(kind, record)
    if record:
        if "landmarks70" not in record.steps:
            raise UserError(f"the landmarks of '{name}' are incomplete; run preprocessing/detect_landmarks70.py first")
        if complete and record.is_done("reconstruct", key):
            say(f"{name}: reconstruction already complete ({count} frames, {kind})")
            shown = from_record(record.coverage)
            if not shown and "train" in found.splits:  # made before this was measured
                models[kind] = models.get(kind) or load_face_model(kind)
                person = read_person(dataset, Frames(name, found.splits[0], found.frames, record), models[kind])
                shown = measure_coverage(models[kind], person, found, images or ImageStore())
                dataset.write_record(replace(record, coverage=to_record(shown)))
            tell_coverage(name, shown)
            return
    elif complete and not explicit:
        say(f"{name}: keeping the reconstruction that is there; --face_model {kind} would replace it")
        return

    landmarks, points = read_landmarks(found)
    landmarks[without_face(found)] = np.nan  # interpolated ones would be trusted
    if kind not in models:
        models[kind] = load_face_model(kind)
    model = models[kind]
    say(f"{name}: fitting {kind} to {count} frames")
    images = images or ImageStore()
    fit = fit_frames(model, found, name, landmarks, points, images)
    error = landmark_error(model, fit, landmarks, points)
    say(f"{name}: landmark error {error:.4f} of the inter-ocular distance (51 inner points)")
    if error > POOR_ERROR:
        warn(f"{name}: the fit is poor; look at the landmarks, or use a video in which the face is seen better")

    # From here on the old files are replaced: until all are written, nothing marks them as complete.
    if record:
        record = replace(record.without_steps(*(step for step in record.steps if step not in UPSTREAM)), face_model=None, coverage=[])
        dataset.write_record(record)
    for path in id_paths:
        path.unlink(missing_ok=True)
    write_frames(name, model, fit, found, renderer)
    for path in id_paths:
        write_table(path, fit.identity[:, None])
    person = fitted_person(fit, found, landmarks, points)
    shown = measure_coverage(model, person, found, images)
    if record:
        record = replace(record.with_step("reconstruct", key), face_model=key["face_model"], coverage=to_record(shown))
        dataset.write_record(record)
    say(f"{name}: {count} NMFC images")
    tell_coverage(name, shown)


def fit_frames(
    model: MorphableModel, found: IdentityFrames, name: str, landmarks: np.ndarray, points: np.ndarray, store: ImageStore
) -> Fit:
    """Fit the model to the landmarks of all frames, then refine the fit with the images.

    landmarks: [N, L, 2] pixels. points: int [L], which dense points they are. Raises: UserError when the landmarks cannot be fitted.
    """
    joined = continues(found.frames, found.record)
    try:
        fit = fit_video(model, landmarks, points, joined=joined)
    except ValueError as e:
        raise UserError(f"the landmarks of '{name}' cannot be fitted ({e}); run preprocessing/detect_landmarks70.py again") from None
    images = found.paths("images")
    return refine(model, fit, landmarks, points, joined, lambda i: store.read(images[i]), usable=found.usable, desc=f"{name}: skin")


def fitted_person(fit: Fit, found: IdentityFrames, landmarks: np.ndarray, points: np.ndarray) -> Person:
    """The fit of all frames. landmarks: [N, L, 2] pixels, nan where there is no face. points: int [L], which dense points they are."""
    dense = np.full((len(landmarks), N_POINTS, 2), np.nan)
    dense[:, points] = landmarks
    size, fps = read_image(found.paths("images")[0]).shape[0], found.record.fps if found.record else ORIGINAL_FPS
    return Person(fit.identity, fit.expression, fit.cameras, from_dense(dense), size, fps, continues(found.frames, found.record))


def measure_coverage(model: MorphableModel, person: Person, found: IdentityFrames, store: ImageStore) -> list[Shown]:
    """What the training frames show of the person; nothing of one that has none and only drives others. person: all frames."""
    training = np.array([s.split == "train" for s, _ in found.frames])
    usable = found.usable & training & np.isfinite(person.landmarks[:, :68]).all((1, 2))
    images, box = found.paths("images"), found.record.crop_box if found.record else []
    return coverage(model, person, usable, lambda i: store.read(images[i]), (box[2] - box[0]) / person.size if box else 1.0)


def tell_coverage(name: str, shown: list[Shown]) -> None:
    for line in lines(name, shown):
        say(line)


def without_face(found: IdentityFrames) -> np.ndarray:
    """Frames whose landmarks are those of no picture: bool [N]."""
    if found.record is None:
        return np.zeros(len(found.frames), bool)
    return np.isin(found.record.states(found.numbers, "landmarks70"), ("lost", "other face"))


def read_landmarks(found: IdentityFrames) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of all frames in order, and which dense points they are: [N, L, 2], int [L].

    The dense mesh where every sequence has it, else (a dataset of the original system) the 70 landmarks.
    Raises: UserError when they are missing or do not fit the frames.
    """
    if all(s.dense_landmarks_path.is_file() for s in found.sequences):
        return np.concatenate([read_dense(s) for s in found.sequences]), np.arange(N_POINTS)
    for s in found.sequences:
        if s.frames("landmarks70") != s.frames():
            raise UserError(f"{s.folder('landmarks70')} does not fit the frames; run preprocessing/detect_landmarks70.py")
    tables = []
    for path in found.paths("landmarks70"):
        table = read_table(path)
        if table.shape not in ((70, 2), (68, 2)):
            raise UserError(f"{path} does not hold 70 landmarks; run preprocessing/detect_landmarks70.py again")
        tables.append(table[:68])
    # The original's pupils come from another method and are missing in closed eyes: its gaze images use them, the fit does not.
    return np.stack(tables), DENSE_INDICES[:68]


def read_dense(sequence: FrameSequence) -> np.ndarray:
    """x and y of the dense mesh in all frames of a sequence, [frames, 478, 2]. Raises: UserError when they do not fit the frames."""
    try:
        dense = load_array(sequence.dense_landmarks_path.read_bytes())
    except UNREADABLE:
        dense = np.empty(0)
    count = len(sequence.frames())
    if dense.shape != (count, N_POINTS, 3) or dense.dtype.kind != "f":
        raise UserError(f"{sequence.dense_landmarks_path} does not fit its {count} frames; run preprocessing/detect_landmarks70.py again")
    return dense[..., :2]


def landmark_error(model: MorphableModel, fit: Fit, landmarks: np.ndarray, points: np.ndarray) -> float:
    """Mean distance of the 51 inner landmarks from the fitted model's, as a fraction of the inter-ocular distance."""
    place = {int(p): i for i, p in enumerate(points)}
    seen = landmarks[:, [place[int(p)] for p in DENSE_INDICES[:68]], :2]
    fitted = from_dense(fit.project(model))[:, :68]
    distance = np.linalg.norm(fitted - seen, axis=-1)[:, INNER].mean(1)
    return float(np.nanmean(distance / interocular_distance(seen)))


def write_frames(name: str, model: MorphableModel, fit: Fit, found: IdentityFrames, renderer: str) -> None:
    """Write every frame's camera, expression and NMFC image."""
    nmfcs, expressions, cameras = (found.paths(kind) for kind in ("nmfcs", "exp_coeffs", "misc"))

    def write(i: int, nmfc: np.ndarray) -> None:
        write_image(nmfcs[i], nmfc)
        write_table(expressions[i], fit.expression[i][:, None])
        write_camera(cameras[i], fit.cameras.scale[i], fit.cameras.rotation[i], fit.cameras.translation[i])

    size = read_image(found.paths("images")[0]).shape[:2]
    draw_frames(model, fit.identity, fit.expression, fit.cameras, size, write, renderer=renderer, desc=f"{name}: NMFC images")
