"""OpenVINO's core: one for the whole process."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino


@cache
def openvino_core() -> openvino.Core:
    """The core, made at the first call and never freed.

    A core takes over the stack on which its thread handles signals, and puts the former one back when it is freed. Of two that are freed in
    the order in which they were made, the second puts back a stack that is gone: the next Ctrl-C is a segmentation fault (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()
