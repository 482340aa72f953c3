"""Measures by pretrained networks, of whole results: LPIPS, FID and identity similarity (networks in util/results/perceptual.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from util.image_io import read_image
from util.metrics import face_mask
from util.results import perceptual
from util.results.evaluation import Evaluation, Skip
from util.results.frames import ResultFrames

if TYPE_CHECKING:
    import torch


def lpips(evaluation: Evaluation, frames: ResultFrames, device: torch.device, download: bool) -> None:
    """Of every frame, and their mean. Raises: Skip without real frames; UserError without the weights."""
    need_truth(frames)
    values = perceptual.lpips_distances(all_of(frames, "real"), all_of(frames, "fake"), device, download)
    evaluation.per_frame["LPIPS"] = np.where(frames.counted, values, np.nan).tolist()
    evaluation.values["LPIPS"] = float(np.mean(np.array(values)[frames.counted]))


def fid(evaluation: Evaluation, frames: ResultFrames, device: torch.device, download: bool) -> None:
    """Of all frames. Raises: Skip without real frames; UserError without the weights."""
    need_truth(frames)
    real, fake = ((frames.read(kind, i) for i in np.flatnonzero(frames.counted)) for kind in ("real", "fake"))
    evaluation.values["FID"] = perceptual.fid(real, fake, device, download)


def identity_similarity(evaluation: Evaluation, frames: ResultFrames, device: torch.device, download: bool) -> None:
    """Of every frame, and their mean.

    Faces are cut out where the NMFC image shows the face; cutting by landmarks would favour frames in which these are found well.
    Raises: Skip without NMFC images or the frames to compare with; UserError without the weights.
    """
    network = perceptual.load_facenet(device, download)
    if "nmfc" not in frames.paths:
        raise Skip("there are no NMFC images to say where the face is")
    boxes = [face_box(frames.read("nmfc", i)) for i in range(len(frames.numbers))]
    fake = perceptual.face_embeddings(network, all_of(frames, "fake"), boxes, device)
    if not frames.driven:
        need_truth(frames)
        own = perceptual.face_embeddings(network, all_of(frames, "real"), boxes, device)
    else:
        if frames.dataset is None:
            raise Skip("the dataset with the target's own frames is not here")
        training = [(s, n) for s in frames.dataset.sequences("train", frames.target) for n in s.frames()]
        training = training[:: max(1, len(training) // 100)]
        known = [face_box(read_image(s.path("nmfcs", n))) for s, n in training]
        own = perceptual.face_embeddings(network, (read_image(s.path("images", n)) for s, n in training), known, device)
        own = own.mean(0, keepdims=True)
    similarity = (fake * own).sum(1) / np.maximum(np.linalg.norm(fake, axis=1) * np.linalg.norm(own, axis=1), 1e-9)
    evaluation.per_frame["identity-similarity"] = np.where(frames.counted, similarity, np.nan).tolist()
    evaluation.values["identity-similarity"] = float(similarity[frames.counted].mean())


def face_box(nmfc: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom of the face in an NMFC image, without the crown of the head and the neck: pixels.

    A square as wide as the face. For an empty image, the middle half.
    """
    mask = face_mask(nmfc)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    if not rows.size:
        return np.array([width / 4, height / 4, width * 3 / 4, height * 3 / 4])
    side = columns[-1] + 1 - columns[0]
    middle = (rows[0] + min(rows[-1] + 1, rows[0] + 1.5 * side)) / 2
    return np.array([columns[0], middle - side / 2, columns[-1] + 1, middle + side / 2])


def need_truth(frames: ResultFrames) -> None:
    """Raises: Skip when there are no real frames of the target to compare with."""
    if frames.driven:
        raise Skip("another person drives, so there is no truth")
    if "real" not in frames.paths:
        raise Skip("there are no real frames")


def all_of(frames: ResultFrames, kind: str) -> Iterator[np.ndarray]:
    return (frames.read(kind, i) for i in range(len(frames.numbers)))
