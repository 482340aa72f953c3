"""What is seen through the openings of the head: the eyeballs and the inside of the mouth."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.face_models.dense_points import LEFT_IRIS, RIGHT_IRIS
from scripts.demo_clip.contours import LOWER_LIP, UPPER_LIP
from scripts.demo_clip.images import disc, fill, look_up
from scripts.demo_clip.portrait import Portrait
from util.numeric import smoothstep


class Eye:
    """An eyeball, seen through the hole between the lids: the photographed white, and an iris in its colours that can move."""

    def __init__(self, portrait: Portrait, index: int) -> None:
        self.zoom = portrait.zoom
        centre, *ring = portrait.landmarks[list((RIGHT_IRIS, LEFT_IRIS)[index]), :2]
        self.centre, self.radius = centre, 0.98 * np.linalg.norm(np.array(ring) - centre, axis=1).mean()
        inside = cv2.erode((portrait.polygon(portrait.holes[1 + index]) > 0.99).astype(np.uint8), disc(0.5 * self.zoom))
        iris = portrait.polygon(centre + 1.15 * self.radius * np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 40)), np.sin(a)], 1))
        white = fill(portrait.photo, inside * (1 - iris))
        self.white = white + 0.4 * (white.mean(-1, keepdims=True) * 1.10 - white)  # so little of it is seen that skin tints it

    def colour(self, x: np.ndarray, y: np.ndarray, move: np.ndarray) -> np.ndarray:
        """Colours [..., 3] at photo pixels x, y when the iris has moved by `move` [2]."""
        white = look_up(self.white, x, y, self.zoom)
        r = np.hypot(x - self.centre[0] - move[0], y - self.centre[1] - move[1]) / self.radius
        inner, outer, limbus = (np.float32(c) / 255 for c in ((74, 47, 21), (68, 45, 24), (56, 43, 33)))
        iris = inner + (outer - inner) * smoothstep(r, 0.45, 0.8)[..., None]
        iris = iris + (limbus - iris) * smoothstep(r, 0.75, 1.0)[..., None]
        iris = iris + (np.float32([0.07, 0.04, 0.03]) - iris) * smoothstep(-r, -0.66, -0.34)[..., None]  # pupil
        colour = white + (iris - white) * smoothstep(-r, -1.15, -0.85)[..., None]
        # The reflection of the lamp stays where it is while the iris turns below it.
        lamp = self.centre + [-0.9, -0.8] + 0.45 * move
        glint = np.exp(-((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) / (2 * 0.75**2))
        return colour + (0.92 - colour) * 0.9 * glint[..., None].astype(np.float32)


class Mouth:
    """The inside of the mouth, seen through the hole between the lips."""

    def __init__(self, portrait: Portrait) -> None:
        self.zoom = portrait.zoom
        inside = cv2.erode((portrait.polygon(portrait.holes[0]) > 0.99).astype(np.uint8), disc(0.5 * self.zoom))
        self.teeth = fill(portrait.photo, inside)
        lower = portrait.landmarks[list(LOWER_LIP), :2]
        upper = portrait.landmarks[list(UPPER_LIP), :2]
        self.centre = (lower[5] + upper[5]) / 2
        self.half_width = np.linalg.norm(lower[-1] - lower[0]) / 2
        self.edge = lower  # the photographed smile ends where the teeth do

    def colour(self, x: np.ndarray, y: np.ndarray, jaw: float) -> np.ndarray:
        """Colours [..., 3] at photo pixels x, y when the jaw has come down by `jaw` photo pixels."""
        across = (x - self.centre[0]) / self.half_width
        colour = np.full((*x.shape, 3), (0.17, 0.065, 0.055), np.float32)
        low = self.edge[5, 1] + jaw
        height = 3.0 + 0.3 * max(jaw, 0)
        tongue = np.exp(-(((across / 0.6) ** 2 + ((y - low) / height) ** 2) ** 1.5))[..., None]
        shine = np.exp(-((across / 0.35) ** 2 + ((y - low + 0.55 * height) / (0.3 * height)) ** 2))[..., None]
        colour += (np.float32([0.60, 0.29, 0.28]) + 0.10 * shine - colour) * tongue
        top = low - 1.3 + 2.2 * across**2  # lower teeth: a shallow arc, shaded towards the sides
        row = smoothstep(y - top, -0.5, 0.5) * np.exp(-((across / 0.5) ** 6))
        gaps = 1 - 0.22 * np.exp(-(((((x - self.centre[0]) / 3.1) % 1 - 0.5) / 0.13) ** 2))
        colour += (np.float32([0.60, 0.53, 0.45]) * gaps[..., None] - colour) * row[..., None]
        bottom = np.interp(x, *self.edge.T) - 0.1
        row = smoothstep(bottom - y, -0.6, 0.6) * smoothstep(-np.abs(across), -0.98, -0.80)
        return colour + (look_up(self.teeth, x, y, self.zoom) - colour) * row[..., None]
