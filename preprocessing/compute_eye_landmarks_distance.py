"""Mean distance of the 14 eye landmarks between real and synthesised frames, in pixels (defined in util/metrics.py).

    python preprocessing/compute_eye_landmarks_distance.py --results_dir results/D/head2head_T/latest_epoch/test/T

The landmarks are found anew in both. scripts/evaluate.py computes all measures at once and keeps them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from preprocessing.refit import Found, find
from util.cli import UserError, run, say
from util.metrics import VIDEO_MEASURES, eye_landmark_distance
from util.result_frames import ResultFrames, add_result_options, find_folders, open_as_asked


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, required=True, metavar="DIR", help="a result's folder, or one above several")
    add_result_options(parser)
    args = parser.parse_args(argv)
    for folder in find_folders(args.results_dir):
        with open_as_asked(folder, args) as frames:
            if frames.driven:
                say(f"{folder}: {frames.source} drives {frames.target}, so there is no truth to compare with")
                continue
            if "real" not in frames.paths:
                raise UserError(f"there are no real frames to compare those in {folder} with; give --datasets_dir, or bring real/ back too")
            real, fake = (find(frames.paths[kind], f"{kind} landmarks") for kind in ("real", "fake"))
            distances = eye_distances(frames, real, fake)
        missed = f", no face in {fake.missed.sum()} synthesised" if fake.missed.any() else ""
        say(f"{folder}, {len(distances)} frames{missed}:")
        say(f"  eye-landmarks {np.nanmean(distances):8.3f}   {VIDEO_MEASURES['eye-landmarks'].unit} of {frames.size}, lower is better")


def eye_distances(frames: ResultFrames, real: Found, fake: Found) -> np.ndarray:
    """The distance in every frame, [N] pixels of the synthesised frames; nan where a face was not found."""
    return eye_landmark_distance(real.landmarks * (frames.size / frames.read_size("real")), fake.landmarks)


if __name__ == "__main__":
    run(main)
