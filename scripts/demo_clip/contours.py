"""Contours of the face: points of the dense mesh, from the picture's left to its right."""

from __future__ import annotations

UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)  # inner contours
LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
UPPER_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (362, 398, 384, 385, 386, 387, 388, 466, 263))
LOWER_LIDS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (362, 382, 381, 380, 374, 373, 390, 249, 263))
JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
OVAL = (*JAW, 361, 323, 454, 356, 389, 251, 284, 332, 297, 338, 10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132)
FOLDS = ((129, 203, 206, 216, 212), (358, 423, 426, 436, 432))  # from the wings of the nose past the corners of the mouth
# Around mouth and eyes: what gives way when lips or lids are made to meet.
MOUTH_AREA = frozenset(
    (*UPPER_LIP, *LOWER_LIP, 61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
    + (76, 62, 306, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407, 77, 96, 89, 179, 86, 15, 316, 403, 319, 325)
    + (184, 74, 73, 72, 11, 302, 303, 304, 408, 90, 180, 85, 16, 315, 404, 320, 307)
)
EYE_AREAS = (
    frozenset((*UPPER_LIDS[0], *LOWER_LIDS[0], 130, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25)),
    frozenset((*UPPER_LIDS[1], *LOWER_LIDS[1], 359, 467, 260, 259, 257, 258, 286, 414, 463, 341, 256, 252, 253, 254, 339, 255)),
)
SIDES = "RL"  # of the subject, as the eyes above
EYE_CORNERS = (33, 133, 362, 263)
