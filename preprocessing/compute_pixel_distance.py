"""Average pixel distance of self reenactment: APD-L2, MAPD-L2 and mouth-APD-L2, with PSNR and SSIM (defined in util/metrics.py).

    python preprocessing/compute_pixel_distance.py --results_dir results/D/head2head_T/latest_epoch/test/T

APD is the average *pixel* distance, as in the Head2Head paper; elsewhere the same letters mean an average pose distance, which is
ARD-L1 of compute_distances.py. scripts/evaluate.py computes all measures at once and keeps them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from util.cli import UserError, progress, run, say
from util.layout import read_table
from util.metrics import MEASURES, frame_measures, mean_measures
from util.results.frames import ResultFrames, self_reenactments


def main(argv: Sequence[str] | None = None) -> None:
    for _, frames in self_reenactments(__doc__, argv):
        means = mean_measures(pixel_distances(frames, real_landmarks(frames)))
        say(f"{frames.folder}, {len(frames.numbers)} frames:")
        for name, value in means.items():
            say(f"  {name:13s} {value:8.3f}   {MEASURES[name].unit}, {MEASURES[name].better} is better")


def real_landmarks(frames: ResultFrames) -> np.ndarray:
    """The 70 landmarks of the real frames, [N, 70, 2] in pixels of the synthesised frames: the dataset's, or found now.

    Raises: UserError when there are neither landmarks nor a way to find them.
    """
    sequence = frames.sequence()
    if sequence and not frames.driven and set(sequence.frames("landmarks70")) >= set(frames.numbers):
        record = frames.dataset.read_record(frames.target) if frames.dataset else None
        size = record.crop_size if record else 256
        return np.stack([read_table(sequence.path("landmarks70", n)) for n in frames.numbers]) * (frames.size / size)
    if "real" not in frames.paths:
        raise UserError(f"there are no real frames to compare those in {frames.folder} with; give --datasets_dir, or bring real/ back too")
    from preprocessing.fitting.refit import find

    found = find(frames.paths["real"], "landmarks of the real frames").landmarks
    if np.isnan(found).any():
        known = ~np.isnan(found[:, 0, 0])
        found = found[known][np.abs(np.arange(len(found))[:, None] - np.flatnonzero(known)).argmin(1)]
    return found * (frames.size / frames.read_size("real"))


def pixel_distances(frames: ResultFrames, landmarks: np.ndarray) -> list[dict[str, float]]:
    """util.metrics.frame_measures of every frame.

    landmarks: [N, 70, 2] of the real frames, pixels of the synthesised ones. Raises: UserError when there are no real frames.
    """
    if "real" not in frames.paths:
        raise UserError(f"there are no real frames to compare those in {frames.folder} with; give --datasets_dir, or bring real/ back too")
    masks = "nmfc" in frames.paths

    def measure(i: int) -> dict[str, float]:
        real, fake = frames.read("real", i), frames.read("fake", i)
        return frame_measures(real, fake, frames.read("nmfc", i) if masks else np.zeros_like(real), landmarks[i])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = len(frames.numbers)
        return list(progress(pool.map(measure, range(count)), desc="pixel distances", total=count))


if __name__ == "__main__":
    run(main)
