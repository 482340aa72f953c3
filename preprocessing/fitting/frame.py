"""Fitting a morphable model to a person's landmarks frame after frame, without looking ahead.

The energy is that of the whole-video fit (preprocessing/fitting/kernel.py), of all frames up to the present one. The information of earlier
frames about the newest camera is stored as a normal matrix of the last two cameras, from which older ones have been eliminated
(an information filter); the smoothness terms tie the newest camera to them, weighted by how certain they are.
The expression is tied to that of the last frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.face_models.dense_points import N_POINTS
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.kernel import EXPRESSION_SMOOTHNESS, HUBER, Kernel, follow_function
from util.geometry import Cameras

FIRST_ROUNDS, ROUNDS = 8, 2  # Gauss-Newton rounds for a first frame, and for a frame with earlier ones
SWEEPS = 8  # sweeps of coordinate descent over the expression, per round
FORGET_S = 0.5  # seconds without landmarks after which earlier frames are ignored
MIN_STEP_S, MAX_STEP_S = 0.001, 1.0  # between two frames of a stream: cameras may repeat time stamps, and pause
JUMP_IOD = 0.5  # inter-ocular distances; landmarks that move farther on average restart the fit


def step_s(time_s: float, before_s: float) -> float:
    """Seconds between two frames of a stream, for FrameFitter.step; before_s: time of the earlier one, -inf for none."""
    return min(max(time_s - before_s, MIN_STEP_S), MAX_STEP_S)


@dataclass(frozen=True)
class FrameFit:
    """Camera and expression of one frame."""

    camera: Cameras  # of one frame: scale (pixels per model unit), rotation [3, 3], translation [3] in pixels
    expression: np.ndarray  # float64 [K_exp]
    tracked: bool  # False: the frame has no landmarks, and camera and expression are those of the last frame that had


class FrameFitter:
    """Fits frames of one person in their order, each from itself and those before it."""

    def __init__(
        self,
        model: MorphableModel,
        identity: np.ndarray,
        points: Sequence[int] | np.ndarray | None = None,
        surface: np.ndarray | None = None,
    ):
        """identity: [K_id], as `fit_video` finds it. points: which of the 478 dense points are given (default: all 478 in order).
        surface: triangles [P, 3] whose middles are given after them; above the base of the nose they outweigh the landmarks."""
        self._points = np.arange(N_POINTS) if points is None else np.asarray(points)
        if surface is not None:
            model, more = model.with_points(surface, first_id=N_POINTS)
            self._points = np.concatenate([self._points, more])
        self._kernel = Kernel(model, self._points)
        self._person = self._kernel.person(np.asarray(identity, np.float64))
        self._bounds = np.ascontiguousarray(self._kernel.bounds.T)
        self._across = np.ascontiguousarray(self._kernel.expression.flat.T)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._last: FrameFit | None = None
        self._landmarks: np.ndarray | None = None  # [L, 2] of the last frame with landmarks
        self._cameras: Cameras | None = None  # the last two, in pixels
        self._known = np.zeros((12, 12))  # normal matrix of their unknowns, shifts in iod
        self._since_s = self._step_s = 0.0  # since the last frame with landmarks; between it and the one before

    def step(self, landmarks: np.ndarray | None, dt_s: float = 1 / 30) -> FrameFit:
        """Fit the next frame.

        landmarks: [L, 2 or more], x and y in pixels; None, or with a NaN: no face was found.
        dt_s: seconds since the frame before.
        Raises: ValueError when the landmarks' shape does not fit, they are no face, or the first frame has none.
        """
        if landmarks is not None and (landmarks.ndim != 2 or len(landmarks) != len(self._points)):
            raise ValueError(f"landmarks of shape {landmarks.shape} for {len(self._points)} points")
        self._since_s += dt_s
        if landmarks is None or not np.isfinite(landmarks[:, :2]).all():
            if self._last is None:
                raise ValueError("the first frame has no landmarks")
            self._last = FrameFit(self._last.camera, self._last.expression, tracked=False)
            return self._last
        seen = np.asarray(landmarks[:, :2], np.float64)
        moved_iod = 0.0 if self._last is None else self._moved_iod(seen)
        if self._last is None or self._since_s > FORGET_S or moved_iod > JUMP_IOD:
            self._begin(seen)
        else:
            self._go_on(seen, fast=moved_iod > HUBER)
        self._landmarks, self._since_s = seen, 0.0
        self._last = FrameFit(self._cameras[-1], self._expression[1].copy(), tracked=True)
        return self._last

    def _moved_iod(self, seen: np.ndarray) -> float:
        """Mean distance of the landmarks from the last ones, in inter-ocular distances."""
        return float(np.linalg.norm(seen - self._landmarks, axis=1).mean() / (self._cameras.scale[-1] * self._kernel.iod))

    def _begin(self, seen: np.ndarray) -> None:
        """Fit a frame that has none before it."""
        kernel = self._kernel
        rest = kernel.shapes(self._person, np.zeros((1, kernel.expression.count)))[0]
        unit = float(kernel.affine_cameras(kernel.rows(seen[None]), rest).scale[0]) * kernel.iod
        if not unit > 1e-3:
            raise ValueError("the landmarks lie in one place")
        centre = seen.mean(0)
        rows = kernel.rows((seen[None] - centre) / unit)
        camera = kernel.affine_cameras(rows, rest)
        self._expression = np.zeros((2, kernel.expression.count))  # of the last and the present frame
        self._known = self._solve(rows, camera, np.zeros((0, 0)), FIRST_ROUNDS, tied=0.0)
        self._cameras = _scaled(camera, unit, centre)
        self._step_s = 0.0

    def _go_on(self, seen: np.ndarray, fast: bool) -> None:
        """Fit a frame to itself and those before it.

        fast: the points moved so far that Huber's loss would hold the camera back; it starts from the closed-form solution instead.
        """
        kernel = self._kernel
        unit = float(self._cameras.scale[-1]) * kernel.iod
        centre = seen.mean(0)
        rows = kernel.rows((seen[None] - centre) / unit)
        past = _scaled(self._cameras, 1 / unit, -centre / unit)
        pace = self._since_s / self._step_s if len(past) > 1 else 1.0  # the present time step in units of the last one
        slower = max(1.0, pace)  # within a longer time step, jitter is larger
        self._expression[0] = self._expression[1]
        start = kernel.affine_cameras(rows, kernel.shapes(self._person, self._expression[1:])[0]) if fast else past[-1:]
        cameras = past.followed_by(start)
        self._known = self._solve(rows, cameras, self._known, ROUNDS, EXPRESSION_SMOOTHNESS / slower, pace, slower)
        self._cameras = _scaled(cameras[-2:], unit, centre)
        self._step_s = self._since_s

    def _solve(self, rows, cameras, known, rounds, tied, pace=1.0, slower=1.0) -> np.ndarray:
        """Improve the newest camera, the one before it, and the expression in place; returns both cameras' normal matrix. See `follow`."""
        kernel, basis = self._kernel, self._kernel.expression
        return follow_function()(
            *(rows, cameras.scale, cameras.rotation, cameras.translation, known, pace, slower, self._person),
            *(basis.flat, self._across, basis.gram, (kernel.shifts, kernel.weights, kernel.prior), self._bounds, tied),
            *(rounds, SWEEPS, self._expression),
        )


def _scaled(cameras: Cameras, factor: float, shift: np.ndarray) -> Cameras:
    """Cameras of an image enlarged by a factor, then shifted."""
    return Cameras(cameras.scale * factor, cameras.rotation, cameras.translation * factor + np.append(shift, 0.0))
