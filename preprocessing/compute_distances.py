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

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in reconstruct.py

import numpy as np

from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import FACE_MODELS, load_face_model, resolve_kind
from preprocessing.fitting.refit import Refit, find, refit
from util.cli import UserError, run, say
from util.metrics import VIDEO_MEASURES, expression_distance, identity_distance, rotation_distance
from util.results.frames import ResultFrames, self_reenactments


def main(argv: Sequence[str] | None = None) -> None:
    for args, frames in self_reenactments(__doc__, argv, FACE_MODELS):
        model = choose_face_model(frames, args.face_model)
        real, fake = (refit(model, find(frames.paths[kind], f"{kind} landmarks")) for kind in ("real", "fake"))
        means, _ = fitted_distances(real, fake)
        say(f"{frames.folder}, {len(frames.numbers)} frames, face model {model.name} {model.version}:")
        for name, value in means.items():
            say(f"  {name:13s} {value:8.3f}   {VIDEO_MEASURES[name].unit}, {VIDEO_MEASURES[name].better} is better")


def choose_face_model(frames: ResultFrames, asked: str = "auto") -> MorphableModel:
    """The face model to fit with: the one asked for, the dataset's, or the best there is."""
    record = frames.dataset.read_record(frames.target) if frames.dataset else None
    kind = record.face_model["name"] if asked == "auto" and record and record.face_model else asked
    try:
        return load_face_model(resolve_kind(kind))
    except UserError:
        if asked != "auto":
            raise
        frames.notes.append(f"the dataset's face model {kind} is not on this machine: fitted with mesh478 instead")
        return load_face_model("mesh478")


def fitted_distances(real: Refit, fake: Refit) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """DAI-L1, AED-L1 and ARD-L1, and the last two of every frame [N] (nan where a face was not found)."""
    per_frame = {
        "AED-L1": expression_distance(real.expression, fake.expression),
        "ARD-L1": rotation_distance(real.angles_deg, fake.angles_deg),
    }
    means = {name: float(np.nanmean(values)) for name, values in per_frame.items()}
    return {"DAI-L1": identity_distance(real.fit.identity, fake.fit.identity), **means}, per_frame


if __name__ == "__main__":
    run(main)
