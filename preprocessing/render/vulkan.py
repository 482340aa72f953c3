"""Drawing through Vulkan (the wgpu library), into a picture in memory: no window or display is needed."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from preprocessing.render.common import SUBPIXEL_BITS, Renderer
from util.cli import UserError

# The corners of the triangles are fetched from two storage buffers, so that each knows its triangle: number / 3.
# Depth is scaled by the frame's own range into 0.25..0.75: nothing is cut off in front or behind.
_SHADER = f"""
const STEPS: f32 = {float(1 << SUBPIXEL_BITS)};
struct Frame {{ size: vec2f, nearest: f32, depth_range: f32 }}
struct Corner {{ @builtin(position) position: vec4f, @location(0) @interpolate(flat) triangle: i32 }}

@group(0) @binding(0) var<storage, read> vertices: array<f32>;
@group(0) @binding(1) var<storage, read> triangles: array<u32>;
@group(0) @binding(2) var<uniform> frame: Frame;

@vertex fn vertex(@builtin(vertex_index) number: u32) -> Corner {{
    let first = 3u * triangles[number];
    let pixels = round(vec2f(vertices[first], vertices[first + 1u]) * STEPS) / STEPS;
    let clip = (pixels * 2.0 / frame.size - 1.0) * vec2f(1.0, -1.0);
    let depth = 0.25 + 0.5 * (vertices[first + 2u] - frame.nearest) / frame.depth_range;
    return Corner(vec4f(clip, depth, 1.0), i32(number / 3u));
}}

@fragment fn fragment(@location(0) @interpolate(flat) triangle: i32) -> @location(0) i32 {{
    return triangle;
}}
"""
_ROW_ALIGNMENT = 256  # bytes; WebGPU's rule for the rows of a picture copied into a buffer
_lock = threading.Lock()  # one device and one set of buffers: one frame at a time
_GPUS = ("DiscreteGPU", "IntegratedGPU")  # in the order of preference
# Linux shows every GPU as one of these (the last one within WSL). Where there is none, the second that wgpu takes to load is saved.
_DEVICE_FILES = ("dri/renderD*", "nvidia[0-9]*", "mali*", "dxg")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what drivers print straight to the standard error stream of the process while they are looked for."""
    try:
        saved = os.dup(2)
    except OSError:  # no standard error stream at all
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


@functools.cache
def _adapters() -> tuple:
    """The Vulkan adapters of this machine, best first; empty where there is no driver."""
    import wgpu
    from wgpu.backends.wgpu_native import extras

    # wgpu repeats every error in its log, and warns there about drivers that it does not use
    logging.getLogger("wgpu").setLevel(logging.CRITICAL)
    with _quiet():
        extras.set_instance_extras(backends=["Vulkan"])  # or it would load every OpenGL driver too
        found = [adapter for adapter in wgpu.gpu.enumerate_adapters_sync() if adapter.info["backend_type"] == "Vulkan"]
    ranks = {kind: rank for rank, kind in enumerate(_GPUS)}
    return tuple(sorted(found, key=lambda adapter: ranks.get(adapter.info["adapter_type"], len(ranks))))


def has_gpu() -> bool:
    """Whether there is a real GPU with a Vulkan driver, not just a driver that computes on the processor."""
    if sys.platform == "linux" and not any(next(Path("/dev").glob(pattern), None) for pattern in _DEVICE_FILES):
        return False
    adapters = _adapters()
    return bool(adapters) and adapters[0].info["adapter_type"] in _GPUS


@functools.cache
def _device():
    """The device of the best adapter, shared by all renderers of the process, and its name."""
    adapters = _adapters()
    if not adapters:
        raise UserError(
            "--renderer vulkan found no Vulkan driver: install one (Debian/Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers; "
            "in an NVIDIA container set NVIDIA_DRIVER_CAPABILITIES=all), or use --renderer cpu"
        )
    name = adapters[0].info["device"]
    try:
        with _quiet():
            return adapters[0].request_device_sync(), name
    except RuntimeError as e:
        raise UserError(f"the Vulkan driver of {name} gives no device ({e}): mend the driver, or use --renderer cpu") from e


class VulkanRenderer(Renderer):
    """`Renderer` on the best Vulkan adapter: a discrete GPU before an integrated one before a software driver.

    Raises:
        UserError: when there is no Vulkan driver, or it gives no device.
    """

    def __init__(self, triangles: np.ndarray, colours: np.ndarray, size: tuple[int, int]) -> None:
        super().__init__(triangles, colours, size)
        import wgpu

        device, adapter_name = _device()
        self.name = f"vulkan ({adapter_name})"
        self._device = device
        height, width = self.size
        self._row_bytes = -(-4 * width // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
        storage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST
        corners = device.create_buffer_with_data(data=self.triangles, usage=wgpu.BufferUsage.STORAGE)
        self._vertices = device.create_buffer(size=12 * self._vertices_needed, usage=storage)
        self._frame = device.create_buffer(size=16, usage=wgpu.BufferUsage.UNIFORM | wgpu.BufferUsage.COPY_DST)
        self._readback = device.create_buffer(size=self._row_bytes * height, usage=wgpu.BufferUsage.MAP_READ | wgpu.BufferUsage.COPY_DST)
        extent = (width, height, 1)
        attachment = wgpu.TextureUsage.RENDER_ATTACHMENT
        self._picture = device.create_texture(size=extent, format="r32sint", usage=attachment | wgpu.TextureUsage.COPY_SRC)
        depth = device.create_texture(size=extent, format="depth32float", usage=attachment)
        shader = device.create_shader_module(code=_SHADER)
        self._pipeline = device.create_render_pipeline(
            layout="auto",
            vertex={"module": shader, "entry_point": "vertex"},
            fragment={"module": shader, "entry_point": "fragment", "targets": [{"format": "r32sint"}]},
            primitive={"topology": "triangle-list", "cull_mode": "none"},
            depth_stencil={"format": "depth32float", "depth_write_enabled": True, "depth_compare": "less"},
        )
        self._bindings = device.create_bind_group(
            layout=self._pipeline.get_bind_group_layout(0),
            entries=[
                {"binding": number, "resource": {"buffer": buffer, "offset": 0, "size": buffer.size}}
                for number, buffer in enumerate((self._vertices, corners, self._frame))
            ],
        )
        self._pass = {
            "color_attachments": [
                {"view": self._picture.create_view(), "clear_value": (-1, 0, 0, 0), "load_op": "clear", "store_op": "store"}
            ],
            "depth_stencil_attachment": {
                "view": depth.create_view(),
                "depth_clear_value": 1.0,
                "depth_load_op": "clear",
                "depth_store_op": "discard",
            },
        }

    def draw_ids(self, vertices: np.ndarray) -> np.ndarray:
        vertices = self._checked(vertices)[: self._vertices_needed]
        height, width = self.size
        nearest, farthest = vertices[:, 2].min(), vertices[:, 2].max()
        frame = np.array([width, height, nearest, max(farthest - nearest, np.finfo(np.float32).tiny)], np.float32)
        with _lock:
            queue = self._device.queue
            queue.write_buffer(self._vertices, 0, vertices)
            queue.write_buffer(self._frame, 0, frame)
            encoder = self._device.create_command_encoder()
            drawing = encoder.begin_render_pass(**self._pass)
            drawing.set_pipeline(self._pipeline)
            drawing.set_bind_group(0, self._bindings)
            drawing.draw(self.triangles.size)
            drawing.end()
            encoder.copy_texture_to_buffer(
                {"texture": self._picture},
                {"buffer": self._readback, "bytes_per_row": self._row_bytes, "rows_per_image": height},
                (width, height, 1),
            )
            queue.submit([encoder.finish()])
            self._readback.map_sync("READ")
            try:
                rows = np.frombuffer(self._readback.read_mapped(copy=False), np.int32).reshape(height, -1)
                return rows[:, :width].copy()
            finally:
                self._readback.unmap()

    def draw_many(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return map(self.draw, frames)
