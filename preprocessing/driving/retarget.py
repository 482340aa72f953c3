"""One head's motion carried over to another: functions on arrays of N frames, N = 1 for a live stream.

`retarget` treats every frame on its own. In it:

- **Lids and lips** are as open as the source's (preprocessing.driving.openings).
- **Expressions** beyond what the target's frames show are compressed (`soft_limit`).
- **Eye landmarks** are those of the driven mesh, corrected by what was seen beyond the fitted mesh, of the source over time and of the
  target on average; so they lie on the lids of the drawn face, whatever the pose.

`place_head` gives the head the target's size and place. `drive` does both for a finished motion and smooths size and place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from preprocessing.driving.edits import Edit, edit_cameras, edit_expression
from preprocessing.driving.filters import moving_average
from preprocessing.driving.heads import Driven
from preprocessing.driving.landmarks import PUPILS, in_eyes, mesh_landmarks, out_of_head, uncross_lids
from preprocessing.driving.motion import Motion
from preprocessing.driving.openings import LIDS, Opening, lid_gaps, openings
from preprocessing.driving.profile import TargetProfile
from preprocessing.face_models.morphable import MorphableModel
from util.geometry import FRONTAL, Cameras

CAMERA_DEVIATIONS = 2.0  # standard deviations of the target's place within which a driven head stays
LIMIT_MARGIN = 0.25  # scale of the compression beyond, as a part of the range that the face model allows (0..1.2: 0.15)

Openings = tuple[Opening, Opening, Opening]  # right lids, left lids, lips


def target_frames(count: int, fps: Fraction, available: int, target_fps: Fraction) -> np.ndarray:
    """Which of the target's `available` frames belongs to each of `count` frames at `fps`: int [count].

    The target runs at its own speed, to its end, back, and so on, so that nothing jumps.
    """
    period = max(2 * (available - 1), 1)
    place = np.rint(np.arange(count) * float(target_fps / fps)).astype(int) % period
    return np.minimum(place, period - place) if available > 1 else np.zeros(count, int)


# ---- size and place ----


def place_head(
    motion: Motion,
    target: TargetProfile,
    scale: bool = True,
    translation: bool = True,
    smooth: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Cameras:
    """Cameras [N] that show the motion's pose at the target's size and place.

    scale: S's scale times (mean scale of T / mean scale of S); False: S's own.
    translation: S's translation / scale, shifted so that its mean is T's and clamped to T's mean +- 2 standard deviations, times the
    scale; False: S's own translation. Rotation is S's in any case.
    smooth: a filter over time of scale (pixels per model unit) and place (x, y in model units) of the first kind, [N, 3] -> [N, 3].
    Raises: ValueError when S's own scale or translation is asked for and the motion has none (a file that drives).
    """
    if not (scale and translation) and motion.placement is None:
        raise ValueError("this motion has no scale and translation of its own")
    room = CAMERA_DEVIATIONS * target.place_spread
    adapted = np.concatenate([(target.scale * motion.zoom)[:, None], np.clip(motion.shift, -room, room)], 1)
    adapted = smooth(adapted) if smooth else adapted
    own = motion.zoom * motion.placement.scale * target.size / motion.placement.size if motion.placement else None
    scales = adapted[:, 0] if scale else own
    if translation:
        moved = (target.place + adapted[:, 1:]) * scales[:, None]
    else:
        moved = (motion.placement.centre + motion.shift) * own[:, None]
    return Cameras(scales, FRONTAL @ motion.rotation, np.pad(moved, ((0, 0), (0, 1))))


# ---- expression ----


def adapt_openings(
    gaps: Openings, target: TargetProfile, motion: Motion, expression: np.ndarray, bounds: np.ndarray, exaggerate: float = 1.0
) -> np.ndarray:
    """Expressions [N, K] with which the target's lids and lips are as open as the source's.

    gaps: the target's openings. bounds: [K, 2], of the face model.
    Weights alone would not do it: what shuts a small eye leaves a large one ajar, and the gap of relaxed lips belongs to the
    identity. Lids are as open as the source's in proportion to what is usual for each (the medians); lips as the source's in size.
    """
    *lids, lips = gaps
    out = expression
    for eye, lid in enumerate(lids):
        open_ = motion.lids[:, eye] if motion.lids is not None else 1 - motion.expression @ (lid.slope / lid.slope[lid.closes])
        out = lid.reach(out, target.usual_gaps[eye] * np.maximum(0, 1 + exaggerate * (open_ - 1)), bounds)
    gap = motion.lips if motion.lips is not None else motion.expression @ lips.slope
    return lips.reach(out, exaggerate * gap, bounds)


def soft_limit(values: np.ndarray, low: np.ndarray, high: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Compress what lies beyond [low, high] and leave the rest: [N, K] with [K] each.

    Beyond a limit, a distance d becomes margin * log(1 + d / margin): its slope is 1 at the limit and falls steadily, so that order
    and shape of a motion remain and nothing is cut off.
    """
    above, below = np.maximum(values - high, 0), np.maximum(low - values, 0)
    return np.clip(values, low, high) + margin * (np.log1p(above / margin) - np.log1p(below / margin))


def limit_expression(expression: np.ndarray, covered: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Expressions [N, K] kept softly to a covered range [2, K]; bounds [K, 2] are the face model's."""
    low, high = covered
    return np.clip(soft_limit(expression, low, high, LIMIT_MARGIN * (bounds[:, 1] - bounds[:, 0])), *bounds.T)


# ---- landmarks ----


def driven_landmarks(
    model: MorphableModel, gaps: Openings, target: TargetProfile, motion: Motion, expression: np.ndarray, cameras: Cameras
) -> np.ndarray:
    """The 70 landmarks of driven frames, [N, 70, 2], pixels.

    Those of the driven mesh, moved by what detection differs from the mesh: by the mean difference of the target, and the pupils
    also by the motion's own. No landmarks of the source come in, so eyes lie where the driven face has them, in any pose.
    """
    landmarks = mesh_landmarks(model, target.identity, expression, cameras)
    # The lids' own shapes move the corners of the eyes a little: as the source's they belong to its gaze, as the target's not.
    looking = expression.copy()
    own = [k for lid in gaps[:2] for k in (lid.closes, lid.opens)]
    looking[:, own] = motion.expression[:, own]
    gaze = in_eyes(mesh_landmarks(model, target.identity, looking, cameras)) - in_eyes(landmarks)
    landmarks += out_of_head(np.tile(target.offsets, (len(cameras), 1, 1)), cameras)
    landmarks[:, PUPILS] += gaze + out_of_head(motion.pupils, cameras)
    # The lids' gap as seen should not hang on how deep the fit happens to place either lid: it is the mesh's own, in its proportion
    # to what is seen of the target.
    seen = lid_gaps(landmarks, cameras)
    for eye, (lid, (upper, lower, *_)) in enumerate(zip(gaps, LIDS)):
        wanted = np.maximum(0, lid.gap(expression)) * target.seen_gaps[eye] / target.mean_gaps[eye]
        part = ((wanted - seen[:, eye]) / 2 * cameras.scale)[:, None] * cameras.rotation[:, :2, 1]  # the head's way up
        landmarks[:, upper] += part[:, None]
        landmarks[:, lower] -= part[:, None]
    return uncross_lids(landmarks)


# ---- all of it ----


def retarget(
    model: MorphableModel,
    gaps: Openings,
    target: TargetProfile,
    motion: Motion,
    cameras: Cameras,
    *,
    exaggerate: float = 1.0,
    limit: bool = True,
    edits: Sequence[Edit] = (),
) -> Driven:
    """Put a motion onto a target in given cameras; every frame by itself.

    gaps: `openings(model, target.identity)`. exaggerate: factor of all expression weights. limit: keep expressions softly to what
    the target's frames show; edits come after that, since they are said outright.
    """
    bounds = model.expression_bounds.astype(np.float64)
    expression = np.clip(exaggerate * motion.expression, *bounds.T)
    expression = adapt_openings(gaps, target, motion, expression, bounds, exaggerate)
    if limit:
        expression = limit_expression(expression, target.expression_range, bounds)
    expression = edit_expression(edits, expression, model.expression_names, bounds)
    cameras = edit_cameras(edits, cameras)
    return Driven(expression, cameras, driven_landmarks(model, gaps, target, motion, expression, cameras))


def drive(
    model: MorphableModel,
    target: TargetProfile,
    motion: Motion,
    poses: np.ndarray | None = None,
    *,
    scale: bool = True,
    translation: bool = True,
    exaggerate: float = 1.0,
    limit: bool = True,
    edits: Sequence[Edit] = (),
) -> Driven:
    """Put a finished motion onto a target, its size and place smoothed by a moving average over time.

    poses: int [N], the target's frames whose cameras are used (face reenactment); None: the motion's pose (head reenactment).
    scale, translation: see `place_head`; exaggerate, limit, edits: see `retarget`.
    Raises: ValueError as `place_head`.
    """
    if poses is not None:
        cameras = target.cameras[poses]
    else:
        cameras = place_head(motion, target, scale, translation, lambda values: moving_average(values, float(motion.fps)))
    return retarget(model, openings(model, target.identity), target, motion, cameras, exaggerate=exaggerate, limit=limit, edits=edits)
