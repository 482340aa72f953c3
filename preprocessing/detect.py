"""Step 1: find the face in every frame of a video, choose one fixed square box, and write the cropped frames.

    python preprocessing/detect.py --original_videos_path me.mp4 --dataset_name mine --split train

A video becomes one identity, named like its file without underscores; name_1.mp4, name_2.mp4, ... are the parts of one
identity. In both splits the number of a frame is its place in the source (all parts in order, counted from 0, plus --n_replicate_first).
Frames between the last whole train sequence and the test split are not written. dataset.json records all of this
(util.layout.Record).

The video is read twice, first for the boxes, then for the crops, so memory does not grow with its length.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from options.dataset_options import add_dataset_options, open_dataset
from preprocessing.tracking.crop_box import REFERENCE_SIZE, choose_box, drifts, smooth_boxes
from preprocessing.tracking.detectors import DETECTORS, FaceDetector, create_detector
from preprocessing.tracking.follower import FaceFollower
from util.ahead import map_ahead
from util.cli import UserError, progress, run, say, warn
from util.identities import for_each
from util.image_io import crop, write_image
from util.layout import KINDS, SPLITS, Dataset, Record
from util.layout import Sequence as FrameSequence
from util.numeric import fill_gaps
from util.video.reading import read_frames
from util.video.sources import Part, find_videos, open_parts, read_parts

MIN_FRAMES = 10  # shortest video to train on
DETECT_SIDE = 640  # px; longer sides are shrunk to this for detection


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--original_videos_path", type=Path, metavar="PATH", help="video file or folder of videos (default: datasets/<D>/original_videos)"
    )
    add_dataset_options(p, "name of the dataset; its folder is made if missing", "only this identity of the folder")
    p.add_argument("--split", choices=SPLITS, default="train", help="train: the video's end goes to test; test: all of it (default: train)")
    p.add_argument(
        "--detector",
        choices=DETECTORS,
        default="mediapipe",
        help="mediapipe: 2 ms a frame, follows small faces; mtcnn: the original's, about 20 times slower without a GPU; both lead to "
        "nearly the same crop (default: mediapipe)",
    )
    p.add_argument("--mtcnn_batch_size", type=int, default=8, metavar="N", help="frames per batch of mtcnn (default: 8)")
    p.add_argument("--cropped_image_size", type=int, default=256, metavar="PX", help="side of the written frames, pixels (default: 256)")
    p.add_argument(
        "--margin",
        type=int,
        default=100,
        metavar="PX",
        help="room around the face (hair line to chin), pixels of a 256-pixel crop: with 100 the face takes 156 of 256 (default: 100)",
    )
    p.add_argument(
        "--dst_threshold",
        type=float,
        default=0.3,
        metavar="X",
        help="refuse a video whose smoothed face box moves by more than this fraction of the mean of the frame's sides (default: 0.3)",
    )
    p.add_argument(
        "--window_length", type=int, default=99, metavar="N", help="frames of the Savitzky-Golay filter over the boxes (default: 99)"
    )
    p.add_argument("--polyorder", type=int, default=3, metavar="N", help="order of that filter (default: 3)")
    p.add_argument(
        "--height_recentre",
        type=float,
        default=0.0,
        metavar="X",
        help="move the crop down by this fraction of its side; negative: up (default: 0)",
    )
    p.add_argument("--train_seq_length", type=int, default=50, metavar="N", help="frames of a train sequence (default: 50)")
    p.add_argument(
        "--test_seq_ratio", type=float, default=0.33, metavar="X", help="fraction of a train video that goes to test (default: 0.33)"
    )
    p.add_argument(
        "--n_replicate_first", type=int, default=0, metavar="N", help="copies of the first frame to put at the start (default: 0)"
    )
    p.add_argument(
        "--max_seconds", type=float, default=0, metavar="S", help="use only the first seconds of an identity (default: 0, all of it)"
    )
    p.add_argument("--gpu_id", type=int, default=0, metavar="N", help="GPU of mtcnn, negative for the CPU (default: 0)")
    o = p.parse_args(argv)
    for name, least, most in (
        ("mtcnn_batch_size", 1, 4096),
        ("cropped_image_size", 32, 4096),
        ("margin", 0, REFERENCE_SIZE - 1),
        ("dst_threshold", 0, float("inf")),
        ("window_length", 1, float("inf")),
        ("polyorder", 0, 20),
        ("height_recentre", -1, 1),
        ("train_seq_length", 1, float("inf")),
        ("test_seq_ratio", 0, 0.95),
        ("n_replicate_first", 0, 1000),
        ("max_seconds", 0, float("inf")),
    ):
        value = getattr(o, name)
        if not least <= value <= most:
            raise UserError(f"--{name} {value}: give a value from {least} to {most}")
    return o


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    dataset = open_dataset(o)
    videos = find_videos(o.original_videos_path or dataset.original_videos)
    if o.name is not None:
        if o.name not in videos:
            raise UserError(f"there is no video of '{o.name}' in the folder; it holds: {', '.join(videos)}")
        videos = {o.name: videos[o.name]}
    detector: list[FaceDetector] = []  # made when the first video needs it

    def get_detector() -> FaceDetector:
        if not detector:
            detector.append(create_detector(o.detector, o.mtcnn_batch_size, o.gpu_id))
        return detector[0]

    for_each(videos, lambda name: process(o, dataset, name, videos[name], get_detector), "videos")
    return 0


def process(o: argparse.Namespace, dataset: Dataset, name: str, paths: list[Path], get_detector: Callable[[], FaceDetector]) -> None:
    """Detect and crop one identity, unless its frames are complete."""
    parts = open_parts(paths)
    key = {
        "version": 1,
        "sources": [p.sha256 for p in parts],
        **{
            k: getattr(o, k)
            for k in (
                *("split", "detector", "cropped_image_size", "margin", "window_length", "polyorder", "height_recentre"),
                *("train_seq_length", "test_seq_ratio", "n_replicate_first"),
                *(["max_seconds"] if o.max_seconds else []),
            )
        },
    }
    old = dataset.read_record(name)
    present = {split: sum(len(s.frames()) for s in dataset.sequences(split, name)) for split in SPLITS}
    if old is None and any(present.values()):
        raise UserError(
            f"{dataset.folder} already holds frames of '{name}' that this command did not write; move them away or rename the video"
        )
    if old and old.is_done("detect", key) and all(present[s] == old.splits.get(s, 0) for s in SPLITS):
        say(f"{name}: already complete ({present['train']} train and {present['test']} test frames)")
        return

    limit = math.ceil(o.max_seconds * parts[0].info.fps) if o.max_seconds else None
    boxes = find_boxes(get_detector(), parts, name, limit)
    total = sum(map(len, boxes)) + o.n_replicate_first
    n_train, test_start = (0, 0) if o.split == "test" else split_frames(total, o.test_seq_ratio, o.train_seq_length)
    if o.split == "train" and total < MIN_FRAMES:
        raise UserError(f"{paths[0]} has {total} frames, too few to train on; film at least {MIN_FRAMES}, better a minute or more")
    info = parts[0].info
    smooth = [smooth_boxes(b, o.window_length, o.polyorder) for b in boxes]
    for path, drift in zip(paths, drifts(smooth, (info.width, info.height))):
        if drift > o.dst_threshold:
            raise UserError(
                f"{path}: the face moves by {drift:.2f} of the frame's side, more than --dst_threshold {o.dst_threshold:g} allows for a "
                "fixed crop; cut the video to a part where the head stays in place, or raise --dst_threshold"
            )
    box = choose_box(smooth, (info.width, info.height), o.margin, o.height_recentre)
    if box[2] - box[0] < o.cropped_image_size / 2:
        warn(
            f"{name}: the head is small; {box[2] - box[0]} pixels are enlarged to {o.cropped_image_size}: film closer for a sharper result"
        )

    record = Record(
        name=name,
        fps=info.fps,
        sources=[
            {"file": str(p.path.resolve()), "sha256": p.sha256, "frames": len(b), "width": p.info.width, "height": p.info.height}
            for p, b in zip(parts, boxes)
        ],
        crop_box=[int(v) for v in box],
        crop_size=o.cropped_image_size,
        splits={"train": n_train, "test": total - test_start},
        source_start={"train": -o.n_replicate_first, "test": test_start - o.n_replicate_first},
    )
    # The record without steps marks the identity as unfinished. Files made from its old frames are deleted with them.
    dataset.write_record(record)
    remove_outputs(dataset, name)
    write_crops(dataset, record, parts, o.train_seq_length, o.n_replicate_first)
    dataset.write_record(record.with_step("detect", key))
    shown = f"cut from {box[2] - box[0]} to {o.cropped_image_size} pixels a side"
    say(f"{name}: {n_train} train and {total - test_start} test frames, {shown}")


def find_boxes(detector: FaceDetector, parts: list[Part], name: str, limit: int | None = None) -> list[np.ndarray]:
    """Face box of every frame, per part float64 [frames, 4] in pixels of the frame; gaps are filled between neighbours.

    limit: number of frames to read in all; parts after them are left out.
    Raises: UserError when there is no face in more than half of a part's frames.
    """
    result = []
    total = sum(p.info.frames for p in parts)
    with progress(desc=f"{name}: faces", total=total if limit is None else min(total, limit)) as bar:
        for part in parts:
            left = None if limit is None else limit - sum(map(len, result))
            if left == 0:
                break
            follower = FaceFollower(detector, patience=max(1, round(part.info.fps)))
            frames = islice(read_frames(part.path, part.info, max_side=DETECT_SIDE), left)
            while batch := list(islice(frames, detector.batch_size)):
                follower.add(batch)
                bar.update(len(batch))
            longer_side = max(part.info.width, part.info.height)
            boxes = follower.boxes() * (longer_side / min(longer_side, DETECT_SIDE))
            found = ~np.isnan(boxes[:, 0])
            if not found.any():
                raise UserError(f"no face was found in {part.path}; the video must show one person's face, upright and well lit")
            if found.mean() < 0.5:
                raise UserError(
                    f"{part.path} shows a face in only {found.sum()} of {len(found)} frames; cut it to the part where the face is visible"
                )
            if not found.all():
                warn(f"{part.path.name}: no face in {(~found).sum()} of {len(found)} frames; their boxes are taken from their neighbours")
            if follower.faces > 1:
                warn(f"{part.path.name} shows {follower.faces} faces; the one that is largest and longest in the picture is taken")
            result.append(fill_gaps(boxes, ~found))
    return result


def split_frames(total: int, test_seq_ratio: float, train_seq_length: int) -> tuple[int, int]:
    """Number of train frames and first frame of test, for a video of `total` frames.

    The train part is cut to whole sequences; a video too short for one gets a single shorter sequence.
    """
    test_start = total - int(total * test_seq_ratio)
    n_train = test_start - test_start % train_seq_length if test_start >= train_seq_length else test_start
    return n_train, test_start


def remove_outputs(dataset: Dataset, name: str) -> None:
    """Delete an identity's frames and all files made from them."""
    for split in SPLITS:
        for kind in KINDS:
            for sequence in dataset.sequences(split, name, kind):
                shutil.rmtree(sequence.folder(kind))
                sequence.dense_landmarks_path.unlink(missing_ok=True)
        dataset.id_coeffs_path(split, name).unlink(missing_ok=True)


def write_crops(dataset: Dataset, record: Record, parts: list[Part], train_seq_length: int, n_replicate_first: int) -> None:
    """Second pass: write the frames of both splits."""
    n_train, test_start = record.splits["train"], record.source_start["test"] + n_replicate_first

    def place(number: int) -> FrameSequence | None:
        if number < n_train:
            return dataset.train_sequence(record.name, number // train_seq_length)
        return dataset.sequence("test", record.name) if number >= test_start else None

    def crops() -> Iterator[tuple[Path, np.ndarray]]:
        frames = read_parts(parts, [source["frames"] for source in record.sources], n_replicate_first)
        total = sum(source["frames"] for source in record.sources) + n_replicate_first
        for number, frame in enumerate(progress(frames, desc=f"{record.name}: crops", total=total)):
            sequence = place(number)
            if sequence is not None:
                yield sequence.path("images", number), crop(frame, record.crop_box, record.crop_size)

    writers = min(4, os.cpu_count() or 1)
    # OpenCV encodes outside of Python's lock, so that threads help.
    for _ in map_ahead(lambda job: write_image(*job), crops(), threads=writers, depth=8 * writers):
        pass


if __name__ == "__main__":
    run(main)
