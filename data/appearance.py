"""Measures what a person looks like (util.face.appearance) from frames; what was never seen is filled from the face model."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from util.face.appearance import CELLS, Appearance, MouthParts, cell_of

FRAMES = 120  # that it is measured from: all poses of a video, read and averaged in a second
_LEAST_SEEN = 4  # pixels of a cell in all frames together, below which its colour is luck
_EDGE = 0.006  # of the image's side: so near to the lips what shows of the mouth's inside may be lips or their shadow
_FRONT = 0.7  # of the NMFC's depth: in front of it lies the face without temples and ears
_LIGHT = 90  # percentile of the face's brightness that stands for a white thing in the same light
_DARKENING_CM = 8.0  # depth behind the front teeth at which the light has fallen to a third
_DARKEST = 0.5  # part of the light that reaches the throat
_FRONT_TEETH_CM = 1.0  # their depth behind the lips
# RGB of the mouth's parts in white light, by number (see MouthParts)
_ALBEDO = np.array([[0, 0, 0], [0.5, 0.26, 0.26], [0.72, 0.4, 0.4], [0.9, 0.82, 0.74]])


def measure_appearance(images: np.ndarray, nmfcs: np.ndarray, mouth: MouthParts | None) -> Appearance:
    """The looks of a person from N frames, both uint8 [N, H, H, 3]; mouth: None where the face model is not known."""
    size = images.shape[1]
    inside = np.zeros(CELLS**3, bool)
    if mouth is not None:
        own = cell_of(mouth.colours.astype(np.int32))
        inside[own[mouth.parts > 0]] = True
        inside[own[mouth.parts == 0]] = False
    kernel = np.ones((2 * max(1, round(_EDGE * size)) + 1,) * 2, np.uint8)
    found = []
    for image, nmfc in zip(images, nmfcs):
        cells = cell_of(nmfc.astype(np.int32))
        within = inside[cells]
        good = nmfc.any(-1)
        if within.any():
            good &= ~within | (cv2.erode(within.astype(np.uint8), kernel) > 0)
        found.append((cells[good], image[good]))
    cells, shown = (np.concatenate(x) for x in zip(*found))
    count = np.bincount(cells, minlength=CELLS**3)
    sums = np.stack([np.bincount(cells, shown[:, channel], CELLS**3) for channel in range(3)], -1)
    seen = count >= _LEAST_SEEN
    colours = np.zeros((CELLS**3, 3))
    colours[seen] = sums[seen] / count[seen][:, None]
    known = seen.copy()
    if mouth is not None:
        hidden = (mouth.parts > 0) & ~seen[own] & inside[own]
        colours[own[hidden]] = _inside(mouth, colours, seen & ~inside)[hidden]
        known[own[hidden]] = True
    _fill(colours, known, inside)
    colours[0] = 0  # where there is no head
    return Appearance(np.rint(np.clip(colours, 0, 255)).astype(np.uint8), _backdrop(images, nmfcs))


def _backdrop(images: np.ndarray, nmfcs: np.ndarray) -> np.ndarray:
    """What the frames show on average where they show no head; of all frames where the head always is."""
    sums, counts, every = np.zeros(images.shape[1:]), np.zeros((*images.shape[1:3], 1)), np.zeros(images.shape[1:])
    for image, nmfc in zip(images, nmfcs):
        around = ~nmfc.any(-1, keepdims=True)
        sums += image * around
        counts += around
        every += image
    return np.rint(np.where(counts > 0, sums / np.maximum(counts, 1), every / len(images))).astype(np.uint8)


def _inside(mouth: MouthParts, colours: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Colours of the triangles, as parts of the mouth's inside in the light of the person's face: [F, 3]. skin: the cells seen of it."""
    front = skin & (np.arange(CELLS**3) % CELLS >= _FRONT * CELLS)
    light = np.percentile(colours[front].mean(-1), _LIGHT) if front.any() else 160.0
    reaches = np.maximum(np.exp(-np.maximum(mouth.depths - _FRONT_TEETH_CM, 0) / _DARKENING_CM), _DARKEST)
    return light * _ALBEDO[mouth.parts] * reaches[:, None]


def _fill(colours: np.ndarray, known: np.ndarray, inside: np.ndarray) -> None:
    """Fill what is not known: from the other side of the head, else from the nearest place, in place."""
    places = np.stack(np.unravel_index(np.arange(CELLS**3), (CELLS,) * 3), -1)
    mirrored = ((CELLS - 1 - places[:, 0]) * CELLS + places[:, 1]) * CELLS + places[:, 2]
    other = ~known & ~inside & known[mirrored] & ~inside[mirrored]
    colours[other] = colours[mirrored[other]]
    known = known | other
    for part in (inside, ~inside):
        sources, gaps = known & part, ~known & part
        sources = sources if sources.any() else known
        if sources.any() and gaps.any():
            nearest = distance_transform_edt(~sources.reshape((CELLS,) * 3), return_distances=False, return_indices=True)
            colours[gaps] = colours[np.ravel_multi_index(nearest, (CELLS,) * 3).ravel()[gaps]]
