"""Fitting a morphable model to the landmarks of a whole video: a first guess, then rounds of the kernel over all frames together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.face_models.dense_points import N_POINTS
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.kernel import (
    EXPRESSION_SMOOTHNESS,
    EXPRESSION_STEP,
    Kernel,
    bend_weights,
    chunks,
    descend_function,
    moved,
)
from util.geometry import Cameras, rotation_vector
from util.numeric import fill_gaps
from util.sampling import spread

IDENTITY_FRAMES = 160  # frames that the identity is fitted to
IDENTITY_EVIDENCE = 3.0  # number of independent frames that they count as, against the prior
JUMP_IOD = 0.15  # inter-ocular distances; a face farther from the median of its neighbours is a detection error

_STENCIL = (1.0, -2.0, 1.0)  # of second differences


@dataclass(frozen=True)
class SurfacePoints:
    """Points of a model's surface, the middles of triangles, found in frames in addition to the landmarks."""

    triangles: np.ndarray  # int [P, 3], vertices
    places: np.ndarray  # [N, P, 2], pixels
    offsets: np.ndarray  # [P, 3], model units: place on the person minus place on the model


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
        surface: further points found in the frames; above the base of the nose they outweigh the landmarks, except lids and irises.

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
    shown = seen if valid.all() else seen[valid]  # of an hour it takes a gigabyte: not copied without need
    centre, unit = shown.mean((0, 1)), fitter.image_unit(shown)
    del shown
    if not unit > 1e-3:
        raise ValueError("the landmarks lie in one place")
    seen = seen - centre
    seen /= unit
    seen = fill_gaps(seen, ~valid)
    alone = ~joined & ~np.r_[joined[1:], False]  # an isolated frame has no neighbours to compare with
    valid &= alone | ~_jumps(seen)
    seen = fitter.rows(fill_gaps(seen, ~valid))

    if identity is None:
        some = np.flatnonzero(valid)
        some = some[spread(len(some), IDENTITY_FRAMES)]
        identity = fitter.find_identity(seen[some])
    expression, cameras = fitter.find_motion(seen, np.asarray(identity, np.float64), valid, joined)
    translation = cameras.translation * unit + np.array([*centre, 0.0])
    return Fit(np.asarray(identity, np.float64), expression, Cameras(cameras.scale * unit, cameras.rotation, translation))


def _jumps(seen: np.ndarray) -> np.ndarray:
    """Frames whose points are on average farther than JUMP_IOD from the median of five frames, a false detection: bool [N]."""
    padded = np.concatenate([seen[:1], seen[:1], seen, seen[-1:], seen[-1:]])
    away = np.empty(len(seen))
    for part in chunks(len(seen)):
        nearby = np.stack([padded[part.start + i : part.stop + i] for i in range(5)])
        away[part] = np.linalg.norm(seen[part] - np.median(nearby, 0), axis=-1).mean(1)
    return away > JUMP_IOD


class VideoFitter(Kernel):
    """The kernel, run over many frames together. Image space here is centred and in iod."""

    def find_identity(self, seen: np.ndarray, rounds: int = 5) -> np.ndarray:
        """Identity [K_id] from the rows of frames of any order [N, R, 2]."""
        trust, apart = np.ones(len(seen)), np.zeros(len(seen), bool)
        identity = np.zeros(self.identity.count)
        expression = np.zeros((len(seen), self.expression.count))
        cameras = self.affine_cameras(seen, self.mean)
        for _ in range(rounds):
            cameras = self._solve_frames(seen, cameras, self.person(identity), expression, trust, apart)
            identity = self._solve_identity(seen, cameras, identity, expression)
        return identity

    def find_motion(
        self, seen: np.ndarray, identity: np.ndarray, valid: np.ndarray, joined: np.ndarray, rounds: int = 6
    ) -> tuple[np.ndarray, Cameras]:
        """Expressions [N, K_exp] and cameras for the rows of a video [N, R, 2] and a known identity."""
        person = self.person(identity)
        trust = np.where(valid, 1.0, 0.05)
        expression = np.zeros((len(seen), self.expression.count))
        cameras = self.affine_cameras(seen, self.shapes(person, expression[:1])[0])
        for i in range(rounds):
            cameras = self._solve_frames(seen, cameras, person, expression, trust, joined, backwards=i % 2 == 1)
        return expression, cameras

    def _solve_frames(
        self,
        seen: np.ndarray,
        cameras: Cameras,
        person: np.ndarray,
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
        step = self.linearise(seen, cameras, person, expression, trust)
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
        descend_function()(
            *(self.expression.gram, step.metric, step.slope, reduced[..., :-1].copy(), reduced[..., -1].copy()),
            *(self.prior, EXPRESSION_SMOOTHNESS, EXPRESSION_STEP, low, high, joined, order, sweeps, expression),
        )
        pull -= (cross @ (expression - before)[..., None])[..., 0]
        change = _solve_banded(blocks, pull, weight)
        return moved(cameras, change)

    def _solve_identity(self, seen: np.ndarray, cameras: Cameras, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """One Gauss-Newton step on the identity, with the frames' cameras and expressions (apart, all trusted) eliminated.

        Expressions at a bound that they push against count as fixed.
        """
        step = self.linearise(seen, cameras, self.person(identity), expression, np.ones(len(seen)), with_identity=True)
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


def _bends(cameras: Cameras, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Second differences [N - 2, 6] of rotation, log scale and shift, and the weights [N - 2, 6] of their squares."""
    if len(cameras) < 3:
        return np.zeros((0, 6)), np.zeros((0, 6))
    relative = rotation_vector(cameras.rotation[1:] @ np.swapaxes(cameras.rotation[:-1], 1, 2))
    level = np.concatenate([np.log(cameras.scale)[:, None], cameras.translation[:, :2]], 1)
    bend = np.concatenate([np.diff(relative, axis=0), np.diff(level, 2, axis=0)], 1)
    return bend, (joined[1:-1] & joined[2:])[:, None] * bend_weights(bend)


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
