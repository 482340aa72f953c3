"""Goes over from one source of poses to another without a jump: driven, held while no face is seen, at rest."""

from __future__ import annotations

import numpy as np

from preprocessing.driving.heads import DrivenFrame
from util.geometry import Cameras, rotation_matrix, rotation_vector

HOLD_S = 0.3  # the last pose is held that long when the face is lost: a hand before it, a dropped frame
TO_REST_S = 0.6  # then the head goes to rest; with HOLD_S less than a second
TO_DRIVER_S = 0.4  # from where it is to the driver's pose, when a face is found again


def blend(a: DrivenFrame, b: DrivenFrame, share: float) -> DrivenFrame:
    """The frame between two, at `share` of the way from a (0) to b (1); rotation goes the shortest way, size evenly in its logarithm."""

    def between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + share * (y - x)

    turn = rotation_vector(b.camera.rotation @ a.camera.rotation.T)
    camera = Cameras(
        np.exp(between(np.log(a.camera.scale), np.log(b.camera.scale))),
        rotation_matrix(share * turn) @ a.camera.rotation,
        between(a.camera.translation, b.camera.translation),
    )
    return DrivenFrame(between(a.expression, b.expression), camera, between(a.landmarks70, b.landmarks70))


class Easing:
    """The pose to show, frame after frame: it follows what is asked for, and after a change of its source goes over softly."""

    def __init__(self) -> None:
        self._shown: DrivenFrame | None = None
        self._source = ""
        self._from: DrivenFrame | None = None  # shown when the source changed
        self._began_s = self._lasts_s = 0.0

    @property
    def arrived(self) -> bool:
        """Whether the last frame showed just what was asked for."""
        return self._from is None

    def step(self, asked: DrivenFrame, source: str, time_s: float, lasts_s: float) -> DrivenFrame:
        """The pose to show now.

        asked: the pose of the source that counts. source: its name; when it differs from the last frame's, the pose goes over from what
        was shown last, within `lasts_s` seconds.
        """
        if source != self._source:
            self._from, self._began_s, self._lasts_s, self._source = self._shown, time_s, lasts_s, source
        share = (time_s - self._began_s) / self._lasts_s if self._lasts_s else 1.0
        if self._from is None or share >= 1:
            self._from, self._shown = None, asked
        else:
            share = max(share, 0.0)
            self._shown = blend(self._from, asked, share * share * (3 - 2 * share))
        return self._shown
