"""Step 1: find the face in every frame of a video, choose one fixed square box, and write the cropped frames.

    python preprocessing/detect.py --original_videos_path me.mp4 --dataset_name mine --split train

A video becomes one identity, named like its file without underscores; name_1.mp4, name_2.mp4, ... are the parts of one
identity. In both splits the number of a frame is its place in the source (all parts in order, counted from 0, plus --n_replicate_first).
Frames between the last whole train sequence and the test split are not written. Of a video with cuts the longest shot of the person is
taken, or with --all_shots all shots in which the person is recognised. Dark and blank frames are written, but neither learnt from nor
measured. dataset.json records all of this (util.layout.Record).

The video is read twice, first for the boxes, then for the crops, so memory does not grow with its length.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from options.dataset_options import add_dataset_options, open_dataset
from preprocessing.steps.consent import add_consent_option, find_consent, keep_consent
from preprocessing.steps.crops import make_crops
from preprocessing.steps.options import add_crop_options, crop_settings
from preprocessing.tracking.detectors import create_detector
from util.cli import run
from util.identities import for_each
from util.locks import locked
from util.video.sources import find_videos


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--original_videos_path", type=Path, metavar="PATH", help="video file or folder of videos (default: datasets/<D>/original_videos)"
    )
    add_dataset_options(p, "name of the dataset; its folder is made if missing", "only this identity of the folder")
    add_crop_options(p)
    add_consent_option(p)
    p.add_argument(
        "--parts",
        nargs="*",
        metavar="FILE",
        help="these files of the folder are the parts of one person, in this order (no FILE: all of them, in the order of their names); "
        "without, NAME_2 to NAME_99 are parts of NAME or NAME_1",
    )
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    settings = crop_settings(o)
    dataset = open_dataset(o)
    videos = find_videos(o.original_videos_path or dataset.original_videos, dataset, o.name, o.parts)
    get_detector = cache(lambda: create_detector(o.detector, o.mtcnn_batch_size, o.gpu_id))  # made when the first video needs it
    consent = find_consent(dataset, videos, o.consent)

    def detect(name: str) -> None:
        with locked(dataset.lock_path(name), f"'{name}'"):
            make_crops(settings, dataset, name, videos[name], get_detector)
            keep_consent(dataset, name, consent, given=o.consent is not None)

    for_each(videos, detect, "videos")
    return 0


if __name__ == "__main__":
    run(main)
