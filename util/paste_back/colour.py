"""Matching the colours of synthesised crops to those of the original frames."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_COARSE = 64  # pixels a side of the images in which colours are compared
_SAMPLED = 128  # pixels a side, of which percentiles are taken
_LOCAL_BLUR = 0.12  # of the crop's side: standard deviation of the blur that makes the local correction smooth
_LOCAL_LIMIT = 24.0  # grey levels that the local correction may add
_PERCENTILES = np.arange(10, 100, 10)  # of a face's colours that are compared
_OUTLIER = 12.0  # grey levels: larger differences after the match are not due to colour


@dataclass(frozen=True)
class Colours:
    """The colours of a crop, as far as they are compared."""

    coarse: np.ndarray  # float32 [_COARSE, _COARSE, 3]
    face: np.ndarray | None  # float64 [3, 9], percentiles on the face

    @classmethod
    def of(cls, image: np.ndarray, face: np.ndarray | None = None) -> Colours:
        """image: uint8 [S, S, 3]. face: bool [S, S], its head, where it is known and to be compared."""
        coarse = cv2.resize(image, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA).astype(np.float32)
        if face is None or np.count_nonzero(face) < 50:
            return cls(coarse, None)
        step = max(1, len(image) // _SAMPLED)
        sample = image[::step, ::step][face[::step, ::step]]
        at = _PERCENTILES / 100 * (len(sample) - 1)
        low = at.astype(int)
        # by counting: a tenth of the time of np.percentile
        ends = [np.searchsorted(np.cumsum(np.bincount(channel)), [low, low + 1], side="right") for channel in sample.T]
        below, above = np.stack(ends, 1)
        return cls(coarse, below + (at - low) * (above - below))


class ColourMatch:
    """Matches the colours of synthesised crops to those of the original frames, slowly changing over time.

    Per channel `original ~ gain * fake + offset + field(x, y)`: gain and offset by robust least squares (Cauchy weights) over the
    pixels that should agree, with a weak prior at 1 and 0; then a field of low frequency from what is left, by
    normalised convolution (Knutsson and Westin 1993), which vanishes where nothing is known.

    rate: share of each new frame in the running average.
    """

    def __init__(self, rate: float):
        self.rate = rate
        self._line: np.ndarray | None = None  # [3, 2] gain, offset
        self._field: np.ndarray | None = None  # [_COARSE, _COARSE, 3]

    def __call__(self, fake: np.ndarray, own: Colours, original: Colours, trust: np.ndarray) -> np.ndarray:
        """fake: uint8 [S, S, 3]. own: its colours. trust: [C, C], 0..1, where they should agree. Where the faces of both are known, the
        same face in different poses, they are matched besides.

        Returns: uint8 [S, S, 3].
        """
        weight = cv2.resize(trust.astype(np.float32), (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
        line = self._fit(own, original, weight)
        self._line = line if self._line is None else self._line + self.rate * (line - self._line)
        rest = original.coarse - (own.coarse * self._line[:, 0] + self._line[:, 1])
        agree = weight[..., None] / (1 + (rest / _OUTLIER) ** 2) ** 2
        blur = _LOCAL_BLUR * _COARSE
        known = cv2.GaussianBlur(agree, (0, 0), blur, borderType=cv2.BORDER_CONSTANT)
        field = cv2.GaussianBlur(agree * rest, (0, 0), blur, borderType=cv2.BORDER_CONSTANT) / (known + 0.05)
        field = np.clip(field, -_LOCAL_LIMIT, _LOCAL_LIMIT)
        self._field = field if self._field is None else self._field + self.rate * (field - self._field)
        wide = cv2.resize(self._field.astype(np.float32), fake.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        table = np.arange(256, dtype=np.float32)[:, None] * self._line[:, 0] + self._line[:, 1]
        return cv2.add(cv2.LUT(fake, table[None].astype(np.float32)), wide, dtype=cv2.CV_8U)

    @staticmethod
    def _fit(own: Colours, original: Colours, weight: np.ndarray) -> np.ndarray:
        """Gain and offset of each channel: [3, 2]."""
        some, lines = weight > 0.05, np.tile([1.0, 0.0], (3, 1))
        x, y, w = (a[some].T.astype(np.float64) for a in (own.coarse, original.coarse, weight))
        if own.face is not None and original.face is not None:  # the face counts as much as all that surrounds it
            x, y = np.concatenate([x, own.face], 1), np.concatenate([y, original.face], 1)
            w = np.concatenate([w, np.full(len(_PERCENTILES), max(w.sum(), 1.0) / len(_PERCENTILES))])
        if w.sum() < 10:
            return lines
        w /= w.sum()
        # begin where not everything is an outlier
        far = np.abs(np.median(y - x, 1)) > 2 * _OUTLIER
        if far.any():
            lines[far, 0] = np.clip(np.median(y, 1) / np.maximum(np.median(x, 1), 1.0), 0.4, 2.5)[far]
        # Against a mean squared error of 3 grey levels a gain off by 0.3, or an offset of 10: where a plain background leaves open
        # which of both it is, it is exposure.
        stiff, level = 3.0**2 / 0.3**2, 3.0**2 / 10.0**2
        products = np.stack([x * x, x, np.ones_like(x), x * y, y], 1)  # [3, 5, n]
        for _ in range(8):
            rest = (y - (lines[:, :1] * x + lines[:, 1:])) / (2 * _OUTLIER)
            xx, x1, one, xy, y1 = (products @ (w / (1 + rest * rest))[..., None])[..., 0].T
            xx, one, xy = xx + stiff, one + level, xy + stiff
            determinant = xx * one - x1 * x1
            lines = np.stack([(xy * one - x1 * y1) / determinant, (xx * y1 - x1 * xy) / determinant], 1)
            lines[:, 0] = np.clip(lines[:, 0], 0.4, 2.5)
        return lines
