"""The kernel of all fits: normal equations of frames for a morphable model, and the bounded solution for an expression.

Unknown are one identity vector per person and, per frame, an expression vector and a weak-perspective camera. They minimise a
robust energy (numbers in inter-ocular distances, "iod"):

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
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from preprocessing.face_models.dense_points import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.weights import RELATIONS, point_weights
from util.ahead import map_ahead, usable_cores
from util.compiled import compiled
from util.geometry import Cameras, rotation_matrix

NOISE = 0.02  # iod; errors of neighbouring points agree, so this is larger than the scatter of one
HUBER = 0.08  # iod; threshold of Huber's loss: the pull of larger residuals is constant
EXPRESSION_PRIOR = 40.0  # small against the thousands with which points determine a shape like jawOpen
# Where several shapes explain the points: a mouth is opened by the jaw rather than by the lips around it, and a lid that
# lowers a little follows the gaze, or squints, rather than begins a blink.
PRIOR_FACTORS = {"jawOpen": 0.1, "eyeBlink": 4.0}
PRIOR_FACTORS |= dict.fromkeys(("mouthClose", "mouthLowerDown", "mouthShrugLower", "mouthRollLower"), 10.0)
# Scale of jitter from frame to frame; the penalty of larger motion levels off.
EXPRESSION_SMOOTHNESS = 60.0  # weight of the squared change of an expression weight between frames
EXPRESSION_STEP = 0.1  # change of a weight
ROTATION_STEP = 0.004  # rad
SCALE_STEP = 0.001  # relative
SHIFT_STEP = 0.002  # iod
MAX_JITTER_STEPS = 5.0  # in CAMERA_STEPS; larger accelerations count as real motion, not as jitter
CAMERA_STEPS = np.array([ROTATION_STEP] * 3 + [SCALE_STEP] + [SHIFT_STEP] * 2)  # of a camera's six unknowns

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_CHUNK = 128  # frames at a time where temporary arrays are large


def _grams(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Gram matrices of two bases [K1, R, 3], [K2, R, 3] per pair of axes: [6, K1, K2], mixed pairs summed both ways."""
    weighted = first * weights[:, None]
    out = np.stack([weighted[..., a] @ second[..., b].T for a, b in _PAIRS])
    for i, (a, b) in enumerate(_PAIRS):
        if a != b:
            out[i] += weighted[..., b] @ second[..., a].T
    return out


@dataclass(frozen=True)
class Basis:
    """A linear basis of the rows."""

    flat: np.ndarray  # [K, 3 R]
    gram: np.ndarray  # [6, K, K]

    @property
    def count(self) -> int:
        return len(self.flat)


@dataclass(frozen=True)
class Linearised:
    """Normal equations of N frames: the camera's own, the expression's and the identity's, and what mixes them."""

    blocks: np.ndarray  # [N, 6, 6] camera with camera
    pull: np.ndarray  # [N, 6] downhill direction of the camera
    cross: np.ndarray  # [N, 6, K_exp] camera with expression
    slope: np.ndarray  # [N, K_exp] downhill direction of the expression
    metric: np.ndarray  # [N, 6] weights of the Gram matrices, for expression and identity
    identity_cross: np.ndarray  # [N, 6, K_id], or empty
    identity_slope: np.ndarray  # [N, K_id], or empty


@lru_cache(maxsize=1)
def descend_function():
    """The compiled coordinate descent over expressions (numba is imported only when something is fitted)."""

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

    return compiled(descend)


@lru_cache(maxsize=1)
def linearise_function():
    """The compiled sums over the rows of every frame (numba is imported only when something is fitted)."""

    def linearise(seen, turned, top, translation, shifts, weights, trust, huber, blocks, pull, in_model):
        """Write the camera's normal equations, and what the expression's and the identity's are made of.

        seen [N, R, 2], turned [N, R, 3]: rows seen, and the model's without translation. top [N, 2, 3]: scaled rotation, its first rows;
        translation [N, 3]; shifts, weights [R]; trust [N]. blocks [N, 6, 6], pull [N, 6]: see Linearised. in_model [N, 7, 3 R]: every row's
        derivatives by the camera's unknowns, and its residual, weighted and turned back to the model's axes.
        Residuals are shortened to `huber`: least squares on them is one step on Huber's loss.
        """
        for n in range(len(seen)):
            blocks[n] = 0.0
            pull[n] = 0.0
            (xx, xy, xz), (yx, yy, yz) = top[n, 0], top[n, 1]
            for r in range(len(shifts)):
                x, y, z, shift = turned[n, r, 0], turned[n, r, 1], turned[n, r, 2], shifts[r]
                right = seen[n, r, 0] - x - shift * translation[n, 0]
                down = seen[n, r, 1] - y - shift * translation[n, 1]
                length = np.sqrt(right * right + down * down)
                short = huber / length if length > huber else 1.0
                # derivatives by a small rotation (3), log scale, shift (2); then the residual
                by_x = (0.0, z, -y, x, shift, 0.0, right * short)
                by_y = (-z, 0.0, x, y, 0.0, shift, down * short)
                weight = weights[r] * trust[n]
                for i in range(7):
                    wx, wy = weight * by_x[i], weight * by_y[i]
                    in_model[n, i, 3 * r] = wx * xx + wy * yx
                    in_model[n, i, 3 * r + 1] = wx * xy + wy * yy
                    in_model[n, i, 3 * r + 2] = wx * xz + wy * yz
                    if i < 6:
                        for j in range(i + 1):
                            blocks[n, i, j] += wx * by_x[j] + wy * by_y[j]
                        pull[n, i] += wx * by_x[6] + wy * by_y[6]
            for i in range(6):
                for j in range(i):
                    blocks[n, j, i] = blocks[n, i, j]

    return compiled(linearise)


@lru_cache(maxsize=1)
def follow_function():
    """The compiled fit of one frame to itself and those before it.

    In loops, since every expression of arrays takes numba half a second to compile.
    """
    # What it calls are globals, not variables of this function: with those numba would keep nothing on disk. And they are in this file,
    # since numba compiles anew when it changes.
    global _linearise, _descend, _eliminate, _difference, _move
    _linearise, _descend = linearise_function(), descend_function()

    def eliminate(system, first, end):
        """Eliminate unknowns first ... end - 1 from the rows below, in place: a positive matrix with right sides beside it."""
        for p in range(first, end):
            if not system[p, p] > 0:
                raise ValueError("the landmarks do not say where the head is")
            for row in range(p + 1, len(system)):
                factor = system[row, p] / system[p, p]
                for column in range(p, system.shape[1]):
                    system[row, column] -= factor * system[p, column]

    def difference(scale, rotation, translation, a, b, out):
        """The change [6] that turns camera b into camera a."""
        turn = np.zeros((3, 3))
        for i in range(3):
            for j in range(3):
                for m in range(3):
                    turn[i, j] += rotation[a, i, m] * rotation[b, j, m]
        x, y, z = (turn[2, 1] - turn[1, 2]) / 2, (turn[0, 2] - turn[2, 0]) / 2, (turn[1, 0] - turn[0, 1]) / 2
        sine, cosine = np.sqrt(x * x + y * y + z * z), (turn[0, 0] + turn[1, 1] + turn[2, 2] - 1) / 2
        factor = np.arctan2(sine, cosine) / sine if sine > 1e-12 else 1.0
        out[0], out[1], out[2], out[3] = factor * x, factor * y, factor * z, np.log(scale[a] / scale[b])
        out[4], out[5] = translation[a, 0] - translation[b, 0], translation[a, 1] - translation[b, 1]

    def move(scale, rotation, translation, n, change, at):
        """Camera n after the step change[at : at + 6], in place: see `moved`."""
        x, y, z = change[at], change[at + 1], change[at + 2]
        angle = np.sqrt(x * x + y * y + z * z)
        first = np.sin(angle) / angle if angle > 1e-9 else 1.0
        second = 2 * (np.sin(angle / 2) / angle) ** 2 if angle > 1e-9 else 0.5
        rows = (  # Rodrigues' formula
            (1 - second * (y * y + z * z), second * x * y - first * z, second * x * z + first * y),
            (second * x * y + first * z, 1 - second * (x * x + z * z), second * y * z - first * x),
            (second * x * z - first * y, second * y * z + first * x, 1 - second * (x * x + y * y)),
        )
        for j in range(3):
            before = rotation[n, 0, j], rotation[n, 1, j], rotation[n, 2, j]
            for i in range(3):
                rotation[n, i, j] = rows[i][0] * before[0] + rows[i][1] * before[1] + rows[i][2] * before[2]
        scale[n] *= np.exp(change[at + 3])
        translation[n, 0] += change[at + 4]
        translation[n, 1] += change[at + 5]

    _eliminate, _difference, _move = compiled(eliminate), compiled(difference), compiled(move)

    def follow(
        seen, scale, rotation, translation, known, pace, slower, person, flat, across, gram, constants, bounds, tied, rounds, sweeps,
        expression,
    ):  # fmt: skip
        """Fit the newest of 1 to 3 cameras (scale [C], rotation [C, 3, 3], translation [C, 3]), the one before it, and the expression, in
        place.

        seen [1, R, 2]. known [6 (C - 1), 6 (C - 1)]: normal matrix of the earlier cameras. pace: the present time step in units of the
        last one; slower: factor of jitter. person [3 R]; flat [K, 3 R], across: its transpose; gram [6, K, K]. constants: shifts [R],
        weights [R], prior [K]. bounds [2, K]. tied: weight of the expression's change. expression [2, K]: of the last and of this frame.
        Returns: the normal matrix of the newest two cameras. Raises: ValueError when the landmarks are no face.
        """
        shifts, weights, prior = constants
        count, k, rows = len(scale) - 1, len(flat), len(shifts)
        old, new = 6 * count, 6 * count + 6
        stencil = (pace, -1 - pace, 1.0)
        going_on, bend, change = np.zeros(6), np.zeros(6), np.zeros(new)  # the last: of all cameras
        if count > 1:
            _difference(scale, rotation, translation, 1, 0, going_on)
        joined, order, trust = np.array([False, tied > 0]), np.array([1]), np.ones(1)
        metric, slope, cross, pull = np.empty((2, 6)), np.empty((2, k)), np.empty((2, 6, k)), np.empty((2, 6))
        turned, top = np.empty((1, rows, 3)), np.empty((1, 2, 3))
        blocks, own, in_model = np.empty((1, 6, 6)), np.empty((1, 6)), np.empty((1, 7, 3 * rows))
        system, both, normal = np.empty((new, new + 1)), np.empty((6, 7 + k)), np.empty((new, new))  # the first two with right sides
        for i in range(rounds):
            for a in range(new):
                for b in range(new + 1):
                    system[a, b] = known[a, b] if a < old and b < old else 0.0
            if count > 1 and i > 0:  # the first round locates the camera without smoothness
                _difference(scale, rotation, translation, 2, 1, bend)  # with the earlier cameras as they were
                for first, end in ((0, 3), (3, 4), (4, 6)):  # as bend_weights
                    size = 0.0
                    for u in range(first, end):
                        bend[u] -= pace * going_on[u]
                        size += ((bend[u] + stencil[0] * change[u] + stencil[1] * change[6 + u]) / slower / CAMERA_STEPS[u]) ** 2
                    for u in range(first, end):
                        weight = 1 / (1 + size / MAX_JITTER_STEPS**2) ** 2 / (CAMERA_STEPS[u] * slower) ** 2
                        for a in range(3):
                            system[6 * a + u, new] -= stencil[a] * weight * bend[u]
                            for b in range(3):
                                system[6 * a + u, 6 * b + u] += stencil[a] * weight * stencil[b]
            for a in range(new):
                for b in range(new):
                    normal[a, b] = system[a, b]
            _eliminate(system, 0, old)  # the earlier cameras
            # one round on the expression, the camera eliminated
            for a in range(2):
                for b in range(3):
                    top[0, a, b] = scale[count] * rotation[count, a, b]
            shape = np.dot(expression[1], flat)
            for row in range(rows):
                at = 3 * row
                x, y, z = shape[at] + person[at], shape[at + 1] + person[at + 1], shape[at + 2] + person[at + 2]
                for a in range(3):
                    turn = rotation[count, a]
                    turned[0, row, a] = scale[count] * (turn[0] * x + turn[1] * y + turn[2] * z)
            _linearise(seen, turned, top, translation[count:], shifts, weights, trust, HUBER, blocks, own, in_model)
            products = np.dot(in_model[0], across)  # [7, K]
            for pair in range(6):
                a, b = _PAIRS[pair]
                metric[1, pair] = top[0, 0, a] * top[0, 0, b] + top[0, 1, a] * top[0, 1, b]
            for a in range(6):
                system[old + a, new] += own[0, a]
                both[a, 6 + k] = system[old + a, new]
                for b in range(6):
                    system[old + a, old + b] += blocks[0, a, b]
                    both[a, b] = system[old + a, old + b]
                for m in range(k):
                    both[a, 6 + m] = products[a, m]
            _eliminate(both, 0, 6)
            for m in range(k):
                slope[1, m] = products[6, m]
                for a in range(6):
                    cross[1, a, m] = both[a, 6 + m] / np.sqrt(both[a, a])
                    system[old + a, new] += products[a, m] * expression[1, m]
            for a in range(6):
                pull[1, a] = both[a, 6 + k] / np.sqrt(both[a, a])
            _descend(
                gram, metric, slope, cross, pull, prior, tied, EXPRESSION_STEP, bounds[0], bounds[1], joined, order, sweeps, expression
            )
            for m in range(k):  # the camera's pull, adapted to the new expression
                for a in range(6):
                    system[old + a, new] -= products[a, m] * expression[1, m]
            _eliminate(system, old, new)
            for a in range(new - 1, -1, -1):
                change[a] = system[a, new]
                for b in range(a + 1, new):
                    change[a] -= system[a, b] * change[b]
                change[a] /= system[a, a]
            _move(scale, rotation, translation, count, change, old)
        if count:
            _move(scale, rotation, translation, count - 1, change, old - 6)
        first = 6 if count > 1 else 0
        _eliminate(normal, 0, first)  # the older camera
        for a in range(6):
            for b in range(6):
                normal[old + a, old + b] += blocks[0, a, b]
        return normal[first:, first:].copy()

    return compiled(follow)


class Kernel:
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
        weights = list(point_weights(points, model) * trust)
        for row, (plus, minus, weight) in zip(self.relations, relations):
            for sign, group in ((1, plus), (-1, minus)):
                row[[place[p] for p in group]] = sign / len(group)
            weights.append(weight * trust[row != 0].min())
        self.weights = np.array(weights) / NOISE**2  # [R]
        self.shifts = np.repeat([1.0, 0.0], [len(points), len(relations)])  # [R]: 1 where a row moves with the face

        mean, identity, expression = (self.rows(a[..., chosen, :].astype(np.float64)) for a in model.landmark_model)
        self.mean = mean if offsets is None else mean + self.rows(offsets)
        self.identity = Basis(identity.reshape(len(identity), -1), _grams(identity, identity, self.weights))
        self.expression = Basis(expression.reshape(len(expression), -1), _grams(expression, expression, self.weights))
        self.mixed_gram = _grams(identity, expression, self.weights)  # [6, K_id, K_exp]
        self.prior = EXPRESSION_PRIOR * np.array([PRIOR_FACTORS.get(re.sub("_[LR]$", "", n), 1.0) for n in model.expression_names])
        self.bounds = model.expression_bounds.astype(np.float64)
        rest = model.landmark_model[0]
        eyes = [rest[column[corners[0]]] for corners in (RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS)]
        self.iod = float(np.linalg.norm(eyes[0] - eyes[1]))  # of the mean face, model units

    def image_unit(self, landmarks: np.ndarray) -> float:
        """Inter-ocular distance in pixels of the face seen in [N, L, 2]."""
        scales = [self.affine_cameras(self.rows(landmarks[part]), self.mean).scale for part in chunks(len(landmarks))]
        return float(np.median(np.concatenate(scales))) * self.iod

    def rows(self, points: np.ndarray) -> np.ndarray:
        """Rows of the problem [..., R, C] for points [..., L, C]."""
        return np.concatenate([points, self.relations @ points], -2)

    def person(self, identity: np.ndarray) -> np.ndarray:
        """A person's rows without expression, [3 R], model space."""
        return self.mean.reshape(-1) + identity @ self.identity.flat

    def shapes(self, person: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Rows in model space [N, R, 3]."""
        return (person + expression @ self.expression.flat).reshape(len(expression), -1, 3)

    def _turned(self, cameras: Cameras, shapes: np.ndarray) -> np.ndarray:
        """Rows turned and scaled to image space, not shifted [N, R, 3]."""
        return shapes @ np.swapaxes(cameras.scale[:, None, None] * cameras.rotation, 1, 2)

    def linearise(
        self,
        seen: np.ndarray,
        cameras: Cameras,
        person: np.ndarray,
        expression: np.ndarray,
        trust: np.ndarray,
        with_identity: bool = False,
    ) -> Linearised:
        """Normal equations of N frames at the present estimate, without priors.

        seen: [N, R, 2], rows of the landmarks. person: as `person` gives it. expression: [N, K_exp]. trust: [N], weights of the frames.
        """
        count, k, k_id = len(seen), self.expression.count, self.identity.count if with_identity else 0
        out = Linearised(
            *(np.empty((count, 6, 6)), np.empty((count, 6)), np.empty((count, 6, k)), np.empty((count, k))),
            *(np.empty((count, 6)), np.empty((count, 6, k_id)), np.empty((count, k_id))),
        )
        add_up = linearise_function()

        def one(part: slice) -> None:
            camera, n = cameras[part], part.stop - part.start
            turned = self._turned(camera, self.shapes(person, expression[part]))
            top = camera.scale[:, None, None] * camera.rotation[:, :2]  # [n, 2, 3]
            in_model = np.empty((n, 7, turned.shape[1] * 3))  # six unknowns of the camera, then the residuals; times the weights
            add_up(
                *(np.ascontiguousarray(a, np.float64) for a in (seen[part], turned, top, camera.translation)),
                *(self.shifts, self.weights, np.ascontiguousarray(trust[part], np.float64), HUBER),
                *(out.blocks[part], out.pull[part], in_model),
            )
            flat = in_model.reshape(n * 7, -1)
            products = (flat @ self.expression.flat.T).reshape(n, 7, k)
            out.cross[part], out.slope[part] = products[:, :6], products[:, 6]
            if with_identity:
                products = (flat @ self.identity.flat.T).reshape(n, 7, k_id)
                out.identity_cross[part], out.identity_slope[part] = products[:, :6], products[:, 6]
            q = np.swapaxes(top, 1, 2) @ top
            out.metric[part] = np.stack([q[:, a, b] for a, b in _PAIRS], 1) * trust[part, None]

        parts = chunks(count)
        if len(parts) == 1:  # a live frame: threads would take longer to start
            one(parts[0])
        else:  # numba and BLAS work outside of Python's lock
            for _ in map_ahead(one, parts, threads=min(8, usable_cores()), depth=len(parts)):
                pass
        return out

    def affine_cameras(self, seen: np.ndarray, shape: np.ndarray) -> Cameras:
        """Cameras [N] for one shape [R, 3] in closed form: the best affine map, then the nearest scaled rotation."""
        share = self.weights * self.shifts
        share = share / share.sum()
        centre, middle = share @ shape, np.einsum("r,nrc->nc", share, seen)
        x = shape - centre
        moments = [np.einsum("nrc,r,rd->ncd", seen[part] - middle[part, None], share, x) for part in chunks(len(seen))]
        affine = np.concatenate(moments) @ np.linalg.inv(x.T @ (share[:, None] * x))
        u, stretch, vt = np.linalg.svd(affine, full_matrices=False)
        rows = u @ vt
        rotation = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], 1)
        scale = stretch.mean(1)
        shift = middle - scale[:, None] * (rows @ centre)
        return Cameras(scale, rotation, np.pad(shift, ((0, 0), (0, 1))))


def moved(cameras: Cameras, change: np.ndarray) -> Cameras:
    """Cameras after a step [N, 6]: a small rotation (3), the change of log scale, a shift (2)."""
    return Cameras(
        cameras.scale * np.exp(change[:, 3]),
        rotation_matrix(change[:, :3]) @ cameras.rotation,
        cameras.translation + np.concatenate([change[:, 4:], np.zeros((len(change), 1))], 1),
    )


def bend_weights(bend: np.ndarray) -> np.ndarray:
    """Weights [N, 6] of the squares of cameras' accelerations [N, 6]: Geman and McClure's, for rotation, scale and shift apart."""
    scaled = bend / CAMERA_STEPS
    size = np.stack([np.linalg.norm(scaled[:, part], axis=1) for part in (slice(0, 3), slice(3, 4), slice(4, 6))], 1)
    return (1 / (1 + (size / MAX_JITTER_STEPS) ** 2) ** 2)[:, [0, 0, 0, 1, 2, 2]] / CAMERA_STEPS**2


def chunks(count: int) -> list[slice]:
    return [slice(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
