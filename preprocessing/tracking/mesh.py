"""The dense face mesh: 478 three-dimensional points with iris, from MediaPipe.

Coordinates are pixels of the image, counted from its top left corner (the centre of the first pixel is 0.5, 0.5): x to the
right, y down, z in the same unit, smaller = nearer the camera, about 0 at the head's centre.
"""

from __future__ import annotations

from contextlib import nullcontext

import cv2
import numpy as np

from preprocessing.tracking.mediapipe_tools import load_solutions, silent_stderr


class DenseMesh:
    """Finds the mesh of one face, frame after frame. About 4 ms a frame on one core."""

    def __init__(self) -> None:
        self._create = load_solutions().face_mesh.FaceMesh
        self._tracker = self._start(static_image_mode=False)
        self._single = None  # for frames in which the tracker loses the face
        self._seen = False

    def detect(self, rgb: np.ndarray) -> np.ndarray | None:
        """The mesh in the next frame of a video.

        rgb: uint8 [H, W, 3]. Returns: float32 [478, 3] in pixels, or None when no face is found.
        """
        points = self._run(self._tracker, rgb)
        if points is None:  # it looks around the last frame's place first; asked again, it looks everywhere
            points = self._run(self._tracker, rgb)
        return points if points is not None else self._retry(rgb)

    def close(self) -> None:
        for graph in (self._tracker, self._single):
            if graph is not None:
                graph.close()
        self._tracker = self._single = None

    def __enter__(self) -> DenseMesh:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _start(self, **options):
        with silent_stderr():
            graph = self._create(max_num_faces=1, refine_landmarks=True, **options)
            graph.process(np.zeros((64, 64, 3), np.uint8))  # the first image starts the graph, which has remarks too
        return graph

    def _retry(self, rgb: np.ndarray) -> np.ndarray | None:
        """Without regard to earlier frames, at other sizes, and less strict."""
        if self._single is None:
            self._single = self._start(static_image_mode=True, min_detection_confidence=0.3)
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
        with nullcontext() if self._seen else silent_stderr():  # there is one more remark with the first face
            faces = graph.process(rgb).multi_face_landmarks
        self._seen = self._seen or bool(faces)
        if not faces:
            return None
        points = np.array([(p.x, p.y, p.z) for p in faces[0].landmark], np.float32)
        return points * np.float32([width, height, width])  # z has the unit of x
