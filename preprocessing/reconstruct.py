"""Step 3: fit the 3D face model to every frame and draw the NMFC images.

    python preprocessing/reconstruct.py --dataset_name mine

Writes, per frame, misc/ (camera), exp_coeffs/ (expression) and nmfcs/ (picture), and id_coeffs/<name>.txt, one identity
vector for all frames of a person in both splits. Also works on frames and landmarks of a dataset that has no dataset.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

# The matrices are small: a second BLAS thread would spend the time waiting. Drawing uses all cores by its own threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from preprocessing.face_models.dense_points import DENSE_INDICES, N_POINTS, from_dense
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import FACE_MODELS, load_face_model, model_version, resolve_kind
from preprocessing.fitting.photometric import refine
from preprocessing.fitting.video import Fit, fit_video
from util.ahead import map_ahead
from util.cli import UserError, progress, run, say, warn
from util.face.landmarks import INNER, interocular_distance
from util.identities import for_each, identities_with_frames
from util.image_io import read_image, write_image
from util.layout import SPLITS, Dataset, continues, read_table, write_camera, write_table
from util.layout import Sequence as FrameSequence

VERSION = 3  # of the fit: another one makes it again
UPSTREAM = ("detect", "landmarks70")
POOR_ERROR = 0.06  # of the inter-ocular distance


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset_name", required=True, help="name of the dataset")
    p.add_argument("--datasets_dir", type=Path, help="folder of all datasets (default: datasets/ of this repository)")
    p.add_argument("--name", help="only this identity (default: all of the dataset)")
    p.add_argument(
        "--face_model",
        choices=("auto", *FACE_MODELS),
        default="auto",
        help="auto: the one that the dataset has, else ict if scripts/download_files.py fetched it, else mesh478 (default: auto)",
    )
    p.add_argument(
        "--renderer",
        choices=("auto", "vulkan", "cpu"),
        default="auto",
        help="what draws the NMFC images; auto: Vulkan where there is a GPU, else the CPU; the pictures are the same (default: auto)",
    )
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    dataset = Dataset.open(o.dataset_name, o.datasets_dir)
    everyone = identities_with_frames(dataset, o.name)
    names = everyone if o.name is None else [o.name]
    kind = choose_model(dataset, everyone, names, o.face_model)
    models: dict[str, MorphableModel] = {}
    for_each(names, lambda name: process(dataset, name, kind, o.face_model != "auto", o.renderer, models))
    return 0


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


def process(dataset: Dataset, name: str, kind: str, explicit: bool, renderer: str, models: dict[str, MorphableModel]) -> None:
    """Reconstruct one identity, unless that is done already. `models` keeps loaded models."""
    sequences = [s for split in SPLITS for s in dataset.sequences(split, name)]
    frames = [(s, number) for s in sequences for number in s.frames()]
    if not frames:
        raise UserError(f"'{name}' has no frames in {dataset.folder}; run preprocessing/detect.py again")
    splits = sorted({s.split for s in sequences})
    record = dataset.read_record(name)
    complete = all(s.frames(k) == s.frames() for s in sequences for k in ("misc", "exp_coeffs", "nmfcs")) and all(
        dataset.id_coeffs_path(split, name).is_file() for split in splits
    )
    key = {"version": VERSION, "face_model": {"name": kind, "version": model_version(kind)}}
    if record:
        if "landmarks70" not in record.steps:
            raise UserError(f"the landmarks of '{name}' are incomplete; run preprocessing/detect_landmarks70.py first")
        key["landmarks70"] = record.steps["landmarks70"]
        if complete and record.is_done("reconstruct", key):
            say(f"{name}: reconstruction already complete ({len(frames)} frames, {kind})")
            return
    elif complete and not explicit:
        say(f"{name}: keeping the reconstruction that is there; --face_model {kind} would replace it")
        return

    landmarks, points = read_landmarks(sequences)
    if kind not in models:
        models[kind] = load_face_model(kind)
    model = models[kind]
    say(f"{name}: fitting {kind} to {len(frames)} frames")
    joined = continues(frames, record)
    try:
        fit = fit_video(model, landmarks, points, joined=joined)
    except ValueError as e:
        raise UserError(f"the landmarks of '{name}' cannot be fitted ({e}); run preprocessing/detect_landmarks70.py again") from None
    images = [s.path("images", number) for s, number in frames]
    fit = refine(model, fit, landmarks, points, joined, lambda i: read_image(images[i]), desc=f"{name}: skin")
    error = landmark_error(model, fit, landmarks, points)
    say(f"{name}: landmark error {error:.4f} of the inter-ocular distance (51 inner points)")
    if error > POOR_ERROR:
        warn(f"{name}: the fit is poor; look at the landmarks, or use a video in which the face is seen better")

    # from here on the old files are replaced: nothing may take them for complete
    if record:
        record = record.without_steps(*(step for step in record.steps if step not in UPSTREAM))
        dataset.write_record(replace(record, face_model=None))
    for split in splits:
        dataset.id_coeffs_path(split, name).unlink(missing_ok=True)
    write_frames(name, model, fit, frames, renderer)
    for split in splits:
        write_table(dataset.id_coeffs_path(split, name), fit.identity[:, None])
    if record:
        dataset.write_record(replace(record.with_step("reconstruct", key), face_model=key["face_model"]))
    say(f"{name}: {len(frames)} NMFC images")


def read_landmarks(sequences: list[FrameSequence]) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of all frames in order, and which dense points they are: [N, L, 2], int [L].

    The dense mesh where every sequence has it, else (a dataset of the original system) the 70 landmarks.
    Raises: UserError when they are missing or do not fit the frames.
    """
    if all(s.dense_landmarks_path.is_file() for s in sequences):
        found = []
        for s in sequences:
            try:
                dense = np.load(s.dense_landmarks_path)
            except (ValueError, OSError, EOFError):
                dense = np.empty(0)
            if dense.shape != (len(s.frames()), N_POINTS, 3):
                raise UserError(
                    f"{s.dense_landmarks_path} does not fit its {len(s.frames())} frames; run preprocessing/detect_landmarks70.py again"
                )
            found.append(dense[..., :2])
        return np.concatenate(found), np.arange(N_POINTS)
    found = []
    for s in sequences:
        if s.frames("landmarks70") != s.frames():
            raise UserError(f"{s.folder('landmarks70')} does not fit the frames; run preprocessing/detect_landmarks70.py")
        for number in s.frames():
            table = read_table(s.path("landmarks70", number))
            if table.shape not in ((70, 2), (68, 2)):
                raise UserError(
                    f"{s.path('landmarks70', number)} does not hold 70 landmarks; run preprocessing/detect_landmarks70.py again"
                )
            found.append(table[:68])
    # The original's pupils are found by another method and missing in closed eyes: its gaze images use them, the fit does not.
    return np.stack(found), DENSE_INDICES[:68]


def landmark_error(model: MorphableModel, fit: Fit, landmarks: np.ndarray, points: np.ndarray) -> float:
    """Mean distance of the 51 inner landmarks from the fitted model's, as a part of the inter-ocular distance."""
    place = {int(p): i for i, p in enumerate(points)}
    seen = landmarks[:, [place[int(p)] for p in DENSE_INDICES[:68]], :2]
    fitted = from_dense(fit.project(model))[:, :68]
    distance = np.linalg.norm(fitted - seen, axis=-1)[:, INNER].mean(1)
    return float((distance / interocular_distance(seen)).mean())


def write_frames(name: str, model: MorphableModel, fit: Fit, frames: list[tuple[FrameSequence, int]], renderer: str) -> None:
    """Write every frame's camera, expression and NMFC image."""
    from preprocessing.render import create_renderer

    size = read_image(frames[0][0].path("images", frames[0][1])).shape[:2]
    drawer = create_renderer(renderer, model.triangles, model.nmfc_colours(), size)

    def write(drawn: tuple[int, np.ndarray]) -> None:
        i, picture = drawn
        sequence, number = frames[i]
        write_image(sequence.path("nmfcs", number), picture)
        write_table(sequence.path("exp_coeffs", number), fit.expression[i][:, None])
        write_camera(sequence.path("misc", number), fit.cameras.scale[i], fit.cameras.rotation[i], fit.cameras.translation[i])

    pictures = enumerate(drawer.draw_many(model.in_images(fit.identity, fit.expression, fit.cameras)))
    for _ in progress(map_ahead(write, pictures, depth=16), desc=f"{name}: NMFC images", total=len(frames)):
        pass


if __name__ == "__main__":
    run(main)
