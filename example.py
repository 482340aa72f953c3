"""The whole idea on one page: load a trained person, give frames of a driver, get frames of the person.

    python example.py checkpoints/mine/head2head_ann driver.mp4 ann.mp4
The run's folder is enough (latest_net_G.pth, opt.txt, profiles/ann.npz, appearances/ann.npz), without the dataset that it was trained on.
"""

import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

if __name__ == "__main__":
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from models.checkpoints import read_run_options
from models.synthesis import load_synthesizer
from preprocessing.driving.conditioner import Conditioner
from preprocessing.driving.driver import Driver, DriverReference
from preprocessing.driving.people import load_profile
from preprocessing.face_models.dense_points import from_dense
from preprocessing.fitting.frame import FrameFitter
from preprocessing.tracking.tracker import Tracker
from util.cli import progress, run
from util.face.appearance import Appearance
from util.layout import Run
from util.results.origin import provenance_of_run
from util.video.reading import probe, read_frames
from util.video.writing import VideoWriter

REFERENCE_S = 3  # first seconds of the video, which give the driver's identity and usual values


def drive_person(folder: Path, frames: Iterable[np.ndarray], fps: Fraction) -> Iterator[np.ndarray]:
    """For each of a driver's frames (uint8 [H, W, 3] RGB) one of the person trained in `folder` (uint8 [S, S, 3] RGB)."""
    files = Run(folder, folder)
    profile, options = load_profile(files.profile_path()), read_run_options(files)
    model, frames = profile.load_model(), iter(frames)
    appearance = Appearance.read(files.appearance_path(files.profile_path().stem)) if options["appearance"] else None
    synthesizer = load_synthesizer(files, options, appearance=appearance)
    conditioner = Conditioner(model, profile.identity, options["loadSize"], crop_size=profile.size)
    with Tracker() as tracker:
        first = [tracker.step(frame) for frame in islice(frames, round(REFERENCE_S * fps))]
        reference = DriverReference.of_landmarks(model, first, fps)
        fitter, driver = FrameFitter(model, reference.identity), Driver(model, profile, reference)
        dense = next(found for found in first if found is not None)
        for found in chain(first, map(tracker.step, frames)):
            dense = dense if found is None else found  # the head keeps still while no face is seen
            driven = driver.step(fitter.step(dense, float(1 / fps)), from_dense(dense))
            yield synthesizer.step(*conditioner.step(*driven))


def main(argv: list[str]) -> None:
    folder, source, output = argv if len(argv) == 3 else sys.exit(__doc__)
    video = probe(source)
    files = Run(Path(folder), Path(folder))
    shown = provenance_of_run(files, read_run_options(files), files.profile_path().stem, Path(source).stem, "identity")
    with VideoWriter(output, video.fps, audio_from=source, provenance=shown) as writer:
        for frame in progress(drive_person(Path(folder), read_frames(source, video), video.fps), desc=output, total=video.frames):
            writer.write(frame)


if __name__ == "__main__":
    run(main, sys.argv[1:])
