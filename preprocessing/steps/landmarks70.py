"""Step 2 for one identity: 68 + 2 landmarks and the dense face mesh in every crop."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from preprocessing.face_models.dense_points import SKIN, from_dense
from preprocessing.tracking.cover import colours_at, find_covered
from preprocessing.tracking.dlib_landmarks import Predict68
from preprocessing.tracking.tracker import track_frames
from util.ahead import map_ahead
from util.cli import UserError, say, warn
from util.identities import IdentityFrames, collect_frames
from util.image_io import ImageStore, write_bytes
from util.layout import Dataset, Record, write_table
from util.layout import Sequence as FrameSequence
from util.numeric import fill_gaps
from util.stored import UNREADABLE, load_arrays

MAX_MISSED = 0.25  # largest share of an identity's frames without a face


def landmarks_key(method: str | None, record: Record | None) -> dict[str, Any]:
    """What an identity's landmarks are made from. method: None for MediaPipe's. record: the identity's, None without one."""
    return {"version": 2, "landmarks": method or "mediapipe", "detect": record.steps.get("detect") if record else None}


def make_landmarks(dataset: Dataset, name: str, method: str | None, predict68: Predict68 | None, images: ImageStore | None = None) -> None:
    """Landmarks of one identity, unless they are complete. images: what make_crops remembers."""
    found = collect_frames(dataset, name)
    count = len(found.frames)
    record = found.record
    if not record and method is None and found.is_complete("landmarks70"):
        say(f"{name}: keeping the landmarks that are there; --landmarks mediapipe would replace them")
        return
    key = landmarks_key(method, record)
    if record:
        if key["detect"] is None:
            raise UserError(f"the frames of '{name}' are incomplete; run preprocessing/detect.py again")
        dense_there = all(s.dense_landmarks_path.is_file() for s in found.sequences)
        if record.is_done("landmarks70", key) and found.is_complete("landmarks70") and dense_there:
            say(f"{name}: landmarks already complete ({count} frames)")
            return
    dense, landmarks, states = find_landmarks(found, name, predict68, read_track(dataset, name, found.numbers), images or ImageStore())
    if record:  # from here on the old landmarks are replaced: what was made from them is out of date
        record = record.without_steps(*(step for step in record.steps if step != "detect"))
        dataset.write_record(record)
    write_landmarks(found, dense, landmarks)
    if record:
        record = record.with_bad_frames("landmarks70", found.numbers, states)
        dataset.write_record(record.with_step("landmarks70", key))
    say(f"{name}: landmarks of {count} frames")
    if record and record.bad_frames and (bad := record.tell_bad_frames(found.numbers)):
        say(f"{name}: {bad}; these frames are neither learnt from nor measured")


def find_landmarks(
    found: IdentityFrames, name: str, predict68: Predict68 | None, boxes: np.ndarray | None, store: ImageStore
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The landmarks of all frames, in pixels of the crop: dense float32 [N, 478, 3], and the 70, float32 [N, 70, 2]; and their states.

    predict68: method for the 68 points; None: MediaPipe's. boxes: [N, 4], where detect.py saw the face, nan: nowhere; None: not known.
    A state is one of util.layout.FRAME_STATES, '' where the face is seen well. Landmarks of frames without the face are interpolated.
    Raises: UserError when the face is hidden in more than MAX_MISSED of the frames that are not known to be dark.
    """
    count = len(found.frames)
    points68 = np.full((count, 68, 2), np.nan, np.float32)
    colours = np.zeros((count, SKIN, 3), np.uint8)

    def read_more(k: int, image: np.ndarray, points: np.ndarray) -> None:
        colours[k] = colours_at(image, points)
        if predict68:
            points68[k] = predict68(image, points)

    # One run over all sequences in order: the tracker keeps the face where one sequence ends and the next begins.
    images = map_ahead(store.read, found.paths("images"), threads=1, depth=8)
    tracked = track_frames(images, count, f"{name}: landmarks", read_more, boxes)
    missed = tracked.missed
    expected = found.usable
    if (missed & expected).sum() > MAX_MISSED * expected.sum():
        raise UserError(
            f"no face could be read in {(missed & expected).sum()} of the {expected.sum()} frames of '{name}'; cut the video to the part "
            "where the face is seen well and run preprocessing/detect.py again"
        )
    if missed.any():
        warn(f"{name}: no face in {missed.sum()} of {count} frames; their landmarks are taken from their neighbours")
    covered = find_covered(tracked.dense, colours, ~missed & expected)
    states = np.select([tracked.other, missed, covered], ["other face", "lost", "covered"], "").tolist()
    dense = fill_gaps(tracked.dense, missed)
    landmarks = from_dense(dense)
    if predict68:
        landmarks = np.concatenate([fill_gaps(points68, missed), landmarks[:, 68:]], axis=1)
    return dense, landmarks, states


def read_track(dataset: Dataset, name: str, numbers: Sequence[int]) -> np.ndarray | None:
    """Where detect.py saw the face in frames of these numbers: [N, 4] pixels of the crop, interpolated; None when nothing tells."""
    try:
        track = load_arrays(dataset.track_path(name), ["numbers", "boxes"])
        known, boxes = track["numbers"], track["boxes"].astype(np.float64)
    except UNREADABLE:
        return None
    if known.tolist() != list(numbers) or boxes.shape != (len(known), 4) or np.isnan(boxes[:, 0]).all():
        return None
    return fill_gaps(boxes, np.isnan(boxes[:, 0]))


def write_landmarks(found: IdentityFrames, dense: np.ndarray, landmarks: np.ndarray) -> None:
    """Write the files of an identity: landmarks478 of every sequence, landmarks70 of every frame."""
    for s in found.sequences:
        own = [i for i, (sequence, _) in enumerate(found.frames) if sequence == s]
        write_dense(s, dense[own])
    for path, rows in zip(found.paths("landmarks70"), landmarks):
        write_table(path, rows, precision=3)


def write_dense(sequence: FrameSequence, points: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, points)
    write_bytes(sequence.dense_landmarks_path, file.getvalue())
