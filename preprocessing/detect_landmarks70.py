"""Step 2: find 68 + 2 landmarks and the dense face mesh in every cropped frame.

    python preprocessing/detect_landmarks70.py --dataset_name mine

Writes landmarks70/<sequence>/<frame>.txt (70 rows "x y": the 68 points of the 300-W scheme, then the right and the left
pupil) and landmarks478/<sequence>.npy (float32 [frames, 478, 3]), in pixels of the crop from its top left corner. Also
works on the frames of a dataset that has no dataset.json. Frames that do not show the person's face, or show it covered, are marked in
dataset.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from options.dataset_options import add_dataset_options, open_dataset
from preprocessing.steps.landmarks70 import make_landmarks
from preprocessing.tracking.dlib_landmarks import DLIB_FILE, load_dlib
from util.cli import run
from util.identities import find_identity, for_each, identities_with_frames
from util.locks import locked


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_options(p)
    p.add_argument(
        "--landmarks",
        choices=("mediapipe", "dlib"),
        help="method for the 68 points; pupils and dense mesh always come from MediaPipe (default: mediapipe; a dataset of the "
        "original system keeps its own)",
    )
    p.add_argument("--dlib_file", type=Path, default=Path(DLIB_FILE), metavar="FILE", help=f"dlib's landmark model (default: {DLIB_FILE})")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    dataset = open_dataset(o)
    o.name = find_identity(dataset, o.name)
    everyone = identities_with_frames(dataset, o.name)
    names = everyone if o.name is None else [o.name]
    predict68 = load_dlib(o.dlib_file) if o.landmarks == "dlib" else None

    def detect(name: str) -> None:
        with locked(dataset.lock_path(name), f"'{name}'"):
            make_landmarks(dataset, name, o.landmarks, predict68)

    for_each(names, detect)
    return 0


if __name__ == "__main__":
    run(main)
