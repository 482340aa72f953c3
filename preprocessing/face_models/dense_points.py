"""The 478 points of the dense face mesh (MediaPipe's): which show what, and which are the 70 landmarks of the pipeline.

"Right" is the subject's, on the left of the picture.
"""

from __future__ import annotations

import numpy as np

N_POINTS = 478
SKIN = 468  # the first points are skin; the others are irises

RIGHT_IRIS = (468, 469, 470, 471, 472)  # centre, then the ring
LEFT_IRIS = (473, 474, 475, 476, 477)
RIGHT_EYE_CORNERS = (33, 133)  # outer, inner
LEFT_EYE_CORNERS = (263, 362)
RIGHT_LIDS = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)  # round the eye: lower lid, then upper lid
LIDS = RIGHT_LIDS + (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
# The face's outline. It slides over the skin when the head turns.
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152)
OVAL += (148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)
LIPS += (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415)
INNER_LIPS = (13, 14)  # middles of the inner lines of the upper and the lower lip
BROWS = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
NOSE = (168, 6, 197, 195, 5, 4, 1, 19, 2, 98, 97, 326, 327, 75, 305)
NOSE_BASE = 2  # what is below moves with the jaw

# The dense point of each of the 70 landmarks (68 of the 300-W / iBUG scheme, then the pupils); compiled from the mesh's published topology.
DENSE_INDICES = np.array(
    [
        *(127, 234, 93, 132, 58, 172, 150, 176, 152, 400, 379, 397, 288, 361, 323, 454, 356),  # 0-16 jaw, right ear to left ear
        *(70, 63, 105, 66, 107),  # 17-21 right brow, outer end first
        *(336, 296, 334, 293, 300),  # 22-26 left brow, inner end first
        *(168, 197, 5, 4),  # 27-30 ridge of the nose, down to the tip
        *(98, 97, 2, 326, 327),  # 31-35 below the nose, right to left
        *(33, 160, 158, 133, 153, 144),  # 36-41 right eye: outer corner, upper lid, inner corner, lower lid
        *(362, 385, 387, 263, 373, 380),  # 42-47 left eye: inner corner, upper lid, outer corner, lower lid
        *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),  # 48-59 outer lips, clockwise in the picture from the right corner
        *(78, 81, 13, 311, 308, 402, 14, 178),  # 60-67 inner lips, likewise
        *(468, 473),  # 68, 69 pupils: centres of the right and the left iris
    ]
)


def from_dense(dense: np.ndarray) -> np.ndarray:
    """dense: [..., 478, 2 or more]. Returns: [..., 70, 2], x and y of the landmarks in the same unit."""
    return dense[..., DENSE_INDICES, :2]
