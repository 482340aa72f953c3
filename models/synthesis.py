"""Runs a trained generator: conditioning images in, frames out, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from models.backends.choice import Conditions, check_backend, make_backend, take_fastest
from models.backends.network import Backend, FrameNetwork, Inputs
from models.checkpoints import PUBLISHED_OPTIONS, load_generator
from models.networks import build_generator
from util.device import device_name
from util.face.appearance import Appearance
from util.hashing import sha256_of, sha256_of_bytes
from util.layout import Run

_MOST_SIZES = 2  # back ends that are kept, one for each size of pictures


class Synthesizer:
    """Draws a person frame by frame, and feeds the generator its last frames; made by load_synthesizer.

    backend: what computes and in which arithmetic, "openvino bf16". reason: a sentence that says why it was taken.
    device: the GPU's name, or the number of the processor's threads. on_gpu: whether it computes there. precision: "float32",
    "bfloat16" or "int8".
    """

    def __init__(self, inputs: Inputs, make: Callable[[int, int], Backend], first: Backend, size: int, reason: str, device: torch.device):
        self._inputs, self._make = inputs, make
        self._backends: dict[tuple[int, int], Backend] = {(size, size): first}
        self.backend, self.reason, self.device = first.name, reason, device_name(device)
        self.on_gpu = device.type == "cuda"
        self.precision = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}[first.name.split()[-1]]
        self.reset()

    def reset(self) -> None:
        """Forget all earlier frames: the next one is the first of a sequence."""
        self._conditioning: deque[list[np.ndarray]] = deque(maxlen=self._inputs.frames)
        self._previous: Any = None

    def step(self, nmfc: np.ndarray, gaze: np.ndarray) -> np.ndarray:
        """The next frame of a sequence.

        nmfc, gaze: uint8 [H, W, 3], sides multiples of 2^n_downsample_G; gaze is ignored by a run without eye gaze. The first frame of
            another size than the run's takes longer.
        Returns: uint8 [H, W, 3] RGB.
        """
        current = [np.ascontiguousarray(x) for x in ((nmfc, gaze) if self._inputs.eye_gaze else (nmfc,))]
        # before the first frame: its own conditioning
        self._conditioning.extend([current] * (1 if self._conditioning else self._inputs.frames))
        images = [np.stack(kind) if len(kind) > 1 else kind[0][None] for kind in zip(*self._conditioning)]
        image, self._previous = self._backend(*nmfc.shape[:2])(images, self._previous)
        return image

    def _backend(self, height: int, width: int) -> Backend:
        if (height, width) not in self._backends:
            while len(self._backends) >= _MOST_SIZES:
                del self._backends[next(iter(self._backends))]
            self._backends[height, width] = self._make(height, width)
        return self._backends[height, width]


def load_synthesizer(
    run: Run,
    run_options: Mapping[str, Any],
    which_epoch: str = "latest",
    *,
    appearance: Appearance | None = None,
    backend: str = "auto",
    gpu_ids: str | None = None,
    precision: str = "auto",
    threads: int | None = None,
    examples: Callable[[], list[tuple[np.ndarray, np.ndarray]]] | None = None,
) -> Synthesizer:
    """Load the generator of a run.

    run, run_options: the trained run and its options (models.checkpoints.read_run_options), whose loadSize is the pictures' size; of the
        run's folder only opt.txt and the generator's weights are read, so Run(folder, folder) will do.
    which_epoch: 'latest' or an epoch.
    appearance: the looks of the person to draw (Appearance.read(run.appearance_path(name))), for a run whose options have `appearance`.
    backend: one of util.device.BACKENDS. 'auto' is the recorded CUDA graph where there is a GPU; else the faster of PyTorch and the
        engine for processors that is installed, OpenVINO or ONNX Runtime, each tried for a moment.
    gpu_ids, precision: as in util.device; OpenVINO's 'auto' precision is bf16 where the processor has it; ONNX Runtime knows fp32 only.
    threads: of the processor, for OpenVINO and ONNX Runtime (None: as they choose).
    examples: makes the conditioning images (nmfc, gaze) of some frames, as `step` takes them, of loadSize. With them OpenVINO's 'auto'
        precision is 8-bit integers, at a third less time than bf16 and less than half of fp32's (models.backends.int8).
    Raises: UserError when the checkpoint is missing or does not fit the options exactly, or the back end cannot run here.
    """
    if run_options["appearance"] and appearance is None:
        raise ValueError("this run's generator needs the person's appearance")
    appearance = appearance if run_options["appearance"] else None
    device = check_backend(backend, gpu_ids, precision)
    generator = build_generator(run_options)
    load_generator(generator, run, which_epoch)
    network = FrameNetwork(generator, Inputs.of(run_options), appearance).eval()
    size, inputs = run_options["loadSize"], network.inputs

    def example_inputs() -> list[list[np.ndarray]]:
        return [[np.stack([image] * inputs.frames) for image in pair[: 1 + inputs.eye_gaze]] for pair in examples()]

    # a generator that sees its earlier frames would see their errors
    quantizable = None if examples is None or inputs.previous else example_inputs
    key = _key(run, run_options, which_epoch, appearance)
    conditions = Conditions(network, device, precision, threads, key, quantizable, size)
    if backend == "auto" and device.type == "cpu":
        kind, first, reason = take_fastest(conditions, size)
    else:
        kind = "cuda" if backend == "auto" else backend
        first = make_backend(kind, conditions, size, size)
        reason = f"{first.name}, as there is a GPU" if backend == "auto" else f"{first.name}, as asked for"
    return Synthesizer(inputs, lambda h, w: make_backend(kind, conditions, h, w), first, size, reason, device)


def _key(run: Run, run_options: Mapping[str, Any], which_epoch: str, appearance: Appearance | None) -> str:
    """What a generator is made from, as a text."""
    options = {name: run_options[name] for name in PUBLISHED_OPTIONS}
    arrays = () if appearance is None else (appearance.colours, appearance.backdrop)
    looks = [sha256_of_bytes(x.tobytes()) for x in arrays if x is not None]
    return repr((sha256_of(run.network_path("G", which_epoch)), options, looks))
