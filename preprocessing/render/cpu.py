"""Rasteriser on the processor, compiled by numba: exact integer coverage by the rules that graphics hardware follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numba
import numpy as np

from preprocessing.render.common import SUBPIXEL_BITS, Renderer
from util.ahead import map_ahead, usable_cores
from util.compiled import compiled

STEPS = 1 << SUBPIXEL_BITS
HALF = STEPS // 2

# Read-only input arrays (memory maps, broadcasts) are taken as well as writable ones.
_SIGNATURE = numba.void(
    numba.types.Array(numba.float32, 2, "C", readonly=True),
    numba.types.Array(numba.int32, 2, "C", readonly=True),
    numba.int32[:, ::1],
    numba.float32[:, ::1],
)


def _rasterise(vertices, triangles, ids, depth):
    """Fill `ids` (int32 [H, W], -1 for none) and `depth` (float32 [H, W], infinity for none).

    Edge functions (Pineda 1988) on coordinates snapped to 1/256 pixel: exact in 64-bit integers.
    """
    height, width = ids.shape
    ids[:] = -1
    depth[:] = np.inf
    snapped = np.empty((vertices.shape[0], 2), np.int64)
    for v in range(vertices.shape[0]):
        # times a power of two is exact in float32; rint breaks ties to even, as the shader's round does
        snapped[v, 0] = np.int64(np.rint(vertices[v, 0] * np.float32(STEPS)))
        snapped[v, 1] = np.int64(np.rint(vertices[v, 1] * np.float32(STEPS)))
    for face in range(triangles.shape[0]):
        # unsigned numbers and ranges, here and below: numba need not ask whether an index counts from the end, a quarter of the time at 512
        a = np.uint32(triangles[face, 0])
        b = np.uint32(triangles[face, 1])
        c = np.uint32(triangles[face, 2])
        ax, ay = snapped[a, 0], snapped[a, 1]
        bx, by = snapped[b, 0], snapped[b, 1]
        cx, cy = snapped[c, 0], snapped[c, 1]
        # the pixels whose centres lie within the triangle's box: for most triangles of a dense mesh there are none
        left = max((min(ax, bx, cx) + HALF - 1) >> SUBPIXEL_BITS, 0)
        right = min((max(ax, bx, cx) - HALF) >> SUBPIXEL_BITS, width - 1)
        if left > right:
            continue
        top = max((min(ay, by, cy) + HALF - 1) >> SUBPIXEL_BITS, 0)
        bottom = min((max(ay, by, cy) - HALF) >> SUBPIXEL_BITS, height - 1)
        if top > bottom:
            continue
        rows, columns = (np.uint64(top), np.uint64(bottom + 1)), (np.uint64(left), np.uint64(right + 1))
        nearest = min(vertices[a, 2], vertices[b, 2], vertices[c, 2])
        hidden = True
        for row in range(rows[0], rows[1]):
            for column in range(columns[0], columns[1]):
                hidden &= depth[row, column] <= nearest
        if hidden:  # what is drawn already lies before it: half of all triangles of a head, its back and the mouth's inside
            continue
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0:
            continue
        if area < 0:  # seen from behind: turn it, so that the inside is where the edge functions are positive
            area = -area
            b, c = c, b
            bx, by, cx, cy = cx, cy, bx, by
        # Edge function of p -> q at (x, y): (qx - px) (y - py) - (qy - py) (x - px). A pixel centre on an edge belongs to
        # the triangle only if it is a left edge (it goes up) or a top edge (level, going right): others are lowered by one.
        ab_x, ab_y = bx - ax, by - ay
        bc_x, bc_y = cx - bx, cy - by
        ca_x, ca_y = ax - cx, ay - cy
        ab_bias = 0 if ab_y < 0 or (ab_y == 0 and ab_x > 0) else -1
        bc_bias = 0 if bc_y < 0 or (bc_y == 0 and bc_x > 0) else -1
        ca_bias = 0 if ca_y < 0 or (ca_y == 0 and ca_x > 0) else -1
        x = left * STEPS + HALF
        y = top * STEPS + HALF
        ab_row = ab_x * (y - ay) - ab_y * (x - ax) + ab_bias
        bc_row = bc_x * (y - by) - bc_y * (x - bx) + bc_bias
        ca_row = ca_x * (y - cy) - ca_y * (x - cx) + ca_bias
        az = np.float64(vertices[a, 2])
        to_b = (np.float64(vertices[b, 2]) - az) / area
        to_c = (np.float64(vertices[c, 2]) - az) / area
        for row in range(rows[0], rows[1]):
            ab, bc, ca = ab_row, bc_row, ca_row
            for column in range(columns[0], columns[1]):
                if ab | bc | ca >= 0:  # no sign bit set: inside all three
                    z = np.float32(az + to_b * (ca - ca_bias) + to_c * (ab - ab_bias))
                    if z < depth[row, column]:
                        depth[row, column] = z
                        ids[row, column] = face
                ab -= ab_y * STEPS
                bc -= bc_y * STEPS
                ca -= ca_y * STEPS
            ab_row += ab_x * STEPS
            bc_row += bc_x * STEPS
            ca_row += ca_x * STEPS


_rasterise = compiled(_rasterise, _SIGNATURE)


class CpuRenderer(Renderer):
    """`Renderer` on the processor; every call draws in the caller's thread without holding the interpreter's lock."""

    name = "cpu (numba)"

    def draw_ids(self, vertices: np.ndarray) -> np.ndarray:
        vertices = self._checked(vertices)
        ids = np.empty(self.size, np.int32)
        _rasterise(vertices, self.triangles, ids, np.empty(self.size, np.float32))
        return ids

    def draw_many(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        threads = min(usable_cores(), 8)  # more would wait for the reader of the frames
        return map_ahead(self.draw, frames, threads=threads, depth=2 * threads)
