"""Measure memory and speed of paste-back on long videos: python scripts/bench/paste_back.py --minutes 1 3 10

For each length: a synthetic 1920x1080 video at 30 frames/s (a moving pattern), results with as many frames, and
util.paste_back.writing on them in a process of its own. `--back_and_forth` lets a driven pair run over the video there and back (read
backwards half of the time).
Prints frames/s, and the process's peak of resident memory, which must not grow with the length.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import cv2
import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None

from util.cli import run, say
from util.hashing import sha256_of
from util.image_io import write_image
from util.layout import Dataset, Pair, Record
from util.paste_back.writing import write_paste_back
from util.results.folder import Results
from util.video.writing import VideoWriter

SIZE, BOX, CROP, FPS = (1920, 1080), [560, 100, 1360, 900], 256, Fraction(30)


def pictures(count: int) -> Iterator[np.ndarray]:
    """A textured background that pans slowly, with a disc that moves about."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (SIZE[1], 2 * SIZE[0], 3), np.uint8), (0, 0), 3)
    for k in range(count):
        frame = texture[:, k % SIZE[0] : k % SIZE[0] + SIZE[0]].copy()
        yield cv2.circle(frame, (960 + round(60 * np.sin(k / 9)), 500), 220, (200, 150, 120), cv2.FILLED)


def prepare(root: Path, count: int, back_and_forth: bool) -> Results:
    """The video, its dataset, and results of `count` frames (all the same picture under many names)."""
    path = root / "long.mp4"
    if not path.exists():
        with VideoWriter(path, FPS, crf=28) as video:
            for frame in pictures(count):
                video.write(frame)
    dataset = Dataset.open("bench", root)
    source = {"file": str(path), "sha256": sha256_of(path), "frames": count, "width": SIZE[0], "height": SIZE[1]}
    starts = {"train": 0, "test": count if back_and_forth else 0}
    dataset.write_record(Record("long", FPS, [source], BOX, CROP, {"train": count, "test": count}, starts))
    results = Results(root / ("driven" if back_and_forth else "self"))
    results.begin()
    fake = np.full((CROP, CROP, 3), (190, 140, 110), np.uint8)
    nmfc = cv2.circle(np.zeros_like(fake), (128, 128), 70, (90, 90, 90), cv2.FILLED)
    first = {kind: results.path(kind, 0) for kind in ("fake", "nmfc")}
    write_image(first["fake"], fake)
    write_image(first["nmfc"], nmfc)
    for kind, original in first.items():
        for k in range(1, count):
            os.link(original, results.path(kind, k))
    if back_and_forth:
        for k in range(count):
            path = dataset.sequence("train", "long").path("nmfcs", k)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(first["nmfc"], path)
        there = [*range(count // 2), *range(count // 2 - 1, -1, -1)]
        there += [0] * (count - len(there))
        dataset.write_pair(Pair("long", "other", "head", FPS, [0, count - 1], {"kind": "template"}, "train", there, {}, True))
    facts = {"dataset_name": "bench", "datasets_dir": str(root), "target": "long", "source": "other" if back_and_forth else None}
    results.finish({**facts, "frames": [0, count - 1], "kinds": ["fake", "nmfc"]})
    return results


def measure(results: Results, queue: multiprocessing.Queue) -> None:
    began = time.perf_counter()
    write_paste_back(results)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if resource else math.nan
    queue.put((time.perf_counter() - began, peak))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 3.0], help="lengths (default: 1 3)")
    parser.add_argument("--back_and_forth", action="store_true", help="a driven pair over the video there and back")
    args = parser.parse_args(argv)
    for minutes in args.minutes:
        count = round(minutes * 60 * FPS)
        with tempfile.TemporaryDirectory(prefix="paste_back_") as folder:
            results = prepare(Path(folder), count, args.back_and_forth)
            spawned = multiprocessing.get_context("spawn")
            queue = spawned.Queue()
            process = spawned.Process(target=measure, args=(results, queue))
            process.start()
            process.join()
            seconds, megabytes = queue.get()
        say(f"{minutes:g} minutes, {count} frames of {SIZE[0]}x{SIZE[1]}: {count / seconds:.1f} frames/s, peak {megabytes:.0f} MB")


if __name__ == "__main__":
    run(main)
