"""From a decoded picture to the RGB of the project: what SDR video shows on an sRGB screen, uint8, whatever the file holds.

Ordinary (SDR) video: the matrix (BT.601, BT.709, BT.2020) and range (limited, full) that the file names. Without a name the usual
rules of players hold: BT.709 for HD (1280 wide or 720 high, or more), BT.601 for what is smaller; limited range. Primaries of
BT.2020 and P3 (phones) are brought to those of BT.709; those of BT.601 differ too little and stay.

HDR video (HLG and PQ): light as the standards define it (ITU-R BT.2100; HLG as on a screen of 1000 cd/m2), so that diffuse white,
203 cd/m2 by ITU-R BT.2408, would be white; primaries to BT.709; all that is darker than 80 % of diffuse white keeps its light, and the
brighter is rolled off by the extended curve of Reinhard et al. (Photographic Tone Reproduction, 2002), equally for the three colours, which
keeps the hue; then sRGB (IEC 61966-2-1). Diffuse white becomes 244 of 255, 1000 cd/m2 and more 255.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from util.ahead import usable_cores
from util.compiled import compiled

# Numbers of ITU-T H.273 (matrix, primaries, transfer) and of FFmpeg (range, swscale's matrices)
_PQ, _HLG = 16, 18
_UNKNOWN = (0, 2, 3)  # reserved, unspecified, reserved; 0 as a matrix means RGB
_LIMITED, _FULL = 1, 2
_SWSCALE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}

_PEAK = 1000 / 203  # brightest light of HLG, as a multiple of diffuse white
_KNEE = 0.8  # light up to which nothing changes
_LEVELS = 4096  # of the tables
# Linear light of BT.2020 and of P3 (D65) to BT.709's: from the chromaticities in BT.2020, SMPTE EG 432-1 and BT.709
_CHROMATICITIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_D65 = (0.3127, 0.3290)
_WIDE = {9: 9, 11: 12, 12: 12}  # primaries wider than BT.709's; 11 is P3 of cinemas, taken with D65 as well


@dataclass(frozen=True)
class Colour:
    """How a picture's numbers stand for colours. matrix: number of swscale; the others as in ITU-T H.273."""

    matrix: int
    full: bool
    primaries: int
    transfer: int

    @property
    def note(self) -> str:
        """What is done to the colours, in words; empty for ordinary video."""
        if self.transfer in (_PQ, _HLG):
            return f"HDR ({'PQ' if self.transfer == _PQ else 'HLG'}): tone-mapped to sRGB"
        if self.primaries != 1:
            return f"wide gamut ({'BT.2020' if self.primaries == 9 else 'P3'}): converted to sRGB"
        return ""


Tags = tuple[int, int, int, int]  # matrix, range, primaries, transfer; 2 (range: 0) where nothing is named


def stream_tags(stream: Any) -> Tags:
    """What the container says about colours; to be asked before the first picture is decoded."""
    return _tags(stream.codec_context)


def colour_of(frame: Any, container: Tags) -> Colour:
    """The colours of a decoded frame: what the frame says itself, then the container, then the usual rules."""
    matrix, colour_range, primaries, transfer = (
        theirs if mine in unknown else mine for mine, theirs, unknown in zip(_tags(frame), container, ((2, 3), (0,), _UNKNOWN, _UNKNOWN))
    )
    hdr = transfer in (_PQ, _HLG)
    if matrix not in _SWSCALE:
        if hdr or primaries == 9:
            matrix = 9
        else:
            matrix = 1 if frame.width >= 1280 or frame.height >= 720 else 5
    wide = _WIDE.get(primaries, 9 if hdr and primaries in _UNKNOWN else 1)
    name = frame.format.name
    # The formats yuvj* are full range by definition; swscale takes RGB and grey so as well.
    return Colour(_SWSCALE[matrix], colour_range == _FULL or name.startswith("yuvj"), wide, transfer if hdr else 1)


def to_rgb(frame: Any, colour: Colour, width: int, height: int) -> np.ndarray:
    """A decoded frame as uint8 [height, width, 3] RGB."""
    given = {"width": width, "height": height}
    if not frame.format.is_rgb:
        given.update(src_colorspace=colour.matrix, src_color_range=_FULL if colour.full else _LIMITED)
    if not colour.note:
        return frame.to_ndarray(format="rgb24", **given)
    deep = np.ascontiguousarray(frame.to_ndarray(format="rgb48le", **given))
    out = np.empty((height, width, 3), np.uint8)
    convert, tables = _kernel(), _tables(colour.primaries, colour.transfer)
    bands = min(4, usable_cores())
    # Threads of Python: numba's own stand neither a second thread that calls them nor a fork.
    with ThreadPoolExecutor(bands) as pool:
        list(pool.map(lambda rows, band: convert(rows, *tables, band), np.array_split(deep, bands), np.array_split(out, bands)))
    return out


def _tags(source: Any) -> Tags:
    return tuple(int(getattr(source, name)) for name in ("colorspace", "color_range", "color_primaries", "color_trc"))


def pq_light(signal: np.ndarray) -> np.ndarray:
    """Light as a multiple of diffuse white for PQ signals, 0 to 1 (SMPTE ST 2084)."""
    root = np.asarray(signal, np.float64) ** (32 / 2523)
    return 10000 / 203 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)


def hlg_scene(signal: np.ndarray) -> np.ndarray:
    """Light of the scene, 0 to 1, for HLG signals, 0 to 1 (ARIB STD-B67); the screen's is this times _PEAK * luminance ** 0.2."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = np.asarray(signal, np.float64)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _to_xyz(primaries: int) -> np.ndarray:
    """Matrix [3, 3] from linear RGB to XYZ, white (1, 1, 1) being D65 of luminance 1."""
    x, y = np.array([*_CHROMATICITIES[primaries], _D65]).T
    columns = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


@cache
def _tables(primaries: int, transfer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
    """What the kernel needs, float32 but the last: light for a signal [n], gain for the root of luminance [n] (HLG's system gamma), matrix
    [4, 3] to BT.709 and luminance, 8-bit code for the root of light [n]; whether highlights are rolled off."""
    steps = np.linspace(0, 1, _LEVELS)
    hdr = transfer in (_PQ, _HLG)
    to_xyz = _to_xyz(primaries)
    gain = np.ones(_LEVELS)
    if transfer == _PQ:
        light = pq_light(steps)
    elif transfer == _HLG:
        light = hlg_scene(steps)
        gain = _PEAK * (steps**2) ** 0.2
    else:
        light = steps**2.4  # as screens show video (ITU-R BT.1886)
    if hdr:
        code = np.where(steps**2 <= 0.0031308, 12.92 * steps**2, 1.055 * steps ** (2 / 2.4) - 0.055)
    else:
        code = steps ** (2 / 2.4)
    matrix = np.vstack([np.linalg.solve(_to_xyz(1), to_xyz), to_xyz[1]])
    return (*(np.ascontiguousarray(t, np.float32) for t in (light, gain, matrix, 255 * code + 0.5)), hdr)


@cache
def _kernel() -> Any:
    """The compiled conversion."""
    knee, room = np.float32(_KNEE), np.float32(1 - _KNEE)
    most = np.float32((_PEAK - _KNEE) / (1 - _KNEE))
    last = np.float32(_LEVELS - 1)
    zero, one = np.float32(0), np.float32(1)

    def convert(deep, light, gain, matrix, code, hdr, out):
        """deep: uint16 [H, W, 3]; out: uint8 [H, W, 3]; the rest as _tables gives it."""
        for row in range(deep.shape[0]):
            for column in range(deep.shape[1]):
                r, g, b = light[deep[row, column, 0] >> 4], light[deep[row, column, 1] >> 4], light[deep[row, column, 2] >> 4]
                luminance = matrix[3, 0] * r + matrix[3, 1] * g + matrix[3, 2] * b
                scale = gain[np.uint32(np.sqrt(min(luminance, one)) * last)]
                # What lies outside BT.709's primaries is cut off.
                r, g, b = (
                    max(zero, scale * (matrix[0, 0] * r + matrix[0, 1] * g + matrix[0, 2] * b)),
                    max(zero, scale * (matrix[1, 0] * r + matrix[1, 1] * g + matrix[1, 2] * b)),
                    max(zero, scale * (matrix[2, 0] * r + matrix[2, 1] * g + matrix[2, 2] * b)),
                )
                top = max(r, g, b)
                if hdr and top > knee:
                    x = min((top - knee) / room, most)
                    factor = (knee + room * x * (one + x / (most * most)) / (one + x)) / top
                    r, g, b = r * factor, g * factor, b * factor
                out[row, column, 0] = np.uint8(code[np.uint32(np.sqrt(min(r, one)) * last)])
                out[row, column, 1] = np.uint8(code[np.uint32(np.sqrt(min(g, one)) * last)])
                out[row, column, 2] = np.uint8(code[np.uint32(np.sqrt(min(b, one)) * last)])

    return compiled(convert, fastmath=True)
