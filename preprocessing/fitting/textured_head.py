"""A person's head drawn with its own colours, and where a frame really shows it.

The texture is the mean colour of every triangle over the frames in which it faces the camera. The textured head is drawn at a fit; optical
flow from the drawn head to the frame says where points of the upper face and the skull are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from preprocessing.face_models.dense_points import LIDS, N_POINTS, NOSE_BASE, SKIN
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.video import Fit
from preprocessing.render import create_renderer
from util.ahead import map_ahead, usable_cores
from util.compiled import compiled
from util.geometry import Cameras
from util.threads import one_opencv_thread

MAX_POINTS, MIN_POINTS = 200, 20  # tracked points of the surface; with fewer there is no refinement
OFFSET_PRIOR = 0.1  # (px/cm)^2 a frame: holds points to the model's surface while the head hardly turns
OFFSET_MAX_CM = 5.0  # largest distance of a point from the model's surface
_MIN_FACING = 0.25  # cosine between a triangle's normal and the viewing direction; triangles below it are not drawn
_LEAST_SEEN_PERCENT = 30  # of the triangles are not tracked: the least seen lie at the head's edge, where background mixes in
_FEATURE_CM = 1.0  # smallest distance of tracked points from lids and irises, where the appearance changes


@dataclass(frozen=True)
class Look:
    """Measurements of the drawn head in one frame."""

    places: np.ndarray  # float32 [P, 2] of the tracked points, pixels; those of the fit where not seen
    flow: np.ndarray  # float32 [P, 2] from the places of the fit to these, 0 where not seen
    distance: float  # mean length of the flow over the drawn head, pixels
    error: float  # mean difference of the frame from the drawn head, grey levels


class TexturedHead:
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

    def looker(self, colours: np.ndarray) -> Callable[[np.ndarray, np.ndarray, float], Look]:
        """What measures a frame, in any thread: (uint8 [H, W, 3] RGB, the head's vertices in it [V, 3], factor on the flow) -> Look.

        colours: uint8 [F, 3] of the triangles.
        """
        drawer = create_renderer("cpu", self.triangles, colours, self.size)

        def look(frame: np.ndarray, placed: np.ndarray, over_relaxation: float) -> Look:
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
            return Look(places + over_relaxation * away, away, cv2.mean(distance, drawn)[0], sum(cv2.mean(error, drawn)[:3]) / 3)

        return look

    def look(
        self,
        frame_at: Callable[[int], np.ndarray],
        vertices: Iterable[np.ndarray],
        colours: np.ndarray,
        over_relaxation: float,
    ) -> list[Look]:
        """Find where frames show the head. vertices: of frames 0, 1, ..."""
        look = self.looker(colours)
        with one_opencv_thread():
            frames = enumerate(vertices)
            return list(map_ahead(lambda x: look(frame_at(x[0]), x[1], over_relaxation), frames, threads=_threads(), depth=2 * _threads()))


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
