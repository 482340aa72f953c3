"""Fitting a morphable model to the landmarks of a whole video.

Unknown are one identity vector per person and, per frame, an expression vector and a weak-perspective camera. They are
found together by alternating least squares on a robust energy (numbers in inter-ocular distances, "iod"):

    sum over frames, points:  w * huber(|observed - scale * R @ X(identity, expression) - T|)^2 / NOISE^2
    + |identity|^2 + sum EXPRESSION_PRIOR * |expression|^2      with box bounds on the expression
    + smoothness of camera (accelerations) and expression (differences), both with a bounded influence: a blink or a nod
      costs no more than a small motion, so only jitter is taken away.

With fixed point weights the normal matrix of a frame's expression is a combination of six constant Gram matrices (one
per pair of axes), weighted by the camera; so a frame costs K^2 instead of points * K^2, and bounds are kept by coordinate
descent. Huber's loss enters by clipping residuals, which leaves those matrices constant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from preprocessing.face_models.dense_points import BROWS, LIDS, LIPS, N_POINTS, NOSE, NOSE_BASE, OVAL, SKIN
from preprocessing.face_models.morphable import MorphableModel
from util.geometry import Cameras, rotation_matrix, rotation_vector
from util.numeric import fill_gaps
from util.sampling import spread

NOISE = 0.02  # iod; errors of neighbouring points agree, so this is larger than the scatter of one
HUBER = 0.08  # iod; larger residuals pull no harder
IDENTITY_FRAMES = 160  # frames that decide on the identity
IDENTITY_EVIDENCE = 3.0  # as many independent frames they count for against the prior
EXPRESSION_PRIOR = 40.0  # small against the thousands with which points determine a shape like jawOpen
# Where several shapes explain the points: a mouth is opened by the jaw rather than by the lips around it, and a lid that
# lowers a little follows the gaze, or squints, rather than begins a blink.
PRIOR_FACTORS = {"jawOpen": 0.1, "eyeBlink": 4.0}
PRIOR_FACTORS |= dict.fromkeys(("mouthClose", "mouthLowerDown", "mouthShrugLower", "mouthRollLower"), 10.0)
# What counts as jitter from frame to frame; larger motion is believed.
EXPRESSION_SMOOTHNESS = 60.0
EXPRESSION_STEP = 0.1  # change of a weight
ROTATION_STEP = 0.004  # rad
SCALE_STEP = 0.001  # relative
SHIFT_STEP = 0.002  # iod
BELIEVED = 5.0  # steps; an acceleration of that many is taken for real
JUMP = 0.15  # iod; a face that is seen so far from its neighbours' median is a mistake of the detector

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_STENCIL = (1.0, -2.0, 1.0)
_CHUNK = 256  # frames at a time where temporary arrays are large

# With points of the surface besides them (photometric.py): the weight of each, and what landmarks of the same part of the head
# keep (all above the base of the nose but lids and irises).
SURFACE_WEIGHT, LANDMARK_SHARE = 3.0, 0.1


@dataclass(frozen=True)
class SurfacePoints:
    """Points of a model's surface, the middles of triangles, that were found in frames besides the landmarks."""

    triangles: np.ndarray  # int [P, 3], vertices
    places: np.ndarray  # [N, P, 2], pixels
    offsets: np.ndarray  # [P, 3], model units: where the person has them, less where the model has


def dense_weights() -> np.ndarray:
    """How much each of the 478 dense points says about the fit: float64 [478]."""
    weights = np.full(N_POINTS, 0.5)
    for points, weight in ((OVAL, 0.15), (LIDS, 3.0), (LIPS, 3.0), (BROWS, 1.5), (NOSE, 1.5), (range(SKIN, N_POINTS), 2.0)):
        weights[list(points)] = weight
    return weights


def _point_weights(points: np.ndarray, model: MorphableModel) -> np.ndarray:
    """Weights of dense points, and of points of the surface, which are numbered on from them."""
    surface = points >= N_POINTS
    weights = np.r_[dense_weights(), SURFACE_WEIGHT][np.minimum(points, N_POINTS)]
    if surface.any():
        replaced = ~surface & ~np.isin(points, (*LIDS, *range(SKIN, N_POINTS)))
        height = dict(zip(model.landmark_ids.tolist(), model.landmark_model[0][:, 1]))
        replaced &= np.array([height[p] for p in points.tolist()]) > height[NOSE_BASE]
        weights[replaced] *= LANDMARK_SHARE
    return weights


# Differences of points are fitted besides the points themselves: openings, brows and gaze are what a viewer reads first, and
# small enough to drown in the rest. (points that count +, points that count -, weight)
RELATIONS = [((upper,), (lower,), 12.0) for upper, lower in ((161, 163), (160, 144), (159, 145), (158, 153), (157, 154))]
RELATIONS += [((upper,), (lower,), 12.0) for upper, lower in ((384, 381), (385, 380), (386, 374), (387, 373), (388, 390))]
RELATIONS += [((upper,), (lower,), 4.0) for upper, lower in ((80, 88), (81, 178), (82, 87), (13, 14), (312, 317), (311, 402), (310, 318))]
RELATIONS += [((468,), (33, 133), 8.0), ((473,), (263, 362), 8.0)]
RELATIONS += [((brow,), (33, 133), 12.0) for brow in (70, 63, 105, 66, 107)]
RELATIONS += [((brow,), (263, 362), 12.0) for brow in (300, 293, 334, 296, 336)]


@dataclass(frozen=True)
class Fit:
    """A person's identity and, for each of N frames, expression and camera."""

    identity: np.ndarray  # float64 [K_id]
    expression: np.ndarray  # float64 [N, K_exp]
    cameras: Cameras

    def project(self, model: MorphableModel) -> np.ndarray:
        """The model's embedded landmarks in the image: float32 [N, L, 3], pixels."""
        return self.cameras.project(model.landmarks(self.identity, self.expression))


def fit_video(
    model: MorphableModel,
    landmarks: np.ndarray,
    points: Sequence[int] | np.ndarray | None = None,
    joined: np.ndarray | None = None,
    identity: np.ndarray | None = None,
    surface: SurfacePoints | None = None,
) -> Fit:
    """Fit a model to the landmarks of one person's video.

    Args:
        landmarks: [N, L, 2 or more], x and y in pixels (more is ignored). Frames with a NaN, and frames in which the whole
            face jumps away and back, are bridged from their neighbours.
        points: which of the 478 dense points the columns are (default: all 478 in order).
        joined: bool [N], whether a frame goes on from the one before (default: all but the first).
        identity: [K_id] of a person already known (default: found from the video).
        surface: what else was found in the frames; above the base of the nose it outweighs the landmarks, but for lids and irises.

    Raises:
        ValueError: when no frame has landmarks, they are no face, or shapes do not fit.
    """
    points = np.arange(N_POINTS) if points is None else np.asarray(points)
    if landmarks.ndim != 3 or landmarks.shape[1] != len(points):
        raise ValueError(f"landmarks of shape {landmarks.shape} for {len(points)} points")
    seen = np.asarray(landmarks[..., :2], np.float64)
    offsets = None
    if surface is not None:
        model, more = model.with_points(surface.triangles, first_id=N_POINTS)
        points, seen = np.r_[points, more], np.concatenate([seen, surface.places], 1)
        offsets = np.concatenate([np.zeros((landmarks.shape[1], 3)), surface.offsets])
    valid = np.isfinite(seen).all((1, 2))
    if not valid.any():
        raise ValueError("no frame has landmarks")
    joined = np.arange(len(seen)) > 0 if joined is None else np.asarray(joined, bool)

    fitter = VideoFitter(model, points, offsets)
    centre, unit = seen[valid].mean((0, 1)), fitter.image_unit(seen[valid])
    if not unit > 1e-3:
        raise ValueError("the landmarks lie in one place")
    seen = fill_gaps((seen - centre) / unit, ~valid)
    alone = ~joined & ~np.r_[joined[1:], False]  # a frame out of its video has no neighbours to jump away from
    valid &= alone | ~_jumps(seen)
    seen = fill_gaps(seen, ~valid)

    if identity is None:
        some = np.flatnonzero(valid)
        some = some[spread(len(some), IDENTITY_FRAMES)]
        identity = fitter.find_identity(seen[some])
    expression, cameras = fitter.find_motion(seen, np.asarray(identity, np.float64), valid, joined)
    translation = cameras.translation * unit + np.array([*centre, 0.0])
    return Fit(np.asarray(identity, np.float64), expression, Cameras(cameras.scale * unit, cameras.rotation, translation))


def _jumps(seen: np.ndarray) -> np.ndarray:
    """Frames in which all points leave the median of five frames: the detector took something else for the face. bool [N]."""
    padded = np.concatenate([seen[:1], seen[:1], seen, seen[-1:], seen[-1:]])
    away = np.empty(len(seen))
    for part in _chunks(len(seen)):
        nearby = np.stack([padded[part.start + i : part.stop + i] for i in range(5)])
        away[part] = np.linalg.norm(seen[part] - np.median(nearby, 0), axis=-1).mean(1)
    return away > JUMP


def _grams(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Gram matrices of two bases [K1, R, 3], [K2, R, 3] per pair of axes: [6, K1, K2], mixed pairs summed both ways."""
    weighted = first * weights[:, None]
    out = np.stack([weighted[..., a] @ second[..., b].T for a, b in _PAIRS])
    for i, (a, b) in enumerate(_PAIRS):
        if a != b:
            out[i] += weighted[..., b] @ second[..., a].T
    return out


@dataclass(frozen=True)
class _Basis:
    """A linear basis of the rows."""

    flat: np.ndarray  # [K, 3 R]
    gram: np.ndarray  # [6, K, K]

    @property
    def count(self) -> int:
        return len(self.flat)


@dataclass(frozen=True)
class _Linearised:
    """Normal equations of N frames: the camera's own, the expression's and the identity's, and what mixes them."""

    blocks: np.ndarray  # [N, 6, 6] camera with camera
    pull: np.ndarray  # [N, 6] downhill direction of the camera
    cross: np.ndarray  # [N, 6, K_exp] camera with expression
    slope: np.ndarray  # [N, K_exp] downhill direction of the expression
    metric: np.ndarray  # [N, 6] weights of the Gram matrices, for expression and identity
    identity_cross: np.ndarray  # [N, 6, K_id], or empty
    identity_slope: np.ndarray  # [N, K_id], or empty


@lru_cache(maxsize=1)
def _descend():
    """The compiled coordinate descent over expressions (numba is imported only by who fits)."""
    from numba import njit

    def descend(gram, metric, slope, cross, pull, prior, smooth, step, low, high, joined, order, sweeps, expression):
        """Improve `expression` [N, K] in place, frame by frame: bounded least squares, cameras eliminated.

        gram [6, K, K] with metric [N, 6]: normal matrices; slope [N, K]: downhill direction at the present expression;
        cross [N, 6, K], pull [N, 6]: inverse root of the cameras' normal matrix times their mixed block and own slope;
        prior [K], smooth: weights; low, high [K]; joined [N]; order: frame numbers.
        """
        frames, count = expression.shape
        h = np.empty((count, count))
        g = np.empty(count)
        d = np.empty(count)
        for t in order:
            e = expression[t]
            for i in range(count):
                for j in range(i + 1):
                    value = 0.0
                    for m in range(6):
                        value += metric[t, m] * gram[m, i, j] - cross[t, m, i] * cross[t, m, j]
                    h[i, j] = value
                    h[j, i] = value
                g[i] = slope[t, i] - prior[i] * e[i]
                for m in range(6):
                    g[i] -= cross[t, m, i] * pull[t, m]
                h[i, i] += prior[i]
                d[i] = 0.0
            for n in (t - 1, t + 1):
                if 0 <= n < frames and joined[max(t, n)]:
                    for i in range(count):
                        difference = expression[n, i] - e[i]
                        w = smooth / (1.0 + (difference / step) ** 2) ** 2  # Geman-McClure: large ones cost no more
                        h[i, i] += w
                        g[i] += w * difference
            for _ in range(sweeps):
                for i in range(count):
                    downhill = g[i]
                    for j in range(count):
                        downhill -= h[i, j] * d[j]
                    d[i] = min(max(e[i] + d[i] + downhill / h[i, i], low[i]), high[i]) - e[i]
            for i in range(count):
                e[i] += d[i]

    try:
        return njit(cache=True)(descend)
    except RuntimeError:  # numba finds no folder to keep the compiled code in
        return njit(descend)


class VideoFitter:
    """One model on one choice of dense points. Image space here is centred and in iod; arrays are float64."""

    def __init__(self, model: MorphableModel, points: np.ndarray, offsets: np.ndarray | None = None):
        """points: int [L], dense points, all embedded in the model. offsets: [L, 3], added to the model's mean."""
        column = {int(p): i for i, p in enumerate(model.landmark_ids)}
        chosen = [column[int(p)] for p in points]
        trust = model.landmark_weights[chosen]
        # Rows of the problem: the points themselves, then those relations whose points are all there.
        place = {int(p): i for i, p in enumerate(points)}
        relations = [r for r in RELATIONS if all(p in place for p in (*r[0], *r[1]))]
        self.relations = np.zeros((len(relations), len(points)))
        weights = list(_point_weights(points, model) * trust)
        for row, (plus, minus, weight) in zip(self.relations, relations):
            for sign, group in ((1, plus), (-1, minus)):
                row[[place[p] for p in group]] = sign / len(group)
            weights.append(weight * trust[row != 0].min())
        self.weights = np.array(weights) / NOISE**2  # [R]
        self.shifts = np.repeat([1.0, 0.0], [len(points), len(relations)])  # [R]: 1 where a row moves with the face

        mean, identity, expression = (self._rows(a[..., chosen, :].astype(np.float64)) for a in model.landmark_model)
        self.mean = mean if offsets is None else mean + self._rows(offsets)
        self.identity = _Basis(identity.reshape(len(identity), -1), _grams(identity, identity, self.weights))
        self.expression = _Basis(expression.reshape(len(expression), -1), _grams(expression, expression, self.weights))
        self.mixed_gram = _grams(identity, expression, self.weights)  # [6, K_id, K_exp]
        self.prior = EXPRESSION_PRIOR * np.array([PRIOR_FACTORS.get(re.sub("_[LR]$", "", n), 1.0) for n in model.expression_names])
        self.bounds = model.expression_bounds.astype(np.float64)
        rest = model.landmark_model[0]
        self.iod = float(np.linalg.norm(rest[column[33]] - rest[column[263]]))  # of the mean face, model units

    # ---- the two searches ----

    def image_unit(self, landmarks: np.ndarray) -> float:
        """Inter-ocular distance in pixels of the face seen in [N, L, 2]."""
        return float(np.median(self._affine_cameras(self._rows(landmarks), self.mean).scale)) * self.iod

    def find_identity(self, landmarks: np.ndarray, rounds: int = 5) -> np.ndarray:
        """Identity [K_id] from frames of any order [N, L, 2]."""
        seen = self._rows(landmarks)
        trust, apart = np.ones(len(seen)), np.zeros(len(seen), bool)
        identity = np.zeros(self.identity.count)
        expression = np.zeros((len(seen), self.expression.count))
        cameras = self._affine_cameras(seen, self.mean)
        for _ in range(rounds):
            cameras = self._solve_frames(seen, cameras, identity, expression, trust, apart)
            identity = self._solve_identity(seen, cameras, identity, expression)
        return identity

    def find_motion(
        self, landmarks: np.ndarray, identity: np.ndarray, valid: np.ndarray, joined: np.ndarray, rounds: int = 6
    ) -> tuple[np.ndarray, Cameras]:
        """Expressions [N, K_exp] and cameras of a video [N, L, 2] for a known identity."""
        seen = self._rows(landmarks)
        trust = np.where(valid, 1.0, 0.05)
        expression = np.zeros((len(seen), self.expression.count))
        cameras = self._affine_cameras(seen, self._shapes(identity, expression[:1])[0])
        for i in range(rounds):
            cameras = self._solve_frames(seen, cameras, identity, expression, trust, joined, backwards=i % 2 == 1)
        return expression, cameras

    # ---- their steps ----

    def _rows(self, points: np.ndarray) -> np.ndarray:
        """Rows of the problem [..., R, C] for points [..., L, C]."""
        return np.concatenate([points, self.relations @ points], -2)

    def _shapes(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Rows in model space [N, R, 3]."""
        person = self.mean.reshape(-1) + identity @ self.identity.flat
        return (person + expression @ self.expression.flat).reshape(len(expression), -1, 3)

    def _turned(self, cameras: Cameras, shapes: np.ndarray) -> np.ndarray:
        """Rows turned and scaled to image space, not shifted [N, R, 3]."""
        return shapes @ np.swapaxes(cameras.scale[:, None, None] * cameras.rotation, 1, 2)

    def _shifted(self, cameras: Cameras) -> np.ndarray:
        return self.shifts[:, None] * cameras.translation[:, None, :2]  # [N, R, 2]

    def _linearise(
        self,
        seen: np.ndarray,
        cameras: Cameras,
        identity: np.ndarray,
        expression: np.ndarray,
        trust: np.ndarray,
        with_identity: bool = False,
    ) -> _Linearised:
        """Normal equations of every frame at the present estimate, without priors."""
        count, k, k_id = len(seen), self.expression.count, self.identity.count if with_identity else 0
        out = _Linearised(
            *(np.empty((count, 6, 6)), np.empty((count, 6)), np.empty((count, 6, k)), np.empty((count, k))),
            *(np.empty((count, 6)), np.empty((count, 6, k_id)), np.empty((count, k_id))),
        )
        for part in _chunks(count):
            camera, n = cameras[part], part.stop - part.start
            turned = self._turned(camera, self._shapes(identity, expression[part]))
            residual = _clip(seen[part] - turned[..., :2] - self._shifted(camera))
            x, y, z = np.moveaxis(turned, -1, 0)
            zero, shift = np.zeros_like(x), np.broadcast_to(self.shifts, x.shape)
            jacobian = np.stack([zero, z, -y, x, shift, zero, -z, zero, x, y, zero, shift], -1).reshape(n, -1, 2, 6)
            top = camera.scale[:, None, None] * camera.rotation[:, :2]  # [n, 2, 3]
            weight = self.weights[:, None] * trust[part, None, None]
            weighted = (jacobian * weight[..., None]).reshape(n, -1, 6).swapaxes(1, 2)  # [n, 6, 2 R]
            out.blocks[part] = weighted @ jacobian.reshape(n, -1, 6)
            out.pull[part] = (weighted @ residual.reshape(n, -1, 1))[..., 0]
            in_model = (weighted.reshape(n, -1, 2) @ top).reshape(n * 6, -1)  # [n 6, 3 R]
            pulled = ((residual * weight) @ top).reshape(n, -1)
            out.cross[part] = (in_model @ self.expression.flat.T).reshape(n, 6, k)
            out.slope[part] = pulled @ self.expression.flat.T
            if with_identity:
                out.identity_cross[part] = (in_model @ self.identity.flat.T).reshape(n, 6, k_id)
                out.identity_slope[part] = pulled @ self.identity.flat.T
            q = np.swapaxes(top, 1, 2) @ top
            out.metric[part] = np.stack([q[:, a, b] for a, b in _PAIRS], 1) * trust[part, None]
        return out

    def _solve_frames(
        self,
        seen: np.ndarray,
        cameras: Cameras,
        identity: np.ndarray,
        expression: np.ndarray,
        trust: np.ndarray,
        joined: np.ndarray,
        backwards: bool = False,
        sweeps: int = 8,
    ) -> Cameras:
        """One Gauss-Newton step on all expressions (in place) and cameras (returned).

        Unknown per camera: a small rotation (3), the change of log scale, a shift (2). A frame's camera is eliminated from
        the step on its expression; then all cameras are solved together.
        """
        count = len(seen)
        step = self._linearise(seen, cameras, identity, expression, trust)
        blocks, pull, cross = step.blocks, step.pull, step.cross
        bend, weight = _bends(cameras, joined)
        stiff = np.zeros((count, 6))  # the penalty's own second derivative
        for a, factor in enumerate(_STENCIL):
            rows = slice(a, a + len(bend))
            stiff[rows] += factor**2 * weight
            pull[rows] -= factor * weight * bend
        root = np.linalg.cholesky(blocks + stiff[..., None] * np.eye(6))
        reduced = np.linalg.solve(root, np.concatenate([cross, pull[..., None]], -1))
        before = expression.copy()
        low, high = np.ascontiguousarray(self.bounds.T)
        order = np.arange(count)[:: -1 if backwards else 1].copy()
        _descend()(
            *(self.expression.gram, step.metric, step.slope, reduced[..., :-1].copy(), reduced[..., -1].copy()),
            *(self.prior, EXPRESSION_SMOOTHNESS, EXPRESSION_STEP, low, high, joined, order, sweeps, expression),
        )
        pull -= (cross @ (expression - before)[..., None])[..., 0]
        change = _solve_banded(blocks, pull, weight)
        return Cameras(
            cameras.scale * np.exp(change[:, 3]),
            rotation_matrix(change[:, :3]) @ cameras.rotation,
            cameras.translation + np.pad(change[:, 4:], ((0, 0), (0, 1))),
        )

    def _solve_identity(self, seen: np.ndarray, cameras: Cameras, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """One Gauss-Newton step on the identity, with the frames' cameras and expressions (apart, all trusted) eliminated.

        Expressions at a bound that they push against count as fixed.
        """
        step = self._linearise(seen, cameras, identity, expression, np.ones(len(seen)), with_identity=True)
        k, prior = self.identity.count, self.prior
        downhill = step.slope - prior * expression
        low, high = self.bounds.T
        free = ~(((expression <= low) & (downhill < 0)) | ((expression >= high) & (downhill > 0)))
        normal, right = np.tensordot(step.metric.sum(0), self.identity.gram, 1), step.identity_slope.sum(0)
        for t in range(len(seen)):
            f = np.flatnonzero(free[t])
            frame = np.empty((6 + len(f), 6 + len(f)))  # the frame's own normal matrix, camera first
            frame[:6, :6] = step.blocks[t]
            frame[6:, :6] = step.cross[t][:, f].T
            frame[:6, 6:] = step.cross[t][:, f]
            frame[6:, 6:] = np.tensordot(step.metric[t], self.expression.gram, 1)[np.ix_(f, f)]
            frame[range(6, 6 + len(f)), range(6, 6 + len(f))] += prior[f]
            mixed = np.concatenate([step.identity_cross[t], np.tensordot(step.metric[t], self.mixed_gram, 1)[:, f].T])  # [6 + F, K_id]
            solved = np.linalg.solve(frame, np.concatenate([mixed, np.r_[step.pull[t], downhill[t, f]][:, None]], 1))
            normal -= mixed.T @ solved[:, :-1]
            right -= mixed.T @ solved[:, -1]
        evidence = min(1.0, IDENTITY_EVIDENCE / len(seen))
        return identity + np.linalg.solve(normal * evidence + np.eye(k), right * evidence - identity)

    def _affine_cameras(self, seen: np.ndarray, shape: np.ndarray) -> Cameras:
        """Cameras [N] for one shape [R, 3] in closed form: the best affine map, then the nearest scaled rotation."""
        share = self.weights * self.shifts
        share = share / share.sum()
        centre, middle = share @ shape, np.einsum("r,nrc->nc", share, seen)
        x = shape - centre
        affine = np.einsum("nrc,r,rd->ncd", seen - middle[:, None], share, x) @ np.linalg.inv(x.T @ (share[:, None] * x))
        u, stretch, vt = np.linalg.svd(affine, full_matrices=False)
        rows = u @ vt
        rotation = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], 1)
        scale = stretch.mean(1)
        shift = middle - scale[:, None] * (rows @ centre)
        return Cameras(scale, rotation, np.pad(shift, ((0, 0), (0, 1))))


def _chunks(count: int) -> list[slice]:
    return [slice(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]


def _clip(residual: np.ndarray) -> np.ndarray:
    """Residuals [..., 2] shortened to HUBER: least squares on them is one step on Huber's loss."""
    return residual * np.minimum(1.0, HUBER / np.maximum(np.linalg.norm(residual, axis=-1, keepdims=True), 1e-12))


def _bends(cameras: Cameras, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Second differences [N - 2, 6] of rotation, log scale and shift, and the weights [N - 2, 6] of their squares."""
    if len(cameras) < 3:
        return np.zeros((0, 6)), np.zeros((0, 6))
    relative = rotation_vector(cameras.rotation[1:] @ np.swapaxes(cameras.rotation[:-1], 1, 2))
    level = np.concatenate([np.log(cameras.scale)[:, None], cameras.translation[:, :2]], 1)
    bend = np.concatenate([np.diff(relative, axis=0), np.diff(level, 2, axis=0)], 1)
    step = np.array([ROTATION_STEP] * 3 + [SCALE_STEP] + [SHIFT_STEP] * 2)
    size = np.stack([np.linalg.norm((bend / step)[:, part], axis=1) for part in (slice(0, 3), slice(3, 4), slice(4, 6))], 1)
    trust = (joined[1:-1] & joined[2:])[:, None] / (1 + (size / BELIEVED) ** 2) ** 2
    return bend, trust[:, [0, 0, 0, 1, 2, 2]] / step**2


def _solve_banded(blocks: np.ndarray, right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Solve for all cameras [N, 6]: blocks [N, 6, 6] plus the penalty on second differences, weights [N - 2, 6]."""
    from scipy.linalg import solveh_banded

    band = np.zeros((18, len(blocks), 6))  # lower form: band[k, t, i] couples unknown 6 t + i with the k-th after it
    for i in range(6):
        for j in range(i, 6):
            band[j - i, :, i] = blocks[:, j, i]
    for a in range(3):
        for b in range(a, 3):
            band[6 * (b - a), a : a + len(weight)] += _STENCIL[a] * _STENCIL[b] * weight
    return solveh_banded(band.reshape(18, -1), right.reshape(-1), lower=True, check_finite=False).reshape(-1, 6)
