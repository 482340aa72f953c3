"""Write the target profile and the colours of a trained person beside the checkpoint: for runs of many people, and for lost files.

    python scripts/write_profile.py --dataset_name D --target_id T

Training writes both by itself unless there are too many persons. With them a person can be driven from the run's folder alone, without the
dataset (docs/formats.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from data.heads import find_appearance
from models.checkpoints import read_run_options
from preprocessing.driving.head_mesh import HeadMeshes
from preprocessing.driving.people import common_face_model, find_frames, read_profile
from preprocessing.face_models.registry import load_face_model
from util.cli import UserError, run, say
from util.identities import find_identity
from util.image_io import write_bytes
from util.layout import Dataset, Run


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--dataset_name", required=True, metavar="D", help="name of the dataset")
    parser.add_argument("--target_id", required=True, metavar="T", help="the person")
    parser.add_argument("--name", metavar="RUN", help="run: checkpoints/D/RUN (default: head2head_<T>)")
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="folder of all datasets (default: datasets)")
    parser.add_argument("--checkpoints_dir", type=Path, metavar="DIR", help="folder of all runs (default: checkpoints)")
    o = parser.parse_args(argv)
    dataset = Dataset.open(o.dataset_name, o.datasets_dir)
    o.target_id = find_identity(dataset, o.target_id)
    files = Run.open(o.dataset_name, o.name or f"head2head_{o.target_id}", o.checkpoints_dir)
    if not files.checkpoints.is_dir():
        raise UserError(f"there is no run {files.checkpoints}; check --name and --checkpoints_dir")
    frames = find_frames(dataset, o.target_id, "train", "--split")
    profile = read_profile(dataset, frames, load_face_model(common_face_model(dataset, [frames], "auto")))
    path = files.profile_path(o.target_id)
    write_bytes(path, profile.to_bytes())
    say(f"{path}: from {len(frames.frames)} frames")
    if read_run_options(files)["appearance"]:
        mesh = HeadMeshes(dataset)(o.target_id)
        appearance, _ = find_appearance(dataset, o.target_id, frames.frames, None if mesh is None else mesh.mouth)
        write_bytes(files.appearance_path(o.target_id), appearance.to_bytes())
        say(f"{files.appearance_path(o.target_id)}: the person's colours")


if __name__ == "__main__":
    run(main)
