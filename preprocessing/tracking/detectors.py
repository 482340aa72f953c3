"""Face detectors: the boxes of the faces in a frame.

A face box is float [left, top, right, bottom] in pixels; it is the box that MTCNN gives, from the hair line to the
chin. Boxes of MediaPipe start at the brows; they are converted, so that both detectors lead to the same crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from preprocessing.tracking.mediapipe_tools import load_solutions, silent_stderr
from util.cli import UserError, warn

DETECTORS = ("mediapipe", "mtcnn")
# MediaPipe's short-range box -> box of MTCNN, measured on six clips of six people: height and width relative to the
# box's side, and how far the centre moves up. The full-range box is 1.09 times the short-range box and 0.05 sides higher.
_HEIGHT, _WIDTH, _RAISE = 1.24, 0.93, 0.13
_FULL_RANGE_SIDE, _FULL_RANGE_RAISE = 1.09, 0.05
SAME_FACE_IOU = 0.3  # smallest intersection over union of two boxes of one face, in one frame or one frame apart


class FaceDetector(Protocol):
    """Faces are float64 [n, 4] boxes in pixels of the frame, the most confident first."""

    batch_size: int

    def detect(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Faces of each whole frame (uint8 [H, W, 3] RGB), fast; may miss small ones."""
        ...

    def search(self, frame: np.ndarray) -> np.ndarray:
        """Faces of a frame in which `detect` found none, by a slower and more thorough search."""
        ...

    def near(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Faces around a box, small ones included."""
        ...


def create_detector(kind: str, batch_size: int = 8, gpu_id: int = -1) -> FaceDetector:
    """kind: one of DETECTORS; batch_size and gpu_id (negative: CPU) are for mtcnn.

    Raises: UserError when the library is not installed.
    """
    if kind == "mediapipe":
        return MediaPipeDetector()
    if kind == "mtcnn":
        return MtcnnDetector(batch_size, gpu_id)
    raise ValueError(f"no detector is called {kind!r}")


class MediaPipeDetector:
    """BlazeFace, from the mediapipe package. About 2 ms a frame on one core."""

    batch_size = 1

    def __init__(self) -> None:
        create = load_solutions().face_detection.FaceDetection
        with silent_stderr():
            self._short = create(model_selection=0, min_detection_confidence=0.5)
            self._full = create(model_selection=1, min_detection_confidence=0.5)
            for model in (self._short, self._full):  # the first image starts the graph, which prints log lines too
                model.process(np.zeros((64, 64, 3), np.uint8))

    def detect(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._boxes(self._short, frame) for frame in frames]

    def search(self, frame: np.ndarray) -> np.ndarray:
        boxes = self._boxes(self._full, frame, _FULL_RANGE_SIDE, _FULL_RANGE_RAISE)
        if len(boxes):
            return boxes
        # Small faces: overlapping squares of half the shorter side.
        height, width = frame.shape[:2]
        side = min(height, width) // 2
        found = []
        for top in np.linspace(0, height - side, round(2 * height / side) - 1).astype(int):
            for left in np.linspace(0, width - side, round(2 * width / side) - 1).astype(int):
                part = np.ascontiguousarray(frame[top : top + side, left : left + side])
                found.append(self._boxes(self._short, part) + [left, top, left, top])
        return _without_doubles(np.concatenate(found))

    def near(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        centre, reach = (box[:2] + box[2:]) / 2, 1.5 * max(box[2:] - box[:2])
        height, width = frame.shape[:2]
        left, top = np.clip(centre - reach, 0, [width, height]).astype(int)
        right, bottom = np.clip(centre + reach, 0, [width, height]).astype(int)
        if right - left < 8 or bottom - top < 8:
            return np.zeros((0, 4))
        part = np.ascontiguousarray(frame[top:bottom, left:right])
        boxes = self._boxes(self._short, part)
        if not len(boxes):
            boxes = self._boxes(self._full, part, _FULL_RANGE_SIDE, _FULL_RANGE_RAISE)
        return boxes + [left, top, left, top]

    @staticmethod
    def _boxes(model, frame: np.ndarray, side: float = 1.0, raised: float = 0.0) -> np.ndarray:
        """Boxes of all faces. side, raised: how the model's boxes differ from the short-range model's, as _FULL_RANGE_*."""
        height, width = frame.shape[:2]
        boxes = []
        for detection in model.process(frame).detections or []:
            relative = detection.location_data.relative_bounding_box
            size = relative.height * height / side  # of the short-range box, which is square
            x = (relative.xmin + relative.width / 2) * width
            y = (relative.ymin + relative.height / 2) * height + (raised - _RAISE) * size
            boxes.append([x - _WIDTH / 2 * size, y - _HEIGHT / 2 * size, x + _WIDTH / 2 * size, y + _HEIGHT / 2 * size])
        return np.array(boxes, np.float64).reshape(-1, 4)


class MtcnnDetector:
    """MTCNN, the original's detector, from the facenet-pytorch package. About 36 ms a frame of 480x480 on two cores."""

    def __init__(self, batch_size: int = 8, gpu_id: int = -1):
        try:
            import torch
            from facenet_pytorch import MTCNN
        except ImportError as e:
            raise UserError(f"MTCNN cannot be used ({e}); install it with: pip install --no-deps facenet-pytorch==2.6.0") from None
        if gpu_id >= 0 and not torch.cuda.is_available():
            warn("there is no CUDA GPU: MTCNN runs on the CPU, which is slow")
            gpu_id = -1
        if gpu_id >= 0 and gpu_id >= torch.cuda.device_count():
            raise UserError(f"--gpu_id {gpu_id}: there are only {torch.cuda.device_count()} GPUs, counted from 0")
        self.batch_size = batch_size
        self._model = MTCNN(keep_all=True, device=f"cuda:{gpu_id}" if gpu_id >= 0 else "cpu")

    def detect(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        found, _ = self._model.detect(np.stack(frames))
        return [np.zeros((0, 4)) if boxes is None else np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in found]

    def search(self, frame: np.ndarray) -> np.ndarray:
        return np.zeros((0, 4))  # `detect` has searched at all sizes already

    def near(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        return np.zeros((0, 4))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if size.min() <= 0:
        return 0.0
    both = size.prod()
    return float(both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both))


def _without_doubles(boxes: np.ndarray) -> np.ndarray:
    kept: list[np.ndarray] = []
    for box in boxes:
        if all(overlap(box, other) < SAME_FACE_IOU for other in kept):
            kept.append(box)
    return np.array(kept).reshape(-1, 4)
