"""Time both renderers on one mesh: milliseconds per frame, and how far their pictures agree.

python scripts/bench/render.py                       # a sphere of about 53,000 triangles, 256 x 256
python scripts/bench/render.py --face_model ict      # the face model itself
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from preprocessing.render import Renderer, create_renderer
from util.cli import UserError, run, say


def sphere(triangles: int) -> tuple[np.ndarray, np.ndarray]:
    """A unit sphere of about `triangles` triangles: vertices float64 [V, 3], triangles int [F, 3]."""
    rows = max(round((triangles / 4) ** 0.5), 2)
    columns = 2 * rows
    polar, around = np.meshgrid(np.linspace(0, np.pi, rows + 1), np.linspace(0, 2 * np.pi, columns, endpoint=False), indexing="ij")
    vertices = np.stack([np.sin(polar) * np.cos(around), -np.cos(polar), np.sin(polar) * np.sin(around)], -1).reshape(-1, 3)
    row, column = (index.ravel() for index in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    a, b = row * columns + column, row * columns + (column + 1) % columns
    return vertices, np.concatenate([np.stack([a, a + columns, b], 1), np.stack([b, a + columns, b + columns], 1)])


def moving(vertices: np.ndarray, frames: int, size: int) -> np.ndarray:
    """The mesh filling nine tenths of the picture while it turns to and fro by 45 degrees: float32 [frames, V, 3]."""
    centred = vertices - (vertices.max(0) + vertices.min(0)) / 2
    centred = centred * (0.9 * size / np.ptp(centred, axis=0).max())
    yaw = np.pi / 4 * np.sin(np.linspace(0, 2 * np.pi, frames))
    x = centred[:, 0] * np.cos(yaw)[:, None] + centred[:, 2] * np.sin(yaw)[:, None]
    z = centred[:, 2] * np.cos(yaw)[:, None] - centred[:, 0] * np.sin(yaw)[:, None]
    y = np.broadcast_to(centred[:, 1], x.shape)
    return np.stack([x + size / 2, y + size / 2, z], -1).astype(np.float32)


def timed(action: Callable[[], object], frames: int) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{1000 * wall / frames:6.2f} ms/frame (CPU time {1000 * cpu / frames:.2f})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the square picture in pixels (default: 256)")
    parser.add_argument("--triangles", type=int, default=53_000, help="triangles of the sphere, about (default: 53000)")
    parser.add_argument("--face_model", help="draw this face model (auto, ict, mesh478) instead of a sphere")
    parser.add_argument("--frames", type=int, default=100, help="frames per measurement (default: 100)")
    options = parser.parse_args(argv)
    for name in ("size", "triangles", "frames"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1")
    if options.face_model:
        from preprocessing.face_models.registry import load_face_model

        model = load_face_model(options.face_model)
        vertices, triangles, colours = model.mean * [1, -1, -1], model.triangles, model.nmfc_colours()
    else:
        vertices, triangles = sphere(options.triangles)
        colours = ((vertices[triangles].mean(1) + 1) * 127.5).astype(np.uint8)
    frames = moving(vertices, options.frames, options.size)
    say(f"{len(triangles)} triangles, {options.size} x {options.size} pixels, {options.frames} frames")

    renderers: list[Renderer] = []
    for kind in ("cpu", "vulkan"):
        begin = time.perf_counter()
        try:
            renderer = create_renderer(kind, triangles, colours, (options.size, options.size))
            renderer.draw(frames[0])
        except UserError as e:
            say(f"{kind}: {e}")
            continue
        say(f"{renderer.name}: ready after {time.perf_counter() - begin:.2f} s")
        say(f"  one after another {timed(lambda draw=renderer.draw: [draw(frame) for frame in frames], len(frames))}")
        say(f"  as a sequence     {timed(lambda many=renderer.draw_many: [None for _ in many(frames)], len(frames))}")
        renderers.append(renderer)
    if len(renderers) == 2:
        equal = [(first == second).all(-1).mean() for first, second in zip(*(renderer.draw_many(frames) for renderer in renderers))]
        say(f"equal pixels: {100 * np.mean(equal):.4f} % on average, {100 * np.min(equal):.4f} % at least")


if __name__ == "__main__":
    run(main)
