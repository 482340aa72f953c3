"""Which back end runs a generator here."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from models.backends.network import VERSION, Backend, FrameNetwork
from util.cli import UserError, warn_once
from util.device import BACKENDS, choose_device, choose_precision

_PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime"}  # of those that run on the processor only
_TRIAL_S = 0.4  # how long each back end draws when the fastest is taken; there are two
_TRIALS = 3  # frames that it draws at least, where they do not take twice as long


@dataclass(frozen=True)
class Conditions:
    """What a back end is made from and for."""

    network: FrameNetwork
    device: torch.device
    precision: str  # of options.base_options.PRECISIONS
    threads: int | None = None  # of the processor; None: as the engine chooses
    key: str | None = None  # tells networks apart, for what is kept of them; None: nothing is kept
    # makes inputs of some frames of example_size x example_size: OpenVINO may compute in 8-bit integers, if 'auto' is the precision
    examples: Callable[[], list[list[np.ndarray]]] | None = None
    example_size: int = 0


def check_backend(backend: str, gpu_ids: str | None, precision: str) -> torch.device:
    """The device for a back end, one of BACKENDS. Raises: UserError when it cannot run here, or not as the other options ask."""
    if backend not in BACKENDS:
        raise UserError(f"there is no back end '{backend}'; there are {', '.join(BACKENDS)}")
    if backend not in _PACKAGES:
        device = choose_device(gpu_ids or "auto")
        if backend == "cuda" and device.type != "cuda":
            raise UserError("--backend cuda needs a CUDA GPU: here is none, or --gpu_ids names the processor; use --backend auto")
        return device
    package = _PACKAGES[backend]
    if gpu_ids not in (None, "auto") and not gpu_ids.strip().startswith("-"):
        raise UserError(f"--backend {backend} runs on the processor, not on GPU {gpu_ids}; leave --gpu_ids out, or use --backend cuda")
    if not is_installed(backend):
        raise UserError(f"--backend {backend} needs the package {package}; install it with: pip install --no-deps {package}")
    if precision == "bf16" and not (backend == "openvino" and _openvino_has_bf16()):
        whose = "ONNX Runtime" if backend == "onnx" else "OpenVINO on this processor"
        raise UserError(f"{whose} does not compute in bf16; leave --precision out, or use --backend torch")
    return torch.device("cpu")


def make_backend(kind: str, conditions: Conditions, height: int, width: int) -> Backend:
    """A back end, one of BACKENDS without auto, for pictures of one size. Raises: ValueError for a size that the generator cannot halve."""
    multiple = conditions.network.generator.multiple
    if height % multiple or width % multiple:
        raise ValueError(f"image size {height}x{width} is no multiple of {multiple}")
    c, place = conditions, (conditions.network.of_size(height, width), height, width)
    key = c.key and repr((VERSION, c.key))
    if kind == "openvino":
        from models.backends.openvino_engine import OpenVinoBackend

        bf16 = c.precision == "bf16" or (c.precision == "auto" and _openvino_has_bf16())
        options = (*place, torch.bfloat16 if bf16 else torch.float32, c.threads, key)
        if c.examples and c.precision == "auto" and height == width == c.example_size:
            try:
                return OpenVinoBackend(*options, c.examples)
            except ValueError as e:
                warn_once(f"OpenVINO does not compute this generator in integers: {e}")
        return OpenVinoBackend(*options)
    if kind == "onnx":
        from models.backends.onnx_engine import OnnxBackend

        return OnnxBackend(*place, c.threads, key)
    from models.backends.torch_engine import CudaGraphBackend, TorchBackend

    return (CudaGraphBackend if kind == "cuda" else TorchBackend)(*place, c.device, choose_precision(c.precision, c.device))


def take_fastest(conditions: Conditions, size: int) -> tuple[str, Backend, str]:
    """The fastest back end on this processor for pictures of size x size: its kind, itself, and a sentence that says why.

    PyTorch against the engine for processors that is installed: OpenVINO, else ONNX Runtime, which was not faster where both
    were tried, and whose conversion takes longer than a start may. One that fails is left out with a warning.
    """
    kinds = [*[kind for kind in _PACKAGES if is_installed(kind) and not (kind == "onnx" and conditions.precision == "bf16")][:1], "torch"]
    *images, last = conditions.network.inputs.example(size, size)
    images = images if conditions.network.inputs.previous else [*images, last]
    made: dict[str, tuple[Backend, float]] = {}
    for kind in kinds:
        try:
            backend = make_backend(kind, conditions, size, size)
            made[kind] = backend, _ms_a_frame(backend, images)
        except Exception as e:  # a package that does not fit this machine: there are many ways
            if kind == kinds[-1]:
                raise
            fault = (str(e).strip().splitlines() or [""])[0][:200]
            warn_once(f"{_PACKAGES[kind]} does not work here ({type(e).__name__}: {fault}); going on without")
    kind = min(made, key=lambda kind: made[kind][1])
    backend, ms = made.pop(kind)
    others = ", ".join(f"{other.name} {other_ms:.0f}" for other, other_ms in made.values())
    reason = f"{backend.name}, {ms:.0f} ms a frame of {size}x{size} on this processor" + (f" ({others})" if others else "")
    return kind, backend, reason


def _ms_a_frame(backend: Backend, images: list[np.ndarray]) -> float:
    """The median time of a frame. The first one is slower and does not count, unless it takes too long to wait for more."""
    previous, times = None, []
    while len(times) <= _TRIALS or sum(times[1:]) < _TRIAL_S:
        begun = time.perf_counter()
        _, previous = backend(images, previous)
        times.append(time.perf_counter() - begun)
        if sum(times) > 2 * _TRIAL_S:
            break
    return 1000 * statistics.median(times[1:] or times)


def is_installed(kind: str) -> bool:
    """Whether the package of a back end is there."""
    return kind not in _PACKAGES or importlib.util.find_spec(_PACKAGES[kind]) is not None


def _openvino_has_bf16() -> bool:
    from models.backends.openvino_engine import has_bf16

    return has_bf16()
