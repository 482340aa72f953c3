"""From stored images and landmarks to the generator's inputs: resizing and training jitter."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from util.face.landmarks import LEFT_EYE, LEFT_PUPIL, RIGHT_EYE, RIGHT_PUPIL

_TRANSLATION = 0.01  # of the image's side
_SCALE = 0.01
_EYE_SIZE = 0.02  # standard deviation
_EYE_SHIFT = 2 / 256  # standard deviation, of the image's side


@dataclass(frozen=True)
class Jitter:
    """One random change of the conditioning images."""

    affine: np.ndarray  # float64 [2, 3], maps points of the image to points of the jittered one, in pixels
    eye_scale: np.ndarray  # [2], right eye and left eye
    eye_shift_px: np.ndarray  # [2], along the line between the eyes, positive outwards


def random_jitter(rng: np.random.Generator, size: int) -> Jitter:
    """Draw the training jitter for images of size x size pixels.

    Translation up to 1 % of the side per axis, scale 0.99..1.01 about the image's centre; eye size 1 + 2 % N(0,1) and eye
    position 2 px (of 256) N(0,1) along the line between the eyes, each eye its own.

    One jitter holds for a whole clip. It stands for what differs when another person drives: placement and proportions that
    fit a little worse, and those are constant or slow. Drawn per frame, the conditioning would shake by several
    pixels while the real head stands still, and the generator would learn to ignore its conditioning and to lag behind.
    """
    scale = rng.uniform(1 - _SCALE, 1 + _SCALE)
    shift = rng.uniform(-_TRANSLATION, _TRANSLATION, 2) * size
    centre = size / 2
    affine = np.array([[scale, 0, (1 - scale) * centre + shift[0]], [0, scale, (1 - scale) * centre + shift[1]]])
    return Jitter(affine, 1 + _EYE_SIZE * rng.standard_normal(2), _EYE_SHIFT * size * rng.standard_normal(2))


def jitter_nmfc(image: np.ndarray, jitter: Jitter) -> np.ndarray:
    """Apply the affine map to an NMFC image, uint8 [H, W, 3].

    Nearest neighbour: the colours stay those of the mesh and the silhouette as sharp as in an unjittered image.
    """
    centred = jitter.affine.copy()
    centred[:, 2] += jitter.affine[:, :2] @ [0.5, 0.5] - 0.5  # OpenCV counts from the centre of the first pixel
    return cv2.warpAffine(image, centred, image.shape[1::-1], flags=cv2.INTER_NEAREST)


def jitter_landmarks(landmarks: np.ndarray, jitter: Jitter) -> np.ndarray:
    """Move landmarks [..., 70, 2] for drawing a jittered eye gaze image: eye size and distance, then the affine map of the NMFC."""
    moved = landmarks.astype(np.float64)
    eyes = [[*range(RIGHT_EYE.start, RIGHT_EYE.stop), RIGHT_PUPIL], [*range(LEFT_EYE.start, LEFT_EYE.stop), LEFT_PUPIL]]
    centres = np.stack([moved[..., eye[:-1], :].mean(-2) for eye in eyes], -2)  # [..., 2, 2]
    outwards = centres - centres[..., ::-1, :]
    outwards /= np.maximum(np.linalg.norm(outwards, axis=-1, keepdims=True), 1e-6)
    for i, eye in enumerate(eyes):
        centre, out = centres[..., i : i + 1, :], outwards[..., i : i + 1, :]
        moved[..., eye, :] = centre + (moved[..., eye, :] - centre) * jitter.eye_scale[i] + out * jitter.eye_shift_px[i]
    return moved @ jitter.affine[:, :2].T + jitter.affine[:, 2]
