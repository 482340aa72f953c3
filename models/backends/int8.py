"""A generator's convolutions in 8-bit integers, for OpenVINO.

Weights are rounded to 255 levels per output channel, the images between the layers to 256 levels over the range that they have for examples
(post-training quantisation, Jacob et al. 2018). The first and the last convolution, which see and make colours, what enlarges, and the
instance norms stay as they are: on those the errors would show, and they take little time. (NNCF does the same; it brings fifteen packages,
one of which reports its use to its makers.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from models.backends.openvino_core import openvino_core

if TYPE_CHECKING:
    import openvino

MAX_DIFFERENCE = 3.0  # mean over the examples, grey levels; bfloat16 differs by 0.1 to 0.4, int8 by 0.5 to 1.4


def quantize(model: openvino.Model, examples: list[list[np.ndarray]]) -> openvino.Model:
    """A copy of a converted generator that computes in integers.

    examples: what the generator is given for some frames, a list for each.
    Raises: ValueError when the frames differ from the given model's by more than MAX_DIFFERENCE.
    """
    from openvino import opset13 as ops

    images = len(model.outputs)
    made = model.clone()
    convolutions = [op for op in made.get_ordered_ops() if op.get_type_name() == "Convolution"][1:-1]
    inputs = [op.input(0).get_source_output() for op in convolutions]
    reductions = (ops.reduce_min, ops.reduce_max)
    probes = [ops.result(reduce(x, np.arange(4), keep_dims=False)) for x in inputs for reduce in reductions]
    made.add_results(probes)
    seen = list(_runs(made, examples))
    frames = [run[0] for run in seen]
    ranges = np.array([run[images:] for run in seen], np.float64).reshape(len(seen), len(inputs), 2)
    for probe in probes:
        made.remove_result(probe)
    for op, source, low, high in zip(convolutions, inputs, ranges[..., 0].min(0), ranges[..., 1].max(0)):
        # zero, what is around an image, must be one of the levels
        step = max((high - min(low, 0.0)) / 255, 1e-8)
        low = -np.ceil(max(-low, 0.0) / step) * step
        ends = [np.full((1, 1, 1, 1), x, np.float32) for x in (low, low + 255 * step)]
        op.input(0).replace_source_output(ops.fake_quantize(source, *ends, *ends, 256).output(0))
        weights = op.input(1).get_source_output().get_node()
        while weights.get_type_name() == "Convert":  # they are kept as float16
            weights = weights.input(0).get_source_output().get_node()
        values = weights.get_data().astype(np.float32)
        most = np.maximum(np.abs(values).max((1, 2, 3), keepdims=True), 1e-8)
        op.input(1).replace_source_output(ops.fake_quantize(ops.constant(values), -most, most, -most, most, 255).output(0))
    made.validate_nodes_and_infer_types()
    away = [np.abs(run[0].astype(int) - frame).mean() for run, frame in zip(_runs(made, examples), frames)]
    if np.mean(away) > MAX_DIFFERENCE:
        raise ValueError(f"in integers its frames are {np.mean(away):.1f} grey levels off")
    return made


def _runs(model: openvino.Model, examples: list[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """All outputs of the model for each example."""
    request = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    for example in examples:
        request.infer(example)
        yield [request.get_output_tensor(i).data.copy() for i in range(len(model.outputs))]
