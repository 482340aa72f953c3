"""Measure the causal fit of single frames (preprocessing/fitting/frame.py) against the fit of the whole video.

    python scripts/bench/frame_fitter.py clip.mp4 another.mp4 --output table.json

Both start from the same landmarks and the identity that the whole-video fit finds. Per video: how far rotation and scale differ; the
correlation of the expression (weighted by each weight's variance); the jitter of the 51 inner landmarks (median second difference) as a
multiple of the whole-video fit's; by how many frames yaw and jaw lag behind; median CPU time of a step (for one core set
OPENBLAS_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from preprocessing.driving.motion import head_rotation, to_angles
from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model
from preprocessing.fitting.frame import FrameFitter
from preprocessing.fitting.video import Fit, fit_video
from preprocessing.tracking.detectors import create_detector
from preprocessing.tracking.follower import FaceFollower
from preprocessing.tracking.tracker import track_frames
from util.cli import UserError, run, say
from util.face.landmarks import INNER
from util.geometry import Cameras, angle_between_deg
from util.image_io import write_bytes
from util.video.reading import probe, read_frames

COLUMNS = {
    "frames": "{:d}",
    "rotation_mean_deg": "{:.3f}",
    "rotation_max_deg": "{:.2f}",
    "scale_percent": "{:.3f}",
    "expression_correlation": "{:.4f}",
    "jitter_ratio": "{:.3f}",
    "landmark_jitter_ratio": "{:.3f}",
    "yaw_lag_frames": "{:+.2f}",
    "jaw_lag_frames": "{:+.2f}",
    "step_ms": "{:.2f}",
}
MAX_LAG = 3  # frames; largest lag that is searched


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    p.add_argument("--face_model", default="auto", help="auto, ict, mesh478 or lsfm (default: auto)")
    p.add_argument("--frames", type=int, help="only so many frames of each video (default: all)")
    p.add_argument("--output", type=Path, help="write the table to this file as JSON")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    o = parse(argv)
    model = load_face_model(o.face_model)
    say(f"face model {model.name}\n{'video':16s} " + " ".join(f"{name:>{len(name)}s}" for name in COLUMNS))
    table = {}
    for path in o.videos:
        row = table[path.stem] = compare(model, landmarks_of(path, o.frames))
        say(f"{path.stem:16s} " + " ".join(f"{form.format(row[name]):>{len(name)}s}" for name, form in COLUMNS.items()))
    if o.output:
        write_bytes(o.output, (json.dumps({"face_model": model.name, "videos": table}, indent=1) + "\n").encode())


def landmarks_of(path: Path, most: int | None) -> np.ndarray:
    """Landmarks [N, 478, 3] in pixels of a video's frames, NaN where no face is found; found in the whole frames or, where the face is too
    small for that, in the square around it.

    Raises: UserError when the video cannot be read or shows no face.
    """
    frames = [frame for frame, _ in zip(read_frames(path, probe(path)), range(most or sys.maxsize))]
    found = _track(frames, path.stem)
    if np.isnan(found[:, 0, 0]).mean() > 0.5:
        left, top, side = _square(frames, path)
        found = _track([np.ascontiguousarray(frame[top : top + side, left : left + side]) for frame in frames], path.stem)
        found[..., :2] += np.float32([left, top])
    if np.isnan(found).all():
        raise UserError(f"no face was found in {path}; the video must show one person's face, upright and well lit")
    return found


def _track(frames: list[np.ndarray], name: str) -> np.ndarray:
    return track_frames(frames, len(frames), f"{name}: landmarks").dense


def _square(frames: list[np.ndarray], path: Path) -> tuple[int, int, int]:
    """Left, top and side of a square that holds the face all the time, with room around it."""
    follower = FaceFollower(create_detector("mediapipe"))
    for frame in frames:
        follower.add([frame])
    boxes = follower.boxes()
    if np.isnan(boxes).all():
        raise UserError(f"no face was found in {path}; the video must show one person's face, upright and well lit")
    low, high = np.nanmin(boxes[:, :2], 0), np.nanmax(boxes[:, 2:], 0)
    side = round(1.6 * float((high - low).max()))
    left, top = (max(0, round(float(x) - side / 2)) for x in (low + high) / 2)
    return left, top, side


def compare(model: MorphableModel, landmarks: np.ndarray) -> dict[str, float]:
    """The measures of COLUMNS. landmarks: [N, 478, 2 or more] in pixels."""
    whole = fit_video(model, landmarks)
    fitter = FrameFitter(model, whole.identity)
    first = int(np.flatnonzero(np.isfinite(landmarks[:, 0, 0]))[0])
    for points in landmarks[first : first + 2]:  # compile
        fitter.step(points)
    fitter.reset()
    steps, times_s = [], [time.thread_time()]
    for points in landmarks[first:]:
        steps.append(fitter.step(points))
        times_s.append(time.thread_time())
    whole = Fit(whole.identity, whole.expression[first:], whole.cameras[first:])
    cameras = Cameras(*(np.stack([getattr(s.camera, name) for s in steps]) for name in ("scale", "rotation", "translation")))
    causal = Fit(whole.identity, np.stack([s.expression for s in steps]), cameras)
    rotation = angle_between_deg(causal.cameras.rotation, whole.cameras.rotation)
    yaw = [to_angles(head_rotation(fit.cameras))[0] for fit in (causal, whole)]
    jaw = model.expression_names.index("jawOpen")
    jitter = _jitter(whole.project(model))
    return {
        "frames": len(steps),
        "rotation_mean_deg": float(rotation.mean()),
        "rotation_max_deg": float(rotation.max()),
        "scale_percent": 100 * float(np.abs(causal.cameras.scale / whole.cameras.scale - 1).mean()),
        "expression_correlation": _correlation(causal.expression, whole.expression),
        "jitter_ratio": _jitter(causal.project(model)) / jitter,
        "landmark_jitter_ratio": _jitter(landmarks[first:][np.isfinite(landmarks[first:, 0, 0])]) / jitter,
        "yaw_lag_frames": _lag(*yaw),
        "jaw_lag_frames": _lag(causal.expression[:, jaw], whole.expression[:, jaw]),
        "step_ms": 1000 * float(np.median(np.diff(times_s))),
    }


def _jitter(dense: np.ndarray) -> float:
    """Median length of the second differences of the 51 inner landmarks, pixels. dense: [N, 478, 2 or more]."""
    return float(np.median(np.linalg.norm(np.diff(from_dense(dense)[:, INNER], 2, axis=0), axis=-1)))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean correlation of the columns of [N, K] that move, each by the variance of b's."""
    weight = b.var(0) * (a.var(0) > 1e-12)
    moving = weight > 1e-8
    a, b = (x[:, moving] - x[:, moving].mean(0) for x in (a, b))
    correlation = (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return float(correlation @ weight[moving] / weight[moving].sum())


def _lag(a: np.ndarray, b: np.ndarray) -> float:
    """By how many frames curve a [N] comes after b: where their difference is least, to a part of a frame."""
    a, b = a - a.mean(), b - b.mean()
    shifts, inner = np.arange(-MAX_LAG, MAX_LAG + 1), slice(MAX_LAG, len(a) - MAX_LAG)
    apart = np.array([np.sum((np.roll(a, -s)[inner] - b[inner]) ** 2) for s in shifts])
    i = int(apart.argmin())
    if i in (0, len(shifts) - 1):
        return float(shifts[i])
    before, least, after = apart[i - 1 : i + 2]
    return float(shifts[i] + 0.5 * (before - after) / (before - 2 * least + after))


if __name__ == "__main__":
    run(main)
