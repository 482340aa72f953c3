"""Loads the CUDA kernels of this package's operators (csrc/), and decides when they are used."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from util.cli import say, warn
from util.extensions import Extension, ExtensionError

_SOURCES = ("common.cuh", "correlation.cu", "resample2d.cu", "channelnorm.cu")
FLOW_OPS = Extension("flow_ops", [Path(__file__).parent / "csrc" / name for name in _SOURCES])
_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_told: set[int] = set()  # GPUs for which it was said what runs


def _constant_when_compiled(function: Callable) -> Callable:
    """As torch.compiler.assume_constant_result, which sets this mark but imports torch._dynamo for it, seconds at every command's start."""
    function._dynamo_marked_constant = True
    return function


def take_kernels(operator: str, impl: str, x: Tensor) -> bool:
    """Whether a call whose main input is x runs the CUDA kernel (True) or plain PyTorch.

    impl: 'cuda', 'ref' or 'auto' (the kernel where it can run; which it is, is said once for every GPU).
    Raises: ValueError for another impl; RuntimeError, with the cause, when the kernel is asked for and cannot run.
    """
    if impl not in ("auto", "cuda", "ref"):
        raise ValueError(f"impl is 'auto', 'cuda' or 'ref', not {impl!r}")
    if impl == "ref":
        return False
    if x.device.type != "cuda":
        cause = f"the tensors lie on {x.device.type}, not on a CUDA GPU"
    elif x.dtype not in _TYPES:
        cause = f"it takes float32, float16 and bfloat16, not {x.dtype}"
    elif impl == "auto":
        return _kernels_work(x.device.index)
    else:
        cause = kernels_fault(x.device.index)
    if impl == "cuda" and cause is not None:
        raise RuntimeError(f"the CUDA kernel of {operator} cannot run: {cause}")
    return cause is None


@_constant_when_compiled
def kernels_fault(device: int) -> str | None:
    """Why the kernels cannot run on that GPU (None: they can). The first call loads them, and builds them if need be."""
    try:
        _library(device)
    except ExtensionError as e:
        return str(e)
    return None


@_constant_when_compiled
def _kernels_work(device: int) -> bool:
    cause = kernels_fault(device)
    if device not in _told:
        _told.add(device)
        if cause is None:
            say(f"optical flow operators on cuda:{device}: CUDA kernels")
        else:
            warn(f"optical flow operators on cuda:{device}: plain PyTorch, slower, because {cause}")
    return cause is None


@cache
def _library(device: int) -> ctypes.CDLL:
    if torch.version.hip:
        raise ExtensionError("this PyTorch is for AMD GPUs, the kernels are for CUDA")
    arch = "{}.{}".format(*torch.cuda.get_device_capability(device))
    library = FLOW_OPS.load(arch)
    library.check.restype = ctypes.c_char_p
    if error := library.check(ctypes.c_int64(device)):
        FLOW_OPS.refuse(arch, f"{FLOW_OPS.path(arch)} does not run here: {error.decode()}; is the driver older than the CUDA compiler?")
        return FLOW_OPS.load(arch)  # raises it
    return library


def launch(function: str, x: Tensor, *arguments: Tensor | int | None) -> None:
    """Run a function of the library (csrc/): on x's GPU and its current stream, for x's type, then the arguments in order."""
    device = x.device.index
    call = getattr(_library(device), function)
    call.restype = ctypes.c_char_p
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        error = call(ctypes.c_int64(device), ctypes.c_void_p(stream), ctypes.c_int64(_TYPES[x.dtype]), *map(_as_c, arguments))
    if error:
        raise RuntimeError(f"{function} on cuda:{device}: {error.decode()}")


def _as_c(value: Tensor | int | None) -> ctypes.c_void_p | ctypes.c_int64:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_void_p() if value is None else ctypes.c_int64(value)
