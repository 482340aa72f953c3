"""One head's motion carried over to another: functions on arrays of N frames, N = 1 for a live stream.

`retarget` treats every frame on its own. In it:

- **Lids and lips** are as open as the source's (preprocessing.driving.openings).
- **Expressions** beyond what the target's frames show are eased (preprocessing.driving.limits).
- **Eye landmarks** are those of the driven mesh, corrected by what was seen beyond the fitted mesh, of the source over time and of the
  target on average; so they lie on the lids of the drawn face, whatever the pose.

`place_head` gives the head the target's size and place, and eases turns that the target never made. `drive` does both for a finished
motion and smooths size and place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from preprocessing.driving.edits import Edit, edit_cameras, edit_expression
from preprocessing.driving.filters import moving_average
from preprocessing.driving.heads import Driven
from preprocessing.driving.landmarks import OUTLINES, PUPILS, between_corners, mesh_landmarks, out_of_head, uncross_lids
from preprocessing.driving.limits import FREE_PLACE, ease_lips, ease_place, ease_size, ease_turns, limit_expression, opening_shapes
from preprocessing.driving.motion import Motion, turning_shift
from preprocessing.driving.openings import LIDS, Opening, lid_gaps, openings
from preprocessing.driving.profile import TargetProfile
from preprocessing.face_models.morphable import MorphableModel
from util.face.landmarks import EYES
from util.geometry import FRONTAL, Cameras

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
    limit: bool = True,
) -> Cameras:
    """Cameras [N] that show the motion's pose at the target's size and place.

    scale: S's scale times (mean scale of T / mean scale of S); False: S's own.
    translation: S's translation / scale, shifted so that its mean is T's, times the scale; False: S's own translation.
    limit: ease turns, size and place that go beyond those of T's frames (preprocessing.driving.limits); False: S's own turns and size,
    and the place clamped to T's mean +- 2 standard deviations.
    smooth: a filter over time of scale (pixels per model unit) and place (x, y in model units) of the first kind, [N, 3] -> [N, 3].
    Raises: ValueError when S's own scale or translation is asked for and the motion has none (a file that drives).
    """
    if not (scale and translation) and motion.placement is None:
        raise ValueError("this motion has no scale and translation of its own")
    rotation, zoom, shift = motion.rotation, motion.zoom, motion.shift
    room = FREE_PLACE * target.place_spread
    near = np.clip(shift, -room, room)
    if limit:
        rotation = ease_turns(rotation, target.turns_deg)
        shift = shift + (turning_shift(rotation) - turning_shift(motion.rotation))  # the head turns about the neck
        zoom, near = ease_size(zoom, target.covered_zoom), ease_place(shift, target.place_spread)
    adapted = np.concatenate([(target.scale * zoom)[:, None], near], 1)
    adapted = smooth(adapted) if smooth else adapted
    own = motion.zoom * motion.placement.scale * target.size / motion.placement.size if motion.placement else None
    scales = adapted[:, 0] if scale else own
    if translation:
        moved = (target.place + adapted[:, 1:]) * scales[:, None]
    else:
        moved = (motion.placement.centre + shift) * own[:, None]
    return Cameras(scales, FRONTAL @ rotation, np.concatenate([moved, np.zeros((len(moved), 1))], 1))


# ---- expression ----


def adapt_openings(
    gaps: Openings,
    target: TargetProfile,
    motion: Motion,
    expression: np.ndarray,
    bounds: np.ndarray,
    exaggerate: float = 1.0,
    limit_mouth: bool = False,
) -> np.ndarray:
    """Expressions [N, K] with which the target's lids and lips are as open as the source's.

    gaps: the target's openings. bounds: [K, 2], of the face model.
    Weights alone would not do it: what shuts a small eye leaves a large one ajar, and the gap of relaxed lips belongs to the
    identity. Lids are as open as the source's in proportion to what is usual for each (the medians); lips as the source's in size.
    limit_mouth: hold lips that open further than the target's ever do.
    """
    *lids, lips = gaps
    out = expression
    for eye, lid in enumerate(lids):
        open_ = motion.lids[:, eye] if motion.lids is not None else 1 - motion.expression @ (lid.slope / lid.slope[lid.closes])
        out = lid.reach(out, target.usual_gaps[eye] * np.maximum(0, 1 + exaggerate * (open_ - 1)), bounds)
    gap = motion.lips if motion.lips is not None else motion.expression @ lips.slope
    wanted = ease_lips(exaggerate * gap, target.widest_lips) if limit_mouth else exaggerate * gap
    return lips.reach(out, wanted, bounds)


def wanted_expression(
    model: MorphableModel, gaps: Openings, target: TargetProfile, motion: Motion, exaggerate: float = 1.0, limit_mouth: bool = False
) -> np.ndarray:
    """Expressions [N, K] that the motion asks of the target, within the face model's bounds; gaps, limit_mouth: see `adapt_openings`."""
    bounds = model.expression_bounds.astype(np.float64)
    return adapt_openings(gaps, target, motion, np.clip(exaggerate * motion.expression, *bounds.T), bounds, exaggerate, limit_mouth)


# ---- landmarks ----


def driven_landmarks(
    model: MorphableModel, gaps: Openings, target: TargetProfile, motion: Motion, expression: np.ndarray, cameras: Cameras
) -> np.ndarray:
    """The 70 landmarks of driven frames, [N, 70, 2], pixels.

    Those of the driven mesh, moved by what detection differs from the mesh: by the mean difference of the target, and eyes and pupils
    also by the motion's own, less what is usual for the source. So eyes lie where the driven face has them, in any pose.
    """
    landmarks = mesh_landmarks(model, target.identity, expression, cameras)
    # The lids' own shapes move the eyes' corners a little: as the source's, as which the motion was seen, not as the target's.
    looking = expression.copy()
    own = [k for lid in gaps[:2] for k in (lid.closes, lid.opens)]
    looking[:, own] = motion.expression[:, own]
    landmarks[:, EYES] = mesh_landmarks(model, target.identity, looking, cameras)[:, EYES]
    landmarks += out_of_head(target.offsets, cameras)
    landmarks[:, PUPILS] += out_of_head(motion.pupils, cameras)
    if motion.eyes is not None:
        beside = out_of_head(motion.eyes, cameras)
        landmarks[:, OUTLINES] += beside
        landmarks[:, PUPILS] += between_corners(beside)
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
    limit_mouth: bool = False,
    edits: Sequence[Edit] = (),
) -> Driven:
    """Put a motion onto a target in given cameras; every frame by itself.

    gaps: `openings(model, target.identity)`. exaggerate: factor of all expression weights. limit: keep expressions softly to what
    the target's frames show, mouth and lids to what the face model can do. limit_mouth: hold lips that open further than the target's
    ever do. Edits come after that, since they are said outright.
    """
    bounds = model.expression_bounds.astype(np.float64)
    expression = wanted_expression(model, gaps, target, motion, exaggerate, limit_mouth)
    if limit:
        expression = limit_expression(expression, target.expression_range, bounds, opening_shapes(model.expression_names))
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
    limit_mouth: bool = False,
    limit_pose: bool = True,
    edits: Sequence[Edit] = (),
) -> Driven:
    """Put a finished motion onto a target, its size and place smoothed by a moving average over time.

    poses: int [N], the target's frames whose cameras are used (face reenactment); None: the motion's pose (head reenactment).
    scale, translation, limit_pose: see `place_head`; exaggerate, limit, limit_mouth, edits: see `retarget`.
    Raises: ValueError as `place_head`.
    """
    if poses is not None:
        cameras = target.cameras[poses]
    else:
        cameras = place_head(motion, target, scale, translation, lambda values: moving_average(values, float(motion.fps)), limit_pose)
    options = {"exaggerate": exaggerate, "limit": limit, "limit_mouth": limit_mouth, "edits": edits}
    return retarget(model, openings(model, target.identity), target, motion, cameras, **options)
