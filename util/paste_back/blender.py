"""The blender: a synthesised crop laid over the full original frame. In memory, one frame after the other.

Per frame: the synthesised crop is enlarged to the crop box, its colours are matched to the original's, and it is laid over the
original frame under a soft mask. The mask comes from the rendered mesh (NMFC not black), filled, widened to take in hair (more above
than at the sides) and feathered; when the pose differs from the original frame's, it covers the original head too, so that no
second edge shows. With a person matte (tracking/person_matte.py) the widened part keeps only pixels that show a person in either picture,
so the background stays the original's. At the crop's border the mask fades to 0, except where that is the border of the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from util.caches.persons import PersonMask
from util.compiled import compiled
from util.image_io import crop
from util.metrics import face_mask
from util.paste_back.colour import ColourMatch, Colours
from util.paste_back.masks import Head, crop_window, fill, head_width, inside_frame, soft_mask

# Parts of the head's width.
MESH_ROOM = (0.04, 0.04, 0.04)  # room above, beside and below the mesh that always belongs to the mask, whatever the person matte says
PERSON_MARGIN = 0.05  # by which the person matte is widened
COLOUR_RING = 0.5  # width of the ring around the head in which colours are compared
_COLOUR_TIME_CONSTANT_S = 0.5  # of the running average of the colour match, against flicker


@lru_cache(maxsize=1)
def _lay_function() -> Callable:
    """Compiled: a seventh of the time of OpenCV's blendLinear."""

    def lay(frame, fake, mask):
        """Lay `fake` over `frame` in place, all uint8 [H, 3 W]; mask: 255 for fake alone."""
        for y in range(mask.shape[0]):
            below, above, shares = frame[y], fake[y], mask[y]
            for x in range(shares.shape[0]):
                share = np.uint32(shares[x])
                mixed = np.uint32(below[x]) * (np.uint32(255) - share) + np.uint32(above[x]) * share + np.uint32(128)
                below[x] = np.uint8((mixed + (mixed >> np.uint32(8))) >> np.uint32(8))  # the nearest to mixed / 255

    return compiled(lay)


@dataclass(frozen=True)
class Original:
    """An original frame, and what blending needs of it whatever is laid over it: Blender.prepare makes it."""

    frame: np.ndarray  # uint8 [H, W, 3]
    crop: np.ndarray  # uint8 [S, S, 3]
    head: Head | None  # its own, where it is known
    colours: Colours  # of the crop


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
        return self.blend(self.prepare(frame, fake.shape[0], own_nmfc), fake, nmfc)

    def prepare(self, frame: np.ndarray, size: int, own_nmfc: np.ndarray | None = None) -> Original:
        """All that depends on the original frame alone, for crops of `size`; the rest as in a call."""
        head, original = None, crop(frame, self.box, size)
        if own_nmfc is not None:
            own = face_mask(own_nmfc).astype(np.uint8)
            head = Head(fill(cv2.resize(own, (size, size), interpolation=cv2.INTER_NEAREST) > 0))
        return Original(frame, original, head, Colours.of(original, None if head is None else head.mask))

    def blend(self, original: Original, fake: np.ndarray, nmfc: np.ndarray) -> np.ndarray:
        """As a call, for a frame that was prepared, by this blender or one of the same box; its own head counts only when not aligned."""
        size, head = fake.shape[0], Head(fill(face_mask(nmfc)))
        heads = [head] if self.aligned or original.head is None else [head, original.head]
        mask = soft_mask(heads)
        if self.person is not None:
            mask = np.maximum(soft_mask(heads, MESH_ROOM), mask * self._people(fake, original.crop, head_width(head.mask)))
        mask = mask * crop_window(self.box, self.frame_size, size)
        colours = Colours.of(fake, None if self.aligned else head.mask)
        return self._lay(original.frame, self.match(fake, colours, original.colours, self._trust(heads)), mask)

    def _people(self, fake: np.ndarray, original: np.ndarray, width: float) -> np.ndarray:
        """The person mattes of both pictures, joined and widened by a soft margin; float32 [S, S], 0..1."""
        margin = max(1, round(PERSON_MARGIN * width))
        shown = np.maximum(self.person(fake), self.person(original))
        shown = cv2.dilate(shown, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1)))
        return cv2.GaussianBlur(shown, (0, 0), margin / 2)

    def _trust(self, heads: list[Head]) -> np.ndarray:
        """Where synthesised and original picture should agree, 0..1, float32, as coarse as the heads; never where the crop lies outside of
        the frame."""
        coarse = heads[0].coarse
        inside = inside_frame(self.box, self.frame_size, len(coarse))
        if self.aligned:
            return inside
        head = np.logical_or.reduce([h.with_hair for h in heads])
        distance = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, 3)
        return inside * (~head & (distance < COLOUR_RING * head_width(coarse)))

    def _lay(self, frame: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Blend a crop, uint8 [S, S, 3], over the frame; mask: float32 [S, S], 0..1."""
        height, width = self.frame_size
        left, top, right, bottom = self.box
        way = cv2.INTER_CUBIC if self.side > fake.shape[0] else cv2.INTER_AREA
        fake = cv2.resize(fake, (self.side, self.side), interpolation=way)
        mask = cv2.resize(cv2.convertScaleAbs(mask, alpha=255), (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        rows, columns = slice(max(0, top), min(height, bottom)), slice(3 * max(0, left), 3 * min(width, right))
        within = slice(rows.start - top, rows.stop - top), slice(columns.start - 3 * left, columns.stop - 3 * left)
        result = frame.copy()
        below, fake, mask = (image.reshape(len(image), -1) for image in (result, fake, cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB)))
        _lay_function()(below[rows, columns], fake[within], mask[within])
        return result
