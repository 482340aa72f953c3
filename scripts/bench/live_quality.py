"""How good live pictures are: a person's held-out frames through the live engine, which sees no future, against test.py's.

    python scripts/bench/live_quality.py D NAME [NAME ...]

test.py synthesises from the conditioning images of the preprocessing, which fits the whole video and refines it by the skin. Here every
held-out frame goes through the engine as a camera's would: tracked, fitted from what came before, drawn, synthesised. The engine is
calibrated on the last frames of the training part, as a driver in front of a camera is, knows the driver, the target, by its profile,
and keeps size and place, so that the truth is the frame itself. Both are measured by the same masks. test.py must have run. Writes
<results>/<NAME>-live beside its results, and evaluates both (scripts/evaluate.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from data.driving_sequence import DrivingFrame, DrivingSequence
from live.engine import HeadEngine
from preprocessing.driving.people import load_profile
from scripts.bench.frame_choice import add_folder_options, folder_option, run_commands
from util.cli import UserError, run, say
from util.identities import find_identity
from util.image_io import read_image
from util.layout import Dataset, Run
from util.results.evaluation import read_evaluation, shown
from util.results.folder import Results
from util.results.writing import write_results

CALIBRATION_FRAMES = 90  # of the end of the training part
MEASURES = ("APD-L2", "MAPD-L2", "mouth-APD-L2", "SSIM", "eye-landmarks", "jitter-ratio")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dataset_name", metavar="D")
    p.add_argument("names", nargs="+", metavar="NAME")
    p.add_argument("--name", help="of the run (default: head2head_NAME)")
    p.add_argument("--backend", default="auto")
    p.add_argument("--gpu_ids", default="auto")
    add_folder_options(p)
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    o = parse(argv)
    dataset = Dataset.open(o.dataset_name, o.datasets_dir)
    for asked in o.names:
        name = find_identity(dataset, asked)
        files = Run.open(o.dataset_name, o.name or f"head2head_{name}", o.checkpoints_dir, o.results_dir)
        offline = Results(files.test_folder(name))
        facts = offline.read()
        if facts is None:
            raise UserError(f"{offline.folder} holds no finished results; run test.py for {name} first")
        live = Results(offline.folder.with_name(f"{name}-live"))
        sequence = DrivingSequence.open(dataset, name, None, facts["size"])
        before = [s.path("images", n) for s in dataset.sequences("train", name) for n in s.frames("images")][-CALIBRATION_FRAMES:]
        themself = load_profile(files.profile_path(name))
        options = {"backend": o.backend, "gpu_ids": o.gpu_ids, "driver": themself, "own_placement": True}
        with HeadEngine.load(files.checkpoints, name=name, **options) as engine:
            fps = float(engine.profile.fps)
            for k, path in enumerate(before):
                engine.step(read_image(path), k / fps)
            through = Through(engine, sequence, len(before) / fps)
            live.begin()
            options = {"on_gpu": False, "self_reenactment": True, "eye_gaze": True, "left_out": frozenset(facts["left_out"])}
            kinds, rate, _ = write_results(live, through, len(sequence), through.synthesise, **options)
        live.finish({**facts, "kinds": kinds, "frames_per_s": rate})
        folders = [str(offline.folder), str(live.folder)]
        command = ["scripts/evaluate.py", *folders, *folder_option(o, "datasets"), *folder_option(o, "checkpoints")]
        if not run_commands(f"evaluation of {name}", [command], live.folder / "evaluate.log", parallel=1):
            continue
        told = [read_evaluation(r.folder).values for r in (offline, live)]
        say(f"{name}: " + ", ".join(f"{m} {shown(told[0][m])} : {shown(told[1][m])} live" for m in MEASURES if m in told[0]))


class Through:
    """The frames of a sequence, each synthesised by the engine from its picture alone."""

    def __init__(self, engine: HeadEngine, sequence: DrivingSequence, start_s: float):
        self._engine, self._sequence, self._time_s = engine, sequence, start_s
        self._fps = float(engine.profile.fps)
        self._pictures: dict[int, np.ndarray] = {}

    def __iter__(self) -> Iterator[DrivingFrame]:
        for frame in self._sequence:
            self._pictures[id(frame.nmfc)] = frame.image  # frames are read ahead
            yield frame

    def synthesise(self, nmfc: np.ndarray, _: np.ndarray) -> np.ndarray:
        """Of the frame with this stored NMFC image, which is not looked at."""
        self._time_s += 1 / self._fps
        return self._engine.step(self._pictures.pop(id(nmfc)), self._time_s).image


if __name__ == "__main__":
    run(main)
