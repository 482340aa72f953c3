"""What both renderers share: the picture's conventions, the checks of their input, and painting the triangles' colours.

Conventions of the picture (the same in both, bit for bit but for rounding of depth):

- A vertex is (x, y, z) in pixels of the picture: x to the right, y down, z away from the camera. The continuous picture
  spans [0, W] x [0, H] and the centre of pixel (column i, row j) is (i + 0.5, j + 0.5), so landmarks normalised to 0..1
  (MediaPipe) times (W, H) are in this system as they are.
- The projection is orthographic (the weak-perspective camera has been applied already): there is no near or far plane and
  z may be negative; only its order counts. The smaller z is seen; at equal depth the triangle that comes first.
- x and y are snapped to 1/256 pixel and a pixel belongs to a triangle when its centre is inside, or on a top or left edge,
  as graphics hardware does. Triangles that share an edge thus cover each pixel along it exactly once. No antialiasing.
- Both sides of a triangle are seen: the face meshes are open, so culling back faces would tear holes into turned heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

SUBPIXEL_BITS = 8
"""x and y are snapped to 1/2^8 pixel, what Vulkan drivers have."""
MAX_COORDINATE = float(2**20)
"""Largest |x|, |y|, |z| in pixels: a million means a fit gone astray, and the rasteriser's products must fit 64 bits."""
MAX_SIDE = 8192
"""Largest height or width in pixels: what every Vulkan driver must support with room for its largest framebuffer."""


class Renderer:
    """Draws one mesh, whose vertices move from frame to frame, with one flat colour per triangle.

    Args:
        triangles: int [F, 3], indices of vertices.
        colours: uint8 [F, 3], RGB of each triangle.
        size: (H, W) of the pictures in pixels.

    Raises:
        ValueError: for arrays of other shapes, negative indices, colours that are no uint8, or an impossible size.

    A renderer may be used from several threads at once. `name` says in words what draws.
    """

    name: str

    def __init__(self, triangles: np.ndarray, colours: np.ndarray, size: tuple[int, int]) -> None:
        triangles = np.asarray(triangles)
        if triangles.ndim != 2 or triangles.shape[1] != 3 or len(triangles) == 0 or triangles.dtype.kind not in "iu":
            raise ValueError(f"triangles must be integers of shape [F, 3] with F > 0, not {triangles.dtype} {list(triangles.shape)}")
        if triangles.min() < 0 or triangles.max() >= 2**31 - 1:
            raise ValueError("triangles must hold indices of vertices from 0 on")
        colours = np.asarray(colours)
        if colours.shape != triangles.shape or colours.dtype != np.uint8:
            raise ValueError(
                f"colours must be uint8 {list(triangles.shape)}, one RGB per triangle, not {colours.dtype} {list(colours.shape)}"
            )
        height, width = (int(side) for side in size)
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            raise ValueError(f"size (H, W) must lie between 1 and {MAX_SIDE} pixels, not {size}")
        self.triangles = np.ascontiguousarray(triangles, dtype=np.int32)
        self.size = (height, width)
        self._vertices_needed = int(triangles.max()) + 1
        # One 32-bit word per triangle, which is far quicker to pick than three bytes; the last is the black background,
        # which the id -1 picks.
        palette = np.zeros((len(colours) + 1, 4), np.uint8)
        palette[:-1, :3] = colours
        self._palette = palette.view(np.uint32)[:, 0]

    def draw(self, vertices: np.ndarray) -> np.ndarray:
        """The picture of one frame: float [V, 3] -> uint8 [H, W, 3] RGB, black where there is no triangle.

        Raises:
            ValueError: when `vertices` has another shape, or holds NaN, infinity or anything beyond MAX_COORDINATE.
        """
        return self.paint(self.draw_ids(vertices))

    def draw_ids(self, vertices: np.ndarray) -> np.ndarray:
        """The index of the triangle seen at each pixel: float [V, 3] -> int32 [H, W], -1 for none. Raises as `draw`."""
        raise NotImplementedError

    def draw_many(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The pictures of many frames in their order, quicker than one `draw` after another where the machine allows it.

        `frames` is an array [N, V, 3] or anything that yields [V, 3]; it is read a few frames ahead, so that memory does
        not grow with its length. Yields uint8 [H, W, 3]. Raises as `draw`.
        """
        raise NotImplementedError

    def paint(self, ids: np.ndarray) -> np.ndarray:
        """The picture for the result of `draw_ids`: uint8 [H, W, 3] RGB."""
        words = self._palette.take(ids, mode="wrap")  # -1 is the last; half the time of [ids]
        return cv2.cvtColor(words.view(np.uint8).reshape(*self.size, 4), cv2.COLOR_RGBA2RGB)

    def _checked(self, vertices: np.ndarray) -> np.ndarray:
        """`vertices` as contiguous float32, or a ValueError."""
        vertices = np.ascontiguousarray(vertices, dtype=np.float32)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or len(vertices) < self._vertices_needed:
            raise ValueError(f"vertices must have the shape [V, 3] with V >= {self._vertices_needed}, not {list(vertices.shape)}")
        # NaN passes through min and max and fails both comparisons
        if not (vertices.min() >= -MAX_COORDINATE and vertices.max() <= MAX_COORDINATE):
            raise ValueError("vertices hold NaN, infinity or positions more than a million pixels away")
        return vertices
