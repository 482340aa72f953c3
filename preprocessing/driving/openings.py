"""Gaps between the lids and between the lips: what opens them, how wide they are, and how to carry them over to another face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.face_models.dense_points import DENSE_INDICES
from preprocessing.face_models.morphable import MorphableModel
from util.geometry import Cameras

# upper and lower points of the 70 landmarks, shape that closes, shape that opens
LIDS = (((37, 38), (41, 40), "eyeBlink_R", "eyeWide_R"), ((43, 44), (47, 46), "eyeBlink_L", "eyeWide_L"))
LIPS = ((61, 62, 63), (67, 66, 65), "mouthClose", "jawOpen")


@dataclass(frozen=True)
class Opening:
    """A gap of a face and what opens it, as a linear function of expressions: gap = rest + expression . slope, in model units."""

    rest: float
    slope: np.ndarray  # [K]
    closes: int  # the expression shape that closes it and nothing else, as eyeBlink_R
    opens: int

    def gap(self, expression: np.ndarray) -> np.ndarray:
        """[N] of expressions [N, K]."""
        return self.rest + expression @ self.slope

    def reach(self, expression: np.ndarray, wanted: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Expressions [N, K] whose gap is `wanted` [N], as far as the bounds [K, 2] let it.

        What is missing to a wider gap is taken from the closing shape before the opening one is added, and the other way round.
        """
        out = expression.copy()
        for first, then, sign in ((self.closes, self.opens, 1), (self.opens, self.closes, -1)):
            for k, end in ((first, 0), (then, bounds[then, 1])):
                missing = wanted - self.gap(out)
                moved = out[:, k] + np.where(sign * missing > 0, missing, 0) / self.slope[k]
                out[:, k] = np.maximum(moved, end) if k == first else np.minimum(moved, end)
        return out


def openings(model: MorphableModel, identity: np.ndarray) -> tuple[Opening, Opening, Opening]:
    """The gaps between the lids of the right and the left eye and between the inner lips, for one identity."""
    place = {int(p): i for i, p in enumerate(model.landmark_ids)}
    mean, id_basis, exp_basis = model.landmark_model
    height = mean[:, 1] + np.tensordot(identity, id_basis[..., 1], 1)
    found = []
    for upper, lower, closes, opens in (*LIDS, LIPS):
        rows = [[place[int(DENSE_INDICES[p])] for p in points] for points in (upper, lower)]
        rest = height[rows[0]].mean() - height[rows[1]].mean()
        slope = (exp_basis[:, rows[0], 1].mean(1) - exp_basis[:, rows[1], 1].mean(1)).astype(np.float64)
        found.append(Opening(float(rest), slope, model.expression_names.index(closes), model.expression_names.index(opens)))
    return found[0], found[1], found[2]


def lid_gaps(landmarks: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Gaps between the lids of the right and the left eye as seen, along the head's way up, [N, 2], model units."""
    up = cameras.rotation[:, :2, 1] * cameras.scale[:, None]  # in the image: what one unit upwards becomes
    up /= np.maximum((up**2).sum(1), (cameras.scale / 2) ** 2)[:, None]  # beyond 60 degrees of nodding lids are not seen so well
    upper, lower = ([lid[k] for lid in LIDS] for k in (0, 1))
    return ((landmarks[:, upper].mean(2) - landmarks[:, lower].mean(2)) * up[:, None]).sum(2)
