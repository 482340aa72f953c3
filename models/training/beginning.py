"""Starts a run: new, resumed exactly, or from weights; and checks that the folder belongs to the same run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from models.checkpoints import (
    PUBLISHED_OPTIONS,
    check_keys,
    file_fault,
    generator_remedy,
    load_weights,
    numbered_checkpoints,
    read_run_options,
    recorded_options,
)
from models.head2head_model import Head2HeadModel
from models.schedule import Schedule
from models.training.progress import Progress
from models.training.run_state import mend, optimizers_fit, read_state, set_aside
from util.cli import UserError, say, warn
from util.layout import Run

# Options of the architecture that change no network's weights, or only say which discriminators there are (new ones start at random).
_ANY_NETWORKS = ("loadSize", "margin", "ROI_size", "mouth_D", "use_eyes_D", "n_scales_temporal")


def check_run(
    files: Run,
    options: dict[str, Any],
    facts: dict[str, Any],
    *,
    architecture: Collection[str],
    free: Collection[str],
) -> str:
    """How the run begins: 'new', 'resume' (exactly), 'weights' (of a checkpoint without its training state), or 'finished'.

    options: all options of the command by name. facts: what else opt.txt records of the data; `data` says which frames.
    architecture: options that can never change. free: options that may differ when an interrupted run goes on.
    Raises: UserError when the folder holds another run than this command describes.
    """
    continues, epoch = options["continue_train"], options["which_epoch"]
    weights = files.network_path("G", epoch)
    state, fault = read_state(files)
    if state is None:
        return _begin_without_state(files, continues, epoch, fault)
    before = recorded_options(files)
    if before is None or "data" not in before:
        unknown = f"{files.options_path} is missing, damaged or another program's: this run's options and frames are not known"
        if not continues:
            raise UserError(f"{unknown}; add --continue_train to go on with the options and frames of this command")
        warn(f"{unknown}; going on with those of this command")
        before = json.loads(json.dumps({**options, **facts}))
    now = json.loads(json.dumps({**options, **facts}))
    if before.get("data") != now["data"]:
        raise UserError(
            f"{files.checkpoints} was trained on other frames than dataset {options['dataset_name']} holds now; delete that folder, or "
            f"choose another --name (with --load_pretrain {files.checkpoints} to start from its networks)"
        )
    before = {**PUBLISHED_OPTIONS, **before}  # an older version had fewer options
    fixed = architecture if continues else [k for k in options if k not in free]
    changed = [f"--{k} was {before.get(k)}, is {now[k]}" for k in fixed if before.get(k) != now[k]]
    if changed:
        go_on = "" if continues else ", go on with --continue_train"
        raise UserError(
            f"{files.checkpoints} holds a run with other options ({'; '.join(changed)}); use the same{go_on}, or another --name"
        )
    if epoch != "latest" and continues:
        lost = file_fault(weights)
        if lost:
            raise UserError(f"{lost}; {generator_remedy(files, epoch) or 'leave --which_epoch out'}")
        return "weights"
    return "finished" if state["finished"] and state["epochs"] >= options["niter"] + options["niter_decay"] else "resume"


def _begin_without_state(files: Run, continues: bool, epoch: str, fault: str | None) -> str:
    """check_run where the state is missing, or cannot be read (`fault`, the beginning of a sentence)."""
    weights = files.network_path("G", epoch)
    lost = file_fault(weights)
    if lost is None:
        if continues:
            return "weights"
        if fault:
            raise UserError(
                f"{fault}, but the networks beside it are whole; add --continue_train to go on from them, with fresh optimisers "
                f"({files.state_path.name} is kept under another name)"
            )
        raise UserError(f"{files.checkpoints} holds a trained generator; go on with --continue_train, or choose another --name")
    found = "; ".join(filter(None, (fault, lost)))
    for number in reversed(numbered_checkpoints(files)):
        if file_fault(files.network_path("G", number)) is None:
            raise UserError(f"{found}; go on from epoch {number} with --continue_train --which_epoch {number}, or choose another --name")
    if fault or weights.is_file():
        raise UserError(
            f"{found}; nothing here can be gone on with: start anew with another --name, or after mv {files.checkpoints} "
            f"{files.checkpoints}.damaged"
        )
    if continues:
        if epoch != "latest":
            raise UserError(f"--continue_train --which_epoch {epoch}: there is no {weights}")
        say(f"nothing to continue in {files.checkpoints}: starting a new run")
    return "new"


def tell_finished(files: Run, epochs: int, niter_decay: int) -> None:
    """Say that a run is at the end of its schedule, and how it goes on. epochs: those that it has had."""
    say(
        f"{files.checkpoints} is trained to its end already (a schedule of {epochs} epochs); "
        f"to go on: --continue_train --niter {max(1, epochs - niter_decay + 1)} or more"
    )


def finish_again(files: Run, niter_decay: int, recorded: dict[str, Any], is_first: bool = True) -> None:
    """For a run that is finished: write anew what is damaged, and say how it goes on.

    recorded: for an opt.txt that is lost and of which the state has no copy.
    """
    state, fault = read_state(files)
    if state is None:  # since check_run
        raise UserError(f"{fault or files.state_path}; run again")
    if is_first:
        mend(files, {"options": recorded, **state})
    tell_finished(files, state["epochs"], niter_decay)


def check_pretrained(folder: Path, face_model: dict[str, str] | None, networks: Mapping[str, Any], which_epoch: str = "latest") -> None:
    """Check that a run can start from the run in `folder` (--load_pretrain), before anything is prepared.

    face_model: the dataset's, name and version; None when nothing records it. Where one side does not say, there is a warning.
    networks: the options of the new run's architecture.
    Raises: UserError when there is no whole generator, when the networks are others, or when that run saw the colours of another face model
        than this dataset's NMFCs were drawn with: the same colour would mean different points of the face.
    """
    run = Run(folder, folder)
    lost = file_fault(run.network_path("G", which_epoch))
    if lost:
        raise UserError(f"--load_pretrain: {lost}; {generator_remedy(run, which_epoch) or 'give the folder of a trained run'}")
    known = read_run_options(run) if recorded_options(run) else {}  # without opt.txt the weights' shapes decide
    theirs = known.get("face_model")
    if not theirs or not face_model:
        silent = f"the run {folder}" if not theirs else "the dataset"
        warn(f"--load_pretrain: {silent} does not say which face model its NMFC images were drawn with; it must be the same for both")
    elif theirs != face_model:
        a, b = (f"{m.get('name')} {m.get('version', '')}".strip() for m in (theirs, face_model))
        raise UserError(
            f"--load_pretrain {folder} was trained with face model {a}, but this dataset was fitted with {b}, which has other colours; "
            f"run preprocessing/reconstruct.py with --face_model {theirs.get('name')} on this dataset, or leave --load_pretrain out"
        )
    others = [f"--{k} was {known[k]}, is {v}" for k, v in networks.items() if k not in _ANY_NETWORKS and known.get(k, v) != v]
    if others:
        raise UserError(
            f"--load_pretrain {folder} was trained with other networks ({'; '.join(others)}); use the same, or leave --load_pretrain out"
        )


def load_state(model: Head2HeadModel, files: Run, schedule: Schedule, is_first: bool = True) -> Progress:
    """Load a run's complete state into the model and PyTorch's random generator; returns where the run stands.

    A run that was finished, under a shorter schedule, goes on where that ended, though time may have ended it with fewer epochs.
    is_first: write anew what is damaged of the run's other files.
    Raises: UserError when the state does not fit the model; the model may have changed then.
    """
    state, fault = read_state(files)
    way_out = f"go on from the networks alone with --continue_train after mv {files.state_path} {files.state_path}.other"
    if state is None:  # since check_run
        raise UserError(f"{fault or files.state_path}; {way_out}")
    for label, network in model.networks.items():
        weights = state["networks"].get(label, {})
        try:
            check_keys(network, {k: v.shape for k, v in weights.items()}, f"{files.state_path} ({label})")
            network.load_state_dict(weights)
            if label == "G" and model.average is not None:
                if state["average"] is None:  # of a run without one
                    model.restart_average()
                else:
                    check_keys(network, {k: v.shape for k, v in state["average"]["network"].items()}, f"{files.state_path} (its average)")
                    model.average.load_state(state["average"])
        except UserError as e:
            raise UserError(f"{e}; {way_out}") from None
    if not optimizers_fit(model, state["optimizers"]):
        raise UserError(f"{files.state_path} holds the optimisers of other networks; {way_out}")
    model.load_optimizers(state["optimizers"])
    torch.set_rng_state(state["rng"])
    if is_first:
        mend(files, state)
    progress = Progress(**state["progress"])
    if state["finished"] and schedule.epochs > state["epochs"]:
        if progress.epoch < state["epochs"]:
            progress.epoch, progress.clip = state["epochs"], 0
        progress.share = state["epochs"] / schedule.epochs
    return progress


def keep_damaged_state(files: Run) -> None:
    """Give a state that cannot be read another name, before a run goes on from weights and writes its own."""
    fault = read_state(files)[1]
    if fault:
        warn(f"{fault}: kept as {set_aside(files.state_path).name}")


def load_networks(model: Head2HeadModel, source: Run, which_epoch: str) -> None:
    """Load the generator, and every discriminator that is there."""
    for label, network in model.networks.items():
        path = source.network_path(label, which_epoch)
        if label == "G":
            load_weights(network, path, "the file must be whole, and the options those that it was trained with")
        elif path.is_file():
            load_weights(network, path, f"remove it, and {label} starts from random weights")
        else:
            say(f"there is no {path}: {label} starts from random weights")
