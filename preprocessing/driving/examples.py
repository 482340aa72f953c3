"""Conditioning images of a person in many poses and expressions, for whatever must know what a generator is given."""

from __future__ import annotations

import numpy as np

from preprocessing.driving.conditioner import Conditioner
from preprocessing.driving.landmarks import mesh_landmarks
from preprocessing.driving.profile import TargetProfile
from util.sampling import spread

COUNT = 24
LEAST_RANGE = 0.5  # every expression weight goes that far at least, as drivers do what the person did not


def example_images(profile: TargetProfile, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The NMFC and eye gaze images, uint8 [size, size, 3], of COUNT frames: poses of the person's video, random expressions."""
    model = profile.load_model()
    low, high = profile.expression_range
    high = np.maximum(high, np.minimum(LEAST_RANGE, model.expression_bounds[:, 1]))
    expressions = np.random.default_rng(0).uniform(low, high, (COUNT, len(low)))
    cameras = profile.cameras[spread(len(profile.cameras), COUNT)]
    conditioner = Conditioner(model, profile.identity, size, "cpu", profile.size)
    landmarks = mesh_landmarks(model, profile.identity, expressions[: len(cameras)], cameras)
    return [conditioner.step(*frame) for frame in zip(expressions, cameras, landmarks)]
