"""Starts a run: new, resumed exactly, or from weights; and checks that the folder belongs to the same run."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from models.checkpoints import load_weights, read_run_options, read_tensors
from models.head2head_model import Head2HeadModel
from models.training.progress import Progress
from util.cli import UserError, say, warn
from util.layout import Run


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
    if not files.state_path.is_file():
        if weights.is_file():
            if not continues:
                raise UserError(f"{files.checkpoints} holds a trained generator; go on with --continue_train, or choose another --name")
            return "weights"
        if continues:
            if epoch != "latest":
                raise UserError(f"--continue_train --which_epoch {epoch}: there is no {weights}")
            say(f"nothing to continue in {files.checkpoints}: starting a new run")
        return "new"
    before = read_run_options(files)
    now = json.loads(json.dumps({**options, **facts}))
    if before.get("data") != now["data"]:
        raise UserError(
            f"{files.checkpoints} was trained on other frames than dataset {options['dataset_name']} holds now; delete that folder, or "
            f"choose another --name (with --load_pretrain {files.checkpoints} to start from its networks)"
        )
    fixed = architecture if continues else [k for k in options if k not in free]
    changed = [f"--{k} was {before.get(k)}, is {now[k]}" for k in fixed if before.get(k) != now[k]]
    if changed:
        go_on = "" if continues else ", go on with --continue_train"
        raise UserError(
            f"{files.checkpoints} holds a run with other options ({'; '.join(changed)}); use the same{go_on}, or another --name"
        )
    if epoch != "latest" and continues:
        return "weights"
    state = read_tensors(files.state_path, lazily=True)
    return "finished" if state["finished"] and state["epochs"] >= options["niter"] + options["niter_decay"] else "resume"


def check_pretrained(folder: Path, face_model: dict[str, str] | None) -> None:
    """Check that the run in `folder` (--load_pretrain) saw the colours of the face model that this dataset's NMFCs were drawn with.

    face_model: the dataset's, name and version; None when nothing records it. Where one side does not say, there is a warning.
    Raises: UserError when the two differ: the same colour would mean different points of the face.
    """
    theirs = read_run_options(Run(folder, folder)).get("face_model")
    if not theirs or not face_model:
        silent = f"the run {folder}" if not theirs else "the dataset"
        warn(f"--load_pretrain: {silent} does not say which face model its NMFC images were drawn with; it must be the same for both")
    elif theirs != face_model:
        a, b = (f"{m.get('name')} {m.get('version', '')}".strip() for m in (theirs, face_model))
        raise UserError(
            f"--load_pretrain {folder} was trained with face model {a}, but this dataset was fitted with {b}, which has other colours; "
            f"run preprocessing/reconstruct.py with --face_model {theirs.get('name')} on this dataset, or leave --load_pretrain out"
        )


def load_state(model: Head2HeadModel, files: Run) -> Progress:
    """Load a run's complete state into the model and PyTorch's random generator; returns where the run stands."""
    state = read_tensors(files.state_path)
    for label, network in model.networks.items():
        network.load_state_dict(state["networks"][label])
    model.load_optimizers(state["optimizers"])
    if model.average is not None:
        model.average.load_state(state["average"])
    torch.set_rng_state(state["rng"])
    return Progress(**state["progress"])


def load_networks(model: Head2HeadModel, source: Run, which_epoch: str) -> None:
    """Load the generator, and every discriminator that is there."""
    for label, network in model.networks.items():
        path = source.network_path(label, which_epoch)
        if label == "G" or path.is_file():
            load_weights(network, path)
        else:
            say(f"there is no {path}: {label} starts from random weights")
