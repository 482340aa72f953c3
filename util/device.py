"""Which device the networks run on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from util.cli import UserError, say, warn

if TYPE_CHECKING:
    import torch

BACKENDS = ("auto", "cuda", "openvino", "onnx", "torch")  # what runs a trained generator (models.synthesis.load_synthesizer)


def choose_device(gpu_ids: str = "auto", local_rank: int = 0) -> torch.device:
    """Turn `--gpu_ids` into a device.

    gpu_ids: 'auto': the first CUDA GPU, or the CPU (said in one line) when there is none; a negative number: the CPU; a number:
        that GPU. Of a list (0,1) each process takes one; those left over are named in a warning.
    local_rank: the process's number among those of this machine, from 0.
    Raises: UserError when a GPU is asked for that is not there (never a silent fall back), or the text is no such list.
    """
    import torch

    if gpu_ids == "auto":
        if torch.cuda.is_available():
            if local_rank >= torch.cuda.device_count():
                raise UserError(
                    f"this machine has {torch.cuda.device_count()} usable CUDA GPU(s), which are fewer than the processes; start as many"
                )
            return torch.device("cuda", local_rank)
        say("no CUDA GPU here: running on the CPU")
        return torch.device("cpu")
    try:
        ids = [int(x) for x in gpu_ids.split(",")]
    except ValueError:
        raise UserError(f"--gpu_ids '{gpu_ids}' is neither auto nor a number (0, 1, ...; -1 for the CPU)") from None
    if ids[0] < 0:
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    missing = [i for i in ids if i >= found]
    if missing:
        raise UserError(f"--gpu_ids {gpu_ids}: this machine has {found} usable CUDA GPU(s); use --gpu_ids -1 for the CPU or auto")
    if local_rank >= len(ids):
        raise UserError(f"--gpu_ids {gpu_ids} names fewer GPUs than there are processes; name one for each, or leave the option out")
    if len(ids) > int(os.environ.get("LOCAL_WORLD_SIZE", 1)):
        warn(f"--gpu_ids {gpu_ids}: one process uses one GPU, taking {ids[local_rank]}; for several, start train.py with torchrun (GPUS=2)")
    return torch.device("cuda", ids[local_rank])


def device_name(device: torch.device) -> str:
    """What computes, for records: the GPU's name, or the number of the processor's threads."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Turn `--precision` into the type of the networks' arithmetic: torch.bfloat16 (autocast) or torch.float32.

    'auto' is bf16 on a GPU that computes in it (NVIDIA: Ampere and later), else fp32 (convolutions in TF32 where a GPU has that).
    """
    import torch

    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
