"""Average pixel distance of self reenactment: APD-L2, MAPD-L2 and mouth-APD-L2, with PSNR and SSIM (defined in util/metrics.py).

    python preprocessing/compute_pixel_distance.py --results_dir results/D/head2head_T/latest_epoch/test/T

APD is the average *pixel* distance, in grey levels (0..441), as in the Head2Head paper; elsewhere the same letters mean an average pose
distance, which is ARD-L1 of compute_distances.py. scripts/evaluate.py computes all measures at once and keeps them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)


from preprocessing.measures.pictures import pixel_distances, real_landmarks
from util.cli import run, say
from util.metrics import MEASURES, mean_measures
from util.results.frames import self_reenactments


def main(argv: Sequence[str] | None = None) -> None:
    for _, frames in self_reenactments(__doc__, argv):
        means = mean_measures(pixel_distances(frames, real_landmarks(frames)))
        say(f"{frames.folder}, {len(frames.numbers)} frames:")
        for name, value in means.items():
            say(f"  {name:13s} {value:8.3f}   {MEASURES[name].unit}, {MEASURES[name].better} is better")


if __name__ == "__main__":
    run(main)
