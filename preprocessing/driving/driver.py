"""The driver: a person's motion relative to a reference of the same person, retargeted frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np

from preprocessing.driving.edits import Edit
from preprocessing.driving.heads import DrivenFrame, Person
from preprocessing.driving.landmarks import in_eyes, into_head, mesh_landmarks, outlines
from preprocessing.driving.motion import Motion, Placement, head_rotation
from preprocessing.driving.openings import Opening, lid_gaps, openings
from preprocessing.driving.profile import TargetProfile
from preprocessing.driving.retarget import place_head, retarget
from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.frame import FrameFit
from preprocessing.fitting.video import fit_video
from util.cli import UserError

MIN_REFERENCE_FRAMES = 10  # frames with a face; from fewer, medians and means are not reliable


@dataclass(frozen=True)
class DriverReference:
    """A driver's identity and usual values (means, medians); motion is measured relative to them."""

    identity: np.ndarray  # float64 [K_id]
    placement: Placement  # mean size and place in the driver's frames
    pupils: np.ndarray  # float64 [2, 3]: pupils as seen less the fitted mesh's, mean, model units in the head's axes
    eyes: np.ndarray  # float64 [12, 3]: the same of the points of the eyes' outlines
    lids: np.ndarray  # float64 [2]: gaps between the lids as seen, medians, model units
    lips: Opening
    fps: Fraction  # of the frames that it was measured in

    @classmethod
    def of(cls, model: MorphableModel, person: Person) -> DriverReference:
        """The reference from N frames of the driver: of a whole video, or of the first seconds of a stream."""
        cameras = person.cameras
        centre = (cameras.translation[:, :2] / cameras.scale[:, None]).mean(0)
        return cls(
            person.identity,
            Placement(float(cameras.scale.mean()), centre, person.size),
            *(part.mean(0) for part in _eyes(model, person)),
            np.median(lid_gaps(person.landmarks, cameras), 0),
            openings(model, person.identity)[2],
            person.fps,
        )

    @classmethod
    def of_landmarks(
        cls,
        model: MorphableModel,
        landmarks: Sequence[np.ndarray | None],
        fps: Fraction = Fraction(30),
        size: int = 256,
        known: TargetProfile | None = None,
    ) -> DriverReference:
        """The reference from the dense landmarks of N frames, as they follow one another.

        landmarks: per frame [478, 2 or more], pixels, or None where no face was seen. size: side of the frames, pixels; counts
        only for a Driver that keeps the driver's own size or place. known: the profile of the
        driver, where there is one: of the landmarks then only place and size count.
        Raises: UserError when too few frames show a face.
        """
        seen = [dense[:, :2] for dense in landmarks if dense is not None]
        if len(seen) < MIN_REFERENCE_FRAMES:
            raise UserError(f"a face is seen in {len(seen)} of the driver's first {len(landmarks)} frames; begin where it is seen well")
        try:
            fit = fit_video(model, np.stack(seen), identity=known.identity if known else None)
        except ValueError as e:
            raise UserError(f"the driver's first frames cannot be fitted ({e}); begin where the face is seen well") from None
        joined = np.arange(len(seen)) > 0
        found = cls.of(model, Person(fit.identity, fit.expression, fit.cameras, from_dense(np.stack(seen)), size, fps, joined))
        if known is None:
            return found
        lids = known.usual_gaps * known.seen_gaps / known.mean_gaps  # the median as seen
        return replace(found, pupils=in_eyes(known.offsets[None])[0], eyes=outlines(known.offsets[None])[0], lids=lids)

    def usual_values(self, model: MorphableModel, fit: FrameFit, landmarks70: np.ndarray) -> np.ndarray:
        """What one frame says of the values that may change with time: float64 [47], in the order of `with_usual`. See `Driver.step`."""
        one = _one_frame(self, fit, landmarks70)
        centre = one.cameras.translation[0, :2] / one.cameras.scale[0]
        pupils, eyes = _eyes(model, one)
        return np.concatenate([one.cameras.scale, centre, pupils.ravel(), eyes.ravel(), lid_gaps(one.landmarks, one.cameras)[0]])

    def as_usual(self) -> np.ndarray:
        """The values that `with_usual` replaces, [47]."""
        return np.concatenate([[self.placement.scale], self.placement.centre, self.pupils.ravel(), self.eyes.ravel(), self.lids])

    def with_usual(self, values: np.ndarray) -> DriverReference:
        """The same person with other usual values: [47], scale, centre (2), pupils (6), eyes (36), lids (2)."""
        placement = replace(self.placement, scale=float(values[0]), centre=values[1:3])
        pupils, eyes = np.split(values[3:45].reshape(14, 3), [2])
        return replace(self, placement=placement, pupils=pupils, eyes=eyes, lids=values[45:])


def _one_frame(reference: DriverReference, fit: FrameFit, landmarks70: np.ndarray) -> Person:
    return Person(
        reference.identity,
        np.asarray(fit.expression, np.float64)[None],
        fit.camera.as_batch(),
        np.asarray(landmarks70, np.float64)[None],
        reference.placement.size,
        reference.fps,
        np.zeros(1, bool),
    )


def _eyes(model: MorphableModel, person: Person) -> list[np.ndarray]:
    """Pupils in their eye as seen, [N, 2, 3], and the eyes' outlines, [N, 12, 3], less the fitted mesh's; model units, head's axes."""
    fitted = mesh_landmarks(model, person.identity, person.expression, person.cameras)
    return [into_head(part(person.landmarks) - part(fitted), person.cameras) for part in (in_eyes, outlines)]


def read_motion(model: MorphableModel, person: Person, reference: DriverReference | None = None) -> Motion:
    """The unfiltered motion of a fitted identity.

    reference: the person's usual values (default: those of these frames).
    """
    reference = reference or DriverReference.of(model, person)
    cameras, placement = person.cameras, reference.placement
    pupils, eyes = _eyes(model, person)
    return Motion(
        person.fps,
        head_rotation(cameras),
        cameras.scale / placement.scale,
        cameras.translation[:, :2] / cameras.scale[:, None] - placement.centre,
        person.expression,
        pupils - reference.pupils,
        np.maximum(0, lid_gaps(person.landmarks, cameras) / reference.lids),
        reference.lips.gap(person.expression),
        placement,
        eyes=eyes - reference.eyes,
    )


class Driver:
    """Retargets a driver's frames one by one, without looking ahead.

    target: the trained person. reference: the driver's usual values; may be replaced at any time, for the frames that follow.
    scale, translation, exaggerate, limit, limit_mouth, limit_pose, edits: as in preprocessing.driving.retarget.drive, which does the same
        to a finished video.
    smooth_s: time constant of an exponential filter of the head's size and place, seconds; 0: none. It replaces the centred moving
        average of finished videos, and lags by about this time.
    """

    def __init__(
        self,
        model: MorphableModel,
        target: TargetProfile,
        reference: DriverReference,
        *,
        scale: bool = True,
        translation: bool = True,
        exaggerate: float = 1.0,
        limit: bool = True,
        limit_mouth: bool = False,
        limit_pose: bool = True,
        edits: Sequence[Edit] = (),
        smooth_s: float = 0.0,
    ) -> None:
        self._model, self._target, self.reference = model, target, reference
        self._scale, self._translation, self._limit_pose = scale, translation, limit_pose
        self._options = {"exaggerate": exaggerate, "limit": limit, "limit_mouth": limit_mouth, "edits": edits}
        self._gaps = openings(model, target.identity)
        self._smooth_s = smooth_s
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next frame is the first of a stream."""
        self._smoothed: np.ndarray | None = None

    def step(self, fit: FrameFit, landmarks70: np.ndarray, pose: int | None = None, dt_s: float = 1 / 30) -> DrivenFrame:
        """The target in the driver's next frame.

        fit: of the driver's frame, with the reference's identity. landmarks70: [70, 2], as detected in pixels of the driver's frame.
        pose: the target's frame whose camera is used (face reenactment); None: the driver's pose (head reenactment).
        dt_s: seconds since the frame before.
        """
        motion = read_motion(self._model, _one_frame(self.reference, fit, landmarks70), self.reference)
        return self.drive(motion, pose, dt_s)

    def drive(self, motion: Motion, pose: int | None = None, dt_s: float = 1 / 30) -> DrivenFrame:
        """As `step`, for a motion of one frame from elsewhere."""
        if pose is not None:
            cameras = self._target.cameras[np.array([pose])]
        else:
            smooth = partial(self._smooth, dt_s=dt_s)
            cameras = place_head(motion, self._target, self._scale, self._translation, smooth, self._limit_pose)
        driven = retarget(self._model, self._gaps, self._target, motion, cameras, **self._options)
        return DrivenFrame(driven.expression[0], driven.cameras[0], driven.landmarks[0])

    def _smooth(self, values: np.ndarray, dt_s: float) -> np.ndarray:
        if self._smooth_s <= 0:
            return values
        if self._smoothed is None:
            self._smoothed = values
        self._smoothed = self._smoothed + (1 - np.exp(-dt_s / self._smooth_s)) * (values - self._smoothed)
        return self._smoothed
