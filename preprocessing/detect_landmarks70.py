"""Step 2: find 68 + 2 landmarks and the dense face mesh in every cropped frame.

    python preprocessing/detect_landmarks70.py --dataset_name mine

Writes landmarks70/<sequence>/<frame>.txt (70 rows "x y": the 68 points of the 300-W scheme, then the right and the left
pupil) and landmarks478/<sequence>.npy (float32 [frames, 478, 3]), in pixels of the crop from its top left corner. Also
works on the frames of a dataset that has no dataset.json.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from preprocessing.face_models.dense_points import N_POINTS, from_dense
from preprocessing.tracking.mesh import DenseMesh
from util.ahead import map_ahead
from util.cli import UserError, progress, run, say, warn
from util.identities import for_each, identities_with_frames
from util.image_io import read_image, write_bytes
from util.layout import SPLITS, Dataset, write_table
from util.layout import Sequence as FrameSequence

MAX_MISSED = 0.25  # part of an identity's frames in which the face may be hidden
DLIB_FILE = "shape_predictor_68_face_landmarks.dat"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset_name", required=True, help="name of the dataset")
    p.add_argument("--datasets_dir", type=Path, help="folder of all datasets (default: datasets/ of this repository)")
    p.add_argument("--name", help="only this identity (default: all of the dataset)")
    p.add_argument(
        "--landmarks",
        choices=("mediapipe", "dlib"),
        help="where the 68 points come from; pupils and dense mesh are MediaPipe's in any case (default: mediapipe; where a dataset of "
        "the original system has landmarks, those)",
    )
    p.add_argument("--dlib_file", type=Path, default=Path(DLIB_FILE), help=f"dlib's landmark model (default: {DLIB_FILE})")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    dataset = Dataset.open(o.dataset_name, o.datasets_dir)
    everyone = identities_with_frames(dataset, o.name)
    names = everyone if o.name is None else [o.name]
    predict68 = load_dlib(o.dlib_file) if o.landmarks == "dlib" else None
    for_each(names, lambda name: process(dataset, name, o.landmarks, predict68))
    return 0


def process(dataset: Dataset, name: str, method: str | None, predict68: Predict68 | None) -> None:
    """Landmarks of one identity, unless that is done already."""
    sequences = [s for split in SPLITS for s in dataset.sequences(split, name)]
    frames = [(s, frame) for s in sequences for frame in s.frames()]
    if not frames:
        raise UserError(f"'{name}' has no frames in {dataset.folder}; run preprocessing/detect.py again")
    record = dataset.read_record(name)
    if not record and method is None and all(s.frames("landmarks70") == s.frames() for s in sequences):
        say(f"{name}: keeping the landmarks that are there; --landmarks mediapipe would replace them")
        return
    key = {"version": 1, "landmarks": method or "mediapipe", "detect": record.steps.get("detect") if record else None}
    if record:
        if key["detect"] is None:
            raise UserError(f"the frames of '{name}' are incomplete; run preprocessing/detect.py again")
        if record.is_done("landmarks70", key) and all(
            s.frames("landmarks70") == s.frames() and s.dense_landmarks_path.is_file() for s in sequences
        ):
            say(f"{name}: landmarks already complete ({len(frames)} frames)")
            return
        record = record.without_steps(*(step for step in record.steps if step != "detect"))
        dataset.write_record(record)  # what was made from the old landmarks is out of date

    dense = np.full((len(frames), N_POINTS, 3), np.nan, np.float32)
    points68 = np.full((len(frames), 68, 2), np.nan, np.float32)
    # One run over all sequences in order: the tracker keeps the face where one sequence ends and the next begins.
    with DenseMesh() as mesh, progress(desc=f"{name}: landmarks", total=len(frames)) as bar:
        for k, image in enumerate(map_ahead(read_image, (s.path("images", frame) for s, frame in frames), threads=1, depth=8)):
            points = mesh.detect(image)
            if points is not None:
                dense[k] = points
                if predict68:
                    points68[k] = predict68(image, points)
            bar.update()
    missed = np.isnan(dense[:, 0, 0])
    if missed.mean() > MAX_MISSED:
        raise UserError(
            f"no face could be read in {missed.sum()} of the {len(frames)} frames of '{name}'; cut the video to the part where the "
            "face is seen well and run preprocessing/detect.py again"
        )
    if missed.any():
        warn(f"{name}: no face in {missed.sum()} of {len(frames)} frames; their landmarks are taken from their neighbours")
        fill_gaps(dense, missed)
    landmarks = from_dense(dense)
    if predict68:
        fill_gaps(points68, missed)
        landmarks = np.concatenate([points68, landmarks[:, 68:]], axis=1)

    start = 0
    for s in sequences:
        numbers = s.frames()
        write_dense(s, dense[start : start + len(numbers)])
        for number, rows in zip(numbers, landmarks[start : start + len(numbers)]):
            write_table(s.path("landmarks70", number), rows, precision=3)
        start += len(numbers)
    if record:
        dataset.write_record(record.with_step("landmarks70", key))
    say(f"{name}: landmarks of {len(frames)} frames")


def write_dense(sequence: FrameSequence, points: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, points)
    write_bytes(sequence.dense_landmarks_path, file.getvalue())


def fill_gaps(points: np.ndarray, missed: np.ndarray) -> None:
    """Fill missed frames of [frames, ...] in place, linearly between their neighbours; the ends repeat the nearest frame."""
    index = np.arange(len(points))
    flat = points.reshape(len(points), -1)
    for column in flat.T:
        column[missed] = np.interp(index[missed], index[~missed], column[~missed])


def dlib_box(dense: np.ndarray) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) that dlib's own face detector would give for a mesh [478, 3].

    dlib's predictor starts from such a box. Measured on 180 frames of six people: square, 0.98 times as large as the span of brows,
    eyes, mouth and chin, and 0.07 times that higher (standard deviations 0.07 and 0.04).
    """
    points = np.concatenate([from_dense(dense)[17:68], dense[152:153, :2]])
    low, high = points.min(0), points.max(0)
    span = float((high - low).max())
    (x, y), half = (low + high) / 2, 0.49 * span
    y -= 0.07 * span
    return round(x - half), round(y - half), round(x + half), round(y + half)


# image uint8 [H, W, 3] RGB, dense mesh [478, 3] -> [68, 2] px
Predict68 = Callable[[np.ndarray, np.ndarray], np.ndarray]


def load_dlib(file: Path) -> Predict68:
    """dlib's 68-point predictor. Raises: UserError when dlib or its model file is missing."""
    remedy = (
        "install dlib (pip install dlib), download shape_predictor_68_face_landmarks.dat.bz2 from dlib.net/files, unpack it and "
        "give its place with --dlib_file; or leave out --landmarks dlib"
    )
    if not file.is_file():
        raise UserError(f"there is no dlib model {file}: {remedy}")
    try:
        import dlib
    except ImportError:
        raise UserError(f"dlib is not installed: {remedy}") from None
    try:
        model = dlib.shape_predictor(str(file))
    except RuntimeError as e:
        raise UserError(f"{file} is not a dlib landmark model ({e}): {remedy}") from None

    def predict(image: np.ndarray, dense: np.ndarray) -> np.ndarray:
        shape = model(image, dlib.rectangle(*dlib_box(dense)))
        if shape.num_parts != 68:
            raise UserError(f"{file} has {shape.num_parts} landmarks instead of 68: {remedy}")
        return np.array([(p.x, p.y) for p in shape.parts()], np.float32) + 0.5  # it names pixels; their centres lie half a pixel on

    return predict


if __name__ == "__main__":
    run(main)
