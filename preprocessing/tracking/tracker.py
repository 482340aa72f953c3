"""Tracks one face from frame to frame: 478 three-dimensional landmarks with iris, from MediaPipe.

Coordinates are pixels of the image, counted from its top left corner (the centre of the first pixel is 0.5, 0.5): x to the
right, y down, z in the same unit, smaller is nearer the camera, about 0 at the centre of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.face_models.dense_points import N_POINTS
from preprocessing.tracking.detectors import overlap
from preprocessing.tracking.mediapipe_tools import load_solutions, silent_stderr
from util.cli import progress

RETRY_CONFIDENCE = 0.3  # 0..1, MediaPipe's least confidence in a face when the tracker has lost it; its default is 0.5

MIN_OVERLAP = 0.2  # intersection over union of the mesh's box and the detected one; with less it is another face
SURROUNDINGS = 0.5  # of the box's side: what is left around a face when others are blotted out


class Tracker:
    """Tracks the landmarks of one face, frame after frame. About 4 ms a frame on one core. A context manager; else call close().

    Raises: UserError when MediaPipe cannot be used.
    """

    def __init__(self) -> None:
        self._create = load_solutions().face_mesh.FaceMesh
        self._tracker = self._start(static_image_mode=False)
        self._single = None  # for frames in which the tracker loses the face; made when the first one comes
        self._seen = False
        self.strayed = False

    def step(self, rgb: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
        """The landmarks in the next frame of a video.

        rgb: uint8 [H, W, 3]. near: the face's box [left, top, right, bottom] in pixels, where it is known; other faces are left alone then.
        Returns: float32 [478, 3] in pixels, or None when no face is found; `strayed` then says whether another one was.
        """
        self.strayed = False
        points = self._search(rgb)
        if near is None or points is None or overlap(_box(points), near) >= MIN_OVERLAP:
            return points
        self.strayed = True
        points = self._search(_alone(rgb, near))
        return points if points is not None and overlap(_box(points), near) >= MIN_OVERLAP else None

    def close(self) -> None:
        for graph in (self._tracker, self._single):
            if graph is not None:
                graph.close()
        self._tracker = self._single = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _start(self, **options):
        with silent_stderr():
            graph = self._create(max_num_faces=1, refine_landmarks=True, **options)
            graph.process(np.zeros((64, 64, 3), np.uint8))  # the first image starts the graph, which prints remarks too
        return graph

    def _search(self, rgb: np.ndarray) -> np.ndarray | None:
        points = self._run(self._tracker, rgb)
        if points is None:  # the first call looks near the last place of the face only, the second one everywhere
            points = self._run(self._tracker, rgb)
        return points if points is not None else self._retry(rgb)

    def _retry(self, rgb: np.ndarray) -> np.ndarray | None:
        """Search a single frame without regard to earlier ones, also at other sizes, with a lower confidence."""
        if self._single is None:
            self._single = self._start(static_image_mode=True, min_detection_confidence=RETRY_CONFIDENCE)
        height, width = rgb.shape[:2]
        points = self._run(self._single, rgb)
        if points is None:  # a face that fills the frame
            border = max(height, width) // 3
            points = self._run(self._single, cv2.copyMakeBorder(rgb, *[border] * 4, cv2.BORDER_REPLICATE))
            if points is not None:
                points[:, :2] -= border
        if points is None:  # a small face
            top, left = height // 4, width // 4
            points = self._run(self._single, np.ascontiguousarray(rgb[top : height - top, left : width - left]))
            if points is not None:
                points[:, :2] += [left, top]
        return points

    def _run(self, graph, rgb: np.ndarray) -> np.ndarray | None:
        height, width = rgb.shape[:2]
        with nullcontext() if self._seen else silent_stderr():  # MediaPipe prints one more remark with the first face
            faces = graph.process(rgb).multi_face_landmarks
        self._seen = self._seen or bool(faces)
        if not faces:
            return None
        points = _coordinates(faces[0])
        return points * np.float32([width, height, width])  # z has the unit of x


# A landmark of MediaPipe's list as protocol buffers write it: bytes that say what follows, and three floats.
_LANDMARK_BYTES, _TAGS, _FLOATS = 17, {0: 0x0A, 1: 15, 2: 0x0D, 7: 0x15, 12: 0x1D}, (3, 8, 13)


def _coordinates(face) -> np.ndarray:
    """MediaPipe's list of landmarks as float32 [N, 3]; from its bytes, a tenth of the time of going through them one by one."""
    data = np.frombuffer(face.SerializeToString(), np.uint8)
    if data.size % _LANDMARK_BYTES == 0:
        rows = data.reshape(-1, _LANDMARK_BYTES)
        if (rows[:, list(_TAGS)] == list(_TAGS.values())).all():
            return np.concatenate([rows[:, k : k + 4] for k in _FLOATS], 1).view("<f4")
    return np.array([(p.x, p.y, p.z) for p in face.landmark], np.float32)  # with other fields, as of another version


def _box(points: np.ndarray) -> np.ndarray:
    """The box of a mesh [478, 3]: float [left, top, right, bottom]."""
    return np.concatenate([points[:, :2].min(0), points[:, :2].max(0)])


def _alone(rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The image with nothing but the face of this box and what is around it."""
    room = SURROUNDINGS * max(box[2:] - box[:2])
    height, width = rgb.shape[:2]
    left, top = np.clip(box[:2] - room, 0, [width, height]).astype(int)
    right, bottom = np.clip(box[2:] + room, 0, [width, height]).astype(int)
    image = np.zeros_like(rgb)
    image[top:bottom, left:right] = rgb[top:bottom, left:right]
    return image


@dataclass(frozen=True)
class Tracked:
    """The landmarks of N frames."""

    dense: np.ndarray  # float32 [N, 478, 3], nan in frames without the face
    other: np.ndarray  # bool [N]: frames in which another face was found instead

    @property
    def missed(self) -> np.ndarray:
        """Frames without the face: bool [N]."""
        return np.isnan(self.dense[:, 0, 0])


def track_frames(
    images: Iterable[np.ndarray],
    count: int,
    desc: str,
    on_face: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    boxes: np.ndarray | None = None,
) -> Tracked:
    """The landmarks in all frames of a video, in order, by one tracker, with a progress bar called `desc`.

    images: uint8 [H, W, 3], `count` of them. on_face: called with (index, image, landmarks [478, 3]) for every frame that shows a face.
    boxes: [count, 4], where the face is in pixels, if that is known; nan: not in this frame.
    Raises: UserError when MediaPipe cannot be used.
    """
    dense = np.full((count, N_POINTS, 3), np.nan, np.float32)
    other = np.zeros(count, bool)
    with Tracker() as tracker, progress(desc=desc, total=count) as bar:
        for k, image in enumerate(images):
            near = boxes[k] if boxes is not None and np.isfinite(boxes[k]).all() else None
            points = tracker.step(image, near)
            other[k] = points is None and tracker.strayed
            if points is not None:
                dense[k] = points
                if on_face:
                    on_face(k, image, points)
            bar.update()
    return Tracked(dense, other)
