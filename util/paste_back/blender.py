"""The blender: a synthesised crop laid over the full original frame. In memory, one frame after the other.

Per frame: the synthesised crop is enlarged to the crop box, its colours are matched to the original's, and it is laid over the
original frame under a soft mask. The mask comes from the rendered mesh (NMFC not black), filled, widened to take in hair (more above
than at the sides) and feathered; when the pose differs from the original frame's, it covers the original head too, so that no
second edge shows. With a person matte (tracking/person_matte.py) the widened part keeps only pixels that show a person in either picture,
so the background stays the original's. At the crop's border the mask fades to 0, except where that is the border of the frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from util.caches.persons import PersonMask
from util.image_io import crop
from util.metrics import face_mask
from util.paste_back.colour import ColourMatch
from util.paste_back.masks import crop_window, fill, head_width, inside_frame, soft_mask, widen

# Parts of the head's width.
MESH_ROOM = (0.04, 0.04, 0.04)  # room above, beside and below the mesh that always belongs to the mask, whatever the person matte says
PERSON_MARGIN = 0.05  # by which the person matte is widened
COLOUR_RING = 0.5  # width of the ring around the head in which colours are compared
_COLOUR_TIME_CONSTANT_S = 0.5  # of the running average of the colour match, against flicker


class Blender:
    """Lays synthesised crops over original frames, one after the other: the match of colours is averaged over time.

    box: left, top, right, bottom of the crop in the frame; may reach outside.
    frame_size: height and width of the frames.
    aligned: whether the original frame shows the head in the same pose (its own frame, or face reenactment): then all of the crop
        tells about the colours, else what surrounds both heads, and the spread of colours on either face.
    person: tells which pixels of a crop show a person, so that the mask takes no background around the hair; None takes all.
    """

    def __init__(self, box: Sequence[int], frame_size: tuple[int, int], fps: float, aligned: bool, person: PersonMask | None = None):
        self.box, self.frame_size, self.aligned, self.person = tuple(box), frame_size, aligned, person
        self.side = box[2] - box[0]
        self.match = ColourMatch(1 - math.exp(-1 / (_COLOUR_TIME_CONSTANT_S * fps)))

    def __call__(self, frame: np.ndarray, fake: np.ndarray, nmfc: np.ndarray, own_nmfc: np.ndarray | None = None) -> np.ndarray:
        """frame: uint8 [H, W, 3]. fake, nmfc: uint8 [S, S, 3]. own_nmfc: of the frame's own head, any size, when not aligned.

        Returns: a new frame.
        """
        size = fake.shape[0]
        heads = [fill(face_mask(nmfc))]
        if own_nmfc is not None:
            heads.append(fill(cv2.resize(face_mask(own_nmfc).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0))
        original = crop(frame, self.box, size)
        mask = soft_mask(heads)
        if self.person is not None:
            mask = np.maximum(soft_mask(heads, MESH_ROOM), mask * self._people(fake, original, head_width(heads[0])))
        mask = mask * crop_window(self.box, self.frame_size, size)
        fake = self.match(fake, original, self._trust(heads), None if self.aligned else (heads[0], heads[-1]))
        return self._lay(frame, fake, mask)

    def _people(self, fake: np.ndarray, original: np.ndarray, width: float) -> np.ndarray:
        """The person mattes of both pictures, joined and widened by a soft margin; float32 [S, S], 0..1."""
        margin = max(1, round(PERSON_MARGIN * width))
        shown = np.maximum(self.person(fake), self.person(original))
        shown = cv2.dilate(shown, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1)))
        return cv2.GaussianBlur(shown, (0, 0), margin / 2)

    def _trust(self, heads: list[np.ndarray]) -> np.ndarray:
        """Where synthesised and original picture should agree, 0..1, float32 [S, S]; never where the crop lies outside of the frame."""
        size = heads[0].shape[0]
        inside = inside_frame(self.box, self.frame_size, size)
        if self.aligned:
            return inside
        head = np.logical_or.reduce([widen(h) for h in heads])
        distance = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, 3)
        return inside * (~head & (distance < COLOUR_RING * head_width(heads[0])))

    def _lay(self, frame: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Blend a float32 crop [S, S, 3] over the frame."""
        height, width = self.frame_size
        left, top, right, bottom = self.box
        way = cv2.INTER_CUBIC if self.side > fake.shape[0] else cv2.INTER_AREA
        fake = cv2.resize(cv2.convertScaleAbs(np.maximum(fake, 0)), (self.side, self.side), interpolation=way)
        mask = np.clip(cv2.resize(mask, (self.side, self.side), interpolation=cv2.INTER_LINEAR), 0, 1)
        y, x = slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
        within = slice(y.start - top, y.stop - top), slice(x.start - left, x.stop - left)
        result = frame.copy()
        result[y, x] = cv2.blendLinear(*(np.ascontiguousarray(a) for a in (fake[within], frame[y, x], mask[within], 1 - mask[within])))
        return result
