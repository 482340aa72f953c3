"""Options that training and testing share: which data, which run, which device.

argparse stays at the edge: a command's options module adds its own to `add_base_options`, checks them, and hands a frozen
dataclass (a subclass of BaseOptions) to the command. A flag's opposite always exists: `--no_eye_gaze` and `--eye_gaze`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from util.cli import UserError
from util.identities import did_you_mean, identity_name
from util.layout import check_name

LARGEST_SIDE = 4096  # pixels, of what networks draw: sixteen times what they were made for; beyond, no memory holds their maps
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class BaseOptions:
    """What every command that runs a network takes."""

    dataset_name: str  # datasets/<dataset_name>
    target_id: str | None  # the person; None: see `name`
    name: str | None  # the run, checkpoints/<dataset_name>/<name>; None: head2head_<target_id>
    datasets_dir: Path | None  # None: <repository>/datasets
    checkpoints_dir: Path | None  # None: <repository>/checkpoints
    gpu_ids: str  # util.device.choose_device: 'auto', '-1' (CPU), '0'
    precision: str  # one of PRECISIONS
    which_epoch: str  # 'latest' or an epoch's number

    @property
    def run_name(self) -> str:
        """Folder of the run: the given name, head2head_<person>, or head2head_<dataset> for several persons."""
        return self.name or f"head2head_{self.target_id or self.dataset_name}"


def add_base_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of BaseOptions, with the original system's names."""
    parser.add_argument("--dataset_name", required=True, metavar="D", help="dataset: datasets/D")
    parser.add_argument("--target_id", "--target_name", metavar="T", help="the person to learn or to synthesise (default: as --name says)")
    parser.add_argument("--name", metavar="RUN", help="run: checkpoints/D/RUN (default: head2head_<T>)")
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="folder of all datasets (default: datasets)")
    parser.add_argument("--checkpoints_dir", type=Path, metavar="DIR", help="folder of all runs (default: checkpoints)")
    parser.add_argument(
        "--gpu_ids",
        "--gpu_id",
        default="auto",
        metavar="N",
        help="GPU to use: auto (one if there is one, else the CPU), -1 (CPU), 0, 1, ...",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="arithmetic of the networks (auto: bf16 on a GPU that has it, else fp32)"
    )
    parser.add_argument("--which_epoch", default="latest", metavar="E", help="checkpoint to load: latest or an epoch (default: latest)")


def check_epoch(epoch: str) -> None:
    """Raises: UserError when --which_epoch names no checkpoint."""
    if epoch != "latest" and not epoch.isdecimal():
        raise UserError(f"--which_epoch '{epoch}' is neither 'latest' nor an epoch's number")


def check_side(size: int, multiple: int) -> None:
    """Raises: UserError when a generator that halves images this often (2 to the power of it: multiple) cannot draw them of this side."""
    if size % multiple or not multiple <= size <= LARGEST_SIDE:
        limits = f"a multiple of {multiple}, as this run's generator halves it, and at most {LARGEST_SIDE}"
        raise UserError(f"--loadSize {size} must be {limits}")


Options = TypeVar("Options", bound=BaseOptions)


def make_options(cls: type[Options], args: argparse.Namespace | dict[str, Any]) -> Options:
    """Build the frozen dataclass `cls` from parsed arguments of the same names, after the checks common to all commands.

    Raises: UserError for a value that no command can work with.
    """
    values = dict(vars(args) if isinstance(args, argparse.Namespace) else args)
    values = {f.name: values[f.name] for f in fields(cls)}
    for key in ("target_id", "name"):
        check_name(f"--{key}", values[key])
    check_epoch(values["which_epoch"])
    return cls(**values)


def choose_identities(options: BaseOptions, available: list[str]) -> list[str]:
    """The persons that a command works on, out of those with data (`available`, util.layout.Dataset.identities()).

    `--target_id T` names one; `--name head2head_T` without it means the same when there is a T; otherwise all of them.
    Raises: UserError when the dataset is empty or the person is not in it.
    """
    if not available:
        raise UserError(
            f"dataset {options.dataset_name} has no frames; run preprocessing/detect.py --dataset_name {options.dataset_name} first, "
            "or say where the dataset is now: --datasets_dir"
        )
    wanted = options.target_id
    if wanted is None and options.name and options.name.startswith("head2head_"):
        named = options.name.removeprefix("head2head_")
        wanted = next((n for n in (named, identity_name(named)) if n in available), None)
    if wanted is None:
        return available
    if wanted not in available:
        shown = ", ".join(available[:8]) + (", ..." if len(available) > 8 else "")
        raise UserError(f"dataset {options.dataset_name} has no person '{wanted}'; it has {shown}{did_you_mean(wanted, available)}")
    return [wanted]
