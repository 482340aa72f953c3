"""A generator in OpenVINO, on the processor."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.backends.int8 import quantize
from models.backends.network import IMAGE, PREVIOUS, FrameNetwork
from models.backends.openvino_core import openvino_core
from util.hashing import sha256_of_bytes
from util.user_cache import cached_bytes, user_cache

if TYPE_CHECKING:
    import openvino

_KEPT = 6  # compiled generators in the user's cache; the published one has 180 MB, a lean one 18


class OpenVinoBackend:
    """OpenVINO (models.backends.network.Backend).

    dtype: bfloat16 only where the processor has it (has_bf16). threads: of the processor, None: as OpenVINO chooses.
    key: a text that tells networks apart; what was compiled is kept under it in the user's cache. None: nothing is kept.
    examples: what makes inputs of some frames; with them convolutions are computed in 8-bit integers, and the rest in dtype.
    Raises: ValueError when frames computed in integers would differ visibly.
    """

    def __init__(
        self,
        network: FrameNetwork,
        height: int,
        width: int,
        dtype: torch.dtype,
        threads: int | None = None,
        key: str | None = None,
        examples: Callable[[], list[list[np.ndarray]]] | None = None,
    ):
        import openvino

        precision = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
        self.name = f"openvino {'int8' if examples else precision.replace('f32', 'fp32')}"
        core, hints = openvino_core(), {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        if threads is not None:
            hints["INFERENCE_NUM_THREADS"] = threads

        def compile() -> openvino.CompiledModel:
            model = convert(network, height, width)
            return core.compile_model(quantize(model, examples()) if examples else model, "CPU", hints)

        if key is None:
            model = compile()
        else:
            parts = (key, height, width, precision, bool(examples), openvino.__version__, core.get_property("CPU", "FULL_DEVICE_NAME"))
            name, folder = f"{sha256_of_bytes(repr(parts).encode())[:32]}.openvino", user_cache("generators")
            compiled = []

            def make() -> bytes:
                compiled.append(compile())
                file = compiled[0].export_model()
                return file.getvalue() if isinstance(file, io.BytesIO) else bytes(file)

            blob = cached_bytes(folder, name, make, _KEPT)
            try:
                model = compiled[0] if compiled else core.import_model(blob, "CPU", hints)
            except RuntimeError:  # damaged, or not for this processor
                cached_bytes(folder, name, make, _KEPT, anew=True)
                model = compiled[0]
        self._request = model.create_infer_request()
        self._blank = np.zeros(network.inputs.shape(PREVIOUS, height, width), np.float32) if network.inputs.previous else None

    def __call__(self, images: list[np.ndarray], previous: Any) -> tuple[np.ndarray, Any]:
        given = images if self._blank is None else [*images, self._blank if previous is None else previous]
        made = self._request.infer(given, share_inputs=True)
        return made[0], made[1] if self._blank is not None else None


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def convert(network: FrameNetwork, height: int, width: int) -> openvino.Model:
    """The network as a model of OpenVINO, for pictures of one size, with the names of its inputs and outputs."""
    import openvino

    example = tuple(map(torch.from_numpy, network.inputs.example(height, width)))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit.trace, which it uses
        model = openvino.convert_model(network.eval(), example_input=example)
    names = network.inputs.names()
    for port, name in zip(model.inputs, names):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, (IMAGE, f"next_{PREVIOUS}")):
        port.get_tensor().set_names({name})
    model.reshape({name: list(network.inputs.shape(name, height, width)) for name in names})
    return model
