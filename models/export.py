"""A trained generator as a file for other programs: ONNX, or OpenVINO's own format."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.backends.network import GAZE, IMAGE, NMFC, PREVIOUS, FrameNetwork, Inputs
from models.backends.openvino_core import openvino_core
from models.checkpoints import PUBLISHED_OPTIONS, load_generator
from models.networks import build_generator
from util import VERSION
from util.cli import UserError, writing
from util.face.appearance import Appearance
from util.hashing import sha256_of
from util.layout import Run
from util.part_files import begin_part

FORMATS = ("onnx", "openvino")
_FILES = {"onnx": "generator.onnx", "openvino": "generator.xml"}
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
_FACTS = "generator.json"
_FORMAT = "head2head generator 1"
_LARGEST_ERROR = 2  # grey levels that a pixel of the exported generator may differ from PyTorch's; rounding makes 1
_FRAMES = 2  # random ones that are compared
_MEANING = {
    NMFC: "NMFC images (docs/formats.md), RGB",
    GAZE: "eye gaze images, RGB",
    PREVIOUS: "the last two generated frames, -1 to 1: zeros for the first frame, then next_previous of the frame before",
    IMAGE: "the generated frame, RGB",
    f"next_{PREVIOUS}": "what to give as previous with the next frame",
}


def export_generator(
    run: Run,
    run_options: Mapping[str, Any],
    format: str,
    folder: Path,
    *,
    which_epoch: str = "latest",
    appearance: Appearance | None = None,
    person: str | None = None,
) -> dict[str, Any]:
    """Write a run's generator into a folder: the file itself, generator.json that describes its inputs, and a README.md.

    The folder appears whole or not at all; an earlier export in its place is replaced. The file is checked against PyTorch before.
    run_options: of the run; its loadSize is the pictures' size, which is fixed in the file. format: one of FORMATS.
    appearance, person: the looks of the person to draw, which become part of the file, and the name, for a run that needs them.
    Returns: what generator.json says.
    Raises: UserError when the checkpoint is missing or does not fit, there is something else in the folder, or it cannot be written.
    """
    for package in _PACKAGES[format]:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--format {format} needs the package {package}; install it with: pip install {package}")
    if folder.exists() and not (folder / _FACTS).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there, and is no earlier export; choose another --output")
    generator = build_generator(run_options)
    load_generator(generator, run, which_epoch)
    size = run_options["loadSize"]
    network = FrameNetwork(generator, Inputs.of(run_options), appearance if run_options["appearance"] else None).of_size(size, size).eval()
    part = begin_part(folder, is_folder=True)
    try:
        with writing(folder):
            part.mkdir()
        with writing(folder):
            _write(network, size, format, part / _FILES[format])
        facts = {
            "format": _FORMAT,
            "head2head": VERSION,
            "file": _FILES[format],
            "inputs": [_described(name, network.inputs, size) for name in network.inputs.names()],
            "outputs": [_described(name, network.inputs, size) for name in (IMAGE, *[f"next_{PREVIOUS}"] * network.inputs.previous)],
            "person": person,
            "checkpoint": sha256_of(run.network_path("G", which_epoch)),
            "options": {name: run_options[name] for name in PUBLISHED_OPTIONS},
            "difference_from_pytorch": _difference(network, size, format, part / _FILES[format]),
        }
        with writing(folder):
            (part / _FACTS).write_text(json.dumps(facts, indent=1) + "\n")
            (part / "README.md").write_text(_readme(facts))
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return facts


def _write(network: FrameNetwork, size: int, format: str, path: Path) -> None:
    if format == "onnx":
        from models.backends.onnx_engine import convert

        path.write_bytes(convert(network, size, size))
    else:
        import openvino

        from models.backends.openvino_engine import convert

        openvino.save_model(convert(network, size, size), path, compress_to_fp16=False)


def _difference(network: FrameNetwork, size: int, format: str, path: Path) -> dict[str, float]:
    """How far the file's pictures are from PyTorch's, grey levels. Raises: UserError when that is too far."""
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

        def draw(given: list[np.ndarray]) -> np.ndarray:
            return session.run([IMAGE], dict(zip(network.inputs.names(), given)))[0]

    else:
        model = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def draw(given: list[np.ndarray]) -> np.ndarray:
            return model(given)[0]

    differences = []
    for seed in range(_FRAMES):
        given = network.inputs.example(size, size, seed)
        with torch.inference_mode():
            expected = network(*map(torch.from_numpy, given))[0].numpy()
        differences.append(np.abs(draw(given).astype(int) - expected))
    found = {"mean": round(float(np.mean(differences)), 5), "largest": int(np.max(differences))}
    if found["largest"] > _LARGEST_ERROR:
        raise UserError(
            f"the exported generator's pictures differ from PyTorch's by up to {found['largest']} grey levels, so nothing was written; "
            f"try the other format (--format {next(f for f in FORMATS if f != format)}), and report it"
        )
    return found


def _described(name: str, inputs: Inputs, size: int) -> dict[str, Any]:
    if name == IMAGE:
        kind, shape = "uint8", (size, size, 3)
    else:
        kind, shape = ("float32" if PREVIOUS in name else "uint8"), inputs.shape(name.removeprefix("next_"), size, size)
    several = f"; of {inputs.frames} frames, the current one last (before the first frame: itself)" if name in (NMFC, GAZE) else ""
    return {"name": name, "type": kind, "shape": list(shape), "meaning": _MEANING[name] + (several if inputs.frames > 1 else "")}


def _readme(facts: Mapping[str, Any]) -> str:
    rows = [
        f"| {kind} | `{x['name']}` | {x['type']} {x['shape']} | {x['meaning']} |" for kind in ("input", "output") for x in facts[f"{kind}s"]
    ]
    who = f" of {facts['person']}" if facts["person"] else ""
    return f"""# A generator{who}

`{facts["file"]}` draws a person from conditioning images, frame after frame. Written by Head2Head {facts["head2head"]}; `{_FACTS}` says
the same for programs. Its pictures differ from PyTorch's by {facts["difference_from_pytorch"]["mean"]} grey levels in the mean.

| | name | type and shape | what it is |
|---|---|---|---|
{chr(10).join(rows)}

What it draws is synthetic: use it only with the consent of the person it draws and of whoever drives it, and say so wherever it is shown.
"""
