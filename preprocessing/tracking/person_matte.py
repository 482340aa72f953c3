"""Which pixels of a picture show a person, hair and body included: MediaPipe's selfie segmentation. About 3 ms a frame on one core."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.tracking.mediapipe_tools import load_solutions, silent_stderr
from util.caches.persons import PersonMask
from util.cli import UserError, warn_once


def create_person_mask() -> PersonMask | None:
    """A segmenter, or None (said in a warning) when MediaPipe cannot be used."""
    try:
        return load_person_mask()
    except UserError as e:
        warn_once(f"{e}; without it the mask of the head follows the mesh alone, with more background around it")
        return None


def load_person_mask() -> PersonMask:
    """A segmenter. Raises: UserError when MediaPipe cannot be used."""
    create = load_solutions().selfie_segmentation.SelfieSegmentation
    with silent_stderr():
        graph = create(model_selection=0)
        graph.process(np.zeros((64, 64, 3), np.uint8))  # the first image starts the graph, which has remarks

    def mask(rgb: np.ndarray) -> np.ndarray:
        found = graph.process(np.ascontiguousarray(rgb)).segmentation_mask
        return cv2.resize(found, rgb.shape[1::-1]) if found.shape != rgb.shape[:2] else found.copy()

    return mask
