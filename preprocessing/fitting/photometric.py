"""Photometric refinement of a video's fit: the frames' pixels correct the landmarks.

A landmark detector is biased towards usual faces. In rare poses and expressions the pose fitted to its points is degrees
off, and skin, hairline and ears slide over the mesh. But the person's texture is the same in all frames, so it can correct the pose
(analysis by synthesis, as in Face2Face, Thies et al. 2016, with optical flow instead of pixel differences, as flow reaches farther):

1. The texture is the mean colour of every triangle over the key frames in which it faces the camera.
2. The textured head is drawn at each frame's fit. Optical flow from the drawn head to the frame says where points of the upper face
   and the skull really are.
3. The model is fitted again to those points, together with the landmarks of lids, irises and all that the jaw moves.

The steps are repeated over the key frames; then all frames are refined once. It needs the whole video, so it serves finished videos only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.textured_head import MIN_POINTS, TexturedHead, surface_points
from preprocessing.fitting.video import Fit, SurfacePoints, fit_video
from util.cli import progress
from util.geometry import Cameras, rotation_matrix, rotation_vector
from util.sampling import spread

KEYFRAMES = 64
ROUNDS = 5  # over the key frames
OVER_RELAXATION = 1.8  # factor on the flow, which is too short between a blurred texture and a frame; halves the number of rounds
FINAL_OVER_RELAXATION = 1.4  # the same for the one round over all frames, where a larger factor causes jitter
MAX_ERROR_RATIO = 0.97  # of the colour errors after and before; with less improvement the refinement is discarded
SIDE = 256  # pixels; larger frames are reduced to this size


def refine(
    model: MorphableModel,
    fit: Fit,
    landmarks: np.ndarray,
    points: np.ndarray,
    joined: np.ndarray,
    read_frame: Callable[[int], np.ndarray],
    usable: np.ndarray | None = None,
    desc: str = "photometric refinement",
) -> Fit:
    """Refine a fit of `fit_video` by the frames' pixels; the identity stays fixed.

    landmarks, points, joined: as for `fit_video`. read_frame: frame's index -> uint8 [H, W, 3] RGB; called from threads.
    usable: bool [N], frames whose pixels show the person well (default: all with landmarks).
    Returns the given fit when the refinement brings the drawn head no nearer to the frames.
    """
    count = len(fit.cameras)
    shown = np.isfinite(landmarks[..., :2]).all((1, 2))
    valid = np.flatnonzero(shown & usable if usable is not None and (shown & usable).any() else shown)
    keys = valid[spread(len(valid), KEYFRAMES)]
    filmed = read_frame(keys[0])
    frames = [_small(filmed), *(_small(read_frame(i)) for i in keys[1:])]
    factor = frames[0].shape[0] / filmed.shape[0]
    before = _scaled(fit, factor)
    seen = landmarks[..., :2] * factor
    head = TexturedHead(model, fit.identity, frames[0].shape[:2])

    def fitted(chosen: np.ndarray, places: list[np.ndarray], follow: np.ndarray) -> Fit:
        return fit_video(model, seen[chosen], points, follow, fit.identity, SurfacePoints(tracked, np.stack(places), head.offsets))

    start = replace(before, expression=before.expression[keys], cameras=before.cameras[keys])
    vertices = list(head.vertices(start))
    colours, seen_by = head.learn(frames, vertices)
    chosen = surface_points(model, seen_by)
    if len(chosen) < MIN_POINTS:
        return fit
    tracked = model.triangles[chosen]
    shown = head.shown(vertices)
    colours = colours[shown]
    head.reduce(model.triangles[shown], tracked)
    looks = first = head.look(frames.__getitem__, head.vertices(start), colours, OVER_RELAXATION)
    for _ in range(ROUNDS):
        now = fitted(keys, [x.places for x in looks], np.zeros(len(keys), bool))
        vertices = list(head.vertices(now))
        colours, _ = head.learn(frames, vertices)
        looks = head.look(frames.__getitem__, vertices, colours, OVER_RELAXATION)
        head.offset_points(now.cameras, np.stack([x.flow for x in looks]))
    (distance, error), (distance_then, error_then) = (np.mean([(x.distance, x.error) for x in y], axis=0) for y in (looks, first))
    if distance > distance_then or error > MAX_ERROR_RATIO * error_then:
        return fit
    guess = _carried_over(before, keys, start, now)
    vertices = progress(head.vertices(guess), desc=desc, total=count)
    looks = head.look(lambda i: _small(read_frame(i)), vertices, colours, FINAL_OVER_RELAXATION)
    refined = fitted(np.arange(count), [x.places for x in looks], joined)
    return _scaled(refined, 1 / factor)


def _carried_over(fit: Fit, keys: np.ndarray, start: Fit, end: Fit) -> Fit:
    """Apply the change of the key frames' fits to all frames, interpolated over time."""
    turned = rotation_vector(end.cameras.rotation @ np.swapaxes(start.cameras.rotation, 1, 2))
    changes = np.column_stack(
        [
            turned,
            np.log(end.cameras.scale / start.cameras.scale),
            end.cameras.translation - start.cameras.translation,
            end.expression - start.expression,
        ]
    )
    time = np.arange(len(fit.cameras))
    change = np.column_stack([np.interp(time, keys, x) for x in changes.T])
    cameras = Cameras(
        fit.cameras.scale * np.exp(change[:, 3]),
        rotation_matrix(change[:, :3]) @ fit.cameras.rotation,
        fit.cameras.translation + change[:, 4:7],
    )
    return replace(fit, expression=fit.expression + change[:, 7:], cameras=cameras)


def _scaled(fit: Fit, factor: float) -> Fit:
    """The fit in frames of another size."""
    c = fit.cameras
    return replace(fit, cameras=Cameras(c.scale * factor, c.rotation, c.translation * factor))


def _small(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    side = max(height, width)
    return frame if side <= SIDE else cv2.resize(frame, (width * SIDE // side, height * SIDE // side), interpolation=cv2.INTER_AREA)
