"""Distances of what the face model says about real and synthesised frames: DAI-L1, AED-L1 and ARD-L1 (defined in util/metrics.py).

    python preprocessing/compute_distances.py --results_dir results/D/head2head_T/latest_epoch/test/T

The landmarks are found anew in the real and in the synthesised frames, and the face model is fitted anew to either. Figures depend on
the face model: compare only those of one model. scripts/evaluate.py computes all measures at once and keeps them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in reconstruct.py


from preprocessing.face_models.registry import FACE_MODELS
from preprocessing.fitting.refit import refit
from preprocessing.measures.motion import choose_face_model, find_in, fitted_distances
from util.cli import run, say
from util.metrics import VIDEO_MEASURES
from util.results.frames import self_reenactments


def main(argv: Sequence[str] | None = None) -> None:
    for args, frames in self_reenactments(__doc__, argv, FACE_MODELS):
        model = choose_face_model(frames, args.face_model)
        real, fake = (refit(model, find_in(frames, kind, f"{kind} landmarks")) for kind in ("real", "fake"))
        means, _ = fitted_distances(real, fake)
        say(f"{frames.folder}, {len(frames.numbers)} frames, face model {model.name} {model.version}:")
        for name, value in means.items():
            say(f"  {name:13s} {value:8.3f}   {VIDEO_MEASURES[name].unit}, {VIDEO_MEASURES[name].better} is better")


if __name__ == "__main__":
    run(main)
