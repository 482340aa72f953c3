"""Tells in which frames something covers the face: a hand, a microphone, a caption.

The landmark detector draws a whole face over whatever is in front of it. But the colours at the mesh's points then are not the
person's, as known from the other frames. What covers the face in most frames (a mask, glasses) cannot be told in this way, nor what has the
colour of the skin.
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.face_models.dense_points import LIPS, NOSE_BASE, SKIN
from preprocessing.face_models.mesh478 import DATA

BLUR = 0.03  # of the face's height: over so much its colours are averaged
KEY_FRAMES = 500  # frames from which the usual colours are taken
DEVIATION = 3.0  # times the usual deviation; colours farther off do not belong to the face
LEAST_DEVIATION = 10.0  # grey levels, added to the usual deviation
# Share of a region's points in view that must be off. In real clips without a cover up to 0.02 of mouth and chin and 0.15 around an eye
# are; with a box over the mouth 0.72 and more.
COVERED_MOUTH, COVERED_EYE = 0.2, 0.35
MIN_FACING = 0.3  # cosine between the mesh's normal and the viewing direction; points turned away further do not count
MIN_POINTS = 12  # in view, or nothing is said of a region


def colours_at(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The colours of an image, uint8 [H, W, 3] RGB, at the mesh's points of the skin, a little blurred: uint8 [468, 3].

    points: [478, 2 or 3], pixels.
    """
    points = points[:SKIN, :2]
    reach = max(1, round(BLUR * float(np.ptp(points[:, 1])))) | 1
    places = (points - 0.5).astype(np.float32)[None]
    return cv2.remap(cv2.blur(image, (reach, reach)), places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def find_covered(dense: np.ndarray, colours: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Which frames show a covered mouth, chin, or eye region: bool [N].

    dense: [N, 478, 3]. colours: uint8 [N, 468, 3], of `colours_at`. seen: bool [N], frames with
    a mesh and in a usual light.
    """
    covered = np.zeros(len(dense), bool)
    known = np.flatnonzero(seen)
    if len(known) < MIN_POINTS:
        return covered
    with np.load(DATA) as data:
        triangles, mean = data["triangles"].astype(int), data["mean"]
    triangles = triangles[(triangles < SKIN).all(1)]
    facing = np.stack([_facing(dense[k, :SKIN], triangles) > MIN_FACING for k in known])
    keys = np.linspace(0, len(known) - 1, min(len(known), KEY_FRAMES)).round().astype(int)
    sample = np.where(facing[keys][..., None], colours[known[keys]].astype(np.float32), np.nan)
    enough = facing[keys].sum(0) >= MIN_POINTS
    sample = sample[:, enough]
    usual = np.nanmedian(sample, 0)
    spread = 1.48 * np.nanmedian(np.abs(sample - usual), 0)
    odd, view = np.empty((len(known), int(enough.sum())), bool), facing[:, enough]
    for k, i in enumerate(known):  # together the colours of an hour would be gigabytes
        away = np.abs(colours[i, enough].astype(np.float32) - usual) / (spread + LEAST_DEVIATION)
        odd[k] = away.max(-1) > DEVIATION
    mouth, *eyes = _regions(mean[:SKIN])
    for region, limit in ((mouth, COVERED_MOUTH), *((eye, COVERED_EYE) for eye in eyes)):
        own = region[enough]
        count = view[:, own].sum(1)
        share = (odd & view)[:, own].sum(1) / np.maximum(count, 1)
        covered[known] |= (count >= MIN_POINTS) & (share > limit)
    return covered


def _facing(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Cosine between the normals at points [V, 3] (y down, z away from the camera) and the direction to the camera: [V]."""
    a, b, c = points[triangles].astype(np.float64).transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    summed = np.zeros_like(points, np.float64)
    for corner in triangles.T:
        np.add.at(summed, corner, normals)
    return -summed[:, 2] / np.maximum(np.linalg.norm(summed, axis=1), 1e-9)


def _regions(mean: np.ndarray) -> list[np.ndarray]:
    """bool [V] each: mouth and chin without the lips (teeth and tongue have other colours), and the surroundings of either eye."""
    below = mean[:, 1] < mean[NOSE_BASE, 1]
    below[list(LIPS)] = False
    x, y = mean[:, 0], mean[:, 1]
    above = y > mean[NOSE_BASE, 1] + 0.35 * (mean[:, 1].max() - mean[NOSE_BASE, 1])
    return [below & (np.abs(x) < 0.6 * np.abs(x).max()), above & (x < 0), above & (x > 0)]
