"""The target profile: all that driving needs to know of a trained person, so that the dataset is not needed.

It is written beside the checkpoint (util.layout.Run.profile_path, docs/formats.md) and holds numbers that were taken from the
person's frames, none of the frames.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from preprocessing.driving.heads import Person
from preprocessing.driving.landmarks import into_head, mesh_landmarks
from preprocessing.driving.motion import head_rotation, to_angles
from preprocessing.driving.openings import lid_gaps, openings
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model, model_version, resolve_kind
from util.cli import UserError
from util.geometry import Cameras
from util.layout import PROFILE_REMEDY
from util.stored import UNREADABLE, brief_error, has_type, load_arrays, load_json, load_rate

FORMAT = "head2head profile"
VERSION = 1
COVERED = (0.5, 99.5)  # percentiles of the frames' expressions and turns between which nothing is limited: outside lie mistakes of the fit
WIDEST = 98  # percentile of the mouth's opening that counts as its widest: a few frames are not enough to learn it from


@dataclass(frozen=True)
class TargetProfile:
    """Statistics of a person's N frames; pixels are those of the crops, model units are cm."""

    name: str  # of the identity
    face_model: str  # name of the face model that the coefficients belong to
    face_model_version: str
    fps: Fraction  # of the frames
    size: int  # side of the crops, pixels
    crop_box: tuple[int, ...]  # left, top, right, bottom in the source video, pixels; () when it is not known
    split: str  # train or test: where the frames come from
    identity: np.ndarray  # float64 [K_id]
    expression_range: np.ndarray  # float64 [2, K]: the percentiles COVERED of each expression weight
    scale: float  # mean of the cameras' scale, pixels per model unit
    place: np.ndarray  # float64 [2]: mean of translation / scale, model units
    place_spread: np.ndarray  # float64 [2]: its standard deviation
    turns_deg: np.ndarray  # float64 [3, 2]: the percentiles COVERED of yaw, pitch and roll, degrees
    usual_gaps: np.ndarray  # float64 [2]: medians of the fitted gaps between the lids, right and left eye, model units
    mean_gaps: np.ndarray  # float64 [2]: their means
    seen_gaps: np.ndarray  # float64 [2]: the same as detected, means
    offsets: np.ndarray  # float64 [70, 3]: detected landmarks less the fitted mesh's, mean, model units in the head's axes
    widest_lips: float  # gap between the inner lips, model units: all but the widest 2 % of the frames; infinity: not known
    cameras: Cameras  # of the N frames, for face reenactment
    numbers: np.ndarray  # int64 [N]: the frames' numbers in the dataset

    @classmethod
    def of(
        cls,
        model: MorphableModel,
        person: Person,
        name: str = "",
        crop_box: Sequence[int] = (),
        split: str = "train",
        numbers: Sequence[int] | None = None,
        usable: np.ndarray | None = None,
    ) -> TargetProfile:
        """The profile of a person from N frames.

        numbers: of these frames (default: from 0). usable: bool [N], frames that show the person well (default: all): those that the
        statistics are of.
        """
        all_cameras = person.cameras
        if usable is not None and usable.any() and not usable.all():
            person = replace(
                person,
                expression=person.expression[usable],
                cameras=person.cameras[usable],
                landmarks=person.landmarks[usable],
                joined=person.joined[usable],
            )
        cameras = person.cameras
        places = cameras.translation[:, :2] / cameras.scale[:, None]
        *lids, lips = openings(model, person.identity)
        gaps = [lid.gap(person.expression) for lid in lids]
        fitted = mesh_landmarks(model, person.identity, person.expression, cameras)
        return cls(
            name,
            model.name,
            model.version,
            person.fps,
            person.size,
            tuple(int(v) for v in crop_box),
            split,
            person.identity,
            covered_range(person.expression),
            float(cameras.scale.mean()),
            places.mean(0),
            places.std(0),
            np.array([np.percentile(a, COVERED) for a in to_angles(head_rotation(cameras))]),
            np.array([np.median(gap) for gap in gaps]),
            np.array([gap.mean() for gap in gaps]),
            lid_gaps(person.landmarks, cameras).mean(0),
            into_head(person.landmarks - fitted, cameras).mean(0),
            float(np.percentile(lips.gap(person.expression), WIDEST)),
            all_cameras,
            np.arange(len(all_cameras)) if numbers is None else np.array(numbers, np.int64),
        )

    @cached_property
    def covered_zoom(self) -> tuple[float, float]:
        """Least and largest size of the head, its mean taken as 1: the percentiles COVERED of the frames' scale."""
        least, largest = np.percentile(self.cameras.scale, COVERED) / self.scale
        return float(least), float(largest)

    def load_model(self) -> MorphableModel:
        """The face model that the profile's coefficients belong to. Raises: UserError when it is not here, or has another version now."""
        kind = resolve_kind(self.face_model)
        if self.face_model_version != model_version(kind):
            raise UserError(
                f"the profile of '{self.name}' was made with version {self.face_model_version} of the face model {kind}, now it is "
                f"{model_version(kind)}; run preprocessing/reconstruct.py, then train again"
            )
        model = load_face_model(kind)
        if (len(self.identity), self.expression_range.shape[1]) != (len(model.identity_basis), len(model.expression_names)):
            raise UserError(f"the coefficients of the profile of '{self.name}' are not of the face model {kind}; {PROFILE_REMEDY}")
        return model

    def to_bytes(self) -> bytes:
        """The profile as the content of an .npz file: numbers at full precision, and text; nothing that would be run on reading."""
        facts = {k: getattr(self, k) for k in _TEXT} | {"format": FORMAT, "version": VERSION, "fps": str(self.fps)}
        arrays = {k: getattr(self, k) for k in _ARRAYS}
        arrays |= {f"camera_{f.name}": getattr(self.cameras, f.name) for f in fields(Cameras)}
        file = io.BytesIO()
        np.savez(file, facts=json.dumps(facts), **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, file: str | Path) -> TargetProfile:
        """Read what `to_bytes` wrote. file: its name, for the message.

        Raises: UserError when the content is damaged, of another version or something else.
        """
        try:
            stored = load_arrays(io.BytesIO(data), ["facts", *_ARRAYS, *_CAMERAS])
            facts = {"widest_lips": math.inf} | load_json(str(stored["facts"]))  # profiles of before do not say it
            if facts["format"] != FORMAT or facts["version"] != VERSION:
                raise ValueError(f"format {facts['format']}, version {facts['version']}")
            for key, kind in _TEXT.items():
                if not has_type(facts[key], kind):
                    raise ValueError(f"{key} is {str(facts[key])[:40]!r}")
            arrays, cameras = {k: stored[k] for k in _ARRAYS}, Cameras(*(stored[k] for k in _CAMERAS))
            count, weights = len(cameras), arrays["expression_range"].shape[-1]
            shapes = {"expression_range": (2, weights), "place": (2,), "place_spread": (2,), "turns_deg": (3, 2), "offsets": (70, 3)}
            shapes |= {"usual_gaps": (2,), "mean_gaps": (2,), "seen_gaps": (2,), "numbers": (count,)}
            for key, shape in shapes.items():
                if arrays[key].shape != shape:
                    raise ValueError(f"{key} has the shape {arrays[key].shape}")
            if arrays["identity"].ndim != 1 or cameras.scale.ndim != 1:
                raise ValueError("its identity or its cameras are no lists")
            if not count or cameras.rotation.shape != (count, 3, 3) or cameras.translation.shape != (count, 3):
                raise ValueError("its cameras are incomplete")
            numbers = [*arrays.values(), cameras.scale, cameras.rotation, cameras.translation]
            if not all(v.dtype.kind in "fiu" and (np.abs(v) < _MOST).all() for v in numbers):
                raise ValueError("it holds values that are no numbers")
            fps = load_rate(facts["fps"])
            if min(facts["size"], facts["scale"], fps, facts["widest_lips"], cameras.scale.min()) <= 0 or len(facts["crop_box"]) not in (
                0,
                4,
            ):
                raise ValueError("its size, scale, frame rate or crop box is none")
            text = {k: facts[k] for k in _TEXT} | {"crop_box": tuple(facts["crop_box"])}
            return cls(**text, **arrays, cameras=cameras, fps=fps)
        except (*UNREADABLE, IndexError, ArithmeticError) as e:
            raise UserError(f"{file} is damaged or of another version ({brief_error(e)}); {PROFILE_REMEDY}") from None


_TEXT = {
    "name": str,
    "face_model": str,
    "face_model_version": str,
    "size": int,
    "crop_box": list[int],
    "split": str,
    "scale": int | float,
    "widest_lips": int | float,
}
_ARRAYS = tuple(f.name for f in fields(TargetProfile) if f.name not in (*_TEXT, "fps", "cameras"))
_CAMERAS = tuple(f"camera_{f.name}" for f in fields(Cameras))
_MOST = 1e9  # no number of a profile comes near it; larger ones would overflow in what is computed of them


def covered_range(expression: np.ndarray) -> np.ndarray:
    """The range [2, K] of expressions [N, K] without the rarest: the percentiles COVERED."""
    return np.percentile(expression, COVERED, axis=0)
