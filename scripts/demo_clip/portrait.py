"""The photograph of the demo clip and what is found in it: landmarks, outline of the person, openings of mouth and eyes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from preprocessing.tracking.mediapipe_tools import load_solutions, silent_stderr
from scripts.demo_clip.contours import JAW, LOWER_LIDS, LOWER_LIP, UPPER_LIDS, UPPER_LIP
from scripts.demo_clip.images import blur, guided_filter
from util.cli import UserError

CROP = (90, 0, 280)  # left, top, side of the square of the 512x512 photograph that is used


@dataclass(frozen=True)
class Portrait:
    """The photograph and what was found in it. Images are float32 RGB 0..1, `side` pixels high and wide."""

    photo: np.ndarray  # [side, side, 3]
    person: np.ndarray  # [side, side] opacity of the person
    landmarks: np.ndarray  # [478, 3], photo pixels

    @property
    def zoom(self) -> float:
        """Pixels of the images a photo pixel."""
        return len(self.photo) / CROP[2]

    def polygon(self, points: np.ndarray) -> np.ndarray:
        """Antialiased mask [side, side] of a polygon [n, 2] of photo pixels."""
        mask = np.zeros(self.person.shape, np.uint8)
        fixed_point = np.round((np.asarray(points) * self.zoom - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed_point], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / 255

    def distance(self, mask: np.ndarray) -> np.ndarray:
        """Distance [side, side] to a mask, in photo pixels."""
        return cv2.distanceTransform((mask < 0.5).astype(np.uint8), cv2.DIST_L2, 5) / self.zoom

    @cached_property
    def holes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Outlines [n, 2] in photo pixels of the mouth's opening and of both eyes."""
        return tuple(
            np.concatenate([self.landmarks[list(upper), :2], self.landmarks[list(lower)[-2:0:-1], :2]])
            for upper, lower in zip((UPPER_LIP, *UPPER_LIDS), (LOWER_LIP, *LOWER_LIDS))
        )

    @cached_property
    def head_area(self) -> np.ndarray:
        """Mask [side, side] of all that is above the jaw line."""
        jaw = self.landmarks[list(JAW), :2]
        outwards = jaw - jaw.mean(0)
        jaw = jaw + 1.2 * outwards / np.linalg.norm(outwards, axis=1, keepdims=True)  # the contour runs just inside the jaw
        return self.polygon(np.array([(-9, -9), (-9, jaw[0, 1]), *jaw, (CROP[2] + 9, jaw[-1, 1]), (CROP[2] + 9, -9)]))


def load_portrait(side: int) -> Portrait:
    """Crop and enlarge the photograph, find the face in it and separate the person from the background.

    Raises: UserError when scikit-image or MediaPipe lack what comes with their packages.
    """
    import skimage.data

    photo = skimage.data.astronaut()  # in the package itself, not downloaded
    left, top, crop = CROP
    photo = photo[top : top + crop, left : left + crop]

    def enlarged(size: int) -> np.ndarray:
        return cv2.resize(photo, (size, size), interpolation=cv2.INTER_LANCZOS4)

    solutions = load_solutions()
    with silent_stderr():
        found = []
        with solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
            for size in (512, 768, 1024):  # the mean of some sizes is more exact than one
                result = mesh.process(enlarged(size))
                if not result.multi_face_landmarks:
                    raise UserError(
                        "MediaPipe does not find the face of scikit-image's astronaut; install mediapipe and scikit-image again"
                    )
                found.append([(p.x, p.y, p.z) for p in result.multi_face_landmarks[0].landmark])
        with solutions.selfie_segmentation.SelfieSegmentation(0) as segmentation:
            person = segmentation.process(enlarged(512)).segmentation_mask
    person = guided_filter(enlarged(512).astype(np.float32) / 255, (person > 0.5).astype(np.float32), 6, 2e-4)
    person = np.clip((cv2.resize(person, (side, side), interpolation=cv2.INTER_CUBIC) - 0.06) / 0.88, 0, 1)
    large = enlarged(side).astype(np.float32) / 255
    zoom = side / crop
    large += 0.35 * (large - blur(large, 0.8 * zoom))  # enlarging has softened it
    return Portrait(np.clip(large, 0, 1), person, np.mean(found, 0) * crop)
