"""Matching the colours of synthesised crops to those of the original frames."""

from __future__ import annotations

import cv2
import numpy as np

_COARSE = 64  # pixels a side of the images in which colours are compared
_SAMPLED = 128  # pixels a side, of which percentiles are taken
_LOCAL_BLUR = 0.12  # of the crop's side: standard deviation of the blur that makes the local correction smooth
_LOCAL_LIMIT = 24.0  # grey levels that the local correction may add
_OUTLIER = 12.0  # grey levels: larger differences after the match are not due to colour


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

    def __call__(
        self, fake: np.ndarray, original: np.ndarray, trust: np.ndarray, faces: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        """fake, original: uint8 [S, S, 3]. trust: [S, S], 0..1, where they should agree. faces: the heads' masks in fake and original
        when they show the same face in different poses; their colours' percentiles are matched besides.

        Returns: float32 [S, S, 3], 0..255 and a little beyond.
        """
        size = (_COARSE, _COARSE)
        small = [cv2.resize(i, size, interpolation=cv2.INTER_AREA).astype(np.float32) for i in (fake, original)]
        weight = cv2.resize(trust.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        line = np.stack(
            [self._fit(small[0][..., c], small[1][..., c], weight, self._quantiles(fake, original, faces, c)) for c in range(3)]
        )
        self._line = line if self._line is None else self._line + self.rate * (line - self._line)
        rest = small[1] - (small[0] * self._line[:, 0] + self._line[:, 1])
        agree = weight[..., None] / (1 + (rest / _OUTLIER) ** 2) ** 2
        blur = _LOCAL_BLUR * _COARSE
        known = cv2.GaussianBlur(agree, (0, 0), blur, borderType=cv2.BORDER_CONSTANT)
        field = cv2.GaussianBlur(agree * rest, (0, 0), blur, borderType=cv2.BORDER_CONSTANT) / (known + 0.05)
        field = np.clip(field, -_LOCAL_LIMIT, _LOCAL_LIMIT)
        self._field = field if self._field is None else self._field + self.rate * (field - self._field)
        wide = cv2.resize(self._field.astype(np.float32), fake.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        table = np.arange(256, dtype=np.float32)[:, None] * self._line[:, 0] + self._line[:, 1]
        return cv2.add(cv2.LUT(fake, table[None].astype(np.float32)), wide)

    @staticmethod
    def _quantiles(fake: np.ndarray, original: np.ndarray, faces: tuple[np.ndarray, np.ndarray] | None, channel: int) -> np.ndarray:
        """Percentiles 10, 20, ... 90 of a channel on both faces: [2, 9], or [2, 0]."""
        if faces is None or min(f.sum() for f in faces) < 50:
            return np.zeros((2, 0))
        levels, step = np.arange(10, 100, 10), max(1, fake.shape[0] // _SAMPLED)
        sampled = [(i[::step, ::step, channel], f[::step, ::step]) for i, f in zip((fake, original), faces)]
        return np.stack([np.percentile(i[f], levels) for i, f in sampled])

    @staticmethod
    def _fit(fake: np.ndarray, original: np.ndarray, weight: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Gain and offset of one channel."""
        some = weight > 0.05
        x, y = np.r_[fake[some], faces[0]].astype(np.float64), np.r_[original[some], faces[1]].astype(np.float64)
        # the face counts as much as all that surrounds it
        w = np.r_[weight[some], np.full(faces.shape[1], max(weight[some].sum(), 1.0) / max(faces.shape[1], 1))].astype(np.float64)
        if w.sum() < 10:
            return np.array([1.0, 0.0])
        w /= w.sum()
        line = np.array([1.0, 0.0])
        if abs(float(np.median(y - x))) > 2 * _OUTLIER:  # begin where not everything is an outlier
            line[0] = np.clip(np.median(y) / max(np.median(x), 1.0), 0.4, 2.5)
        # Against a mean squared error of 3 grey levels a gain off by 0.3, or an offset of 10: where a plain background leaves open
        # which of both it is, it is exposure.
        prior = 3.0**2 * np.diag([1 / 0.3**2, 1 / 10.0**2])
        for _ in range(8):
            rest = y - (line[0] * x + line[1])
            robust = w / (1 + (rest / (2 * _OUTLIER)) ** 2)
            a = np.stack([x, np.ones_like(x)], 1)
            line = np.linalg.solve(a.T @ (robust[:, None] * a) + prior, a.T @ (robust * y) + prior @ [1.0, 0.0])
            line[0] = np.clip(line[0], 0.4, 2.5)
        return line
