"""Mean distance of the 14 eye landmarks between real and synthesised frames, in pixels (defined in util/metrics.py).

    python preprocessing/compute_eye_landmarks_distance.py --results_dir results/D/head2head_T/latest_epoch/test/T

The landmarks are found anew in both. scripts/evaluate.py computes all measures at once and keeps them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from preprocessing.measures.motion import eye_distances, find_in
from util.cli import run, say
from util.metrics import VIDEO_MEASURES
from util.results.frames import self_reenactments


def main(argv: Sequence[str] | None = None) -> None:
    for _, frames in self_reenactments(__doc__, argv):
        real, fake = (find_in(frames, kind, f"{kind} landmarks") for kind in ("real", "fake"))
        distances = eye_distances(frames, real, fake)
        missed = f", no face in {fake.missed.sum()} synthesised" if fake.missed.any() else ""
        say(f"{frames.folder}, {len(distances)} frames{missed}:")
        say(f"  eye-landmarks {np.nanmean(distances):8.3f}   {VIDEO_MEASURES['eye-landmarks'].unit} of {frames.size}, lower is better")


if __name__ == "__main__":
    run(main)
