"""Drawing a face mesh with one flat colour per triangle (the NMFC picture): on the processor, or on a GPU through Vulkan.

The conventions of the picture (pixel coordinates, depth, edges) stand in `preprocessing.render.common`.
"""

from __future__ import annotations

import numpy as np

from preprocessing.render.common import Renderer

KINDS = ("auto", "vulkan", "cpu")

__all__ = ["KINDS", "Renderer", "create_renderer"]


def create_renderer(kind: str, triangles: np.ndarray, colours: np.ndarray, size: tuple[int, int]) -> Renderer:
    """The renderer `kind` for one mesh and picture size.

    Args:
        kind: 'cpu'; 'vulkan' (any Vulkan driver, a software one too); 'auto': Vulkan where there is a real GPU, else the
            processor, because a software driver is slower than our rasteriser. 'auto' prints once which it took.
        triangles: int [F, 3], indices of vertices.
        colours: uint8 [F, 3], RGB of each triangle.
        size: (H, W) in pixels.

    Raises:
        UserError: for 'vulkan' on a machine without a Vulkan driver.
        ValueError: for an unknown kind, or arrays that do not fit (see `Renderer`).
    """
    if kind not in KINDS:
        raise ValueError(f"renderer must be one of {', '.join(KINDS)}, not {kind!r}")
    from preprocessing.render.cpu import CpuRenderer

    return CpuRenderer(triangles, colours, size)
