"""A generator in ONNX Runtime, on the processor."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch

from models.backends.network import IMAGE, PREVIOUS, FrameNetwork
from util.hashing import sha256_of_bytes
from util.user_cache import cached_bytes, user_cache

OPSET = 18  # of ONNX: the first that PyTorch's exporter writes without translating it afterwards
_KEPT = 6  # converted generators in the user's cache; the published one has 180 MB, a lean one 18


class OnnxBackend:
    """ONNX Runtime (models.backends.network.Backend), in float32; threads and key as in models.backends.openvino_engine."""

    name = "onnx fp32"

    def __init__(self, network: FrameNetwork, height: int, width: int, threads: int | None = None, key: str | None = None):
        import onnxruntime

        def make() -> bytes:
            return convert(network, height, width)

        if key is None:
            model = make()
        else:
            name = f"{sha256_of_bytes(repr((key, height, width, OPSET, torch.__version__)).encode())[:32]}.onnx"
            model = cached_bytes(user_cache("generators"), name, make, _KEPT)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: as it chooses
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want the cores as well
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = network.inputs.names()
        self._blank = np.zeros(network.inputs.shape(PREVIOUS, height, width), np.float32) if network.inputs.previous else None

    def __call__(self, images: list[np.ndarray], previous: Any) -> tuple[np.ndarray, Any]:
        given = images if self._blank is None else [*images, self._blank if previous is None else previous]
        image, *previous = self._session.run(None, dict(zip(self._names, given)))
        return image, *(previous or [None])


def convert(network: FrameNetwork, height: int, width: int) -> bytes:
    """The network as an ONNX file for pictures of one size, with the names of its inputs and outputs."""
    example = tuple(map(torch.from_numpy, network.inputs.example(height, width)))
    names, previous = network.inputs.names(), network.inputs.previous
    outputs = [IMAGE, *[f"next_{PREVIOUS}"] * previous]
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                network.eval(), example, input_names=names, output_names=outputs, opset_version=OPSET, dynamo=True, verbose=False
            )
        finally:
            logger.setLevel(level)
    return program.model_proto.SerializeToString()
