"""The binary messages between the page and its server: 16 bytes, then a JPEG or sound.

    0  uint8    kind: 1 picture, 2 sound
    1  uint8    of the server's pictures: place in STATES
    2  uint16   0
    4  uint32   of the server's pictures: number of the frame; of sound: samples a second
    8  float64  time in milliseconds: of the page's clock when the picture or the first sample was taken; pictures of a camera carry it
                back; those of a file that is played have the time in the file
All little-endian. Sound is float32, one channel, -1..1.
"""

from __future__ import annotations

import io
import math
import struct
from typing import NamedTuple

import cv2
import numpy as np

STATES = ("calibrating", "driving", "lost")
MOST_BYTES = 2_000_000  # of a message: a camera's picture of 1280 x 720 has 0.2 MB
MOST_SIDE_PX = 1920
QUALITY = 90  # of the JPEGs that are shown, 0..100
_HEAD = struct.Struct("<BBHId")
_KINDS = {1: "picture", 2: "sound"}


class Part(NamedTuple):
    """A message of the page."""

    kind: str  # "picture" or "sound"
    number: int
    time_ms: float
    body: bytes


def unpack(data: bytes) -> Part | None:
    """Read a message of the page; None when it is none."""
    if not _HEAD.size < len(data) <= MOST_BYTES:
        return None
    kind, _, _, number, time_ms = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if kind not in _KINDS or not math.isfinite(time_ms) or (_KINDS[kind] == "sound" and len(body) % 4):
        return None
    return Part(_KINDS[kind], number, time_ms, body)


def pack(state: str, number: int, time_ms: float, jpeg: bytes) -> bytes:
    """A picture for the page."""
    return _HEAD.pack(1, STATES.index(state), 0, number & 0xFFFFFFFF, time_ms) + jpeg


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """A JPEG as uint8 [H, W, 3] RGB; None when it is broken, something else, or larger than MOST_SIDE_PX."""
    from PIL import Image

    try:  # the header alone: a small file may say that it is huge
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            width, height = header.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if not (16 <= width <= MOST_SIDE_PX and 16 <= height <= MOST_SIDE_PX):
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return image


def encode_jpeg(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB as a JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()
