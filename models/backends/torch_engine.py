"""A generator in plain PyTorch, on any device; and recorded as a CUDA graph."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backends.network import PREVIOUS, FrameNetwork

_WARM_UP = 3  # runs before a graph is recorded: libraries choose their algorithms then, and Triton compiles


def _on_device(network: FrameNetwork, device: torch.device, dtype: torch.dtype) -> FrameNetwork:
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return copy.deepcopy(network).eval().to(device=device, dtype=dtype, memory_format=torch.channels_last)


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


class TorchBackend:
    """PyTorch without more (models.backends.network.Backend)."""

    def __init__(self, network: FrameNetwork, height: int, width: int, device: torch.device, dtype: torch.dtype):
        self.name = f"torch {_short(dtype)}"
        self._network = _on_device(network, device, dtype)
        self._device, self._blank = device, None
        if network.inputs.previous:
            self._blank = torch.zeros(network.inputs.shape(PREVIOUS, height, width), device=device)

    @torch.inference_mode()
    def __call__(self, images: list[np.ndarray], previous: Any) -> tuple[np.ndarray, Any]:
        given = [torch.from_numpy(x).to(self._device) for x in images]
        if self._blank is not None:
            given.append(self._blank if previous is None else previous)
        image, *previous = self._network(*given)
        return image.cpu().numpy(), *(previous or [None])


class CudaGraphBackend:
    """The kernels of a frame recorded once and then started with one call (models.backends.network.Backend).

    The frames that the generator made before stay on the GPU, so one sequence is drawn at a time.
    """

    def __init__(self, network: FrameNetwork, height: int, width: int, device: torch.device, dtype: torch.dtype):
        self.name = f"cuda {_short(dtype)}"
        self._device = device
        mine = _on_device(network, device, dtype)
        names = network.inputs.names()
        shape = (len(names) - network.inputs.previous, *network.inputs.shape(names[0], height, width))
        self._given = torch.zeros(shape, dtype=torch.uint8).pin_memory()
        self._made = torch.zeros((height, width, 3), dtype=torch.uint8).pin_memory()
        images = torch.zeros(shape, dtype=torch.uint8, device=device)
        previous = torch.zeros(network.inputs.shape(PREVIOUS, height, width), device=device) if network.inputs.previous else None

        def draw() -> Tensor:
            image, *seen = mine(*images.unbind(), *([] if previous is None else [previous]))
            if previous is not None:
                previous.copy_(seen[0])
            return image

        self._images, self._previous = images, previous
        self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.device(device), torch.inference_mode():
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP):
                    draw()
            self._stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: other threads may allocate page-locked memory meanwhile
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._image = draw()

    def __call__(self, images: list[np.ndarray], previous: Any) -> tuple[np.ndarray, Any]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.cuda.device(self._device))
            stack.enter_context(torch.cuda.stream(self._stream))
            for mine, image in zip(self._given.numpy(), images):
                np.copyto(mine, image)
            self._images.copy_(self._given, non_blocking=True)
            if previous is None and self._previous is not None:
                self._previous.zero_()
            self._graph.replay()
            self._made.copy_(self._image, non_blocking=True)
            self._stream.synchronize()
        return self._made.numpy().copy(), True  # the frames before are on the GPU
