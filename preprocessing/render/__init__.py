"""Drawing a face mesh with one flat colour per triangle (the NMFC picture): on the processor, or on a GPU through Vulkan.

The conventions of the picture (pixel coordinates, depth, edges) stand in `preprocessing.render.common`.
"""

from __future__ import annotations

import numpy as np

from preprocessing.render.common import Renderer
from util.cli import say

KINDS = ("auto", "vulkan", "cpu")
_told: set[str] = set()

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
        UserError: for 'vulkan' on a machine without a working Vulkan driver.
        ValueError: for an unknown kind, or arrays that do not fit (see `Renderer`).
    """
    if kind not in KINDS:
        raise ValueError(f"renderer must be one of {', '.join(KINDS)}, not {kind!r}")
    renderer, note = None, ""
    if kind == "vulkan":
        renderer = _vulkan(triangles, colours, size)
    elif kind == "auto":
        try:
            renderer = _vulkan(triangles, colours, size, only_gpu=True)
        except ValueError:  # what was given is wrong, whoever draws it
            raise
        except Exception as e:  # a driver may fail in any way, and 'auto' has another choice
            note = f"; the GPU cannot be used: {e}"
    if renderer is None:
        from preprocessing.render.cpu import CpuRenderer

        renderer = CpuRenderer(triangles, colours, size)
    if kind == "auto" and renderer.name not in _told:
        _told.add(renderer.name)
        say(f"renderer: {renderer.name}{note}")
    return renderer


def _vulkan(triangles: np.ndarray, colours: np.ndarray, size: tuple[int, int], only_gpu: bool = False) -> Renderer | None:
    from preprocessing.render.vulkan import VulkanRenderer, has_gpu

    return None if only_gpu and not has_gpu() else VulkanRenderer(triangles, colours, size)
