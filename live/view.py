"""What every live output shows: the person, the driver beside it if wanted, rates and state, and the mark of synthetic pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from live.engine import LiveFrame
    from live.pipeline import Figures

MARK = "synthetic"
_TEXT_SHARE = 0.035  # font size as a share of the picture's height: capitals are then about 2.5 % high
_LEAST_TEXT_PX = 9  # smaller ones cannot be read
# A text: how much of the picture stays below it, uint16 [h, w, 1] of 256, and the light that is added, uint16 [h, w, 1] of 255
Patch = tuple[np.ndarray, np.ndarray]
_SHADE = 0.6  # how much of the picture the dark ground of a text hides


@dataclass
class View:
    """How a live frame becomes the picture that is shown. Fields may be changed between frames.

    side_by_side: the driver to the left of the person, at the same height.
    overlay: frames a second, delay and state in the upper left corner.
    mark: the small word "synthetic" in the person's lower right corner. Every live output has it.
    """

    side_by_side: bool = False
    overlay: bool = False
    mark: bool = True

    def compose(self, frame: LiveFrame, statistics: Figures | str | None = None) -> np.ndarray:
        """The picture, uint8 [H, W, 3] RGB: a new array, of the height of `frame.image`.

        statistics: what the overlay tells of, or its text; None: this frame's delay.
        """
        height = frame.image.shape[0]
        if self.side_by_side:
            width = max(1, round(frame.driver.shape[1] * height / frame.driver.shape[0]))
            picture = np.empty((height, width + frame.image.shape[1], 3), np.uint8)
            picture[:, :width] = _resized(frame.driver, width, height)
            picture[:, width:] = frame.image
        else:
            picture = frame.image.copy()
        if self.mark:
            _put(picture, MARK, right=True, bottom=True)
        if self.overlay:
            told = f"delay {(frame.done_s - frame.time_s) * 1000:.0f} ms" if statistics is None else statistics
            told = told if isinstance(told, str) else told.as_text()
            _put(picture, f"{told}, {frame.state}")
        return picture


def fit(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture, uint8 [h, w, 3], in another size without distortion: scaled, on black. The same array when nothing is to be done."""
    h, w = picture.shape[:2]
    if (w, h) == (width, height):
        return picture
    scale = min(width / w, height / h)
    inner = min(width, max(1, round(w * scale))), min(height, max(1, round(h * scale)))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    out = np.zeros((height, width, 3), np.uint8)
    out[top : top + inner[1], left : left + inner[0]] = _resized(picture, *inner)
    return out


def put_table(picture: np.ndarray, rows: tuple[tuple[str, str], ...]) -> None:
    """Write rows of a key and what it means into the middle of a picture, in place."""
    patch = _table(rows, _text_px(picture.shape[0]))
    _blend(picture, patch, (picture.shape[1] - patch[0].shape[1]) // 2, (picture.shape[0] - patch[0].shape[0]) // 2)


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    while picture.shape[0] >= 2 * height:  # a mean of any other number of pixels takes ten times as long
        picture = cv2.resize(picture, (max(1, picture.shape[1] // 2), picture.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def _text_px(height: int) -> int:
    return max(_LEAST_TEXT_PX, round(height * _TEXT_SHARE))


def _put(picture: np.ndarray, text: str, right: bool = False, bottom: bool = False) -> None:
    height, width = picture.shape[:2]
    size = _text_px(height)
    patch = _text(text, size)
    gap = size // 2
    _blend(picture, patch, width - gap - patch[0].shape[1] if right else gap, height - gap - patch[0].shape[0] if bottom else gap)


def _blend(picture: np.ndarray, patch: Patch, left: int, top: int) -> None:
    """Put a text at a place; what lies outside of the picture is cut."""
    left, top = max(0, left), max(0, top)
    place = picture[top : top + patch[0].shape[0], left : left + patch[0].shape[1]]
    keep, light = (part[: place.shape[0], : place.shape[1]] for part in patch)
    place[:] = (place * keep >> 8) + light


@lru_cache(maxsize=64)
def _text(text: str, size: int) -> Patch:
    """A line of text; size: of the font in pixels."""
    return _table(((text,),), size)


@lru_cache(maxsize=8)
def _table(rows: tuple[tuple[str, ...], ...], size: int) -> Patch:
    """White text in columns on dark ground."""
    font = ImageFont.load_default(size=size)
    edge, line = max(2, size // 4), round(1.3 * size)
    widths = [round(max(font.getlength(text) for text in column)) for column in zip(*rows)]
    image = Image.new("L", (sum(widths) + 2 * edge + size * (len(widths) - 1), len(rows) * line + edge))
    draw = ImageDraw.Draw(image)
    for k, row in enumerate(rows):
        for column, text in enumerate(row):
            place = edge + sum(widths[:column]) + size * column, edge // 2 + k * line + size
            draw.text(place, text, fill=255, font=font, anchor="ls")  # by its base line
    glyphs = np.asarray(image, np.float32)[:, :, None] / 255
    keep = (1 - _SHADE) * (1 - glyphs)
    return np.round(keep * 256).astype(np.uint16), np.round(glyphs * 255).astype(np.uint16)
