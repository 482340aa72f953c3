"""Weights in the original's key layout, and the options that a run was trained with."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.cli import UserError
from util.image_io import replacing, write_bytes
from util.layout import Run

# What a run is made of when its folder does not say (checkpoints of the original): the published architecture.
PUBLISHED_OPTIONS: dict[str, Any] = {
    "loadSize": 256,
    "ngf": 64,
    "n_downsample_G": 3,
    "n_blocks": 9,
    "margin": 0,
    "prev_output": True,
    "eye_gaze": True,
    "ROI_size": 72,
}
_SHOWN = 10  # keys listed in a message


def read_tensors(path: str | Path, lazily: bool = False) -> Any:
    """Read what torch.save wrote, tensors and plain containers only (`weights_only`), onto the CPU.

    lazily: leave the tensors' values in the file until they are used (the file must stay as it is meanwhile).
    Raises: UserError when the file is missing or is no such file.
    """
    path = Path(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; train first, or put the file there") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a checkpoint file") from None
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, ImportError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(f"{path} is not a checkpoint of network weights, or is damaged ({reason[:120]}); fetch or make it again") from None


def write_tensors(path: str | Path, value: Any) -> None:
    """torch.save in one step: the file is there whole, or not at all."""
    with replacing(path) as part:
        torch.save(value, part)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a state dict strictly.

    A file with the weights under the key `state_dict` (FlowNet2's) is taken as well.
    Raises: UserError when the file is no state dict, or when a key is missing, unknown or of another shape; the message lists
        the keys, and the module is left as it was.
    """
    weights = read_tensors(path)
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise UserError(f"{path} holds no network weights (a state dict is expected)")
    check_keys(module, {k: v.shape for k, v in weights.items()}, str(path))
    module.load_state_dict(weights)


def check_keys(module: nn.Module, shapes: dict[str, torch.Size], source: str, wanted: str | None = None) -> None:
    """Raise a UserError that lists the keys of `source` that do not fit the module's state dict (`wanted`: the module in words)."""
    expected = {k: v.shape for k, v in module.state_dict().items()}
    missing = [k for k in expected if k not in shapes]
    unknown = [k for k in shapes if k not in expected]
    misshapen = [f"{k} {list(shapes[k])} instead of {list(s)}" for k, s in expected.items() if k in shapes and shapes[k] != s]
    faults = [
        f"{title}: {_listed(keys)}" for title, keys in (("missing", missing), ("wrong shape", misshapen), ("unknown", unknown)) if keys
    ]
    if faults:
        raise UserError(f"{source} does not fit {wanted or type(module).__name__}; " + "; ".join(faults))


def _listed(keys: list[str]) -> str:
    rest = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} keys ({', '.join(keys[:_SHOWN])}{rest})"


def save_weights(module: nn.Module, path: str | Path) -> None:
    """Write the module's state dict, contiguous and on the CPU, in one step."""
    write_tensors(path, snapshot(module.state_dict()))


def snapshot(value: Any) -> Any:
    """Copy a nest of dicts, lists and tensors to the CPU; tensors that share their memory still do (a block with two names)."""
    copies: dict[tuple, torch.Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            key = (value.device, value.data_ptr(), value.shape, value.dtype)
            if key not in copies:
                # page-locked memory, which PyTorch keeps for the next time: copies from a GPU are ten times as fast
                copies[key] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda).copy_(value.detach(), non_blocking=True)
            return copies[key]
        if isinstance(value, dict):
            return {k: copied(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(copied(v) for v in value)
        return value

    result = copied(value)
    if any(device.type == "cuda" for device, *_ in copies):
        torch.cuda.synchronize()
    return result


def write_run_options(run: Run, options: dict[str, Any]) -> None:
    """Write opt.txt: all options of a training run as JSON."""
    write_bytes(run.options_path, (json.dumps(options, indent=1, default=str) + "\n").encode())


def read_run_options(run: Run) -> dict[str, Any]:
    """The options of a training run, from which its generator is rebuilt (models.networks.build_generator).

    opt.txt of the original ("name: value" lines) is understood; what is not said is as published (PUBLISHED_OPTIONS).
    Raises: UserError when the run's folder is missing.
    """
    if not run.checkpoints.is_dir():
        raise UserError(f"there is no trained run {run.checkpoints}; train it first (./scripts/train/train_on_target.sh)")
    try:
        text = run.options_path.read_text()
    except FileNotFoundError:
        return dict(PUBLISHED_OPTIONS)
    try:
        return {**PUBLISHED_OPTIONS, **json.loads(text)}
    except ValueError:
        return {**PUBLISHED_OPTIONS, **_original_options(text)}


def _original_options(text: str) -> dict[str, Any]:
    """What matters of an opt.txt of the original: lines "name: value"; its negative flags are turned round."""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    given = {k.strip(): v.strip() for k, v in lines.items()}
    found: dict[str, Any] = {}
    for name in ("loadSize", "ngf", "n_downsample_G", "n_blocks", "ROI_size"):
        if given.get(name, "").isdigit():
            found[name] = int(given[name])
    for name in ("prev_output", "eye_gaze"):
        if f"no_{name}" in given:
            found[name] = given[f"no_{name}"] != "True"
    return found


def read_iteration(run: Run) -> int:
    """Complete epochs according to iter.txt (the number of the epoch begun, then of its clips done); 0 when it does not say."""
    try:
        return max(0, int(run.iteration_path.read_text().replace(",", " ").split()[0]) - 1)
    except (OSError, ValueError, IndexError):
        return 0
