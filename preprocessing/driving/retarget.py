"""One head's motion carried over to another: pure functions on arrays, no files.

`read_motion` takes what was fitted to a source apart into motion and place; `drive` puts the motion onto a target. In between:

- **Jitter** is what remains of tracking noise. `steady` takes it away with filters that look both ways, so nothing lags.
- **Repeated frames** (a 24 or 25 frames/s film stored as 30) make motion halt several times a second. `even_out` moves it on.
- **Cameras** are adapted so that the head keeps the target's size and place (`adapt_cameras`).
- **Expressions** beyond what the target's training data shows are compressed (`soft_limit`).
- **Eye landmarks** are those of the driven mesh, corrected by what was seen beyond the fitted mesh, of the source over time and of the
  target on average; so they lie on the lids of the drawn face, whatever the pose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import maximum_filter1d, median_filter, uniform_filter1d
from scipy.signal import savgol_filter

from preprocessing.driving.motion import Edit, Motion, Placement, edit_cameras, edit_expression, head_rotation
from preprocessing.face_models.dense_points import DENSE_INDICES, from_dense
from preprocessing.face_models.morphable import MorphableModel
from util.face.landmarks import LEFT_EYE, LEFT_PUPIL, RIGHT_EYE, RIGHT_PUPIL
from util.geometry import FRONTAL, Cameras, nearest_rotation, rotation_matrix, rotation_vector

PUPILS = [RIGHT_PUPIL, LEFT_PUPIL]
STEADY_S = 0.25  # seconds of the polynomial that jitter is measured against
STEADY_ORDER = 2
NOISE_PERCENTILE = 20  # of the frames: those in which least happens tell the noise
NOISE_FACTOR = 1.5  # what is stronger than that much noise begins to be believed
REPEATED = 0.2  # of the usual change: a picture that changes less repeats the one before
REPEATED_OFTEN = 0.04  # of the frames; fewer are chance
# How far towards an even pace motion is moved. All the way halves the accelerations of a film stored at another rate, but shows fast
# lips up to half a frame beside their sound; half the way does most of it.
EVENED = 0.5
CAMERA_S = 0.5  # seconds of the cameras' moving average: 15 frames of 30 a second
CAMERA_DEVIATIONS = 2.0  # how far a driven head may leave the target's mean place
COVERED = (0.5, 99.5)  # percentiles of the target's training expressions between which nothing is limited
LIMIT_MARGIN = 0.25  # scale of the compression beyond, as a part of the range that the face model allows (0..1.2: 0.15)


@dataclass(frozen=True)
class Person:
    """What preprocessing found of one identity in N frames."""

    identity: np.ndarray  # float64 [K_id]
    expression: np.ndarray  # float64 [N, K]
    cameras: Cameras  # of N frames
    landmarks: np.ndarray  # float64 [N, 70, 2], as detected, pixels
    size: int  # side of the frames, pixels
    fps: Fraction
    joined: np.ndarray  # bool [N]: whether a frame goes on from the one before


@dataclass(frozen=True)
class Driven:
    """What to draw: the target's head in N frames."""

    expression: np.ndarray  # float64 [N, K]
    cameras: Cameras
    landmarks: np.ndarray  # float64 [N, 70, 2], pixels of the target's frames


# ---- over time ----


def runs(joined: np.ndarray) -> list[slice]:
    """The stretches of frames that follow one another, from joined [N] bool."""
    starts = np.flatnonzero(~joined | (np.arange(len(joined)) == 0))
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(joined)])]


def _odd(frames: float, least: int = 3) -> int:
    return max(least, round(frames) // 2 * 2 + 1)


def moving_average(values: np.ndarray, fps: float, joined: np.ndarray | None = None) -> np.ndarray:
    """Centred moving average over CAMERA_S of [N, ...]; at the ends the first and last value are repeated."""
    joined = np.arange(len(values)) > 0 if joined is None else joined
    return np.concatenate([uniform_filter1d(values[part], _odd(CAMERA_S * fps), axis=0, mode="nearest") for part in runs(joined)])


def steady(values: np.ndarray, fps: float, joined: np.ndarray | None = None) -> np.ndarray:
    """Take jitter out of curves [N, C] without lag and without flattening what is quick.

    A local polynomial (Savitzky & Golay 1964) over STEADY_S gives the slow part. What is left over is noise where it is weak and
    motion (a blink, a syllable) where it is strong, and is weighted by Wiener's gain from its local power, 1 - noise / power (the
    estimate of Lee 1980, along time). The noise is told by the NOISE_PERCENTILE quietest frames of each curve.
    """
    joined = np.arange(len(values)) > 0 if joined is None else joined
    window = _odd(STEADY_S * fps, 5)
    slow = np.empty(values.shape, np.float64)
    for part in runs(joined):
        count = len(range(*part.indices(len(values))))
        fits = min(window, count if count % 2 else count - 1)
        slow[part] = savgol_filter(values[part], fits, STEADY_ORDER, axis=0) if fits > STEADY_ORDER else values[part]
    quick = values - slow
    power = np.maximum(uniform_filter1d(quick**2, window, axis=0, mode="nearest"), 0)
    noise = NOISE_FACTOR**2 * np.percentile(power, NOISE_PERCENTILE, axis=0)
    # The strongest window that a frame lies in decides, so a blink's flanks are kept with its peak; the average takes the steps out.
    power = maximum_filter1d(power, window, axis=0, mode="nearest")
    gain = np.maximum(0, 1 - noise / np.maximum(power, 1e-30))
    return slow + quick * uniform_filter1d(gain, window, axis=0, mode="nearest")


def repeated_frames(change: np.ndarray, fps: float) -> np.ndarray:
    """Which frames only repeat the one before, by how much the picture changes: bool [N].

    change: [N], mean difference of each picture to the one before (any unit; the first is not used). Repeated are those that change
    less than a fifth of what is usual around them. A few such frames are chance (a head that comes to rest): then none are taken.
    """
    usual = median_filter(np.r_[change[1:2], change[1:]], size=_odd(fps), mode="reflect")
    repeated = change < REPEATED * usual
    repeated[:1] = False
    return repeated if repeated.mean() > REPEATED_OFTEN else np.zeros(len(change), bool)


def even_out(motion: Motion, repeated: np.ndarray, joined: np.ndarray) -> Motion:
    """Spread motion evenly over frames of which some only repeat the one before.

    repeated: bool [N]. The frames that are new are moved towards an even pace within half a second; the motion between them is
    interpolated (Fritsch & Carlson 1980, no overshoot). None moves by as much as the time of one frame.
    """
    new = ~repeated | ~joined
    if new.all():
        return motion
    # a moving average of their places spaces them evenly
    seen = np.flatnonzero(new)
    window = _odd(CAMERA_S * float(motion.fps))
    place = np.empty(len(seen))
    for part in runs(joined):
        own = (seen >= part.start) & (seen < part.stop)
        enough = min(window, own.sum() - (own.sum() + 1) % 2)
        place[own] = savgol_filter(seen[own].astype(float), enough, 1) if enough > 1 else seen[own]
    place = np.clip(seen + EVENED * (place - seen), seen - 0.99, seen + 0.99)

    def spread(curves: np.ndarray) -> np.ndarray:
        out = curves.copy()
        for part in runs(joined):
            own = (seen >= part.start) & (seen < part.stop)
            if own.sum() > 2:
                at = np.clip(np.arange(part.start, part.stop), place[own][0], place[own][-1])
                out[part] = PchipInterpolator(place[own], curves[seen[own]], axis=0)(at)
        return out

    return map_curves(motion, spread)


def steady_motion(motion: Motion, joined: np.ndarray, bounds: np.ndarray) -> Motion:
    """`steady` for all of a motion; expressions stay within the model's bounds [K, 2]."""
    out = map_curves(motion, lambda curves: steady(curves, float(motion.fps), joined))
    return replace(out, expression=np.clip(out.expression, *bounds.T))


def map_curves(motion: Motion, change: Callable[[np.ndarray], np.ndarray]) -> Motion:
    """A motion after `change` of all its curves together, [N, C]; rotation goes as vectors about its mean."""
    middle = nearest_rotation(motion.rotation.mean(0))
    parts = {"rotation": rotation_vector(middle.T @ motion.rotation)}
    parts |= {k: v for k in ("zoom", "shift", "expression", "pupils", "lids", "lips") if (v := getattr(motion, k)) is not None}
    flat = [v.reshape(len(motion), -1) for v in parts.values()]
    changed = np.split(change(np.concatenate(flat, 1)), np.cumsum([f.shape[1] for f in flat])[:-1], axis=1)
    out = {k: c.reshape(v.shape) for (k, v), c in zip(parts.items(), changed)}
    return replace(motion, **{**out, "rotation": middle @ rotation_matrix(out["rotation"])})


def target_frames(count: int, fps: Fraction, available: int, target_fps: Fraction) -> np.ndarray:
    """Which of the target's `available` frames belongs to each of `count` frames at `fps`: int [count].

    The target runs at its own speed, to its end, back, and so on, so that nothing jumps.
    """
    period = max(2 * (available - 1), 1)
    place = np.rint(np.arange(count) * float(target_fps / fps)).astype(int) % period
    return np.minimum(place, period - place) if available > 1 else np.zeros(count, int)


# ---- landmarks ----


def mesh_landmarks(model: MorphableModel, identity: np.ndarray, expression: np.ndarray, cameras: Cameras) -> np.ndarray:
    """The 70 landmarks of fitted or driven meshes: float64 [N, 70, 2], pixels."""
    return from_dense(cameras.project(model.landmarks(identity, expression))).astype(np.float64)


def into_head(offsets: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Offsets in the image [N, P, 2] (pixels) as offsets in the head's axes [N, P, 3] (model units), within the image plane."""
    return offsets @ cameras.rotation[:, :2] / cameras.scale[:, None, None]


def out_of_head(offsets: np.ndarray, cameras: Cameras) -> np.ndarray:
    """The inverse of `into_head` for cameras of the same rotation: offsets [N, P, 3] -> [N, P, 2]."""
    return offsets @ np.swapaxes(cameras.rotation[:, :2], 1, 2) * cameras.scale[:, None, None]


def frontal(landmarks: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Landmarks [N, P, 2] (pixels) seen from the front, in model units with y down, all taken for points of one plane.

    For measuring: a head in profile (turned by 90 degrees) has no such view.
    """
    flat = cameras.scale[:, None, None] * (cameras.rotation @ FRONTAL)[:, :2, :2]
    return (landmarks - cameras.translation[:, None, :2]) @ np.swapaxes(np.linalg.inv(flat), 1, 2)


def in_eyes(landmarks: np.ndarray) -> np.ndarray:
    """The right and the left pupil from the middle between the corners of their eye: landmarks [N, 70, 2] -> [N, 2, 2]."""
    corners = [[eye.start, eye.start + 3] for eye in (RIGHT_EYE, LEFT_EYE)]
    return landmarks[:, PUPILS] - landmarks[:, corners].mean(2)


def gaze(model: MorphableModel, identity: np.ndarray, seen: Person | Driven) -> np.ndarray:
    """Where the right and the left pupil are in their eye, from the front: [N, 2, 2], model units, x right, y down.

    Pupils lie deeper than the corners of their eye, so a turn of the head moves them as a glance does. The mesh knows how deep; what
    was seen beyond the mesh is taken for a point of the image plane.
    """
    straight = Cameras(np.ones(len(seen.cameras)), np.tile(FRONTAL, (len(seen.cameras), 1, 1)), np.zeros((len(seen.cameras), 3)))
    mesh = [in_eyes(mesh_landmarks(model, identity, seen.expression, c)) for c in (seen.cameras, straight)]
    return mesh[1] + into_head(in_eyes(seen.landmarks) - mesh[0], seen.cameras)[..., :2] * [1, -1]


def uncross_lids(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks [N, 70, 2] in which no upper lid lies below the lower one: such pairs meet half way."""
    out = landmarks.copy()
    for eye in (RIGHT_EYE, LEFT_EYE):
        a = eye.start
        across = out[:, a + 3] - out[:, a]
        down = np.stack([-across[:, 1], across[:, 0]], -1) / np.maximum(np.linalg.norm(across, axis=1), 1e-9)[:, None]
        for upper, lower in ((a + 1, a + 5), (a + 2, a + 4)):
            overlap = np.maximum(0, -((out[:, lower] - out[:, upper]) * down).sum(1))[:, None] * down / 2
            out[:, upper] -= overlap
            out[:, lower] += overlap
    return out


# ---- lids and lips ----


@dataclass(frozen=True)
class Opening:
    """A gap of a face and what opens it, as a linear function of expressions: gap = rest + expression . slope, in model units."""

    rest: float
    slope: np.ndarray  # [K]
    closes: int  # the expression shape that closes it and nothing else, as eyeBlink_R
    opens: int

    def gap(self, expression: np.ndarray) -> np.ndarray:
        """[N] of expressions [N, K]."""
        return self.rest + expression @ self.slope

    def reach(self, expression: np.ndarray, wanted: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Expressions [N, K] whose gap is `wanted` [N], as far as the bounds [K, 2] let it.

        What is missing to a wider gap is taken from the closing shape before the opening one is added, and the other way round.
        """
        out = expression.copy()
        for first, then, sign in ((self.closes, self.opens, 1), (self.opens, self.closes, -1)):
            for k, end in ((first, 0), (then, bounds[then, 1])):
                missing = wanted - self.gap(out)
                moved = out[:, k] + np.where(sign * missing > 0, missing, 0) / self.slope[k]
                out[:, k] = np.maximum(moved, end) if k == first else np.minimum(moved, end)
        return out


# upper and lower points of the 70, shape that closes, shape that opens
_LIDS = (((37, 38), (41, 40), "eyeBlink_R", "eyeWide_R"), ((43, 44), (47, 46), "eyeBlink_L", "eyeWide_L"))
_LIPS = ((61, 62, 63), (67, 66, 65), "mouthClose", "jawOpen")


def openings(model: MorphableModel, identity: np.ndarray) -> tuple[Opening, Opening, Opening]:
    """The gaps between the lids of the right and the left eye and between the inner lips, for one identity."""
    place = {int(p): i for i, p in enumerate(model.landmark_ids)}
    mean, id_basis, exp_basis = model.landmark_model
    height = mean[:, 1] + np.tensordot(identity, id_basis[..., 1], 1)
    found = []
    for upper, lower, closes, opens in (*_LIDS, _LIPS):
        rows = [[place[int(DENSE_INDICES[p])] for p in points] for points in (upper, lower)]
        rest = height[rows[0]].mean() - height[rows[1]].mean()
        slope = (exp_basis[:, rows[0], 1].mean(1) - exp_basis[:, rows[1], 1].mean(1)).astype(np.float64)
        found.append(Opening(float(rest), slope, model.expression_names.index(closes), model.expression_names.index(opens)))
    return found[0], found[1], found[2]


def lid_gaps(landmarks: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Gaps between the lids of the right and the left eye as seen, along the head's way up, [N, 2], model units."""
    up = cameras.rotation[:, :2, 1] * cameras.scale[:, None]  # in the image: what one unit upwards becomes
    up /= np.maximum((up**2).sum(1), (cameras.scale / 2) ** 2)[:, None]  # beyond 60 degrees of nodding lids are not seen so well
    gaps = [landmarks[:, upper].mean(1) - landmarks[:, lower].mean(1) for upper, lower, *_ in _LIDS]
    return np.stack([(gap * up).sum(1) for gap in gaps], 1)


def adapt_openings(model: MorphableModel, target: Person, motion: Motion, expression: np.ndarray, exaggerate: float = 1.0) -> np.ndarray:
    """Expressions [N, K] with which the target's lids and lips are as open as the source's.

    Weights alone would not do it: what shuts a small eye leaves a large one ajar, and the gap of relaxed lips belongs to the
    identity. Lids are as open as the source's in proportion to what is usual for each (the medians); lips as the source's in size.
    """
    *lids, lips = openings(model, target.identity)
    bounds = model.expression_bounds
    out = expression
    for eye, lid in enumerate(lids):
        usual = np.median(lid.gap(target.expression))
        open_ = motion.lids[:, eye] if motion.lids is not None else 1 - motion.expression @ (lid.slope / lid.slope[lid.closes])
        out = lid.reach(out, usual * np.maximum(0, 1 + exaggerate * (open_ - 1)), bounds)
    gap = motion.lips if motion.lips is not None else motion.expression @ lips.slope
    return lips.reach(out, exaggerate * gap, bounds)


# ---- from a source to a target ----


def read_motion(model: MorphableModel, person: Person) -> Motion:
    """The motion of a fitted identity, as it was fitted."""
    cameras = person.cameras
    scale = cameras.scale.mean()
    places = cameras.translation[:, :2] / cameras.scale[:, None]
    centre = places.mean(0)
    fitted = mesh_landmarks(model, person.identity, person.expression, cameras)
    pupils = into_head(in_eyes(person.landmarks) - in_eyes(fitted), cameras)
    lids = lid_gaps(person.landmarks, cameras)
    return Motion(
        person.fps,
        head_rotation(cameras),
        cameras.scale / scale,
        places - centre,
        person.expression,
        pupils - pupils.mean(0),
        np.maximum(0, lids / np.median(lids, 0)),
        openings(model, person.identity)[2].gap(person.expression),
        Placement(float(scale), centre, person.size),
    )


def adapt_cameras(
    motion: Motion, target: Person, scale: bool = True, translation: bool = True, joined: np.ndarray | None = None
) -> Cameras:
    """Cameras [N] that show the motion's pose at the target's size and place.

    scale: S's scale times (mean scale of T / mean scale of S), smoothed by a moving average; False: S's own.
    translation: S's translation / scale, shifted so that its mean is T's and clamped to T's mean +- 2 standard deviations, smoothed,
    times the scale; False: S's own translation. Rotation is S's in any case.
    Raises: ValueError when S's own scale or translation is asked for and the motion has none (a file that drives).
    """
    if not (scale and translation) and motion.placement is None:
        raise ValueError("this motion has no scale and translation of its own")
    fps = float(motion.fps)
    if scale:
        scales = moving_average(target.cameras.scale.mean() * motion.zoom, fps, joined)
    else:
        scales = motion.zoom * motion.placement.scale * target.size / motion.placement.size
    if translation:
        places = target.cameras.translation[:, :2] / target.cameras.scale[:, None]
        room = CAMERA_DEVIATIONS * places.std(0)
        shift = moving_average(np.clip(motion.shift, -room, room), fps, joined)
        moved = (places.mean(0) + shift) * scales[:, None]
    else:
        own = motion.zoom * motion.placement.scale * target.size / motion.placement.size
        moved = (motion.placement.centre + motion.shift) * own[:, None]
    return Cameras(scales, FRONTAL @ motion.rotation, np.pad(moved, ((0, 0), (0, 1))))


def soft_limit(values: np.ndarray, low: np.ndarray, high: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Compress what lies beyond [low, high] and leave the rest: [N, K] with [K] each.

    Beyond a limit, a distance d becomes margin * log(1 + d / margin): its slope is 1 at the limit and falls steadily, so that order
    and shape of a motion remain and nothing is cut off.
    """
    above, below = np.maximum(values - high, 0), np.maximum(low - values, 0)
    return np.clip(values, low, high) + margin * (np.log1p(above / margin) - np.log1p(below / margin))


def limit_expression(expression: np.ndarray, seen: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Expressions [N, K] kept softly to what training frames show, [M, K]; bounds [K, 2] are the face model's."""
    low, high = np.percentile(seen, COVERED, axis=0)
    return np.clip(soft_limit(expression, low, high, LIMIT_MARGIN * (bounds[:, 1] - bounds[:, 0])), *bounds.T)


def driven_landmarks(model: MorphableModel, target: Person, motion: Motion, expression: np.ndarray, cameras: Cameras) -> np.ndarray:
    """The 70 landmarks of driven frames, [N, 70, 2], pixels.

    Those of the driven mesh, moved by what detection differs from the mesh: by the mean difference of the target, and the pupils
    also by the motion's own. No landmarks of the source come in, so eyes lie where the driven face has them, in any pose.
    """
    fitted = mesh_landmarks(model, target.identity, target.expression, target.cameras)
    offsets = into_head(target.landmarks - fitted, target.cameras).mean(0)
    landmarks = mesh_landmarks(model, target.identity, expression, cameras)
    # The lids' own shapes move the corners of the eyes a little: as the source's they belong to its gaze, as the target's not.
    looking = expression.copy()
    own = [k for lid in openings(model, target.identity)[:2] for k in (lid.closes, lid.opens)]
    looking[:, own] = motion.expression[:, own]
    gaze = in_eyes(mesh_landmarks(model, target.identity, looking, cameras)) - in_eyes(landmarks)
    landmarks += out_of_head(np.tile(offsets, (len(cameras), 1, 1)), cameras)
    landmarks[:, PUPILS] += gaze + out_of_head(motion.pupils, cameras)
    # The lids' gap as seen should not hang on how deep the fit happens to place either lid: it is the mesh's own, in its proportion
    # to what is seen of the target.
    own_gaps = lid_gaps(target.landmarks, target.cameras).mean(0)
    seen = lid_gaps(landmarks, cameras)
    for eye, (lid, (upper, lower, *_)) in enumerate(zip(openings(model, target.identity), _LIDS)):
        wanted = np.maximum(0, lid.gap(expression)) * own_gaps[eye] / lid.gap(target.expression).mean()
        part = ((wanted - seen[:, eye]) / 2 * cameras.scale)[:, None] * cameras.rotation[:, :2, 1]  # the head's way up
        landmarks[:, upper] += part[:, None]
        landmarks[:, lower] -= part[:, None]
    return uncross_lids(landmarks)


def drive(
    model: MorphableModel,
    target: Person,
    motion: Motion,
    poses: np.ndarray | None = None,
    *,
    scale: bool = True,
    translation: bool = True,
    exaggerate: float = 1.0,
    limit: bool = True,
    edits: Sequence[Edit] = (),
) -> Driven:
    """Put a motion onto a target.

    poses: int [N], the target's frames whose cameras are used (face reenactment); None: the motion's pose (head reenactment).
    scale, translation: see `adapt_cameras`. exaggerate: factor of all expression weights. limit: keep expressions softly to what
    the target's frames show; edits come after that, since they are said outright.
    Raises: ValueError as `adapt_cameras`.
    """
    cameras = target.cameras[poses] if poses is not None else adapt_cameras(motion, target, scale, translation)
    bounds = model.expression_bounds.astype(np.float64)
    expression = np.clip(exaggerate * motion.expression, *bounds.T)
    expression = adapt_openings(model, target, motion, expression, exaggerate)
    if limit:
        expression = limit_expression(expression, target.expression, bounds)
    expression = edit_expression(edits, expression, model.expression_names, bounds)
    cameras = edit_cameras(edits, cameras)
    return Driven(expression, cameras, driven_landmarks(model, target, motion, expression, cameras))
