"""The 68 landmarks of dlib's predictor, as the original system used them. dlib is an optional dependency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from preprocessing.face_models.dense_points import from_dense
from util.cli import UserError

DLIB_FILE = "shape_predictor_68_face_landmarks.dat"  # the file's name at dlib.net
# image uint8 [H, W, 3] RGB, tracked landmarks [478, 3] px -> float32 [68, 2] px
Predict68 = Callable[[np.ndarray, np.ndarray], np.ndarray]


def dlib_box(dense: np.ndarray) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) that dlib's own face detector would give for tracked landmarks [478, 3], in the same pixels.

    dlib's predictor starts from such a box. Measured on 180 frames of six people: square, 0.98 times as large as the span of brows,
    eyes, mouth and chin, and 0.07 times that higher (standard deviations 0.07 and 0.04).
    """
    points = np.concatenate([from_dense(dense)[17:68], dense[152:153, :2]])
    low, high = points.min(0), points.max(0)
    span = float((high - low).max())
    (x, y), half = (low + high) / 2, 0.49 * span
    y -= 0.07 * span
    return round(x - half), round(y - half), round(x + half), round(y + half)


def load_dlib(file: Path) -> Predict68:
    """dlib's 68-point predictor. Raises: UserError when dlib or its model file is missing, or the file is no 68-point model."""
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
        return np.array([(p.x, p.y) for p in shape.parts()], np.float32) + 0.5  # dlib counts pixels; their centres lie half a pixel further

    return predict
