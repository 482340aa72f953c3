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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from preprocessing.face_models.dense_points import LIDS, N_POINTS, NOSE_BASE, SKIN
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.video import Fit, SurfacePoints, fit_video
from preprocessing.render import create_renderer
from util.ahead import map_ahead, usable_cores
from util.cli import progress
from util.compiled import compiled
from util.geometry import Cameras, rotation_matrix, rotation_vector
from util.sampling import spread

MAX_POINTS, MIN_POINTS = 200, 20  # tracked points of the surface; with fewer there is no refinement
KEYFRAMES = 64
ROUNDS = 5  # over the key frames
OVER_RELAXATION = 1.8  # factor on the flow, which is too short between a blurred texture and a frame; halves the number of rounds
FINAL_OVER_RELAXATION = 1.4  # the same for the one round over all frames, where a larger factor causes jitter
OFFSET_PRIOR = 0.1  # (px/cm)^2 a frame: holds points to the model's surface while the head hardly turns
OFFSET_MAX_CM = 5.0  # largest distance of a point from the model's surface
MAX_ERROR_RATIO = 0.97  # of the colour errors after and before; with less improvement the refinement is discarded
SIDE = 256  # pixels; larger frames are reduced to this size
_MIN_FACING = 0.25  # cosine between a triangle's normal and the viewing direction; triangles below it are not drawn
_LEAST_SEEN_PERCENT = 30  # of the triangles are not tracked: the least seen lie at the head's edge, where background mixes in
_FEATURE_CM = 1.0  # smallest distance of tracked points from lids and irises, where the appearance changes


@dataclass(frozen=True)
class _Frame:
    """Measurements of the drawn head in one frame."""

    places: np.ndarray  # float32 [P, 2] of the surface points, pixels; those of the fit where not seen
    flow: np.ndarray  # float32 [P, 2] from the places of the fit to these, 0 where not seen
    distance: float  # mean length of the flow over the drawn head, pixels
    error: float  # mean difference of the frame from the drawn head, grey levels


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
    head = _Head(model, fit.identity, frames[0].shape[:2])

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
    looks = first = head.look(frames.__getitem__, head.vertices(start), colours)
    for _ in range(ROUNDS):
        now = fitted(keys, [x.places for x in looks], np.zeros(len(keys), bool))
        vertices = list(head.vertices(now))
        colours, _ = head.learn(frames, vertices)
        looks = head.look(frames.__getitem__, vertices, colours)
        head.offset_points(now.cameras, np.stack([x.flow for x in looks]))
    (distance, error), (distance_then, error_then) = (np.mean([(x.distance, x.error) for x in y], axis=0) for y in (looks, first))
    if distance > distance_then or error > MAX_ERROR_RATIO * error_then:
        return fit
    guess = _carried_over(before, keys, start, now)
    vertices = progress(head.vertices(guess), desc=desc, total=count)
    looks = head.look(lambda i: _small(read_frame(i)), vertices, colours, FINAL_OVER_RELAXATION)
    refined = fitted(np.arange(count), [x.places for x in looks], joined)
    return _scaled(refined, 1 / factor)


class _Head:
    """A person's textured head in frames of one size: learns its colours, draws it, and finds where frames show it."""

    def __init__(self, model: MorphableModel, identity: np.ndarray, size: tuple[int, int]):
        self.model = model
        self.identity = identity
        self.size = size
        self.triangles = model.triangles  # coloured and drawn
        self.tracked = model.triangles[:0]  # their middles are tracked
        self.offsets = np.zeros((0, 3))  # of these from the model's surface, model units

    def vertices(self, fit: Fit) -> Iterator[np.ndarray]:
        """Every frame's vertices in the image: float32 [V, 3]."""
        return self.model.in_images(self.identity, fit.expression, fit.cameras)

    def reduce(self, triangles: np.ndarray, tracked: np.ndarray) -> None:
        """From here on draw these triangles only, and track the middles of others."""
        self.model = self.model.without_unused(np.concatenate([triangles, tracked]))
        self.triangles, self.tracked = np.split(self.model.triangles, [len(triangles)])
        self.offsets = np.zeros((len(tracked), 3))

    def shown(self, vertices: list[np.ndarray]) -> np.ndarray:
        """Which triangles are seen in any of these frames: bool [F], a third of some models; the others need not be drawn."""
        drawer = create_renderer("cpu", self.triangles, np.zeros(self.triangles.shape, np.uint8), self.size)
        shown = np.zeros(len(self.triangles) + 1, bool)
        for ids in map_ahead(drawer.draw_ids, vertices, threads=_threads(), depth=_threads()):
            shown[ids] = True  # -1, for none, is the last one
        return shown[:-1]

    def learn(self, frames: list[np.ndarray], vertices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Mean colour of every triangle, uint8 [F, 3], grey where no frame shows it; and how much the frames show it, [F].

        A frame counts by how much the triangle faces the camera.
        """
        total = np.zeros((len(self.triangles), 4))
        height, width = self.size

        def colours(index: int) -> np.ndarray:
            middle = _middles(vertices[index], self.triangles)
            weight = np.clip(_facing(vertices[index], self.triangles) - _MIN_FACING, 0, 1)
            x, y = middle.T
            weight *= (x > 0) & (x < width) & (y > 0) & (y < height)
            return np.column_stack([_at(frames[index], middle) * weight[:, None], weight])

        for part in map_ahead(colours, range(len(frames)), threads=_threads(), depth=_threads()):
            total += part
        mean = total[:, :3] / np.maximum(total[:, 3:], 1e-6)
        return np.where(total[:, 3:] > 1e-3, mean, 128).round().astype(np.uint8), total[:, 3]

    def offset_points(self, cameras: Cameras, flow: np.ndarray) -> None:
        """Move the tracked points off the model's surface, as hair is, by how they slide over it when the head turns.

        cameras: of N frames. flow: [N, P, 2], left over after a fit. Points move along the mean viewing direction, because the
        texture was learnt at their mean place.
        """
        towards = -cameras.rotation[:, 2].mean(0)
        towards /= np.linalg.norm(towards)
        slide = cameras.scale[:, None] * (cameras.rotation[:, :2] @ towards)  # [N, 2], pixels a model unit
        slide -= slide.mean(0)
        seen = flow.any(-1)
        pull = np.einsum("npc,nc->p", flow, slide)
        weight = seen.T.astype(float) @ (slide**2).sum(1) + OFFSET_PRIOR * seen.sum(0)
        depth = pull / np.maximum(weight, 1e-9)
        self.offsets = np.clip(depth, -OFFSET_MAX_CM, OFFSET_MAX_CM)[:, None] * towards

    def look(
        self,
        frame_at: Callable[[int], np.ndarray],
        vertices: Iterable[np.ndarray],
        colours: np.ndarray,
        over_relaxation: float = OVER_RELAXATION,
    ) -> list[_Frame]:
        """Find where frames show the head. vertices: of frames 0, 1, ..."""
        drawer = create_renderer("cpu", self.triangles, colours, self.size)

        def one(item: tuple[int, np.ndarray]) -> _Frame:
            index, placed = item
            frame = frame_at(index)
            ids = drawer.draw_ids(placed)
            front = _facing(placed, self.triangles) > _MIN_FACING
            drawn = np.append(front, False)[ids].view(np.uint8)  # -1, for none, is the last one
            picture = frame.copy()
            cv2.copyTo(drawer.paint(ids), drawn, picture)
            flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*(_grey(x) for x in (picture, frame)), None)
            places = _middles(placed, self.tracked)
            whole = (_at(drawn.astype(np.float32), places)[:, 0] > 0.9) & (_facing(placed, self.tracked) > _MIN_FACING)
            away = _at(flow, places) * whole[:, None]
            distance, error = cv2.magnitude(*cv2.split(flow)), cv2.absdiff(picture, frame)
            return _Frame(places + over_relaxation * away, away, cv2.mean(distance, drawn)[0], sum(cv2.mean(error, drawn)[:3]) / 3)

        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # frames are shared out to threads already
        try:
            return list(map_ahead(one, enumerate(vertices), threads=_threads(), depth=2 * _threads()))
        finally:
            cv2.setNumThreads(threads)


def surface_points(model: MorphableModel, seen: np.ndarray) -> np.ndarray:
    """Triangles whose middles are tracked: int [up to MAX_POINTS], spread evenly over what is seen of the head.

    seen: [F], how much the frames show a triangle. Only above the base of the nose, where little but the brows moves; nothing behind the
    skin or near lids and irises.
    """
    middles = model.mean[model.triangles].mean(1)
    place = {int(p): x for p, x in zip(model.landmark_ids, model.landmark_model[0])}
    good = seen > (np.percentile(seen[seen > 0], _LEAST_SEEN_PERCENT) if seen.any() else 0)
    good &= model.depth_bias[model.triangles].max(1) <= 0
    good &= middles[:, 1] > place[NOSE_BASE][1]
    features = np.array([place[p] for p in (*LIDS, *range(SKIN, N_POINTS)) if p in place])
    candidates = np.flatnonzero(good)
    near = np.min([np.linalg.norm(middles[candidates] - f, axis=1) for f in features], axis=0)
    candidates = candidates[near > _FEATURE_CM]
    if not len(candidates):
        return candidates
    chosen = [0]  # farthest point sampling
    away = np.full(len(candidates), np.inf)
    while len(chosen) < min(MAX_POINTS, len(candidates)):
        away = np.minimum(away, np.linalg.norm(middles[candidates] - middles[candidates[chosen[-1]]], axis=1))
        chosen.append(int(away.argmax()))
    return candidates[chosen]


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


def _grey(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


@lru_cache(maxsize=1)
def _facing_function():
    def facing(vertices, triangles, out):
        for f in range(len(triangles)):
            a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
            x1, y1, z1 = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
            x2, y2, z2 = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
            x, y, z = y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2
            out[f] = -z / max(np.sqrt(x * x + y * y + z * z), np.float32(1e-9))

    return compiled(facing)


def _facing(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Cosine between triangles' normals and the direction to the camera: float32 [F]."""
    out = np.empty(len(triangles), np.float32)
    _facing_function()(np.ascontiguousarray(vertices, np.float32), triangles, out)
    return out


def _middles(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Middles of triangles in the image: [F, 2]."""
    x, y = np.ascontiguousarray(vertices[:, :2].T)[:, triangles.T].sum(1) / 3  # axis by axis: many times faster than row by row
    return np.stack([x, y], 1)


def _at(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A picture [H, W] or [H, W, C] at points [K, 2], bilinear: [K, C]. In rows, as OpenCV takes no more than 32,767 in one."""
    row = 256
    padded = np.zeros((-(-max(len(places), 1) // row) * row, 2), np.float32)
    padded[: len(places)] = places - 0.5
    found = cv2.remap(picture, padded.reshape(-1, row, 2), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(len(padded), -1)[: len(places)]


def _threads() -> int:
    return min(8, usable_cores())
