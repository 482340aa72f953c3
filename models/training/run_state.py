"""A run's training state on disk: reads it whole or says what is wrong, and writes anew what can be made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from models.checkpoints import file_fault, read_iteration, read_opt_txt, read_tensors, write_run_options, write_tensors
from models.head2head_model import Head2HeadModel
from models.training.progress import Progress
from util.cli import UserError, warn
from util.image_io import write_bytes
from util.layout import Run

_PARTS = ("networks", "average", "optimizers", "rng", "progress", "epochs", "finished")


def read_state(files: Run) -> tuple[dict[str, Any] | None, str | None]:
    """A run's state, and what is wrong with its file as the beginning of a sentence: (state, None), (None, fault), or (None, None)
    where there is none."""
    if not files.state_path.is_file():
        return None, None
    try:
        state = read_tensors(files.state_path, remedy="")
        if any(part not in state for part in _PARTS):
            raise TypeError
        Progress(**state["progress"])
        latest_networks(state)["G"].values()
        if state["rng"].dtype != torch.uint8 or not isinstance(state["epochs"], int):
            raise TypeError
    except UserError as e:
        return None, str(e)
    except (TypeError, KeyError, AttributeError, RuntimeError):
        return None, f"{files.state_path} is not the state of a training"
    return state, None


def latest_networks(state: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of the checkpoint `latest` by the networks' labels; the generator's are the moving average, where there is one."""
    networks = dict(state["networks"])
    if state["average"] is not None:
        networks["G"] = state["average"]["network"]
    return networks


def write_iteration(files: Run, state: dict[str, Any]) -> None:
    position = state["progress"]
    write_bytes(files.iteration_path, f"{position['epoch'] + 1}\n{position['clip']}\n".encode())


def mend(files: Run, state: dict[str, Any]) -> None:
    """Write anew from the state, with a warning, what else belongs to the run and is missing or damaged; damaged weights are kept aside."""
    for label, weights in latest_networks(state).items():
        path = files.network_path(label)
        fault = file_fault(path, {k: v.shape for k, v in weights.items()})
        if fault:
            kept = f" (what was there is now {set_aside(path).name})" if path.exists() else ""
            write_tensors(path, weights)
            warn(f"{fault}: written anew from {files.state_path.name}{kept}")
    if read_iteration(files) is None:
        write_iteration(files, state)
    if "options" in state and read_opt_txt(files) is None:
        write_run_options(files, state["options"])
        warn(f"{files.options_path} was missing or damaged: written anew")


def set_aside(path: Path) -> Path:
    """Rename a damaged file to a name that is free, `<name>.damaged`, which is returned."""
    kept, number = path.with_name(f"{path.name}.damaged"), 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.damaged{number}")
    return path.rename(kept)


def optimizers_fit(model: Head2HeadModel, states: dict[str, Any]) -> bool:
    """Whether saved optimisers belong to weights of the model's shapes (PyTorch finds that out at the first step, if at all)."""
    try:
        for name, optimizer in model.optimizers.items():
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            saved = [i for group in states[name]["param_groups"] for i in group["params"]]
            if len(weights) != len(saved):
                return False
            for index, moments in states[name]["state"].items():
                if any(moments[key].shape != weights[saved.index(index)].shape for key in ("exp_avg", "exp_avg_sq")):
                    return False
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return True
