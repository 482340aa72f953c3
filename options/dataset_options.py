"""The options that name a dataset, shared by the preprocessing commands."""

from __future__ import annotations

import argparse
from pathlib import Path

from util.layout import Dataset


def add_dataset_options(
    parser: argparse.ArgumentParser, dataset_help: str = "name of the dataset", name_help: str | None = "only this identity (default: all)"
) -> None:
    """Add --dataset_name, --datasets_dir and, unless name_help is None, --name."""
    parser.add_argument("--dataset_name", required=True, metavar="D", help=dataset_help)
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="folder of all datasets (default: datasets/ of this repository)")
    if name_help is not None:
        parser.add_argument("--name", metavar="NAME", help=name_help)


def open_dataset(options: argparse.Namespace) -> Dataset:
    """The dataset that the options name. Raises: UserError when the name is not usable."""
    return Dataset.open(options.dataset_name, options.datasets_dir)
