"""Measures of pictures: distances of pixels, those of the nearest training frames, and flicker over time."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from preprocessing.driving.motion import head_rotation
from preprocessing.fitting.refit import find
from preprocessing.tracking.person_matte import load_person_mask
from util.cli import UserError, progress
from util.geometry import Cameras, rotation_vector
from util.image_io import read_image
from util.layout import Sequence as FrameSequence
from util.layout import read_camera, read_table
from util.metrics import MEASURES, frame_measures, mean_measures, second_difference
from util.results.evaluation import Evaluation, Skip, put_or_skip
from util.results.frames import ResultFrames

PERSON_MARGIN = 0.02  # of the picture's side, by which the person's pixels reach beyond the matte: loose hair, blurred edges


def real_landmarks(frames: ResultFrames) -> np.ndarray:
    """The 70 landmarks of the real frames, [N, 70, 2] in pixels of the synthesised frames: the dataset's, or found now.

    Raises: UserError when there are neither landmarks nor a way to find them.
    """
    sequence = frames.sequence()
    if sequence and not frames.driven and set(sequence.frames("landmarks70")) >= set(frames.numbers):
        record = frames.dataset.read_record(frames.target) if frames.dataset else None
        size = record.crop_size if record else 256
        return np.stack([read_table(sequence.path("landmarks70", n)) for n in frames.numbers]) * (frames.size / size)
    if "real" not in frames.paths:
        raise UserError(f"there are no real frames to compare those in {frames.folder} with; give --datasets_dir, or bring real/ back too")
    found = find(frames.paths["real"], "landmarks of the real frames").landmarks
    if np.isnan(found).any():
        known = ~np.isnan(found[:, 0, 0])
        found = found[known][np.abs(np.arange(len(found))[:, None] - np.flatnonzero(known)).argmin(1)]
    return found * (frames.size / frames.read_size("real"))


def pixel_distances(frames: ResultFrames, landmarks: np.ndarray) -> list[dict[str, float]]:
    """util.metrics.frame_measures of every frame (nan for those that do not count).

    landmarks: [N, 70, 2] of the real frames, pixels of the synthesised ones. Raises: UserError when there are no real frames.
    """
    if "real" not in frames.paths:
        raise UserError(f"there are no real frames to compare those in {frames.folder} with; give --datasets_dir, or bring real/ back too")
    masks, counted = "nmfc" in frames.paths, frames.counted

    def measure(i: int) -> dict[str, float]:
        if not counted[i]:
            return dict.fromkeys(MEASURES, math.nan)
        real, fake = frames.read("real", i), frames.read("fake", i)
        return frame_measures(real, fake, frames.read("nmfc", i) if masks else np.zeros_like(real), landmarks[i])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = len(frames.numbers)
        return list(progress(pool.map(measure, range(count)), desc="pixel distances", total=count))


def pixels(evaluation: Evaluation, frames: ResultFrames) -> None:
    """APD-L2, MAPD-L2, mouth-APD-L2, PSNR and SSIM, and the same of the nearest training frames. Raises: Skip, UserError."""
    if frames.driven:
        raise Skip("another person drives, so there is no truth")
    landmarks = real_landmarks(frames)
    per_frame = pixel_distances(frames, landmarks)
    evaluation.per_frame |= {name: [m[name] for m in per_frame] for name in MEASURES}
    evaluation.values |= mean_measures(per_frame)
    if "nmfc" not in frames.paths:
        evaluation.skipped["MAPD-L2"] = "there are no NMFC images here; give --datasets_dir, or bring nmfc/ back too"
        evaluation.values.pop("MAPD-L2")
    put_or_skip(evaluation, "the nearest training frames", nearest, frames, landmarks)


def nearest(evaluation: Evaluation, frames: ResultFrames, landmarks: np.ndarray) -> None:
    """The measures of the nearest training frames, taken as if they were synthesised. Raises: Skip without training frames.

    landmarks: [N, 70, 2] of the real frames, pixels of the synthesised ones.
    """
    dataset = frames.dataset
    if dataset is None:
        raise Skip("the dataset is not here; give --datasets_dir")
    training = [(s, n) for s in dataset.sequences("train", frames.target) for n in s.frames()]
    bad = set(dataset.bad_frames(frames.target, "train", [n for _, n in training]))
    training = [(s, n) for s, n in training if n not in bad]
    test = dataset.sequence("test", frames.target)
    if not training:
        raise Skip(f"{frames.target} has no training frames in {dataset.folder}")
    known, wanted = (read_pose(some) for some in (training, [(test, n) for n in frames.numbers]))
    chosen = nearest_frames(known, wanted)

    counted = frames.counted

    def measure(i: int) -> dict[str, float]:
        if not counted[i]:
            return dict.fromkeys(MEASURES, math.nan)
        sequence, number = training[chosen[i]]
        real, other = frames.read("real", i), frames.scaled(read_image(sequence.path("images", number)))
        return frame_measures(real, other, frames.read("nmfc", i) if "nmfc" in frames.paths else np.zeros_like(real), landmarks[i])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = len(frames.numbers)
        per_frame = list(progress(pool.map(measure, range(count)), desc="nearest training frames", total=count))
    evaluation.nearest |= {name: value for name, value in mean_measures(per_frame).items() if name in evaluation.values}


def read_pose(frames: Sequence[tuple[FrameSequence, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pose and expression of frames, as fitted by reconstruct.py: [N, 6] and [N, K].

    Pose: rotation vector (radians), logarithm of the scale, and place in the picture in units of the head (translation / scale).
    """
    cameras = [read_camera(s.path("misc", n)) for s, n in frames]
    scale, rotation, translation = (np.array([c[i] for c in cameras]) for i in range(3))
    heads = head_rotation(Cameras(scale, rotation, translation))
    pose = np.concatenate([rotation_vector(heads), np.log(scale)[:, None], translation[:, :2] / scale[:, None]], 1)
    return pose, np.stack([read_table(s.path("exp_coeffs", n))[:, 0] for s, n in frames])


def nearest_frames(known: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """For every wanted frame the known one with the nearest pose [., 6] and expression [., K] (of read_pose): int [N].

    Nearest by the squared differences in units of the known frames' total variance, pose and expression weighing the same. The variance
    is that of rotation, size and place each by itself, and of all expression weights together, so that shapes that hardly ever move do
    not decide.
    """
    total = np.zeros((len(wanted[0]), len(known[0])))
    groups = [(0, slice(0, 3), 1 / 3), (0, slice(3, 4), 1 / 3), (0, slice(4, 6), 1 / 3), (1, slice(None), 1.0)]
    for which, part, weight in groups:
        a, b = wanted[which][:, part], known[which][:, part]
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        total += weight * squared / max(float(b.var(0).sum()), 1e-12)
    return total.argmin(1)


def flicker(evaluation: Evaluation, frames: ResultFrames) -> None:
    """Second differences over time of the person's and of the background's pixels, of both videos (util.metrics).

    A frame's value is that of it and its two neighbours; nan where one of them does not count.
    Raises: Skip when there is no truth, or there are too few frames; UserError without MediaPipe, which tells where the person is.
    """
    if frames.driven or "real" not in frames.paths:
        raise Skip("another person drives, so there is no truth" if frames.driven else "there are no real frames")
    count, counted = len(frames.numbers), frames.counted
    if not (counted[:-2] & counted[1:-1] & counted[2:]).any():
        raise Skip("fewer than three frames in a row do not show whether they flicker")
    person_mask = load_person_mask()
    reach = round(PERSON_MARGIN * frames.size)
    margin = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    curves = {(kind, where): np.full(count, np.nan) for kind in ("real", "fake") for where in ("person", "background")}
    lasts: dict[str, deque[np.ndarray]] = {kind: deque(maxlen=3) for kind in ("real", "fake", "person")}
    for i in progress(range(count), desc="flicker", total=count):
        for kind in ("real", "fake"):
            lasts[kind].append(frames.read(kind, i))
        lasts["person"].append(person_mask(lasts["real"][-1]) > 0.5)
        if i < 2 or not counted[i - 2 : i + 1].all():
            continue
        person = cv2.dilate(np.logical_or.reduce(list(lasts["person"])).astype(np.uint8), margin) > 0
        for kind in ("real", "fake"):
            changes = second_difference(*lasts[kind])
            for where, region in (("person", person), ("background", ~person)):
                if region.any():
                    curves[kind, where][i - 1] = changes[region].mean()
    for where in ("person", "background"):
        real, fake = curves["real", where], curves["fake", where]
        if np.isfinite(fake).any():
            evaluation.values[f"flicker-{where}"], evaluation.real[f"flicker-{where}"] = float(np.nanmean(fake)), float(np.nanmean(real))
            evaluation.per_frame[f"flicker-{where}"], evaluation.real_per_frame[f"flicker-{where}"] = fake.tolist(), real.tolist()
