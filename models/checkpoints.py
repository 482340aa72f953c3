"""Weights in the original's key layout, and the options that a run was trained with."""

from __future__ import annotations

import errno
import io
import json
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.cli import UserError, warn_once
from util.image_io import replacing, write_bytes
from util.layout import Run
from util.stored import has_type, load_json

# What a run is made of when its folder does not say (checkpoints of the original): the published architecture.
PUBLISHED_OPTIONS: dict[str, Any] = {
    "loadSize": 256,
    "ngf": 64,
    "n_downsample_G": 3,
    "n_blocks": 9,
    "margin": 0,
    "prev_output": True,
    "eye_gaze": True,
    "appearance": False,
    "conditioning_frames": 3,
    "half": False,
    "ROI_size": 72,
}
# What these may be; far beyond what any run has, but short of what no memory holds.
_LIMITS = {
    "loadSize": (1, 8192),
    "ngf": (1, 1024),
    "n_downsample_G": (0, 8),
    "n_blocks": (1, 99),
    "margin": (0, 8192),
    "conditioning_frames": (1, 3),
    "ROI_size": (1, 8192),
}
_MOST_CHANNELS = 4096  # of the generator, where the image is smallest
_SHOWN = 10  # keys listed in a message
_REMEDY = "fetch or make it again"
_WRAPPERS = ("module", "_orig_mod")


def read_tensors(path: str | Path, lazily: bool = False, remedy: str = _REMEDY) -> Any:
    """Read what torch.save wrote, tensors and plain containers only (`weights_only`), onto the CPU.

    lazily: leave the tensors' values in the file, unchecked, until they are used (the file must stay as it is meanwhile).
    remedy: what the message tells to do with a file that is there but of no use; empty: nothing, the caller goes on.
    Raises: UserError when the file is missing, damaged (its checksums are compared) or no such file.
    """
    path = Path(path)
    try:
        if not lazily:
            _compare_checksums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice for those who write the call, not for those who have the file
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; train first, or put the file there") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a checkpoint file") from None
    except MemoryError:
        raise
    except Exception as e:  # damaged bytes lead to any of a dozen
        if isinstance(e, OSError) and e.errno not in (None, errno.EINVAL):  # not what it holds: it cannot be read
            raise
        fault = _describe_fault(path, e)
        if fault.startswith("contains code") and remedy == _REMEDY:
            remedy = "get the weights as a plain state dict"
        raise UserError(_join(f"{path} {fault}", remedy)) from None


def _compare_checksums(path: Path) -> None:
    """Raise a zipfile.BadZipFile when a file in PyTorch's present format is damaged; PyTorch itself does not look at the values."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if file.testzip():
                raise zipfile.BadZipFile


def _join(fault: str, remedy: str) -> str:
    return f"{fault}; {remedy}" if remedy else fault


def _describe_fault(path: Path, error: Exception) -> str:
    """What is wrong with a file that PyTorch does not read, as a verb and more."""
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return "is empty"
    code = None
    if not isinstance(error, zipfile.BadZipFile):
        code = "a TorchScript program" if "TorchScript" in str(error) else _find_code(path)
    if code:
        return f"contains code ({code}) and is not loaded, as that could do anything on this machine"
    if start.startswith((b"PK", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")):  # PyTorch's formats, of today and of before 1.6
        return "is cut off or damaged"
    return "holds something else than a checkpoint"


def _find_code(path: Path) -> str | None:
    """The first thing in a pickle, alone or in a file of torch.save, that loading it would call beyond what tensors need; runs nothing."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                stream = io.BytesIO(file.read(next(name for name in file.namelist() if name.endswith("data.pkl"))))
        else:
            stream = io.BytesIO(path.read_bytes())
        for _ in range(4):  # before PyTorch 1.6, the content was the fourth pickle of the file
            texts: list[str] = []
            called = []
            for opcode, value, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    called.append(value.replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    called.append(".".join(texts[-2:]))
                elif isinstance(value, str):
                    texts.append(value)
            for name in called:  # of a whole pickle: text, too, may begin like one
                if not (name.startswith("torch._utils._rebuild") or name == "collections.OrderedDict" or name.endswith("Storage")):
                    return name
    except (ValueError, IndexError, KeyError, StopIteration, zipfile.BadZipFile, OSError):  # the end, or no pickle
        pass
    return None


def file_fault(path: Path, shapes: dict[str, torch.Size] | None = None) -> str | None:
    """What is wrong with a file of weights, as the beginning of a sentence; None when it is whole.

    shapes: of the tensors that it must hold, by key; None: any.
    """
    if not path.is_file():
        return f"{path} is missing"
    try:
        weights = read_weights(path, remedy="")
    except UserError as e:
        return str(e)
    if shapes is not None and {k: v.shape for k, v in weights.items()} != shapes:
        return f"{path} is of another network"
    return None


def write_tensors(path: str | Path, value: Any) -> None:
    """torch.save in one step: the file is there whole, or not at all. Raises: UserError when it cannot be written."""
    with replacing(path) as part:
        try:
            with part.open("wb") as file:
                torch.save(value, file)
        except RuntimeError as e:  # PyTorch fails once more after the system's error, which says why
            cause: BaseException | None = e
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise (cause or e) from None


def read_weights(path: str | Path, remedy: str = _REMEDY) -> dict[str, torch.Tensor]:
    """Read a state dict; one under the key `state_dict` (FlowNet2's) is taken as well. Raises: UserError as read_tensors, or when
    the file holds something else."""
    weights = read_tensors(path, remedy=remedy)
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise UserError(_join(f"{path} holds no network weights (a state dict is expected)", remedy))
    return weights


def load_weights(module: nn.Module, path: str | Path, remedy: str = _REMEDY) -> None:
    """Load a state dict strictly.

    A file with the weights under the key `state_dict` (FlowNet2's) is taken as well, and so are the names that PyTorch's wrappers
    give (`module.` of the parallel ones, `_orig_mod.` of torch.compile). remedy: as read_tensors.
    Raises: UserError when the file is no state dict, or when a key is missing, unknown or of another shape; the message lists
        the keys, and the module is left as it was.
    """
    weights = _unwrapped(read_weights(path, remedy), module)
    try:
        check_keys(module, {k: v.shape for k, v in weights.items()}, str(path))
    except UserError as e:
        raise UserError(_join(str(e), remedy)) from None
    module.load_state_dict(weights)


def _unwrapped(weights: dict[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights without the wrappers' parts of their names, where the module does not have these itself."""
    expected = module.state_dict().keys()
    plain = {k if k in expected else ".".join(p for p in str(k).split(".") if p not in _WRAPPERS): v for k, v in weights.items()}
    return plain if len(plain) == len(weights) else weights  # else two would become one


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

    opt.txt of the original ("name: value" lines) is understood; what is not said is as published (PUBLISHED_OPTIONS), everything where
    there is no opt.txt. When it is lost or damaged, the training state's copy is taken.
    Raises: UserError when the run's folder is missing, or when opt.txt is damaged and the state has no copy.
    """
    if not run.checkpoints.is_dir():
        raise UserError(f"there is no trained run {run.checkpoints}; train it first (./scripts/train/train_on_target.sh)")
    options = recorded_options(run)
    if options is None and run.options_path.is_file():
        raise UserError(
            f"{run.options_path} is damaged, and no {run.state_path.name} here holds a copy; put a whole one there, delete it if the "
            "networks are the published ones, or run train.py with the run's options and --continue_train, which writes it anew"
        )
    if options is None:
        warn_once(f"there is no {run.options_path}: the networks are taken for the published ones")
    options = {**PUBLISHED_OPTIONS, **(options or {})}
    for name, usual in PUBLISHED_OPTIONS.items():
        if not has_type(options[name], type(usual)) or not _is_within(name, options[name]):
            raise UserError(f"{run.options_path} is damaged: {name} cannot be {str(options[name])[:40]!r}; put a whole one there")
    if options["ngf"] << options["n_downsample_G"] > _MOST_CHANNELS or options["half"] and not options["n_downsample_G"]:
        raise UserError(f"{run.options_path} is damaged: no network has such ngf, n_downsample_G and half; put a whole one there")
    return options


def _is_within(name: str, value: Any) -> bool:
    low, high = _LIMITS.get(name, (False, True))
    return low <= value <= high


def recorded_options(run: Run) -> dict[str, Any] | None:
    """The options that a run's opt.txt holds, or, with a warning, the training state's copy; None when neither can be read."""
    options = read_opt_txt(run)
    if options is None and run.state_path.is_file():
        try:
            state = read_tensors(run.state_path, lazily=True)
            options = state["options"] if isinstance(state["options"], dict) else None
        except (UserError, KeyError, TypeError, IndexError):
            return None
        state_of_file = "damaged" if run.options_path.is_file() else "missing"
        warn_once(f"{run.options_path} is {state_of_file}: the run's options are taken from {run.state_path.name}")
    return options


def read_opt_txt(run: Run) -> dict[str, Any] | None:
    """What opt.txt says, ours or the original's; None when it is missing or damaged."""
    try:
        text = run.options_path.read_text()
        options = load_json(text)
        return options if isinstance(options, dict) else None
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return None
    except ValueError:
        return None if text.lstrip().startswith("{") else _original_options(text) or None


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


def read_iteration(run: Run) -> int | None:
    """Complete epochs according to iter.txt (the number of the epoch begun, then of its clips done); None when it does not say."""
    try:
        return max(0, int(run.iteration_path.read_text().replace(",", " ").split()[0]) - 1)
    except (OSError, ValueError, IndexError):
        return None


def numbered_checkpoints(run: Run) -> list[int]:
    """The epochs with a numbered checkpoint of the generator, ascending."""
    names = (path.name.removesuffix("_net_G.pth") for path in run.checkpoints.glob("*_net_G.pth"))
    return sorted(int(name) for name in names if name.isdecimal())


def generator_remedy(run: Run, which_epoch: str | int = "latest") -> str:
    """What to do when the generator of this epoch is missing or of no use, by what else the run's folder holds; '' if that is nothing."""
    others = [epoch for epoch in numbered_checkpoints(run) if str(epoch) != str(which_epoch)]
    ways = []
    if which_epoch == "latest" and run.state_path.is_file():
        try:
            read_tensors(run.state_path)
            ways.append(f"run the training command of this run again, which writes it anew from {run.state_path.name}")
        except UserError:
            pass
    if others:
        ways.append(f"take the checkpoint of another epoch, --which_epoch {others[-1]} (there: {', '.join(map(str, others))})")
    elif which_epoch != "latest" and run.network_path("G").is_file():
        ways.append("take the latest, without --which_epoch")
    return ", or ".join(ways)


def load_generator(generator: nn.Module, run: Run, which_epoch: str | int) -> None:
    """load_weights of a run's generator. Raises: UserError that says what can be done with what else the run's folder holds."""
    try:
        load_weights(generator, run.network_path("G", which_epoch), remedy="")
    except UserError as e:
        remedy = generator_remedy(run, which_epoch)
        raise UserError(_join(str(e), remedy or "train again, or fetch it again")) from None
