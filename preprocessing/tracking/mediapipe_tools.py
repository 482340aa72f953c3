"""Starts MediaPipe's native graphs without the remarks that they print on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from util.cli import UserError
from util.installation import TRACKER, this_interpreter


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Drop what native code writes to file descriptor 2; Python's exceptions are printed later and stay visible."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(nothing)
        os.close(kept)


def load_solutions() -> ModuleType:
    """mediapipe.solutions. Raises: UserError when MediaPipe is not installed or too new to have them."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # errors only
    try:
        with silent_stderr():
            import mediapipe

        return mediapipe.solutions
    except (ImportError, AttributeError) as e:
        fix = f"install it with: pip install --no-deps {TRACKER.lower().replace(' ', '==')}"
        if not this_interpreter().has_tracker():
            fix = f"{TRACKER} has no package for {this_interpreter()}: take Python 3.10 to 3.12 on macOS, or on x86-64 Linux or Windows"
        raise UserError(f"MediaPipe cannot be used ({e}); {fix}") from None


def face_mesh(threads: int = 1, **options: Any) -> Any:
    """A started mediapipe.solutions.face_mesh.FaceMesh. threads: that compute the mesh of one frame; any number finds the same.

    Raises: UserError as load_solutions.
    """
    plain = load_solutions().face_mesh.FaceMesh
    if threads == 1:
        return plain(**options)
    from mediapipe.calculators.tensor.inference_calculator_pb2 import InferenceCalculatorOptions

    class FaceMesh(plain):
        def _modify_calculator_options(self, graph: Any, parameters: Any) -> None:  # MediaPipe has no option for this
            super()._modify_calculator_options(graph, parameters)
            for node in graph.node:
                if node.name.startswith("facelandmarkcpu") and node.calculator.startswith("InferenceCalculator"):
                    node.options.Extensions[InferenceCalculatorOptions.ext].delegate.xnnpack.num_threads = threads

    return FaceMesh(**options)
