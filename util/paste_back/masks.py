"""Soft masks of heads, and where a crop lies in its frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from util.numeric import smoothstep

# Parts of the head's width (of the mesh's, as drawn).
HAIR_ROOM = (0.45, 0.22, 0.06)  # room above, beside, below
FEATHER = 0.2  # over which a mask falls from 1 to 0

COARSE = 128  # pixels a side at most of the image in which heads are widened: a thousandth of the time at 512, and the mask is soft
BORDER = 0.08  # of the crop's side: how far the mask fades towards the crop's border


@lru_cache(maxsize=4)
def crop_window(box: tuple[int, ...], frame_size: tuple[int, int], size: int) -> np.ndarray:
    """1 in a crop, falling to 0 at those of its sides that lie within the frame; float32 [size, size], 0..1.

    box: left, top, right, bottom of the crop in pixels of the frame. frame_size: height and width. size: side of the result in pixels.
    """
    (height, width), (left, top, right, bottom) = frame_size, box
    place = (np.arange(size, dtype=np.float32) + 0.5) / (size * BORDER)
    columns, rows = np.ones((2, size), np.float32)
    for line, low, high, end in ((columns, left, right, width), (rows, top, bottom, height)):
        if low > 0:
            line *= smoothstep(place)
        if high < end:
            line *= smoothstep(place[::-1])
    return rows[:, None] * columns


@lru_cache(maxsize=4)
def inside_frame(box: tuple[int, ...], frame_size: tuple[int, int], size: int) -> np.ndarray:
    """Which pixels of a crop lie in the frame; float32 [size, size], 0 or 1."""
    (height, width), (left, top, right, _) = frame_size, box
    centre = (np.arange(size) + 0.5) / size * (right - left)
    x, y = centre + left, centre + top
    return np.outer((y > 0) & (y < height), (x > 0) & (x < width)).astype(np.float32)


def fill(mask: np.ndarray) -> np.ndarray:
    """A mask [H, W] with its holes (an open mouth) and its gaps of single pixels filled; bool [H, W]."""
    closed = cv2.morphologyEx(np.pad(mask.astype(np.uint8), 1), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(closed), outlines, -1, 1, cv2.FILLED)[1:-1, 1:-1] > 0


def head_width(head: np.ndarray) -> float:
    """Width of a head in pixels; of an empty mask a third of the image."""
    columns = np.flatnonzero(head.any(0))
    return float(columns[-1] - columns[0] + 1) if columns.size else head.shape[1] / 3


class Head:
    """A head in a crop, and what blending needs of it.

    mask: bool [H, W], filled. coarse: the same in an image of at most COARSE a side. with_hair: bool, coarse, with HAIR_ROOM around it.
    """

    def __init__(self, mask: np.ndarray) -> None:
        self.mask, self.coarse = mask, _coarse(mask)
        self.with_hair = _widened(self.coarse, HAIR_ROOM)


def _coarse(mask: np.ndarray) -> np.ndarray:
    """A mask in an image of at most COARSE a side; bool."""
    if max(mask.shape) <= COARSE:
        return mask
    height, width = (max(1, round(n * COARSE / max(mask.shape))) for n in mask.shape)
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0.5


def _widened(head: np.ndarray, room: tuple[float, float, float]) -> np.ndarray:
    width = head_width(head)
    up, beside, down = (max(1, round(part * width)) for part in room)
    # half an ellipse above and half another below: each point of the head grows by `up` upwards, `beside` sidewards, `down` downwards
    y, x = np.mgrid[-up : down + 1, -beside : beside + 1].astype(np.float32)
    kernel = ((x / beside) ** 2 + (y / np.where(y < 0, up, down)) ** 2 <= 1).astype(np.uint8)
    # dilation takes the maximum under the kernel, so the kernel is turned upside down
    grown = cv2.dilate(head.astype(np.uint8), kernel[::-1].copy(), anchor=(beside, down), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return grown > 0


def soft_mask(heads: Sequence[Head], room: tuple[float, float, float] = HAIR_ROOM) -> np.ndarray:
    """float32 [H, W], 0..1: 1 on all heads and the room around them, falling smoothly to 0 over FEATHER of the head's width."""
    core = np.logical_or.reduce([h.with_hair if room == HAIR_ROOM else _widened(h.coarse, room) for h in heads])
    feather = min(FEATHER, 2 * room[0])
    distance = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, 5)
    soft, size = smoothstep(1 - distance / (feather * head_width(heads[0].coarse))), heads[0].mask.shape
    return soft if soft.shape == size else cv2.resize(soft, size[::-1], interpolation=cv2.INTER_LINEAR)
