"""The 70 landmarks of the pipeline (68 of the 300-W / iBUG scheme and two pupils) out of the 478 points of the dense mesh."""

from __future__ import annotations

import numpy as np

# Vertex of MediaPipe's face mesh for each landmark; compiled from the mesh's published topology. "Right" is the subject's,
# on the left of the picture.
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
