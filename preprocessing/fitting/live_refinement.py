"""Photometric refinement of causal fits: what photometric.py does for a video that is finished, for the next frame of a stream.

A landmark detector's error in a pose stays the same for as long as the pose does, so no filter over time takes it away: on real people the
pose is off by about a degree, the size by 2 %. The colours of the skin, learnt from some frames, say where the head really is: the
head is drawn with them at the fit, corrected as the last frame was, and optical flow to the frame moves points of the upper face and the
skull, to which the model is fitted again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.face_models.morphable import MorphableModel
from preprocessing.fitting.frame import FrameFit, FrameFitter, step_s
from preprocessing.fitting.textured_head import MIN_POINTS, TexturedHead, surface_points
from preprocessing.fitting.video import Fit
from util.geometry import Cameras
from util.image_io import crop

SIDE = 192  # pixels of the region of the head that is looked at
REGION = 1.5  # its side, in the larger side of the box of the landmarks
REGION_UP = 0.15  # by which its middle lies above that box's, in the same unit: the forehead has no landmarks
MOST = 3  # largest side of a region, in the frame's larger side
DRAWN_BELOW_CM = 2.0  # how far below the lowest tracked point the head is drawn: all of it costs a fifth more triangles for the same fits
OVER_RELAXATION = 1.4  # factor on the flow, which is too short between a blurred texture and a frame


@dataclass(frozen=True)
class HeadRegion:
    """A square part of a frame with the head, [SIDE, SIDE]."""

    image: np.ndarray  # uint8 [SIDE, SIDE, 3] RGB
    origin: np.ndarray  # of its corner in the frame, pixels
    factor: float  # its pixels for one of the frame

    @classmethod
    def of(cls, frame: np.ndarray, landmarks: np.ndarray) -> HeadRegion:
        """frame: uint8 [H, W, 3]; what lies outside of it is as its edge. landmarks: [478, 2 or more], pixels."""
        low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
        unit = float((high - low).max())
        side = min(max(round(REGION * unit), 8), MOST * max(frame.shape))
        halvings = max(int(math.log2(side / SIDE)), 0)
        side = side >> halvings << halvings
        left, top = np.round((low + high) / 2 - np.array([0, REGION_UP * unit]) - side / 2).astype(int)
        image = crop(frame, (left, top, left + side, top + side), side >> halvings)
        # means of areas by any other factor take OpenCV ten times as long
        image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        return cls(image, np.array([left, top], float), SIDE / side)

    def camera(self, camera: Cameras) -> Cameras:
        """A frame's camera, in this region's pixels."""
        shift = np.append(self.origin, 0.0)
        return Cameras(camera.scale * self.factor, camera.rotation, (camera.translation - shift) * self.factor)

    def in_frame(self, places: np.ndarray) -> np.ndarray:
        """Points [P, 2] of this region, in the frame's pixels."""
        return places / self.factor + self.origin


class LiveRefiner:
    """Refines the fits of one person's frames, in their order."""

    def __init__(
        self,
        model: MorphableModel,
        identity: np.ndarray,
        regions: Sequence[HeadRegion],
        fits: Sequence[FrameFit],
        colours: np.ndarray | None = None,
    ) -> None:
        """Learn the head's colours from some frames.

        regions, fits: of frames in which the head is seen well; fits as FrameFitter makes them for `identity`. colours: uint8 [F, 3] of the
            model's triangles where they are known already, as from a video that was refined as a whole: then nothing of the frames' own
            errors comes in.
        Raises: ValueError when the frames show too little of the head.
        """
        cameras = [region.camera(fit.camera) for region, fit in zip(regions, fits)]
        scale, rotation, translation = (np.stack([getattr(c, part) for c in cameras]) for part in ("scale", "rotation", "translation"))
        fit = Fit(np.zeros(1), np.stack([fit.expression for fit in fits]), Cameras(scale, rotation, translation))
        self._head = head = TexturedHead(model.of_person(identity), fit.identity, (SIDE, SIDE))
        vertices = list(head.vertices(fit))
        learnt, seen = head.learn([region.image for region in regions], vertices)
        chosen = surface_points(model, seen)
        if len(chosen) < MIN_POINTS:
            raise ValueError("too little of the head is seen")
        shown, tracked = head.shown(vertices), model.triangles[chosen]
        height = model.mean[model.triangles, 1].mean(1)
        shown &= height > height[chosen].min() - DRAWN_BELOW_CM
        head.reduce(model.triangles[shown], tracked)
        self._look = head.looker((learnt if colours is None else colours)[shown])
        self._fitter = FrameFitter(model, identity, surface=tracked)
        self._time_s = -math.inf  # of the last frame
        self._turn, self._growth, self._shift = np.eye(3), 1.0, np.zeros(3)  # by which the last fit was changed; the shift in model units

    def step(self, fit: FrameFit, region: HeadRegion, landmarks: np.ndarray, time_s: float) -> FrameFit:
        """The refined fit of the next frame.

        fit: by the landmarks [478, 2 or more], pixels of the frame; region: of the frame, with them. time_s: of the frame.
        """
        since_s, self._time_s = step_s(time_s, self._time_s), time_s
        found = fit.camera
        guess = Cameras(found.scale * self._growth, self._turn @ found.rotation, found.translation + found.scale * self._shift)
        placed = self._head.model.in_image(np.zeros(1), fit.expression[None], region.camera(guess).as_batch())[0]
        places = region.in_frame(self._look(region.image, placed, OVER_RELAXATION).places)
        refined = self._fitter.step(np.concatenate([landmarks[:, :2], places]), since_s)
        camera = refined.camera
        self._turn, self._growth = camera.rotation @ found.rotation.T, float(camera.scale / found.scale)
        self._shift = (camera.translation - found.translation) / found.scale
        return refined
