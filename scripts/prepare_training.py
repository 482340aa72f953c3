"""Compute the optical flow and person masks that training needs.

    python scripts/prepare_training.py --dataset_name D                     all identities, one worker process per core
    python scripts/prepare_training.py --dataset_name D --target_id T       one identity

train.py does the same for what is missing; for many identities this command does it in advance, also on a machine without a GPU.
Up-to-date files are kept, so the command may be interrupted and run again.
Give it the --loadSize and --flow that train.py will get (--preset preview: --loadSize 128 --flow none).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from options.base_options import LARGEST_SIDE, choose_identities
from util.ahead import usable_cores
from util.cli import UserError, add_flag, run, say
from util.identities import find_identity
from util.layout import Dataset

if TYPE_CHECKING:
    from data.preparation import Recipe

FLOWNET2_WORKERS = 4  # each keeps the network in memory, 3 GB of a GPU; four keep a GPU busy


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, metavar="D", help="dataset: datasets/D")
    parser.add_argument("--target_id", metavar="T", help="the identity (default: all)")
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="folder of all datasets (default: datasets)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that share the identities; 0: none (default: one per core)")
    parser.add_argument("--loadSize", type=int, default=256, metavar="PX", help="side of the frames in training (default: 256)")
    parser.add_argument(
        "--flow",
        choices=("auto", "dis", "flownet2", "none"),
        default="auto",
        help="method of the optical flow, as of train.py, or none",
    )
    add_flag(parser, "--faceflow", True, "prefer FlowNet2's checkpoint that is tuned on faces")
    parser.add_argument("--flownet2_checkpoint", type=Path, metavar="FILE", help="FlowNet2's weights")
    add_flag(parser, "--heads", True, "masks of persons, for train.py --move_heads")
    parser.add_argument("--gpu_ids", default="auto", metavar="N", help="device of FlowNet2: auto, -1 (CPU), 0, 1, ...")
    parser.set_defaults(name=None)  # that choose_identities looks at
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers {args.workers} must not be negative")
    if not 16 <= args.loadSize <= LARGEST_SIDE:
        raise UserError(f"--loadSize {args.loadSize} must be 16 to {LARGEST_SIDE}; use what train.py gets, 256 by default")
    return args


def main(argv: Sequence[str] | None = None) -> int | None:
    args = parse(argv)
    dataset = Dataset.open(args.dataset_name, args.datasets_dir)
    args.target_id = find_identity(dataset, args.target_id)
    names = choose_identities(args, dataset.identities())

    from data.preparation import prepare, share_items

    workers = min(usable_cores(), len(names)) if args.workers is None else args.workers
    recipe, workers = make_recipe(args, workers)
    prepare(share_items(dataset, names), recipe, workers=workers)
    say(f"prepared {', '.join(names[:8])}{', ...' if len(names) > 8 else ''} in {dataset.folder / 'train'}")
    return None


def make_recipe(args: argparse.Namespace, workers: int) -> tuple[Recipe, int]:
    """What is to be computed, and by how many workers: no more than FlowNet2 has room for."""
    from data.preparation import Recipe
    from preprocessing.tracking.person_matte import create_person_mask

    recipe = Recipe(args.loadSize, heads=args.heads, make_mask=create_person_mask)
    if args.flow == "none":
        return recipe, workers

    from models.flow import choose_flow
    from util.device import choose_device

    flow = choose_flow(args.flow, args.faceflow, args.flownet2_checkpoint)
    if flow.checkpoint is not None:
        workers = min(workers, FLOWNET2_WORKERS)
    threads = max(1, usable_cores() // workers) if workers > 1 else None
    device = "cpu" if flow.checkpoint is None else choose_device(args.gpu_ids)
    make_estimate = partial(flow.make_estimate, device, threads)
    return replace(recipe, flow=flow.name, flow_made_from=flow.made_from, make_estimate=make_estimate), workers


if __name__ == "__main__":
    run(main)
