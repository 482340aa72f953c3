"""Replaying a training step as a CUDA graph: one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.clip import Chunk

Result = tuple[dict[str, Tensor], Tensor]  # losses by name, generated frames


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: Chunk
    names: list[str]
    losses: Tensor  # [len(names)]
    frames: Tensor


class GraphedFunction:
    """Calls a function of a chunk; from the second chunk of a shape on it replays the kernels that it recorded.

    The function must do the same work for the same shapes, without waiting for the device, and leave its other results (gradients) at
    fixed addresses. The first call of a shape runs as it is: libraries choose their algorithms then, which cannot be recorded.
    """

    def __init__(self, function: Callable[[Chunk], Result]):
        self._function = function
        self._recordings: dict[tuple, _Recording | None] = {}
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()  # the recordings never run at once, so they share their memory

    def __call__(self, chunk: Chunk) -> Result:
        key = tuple((tuple(x.shape), x.dtype) for x in chunk.tensors())
        if key not in self._recordings:
            self._recordings[key] = None
            return self._run_plainly(chunk)
        if self._recordings[key] is None:
            self._recordings[key] = self._record(chunk)
        recording = self._recordings[key]
        for mine, given in zip(recording.inputs.tensors(), chunk.tensors()):
            mine.copy_(given, non_blocking=True)
        recording.graph.replay()
        losses = recording.losses.clone()  # the next replay overwrites them
        return dict(zip(recording.names, losses.unbind())), recording.frames.clone()

    def _run_plainly(self, chunk: Chunk) -> Result:
        # On the stream that records later: autograd remembers on which stream a weight's gradient is to be added.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            losses, frames = self._function(chunk)
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses, frames

    def _record(self, chunk: Chunk) -> _Recording:
        inputs = replace(
            chunk,
            real=chunk.real.clone(),
            conditioning=chunk.conditioning.clone(),
            history=chunk.history.clone(),
            corners={k: v.clone() for k, v in chunk.corners.items()},
            flows={k: v.clone() for k, v in chunk.flows.items()},
        )
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may allocate page-locked memory meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            losses, frames = self._function(inputs)
            values = torch.stack(list(losses.values()))
        return _Recording(graph, inputs, list(losses), values, frames)
