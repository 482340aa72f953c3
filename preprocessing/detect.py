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
import io
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from options.dataset_options import add_dataset_options, open_dataset
from preprocessing.tracking.crop_box import REFERENCE_SIZE, choose_box, drifts, smooth_boxes
from preprocessing.tracking.detectors import DETECTORS, FaceDetector, create_detector
from preprocessing.tracking.follower import FaceChoice, parse_face
from preprocessing.tracking.same_person import SAMPLES, Appearance, appearance, same_person
from preprocessing.tracking.scan import Scan, Shot, scan
from util.ahead import map_ahead
from util.cli import UserError, listed, progress, run, say, warn
from util.identities import for_each
from util.image_io import crop, write_bytes, write_image
from util.layout import KINDS, SPLITS, Dataset, Record
from util.layout import Sequence as FrameSequence
from util.numeric import fill_gaps
from util.sampling import spread
from util.video.reading import frames_at, read_frames
from util.video.sources import Part, find_videos, open_parts

MIN_FRAMES = 10  # shortest video to train on
MAX_ZOOM = 1.5  # factor between the sizes of a face in shots that share a crop
MAX_NAMED = 6  # times in a message
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
    p.add_argument(
        "--face",
        default="largest",
        metavar="WHICH",
        help="which of several faces: largest (and longest in the picture), left or right as seen in the picture, or X,Y: the one nearest "
        "to this pixel of the frame (default: largest)",
    )
    p.add_argument(
        "--parts",
        nargs="*",
        metavar="FILE",
        help="these files of the folder are the parts of one person, in this order (no FILE: all of them, in the order of their names); "
        "without, NAME_2 to NAME_99 are parts of NAME or NAME_1",
    )
    p.add_argument("--all_shots", action="store_true", help="take all shots that show the person, not only the longest")
    p.add_argument("--gpu_id", type=int, default=0, metavar="N", help="GPU of mtcnn, negative for the CPU (default: 0)")
    o = p.parse_args(argv)
    parse_face(o.face)
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
    videos = find_videos(o.original_videos_path or dataset.original_videos, dataset, o.name, o.parts)
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
    for part in parts:
        for note in part.info.notes:
            say(f"{part.path.name}: {note}")
    key = {
        "version": 2,
        "sources": [p.sha256 for p in parts],
        **{
            k: getattr(o, k)
            for k in (
                *("split", "detector", "cropped_image_size", "margin", "window_length", "polyorder", "height_recentre"),
                *("train_seq_length", "test_seq_ratio", "n_replicate_first", "face", "all_shots"),
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
    takes, counts = find_takes(get_detector(), parts, name, parse_face(o.face), o.all_shots, limit)
    info = parts[0].info
    size = (info.width, info.height)
    smooth = {t: smooth_boxes(fill_gaps(t.boxes, np.isnan(t.boxes[:, 0])), o.window_length, o.polyorder) for t in takes}
    main = max(takes, key=len)  # decides about the crop
    if o.all_shots:
        takes = fitting_takes(takes, main, smooth, size, o.dst_threshold)
    first = main if o.all_shots else takes[0]
    ordered = [first, *(t for t in takes if t is not first)]
    boxes = [smooth[t] for t in ordered]
    for take, drift in zip(ordered, drifts(boxes, size)):
        if drift > o.dst_threshold:
            raise UserError(
                f"{paths[take.part]}: the face moves by {drift:.2f} of the frame's side, more than --dst_threshold {o.dst_threshold:g} "
                "allows for a fixed crop; cut the video to a part where the head stays in place, or raise --dst_threshold"
            )
    box = choose_box(boxes, size, o.margin, o.height_recentre)
    layout = Layout.of(takes, counts, o)
    if o.split == "train" and layout.total < MIN_FRAMES:
        raise UserError(f"{paths[0]} has {layout.total} frames, too few to train on; film at least {MIN_FRAMES}, better a minute or more")
    side = box[2] - box[0]
    if side < o.cropped_image_size / 2:
        warn(f"{name}: the head is small; {side} pixels are enlarged to {o.cropped_image_size}: film closer for a sharper result")

    n_train, n_test = sum(len(numbers) for numbers in layout.train), len(layout.test)
    record = Record(
        name=name,
        fps=info.fps,
        sources=[
            {"file": str(p.path.resolve()), "sha256": p.sha256, "frames": n, "width": p.info.width, "height": p.info.height}
            for p, n in zip(parts, counts)
        ],
        crop_box=[int(v) for v in box],
        crop_size=o.cropped_image_size,
        splits={"train": n_train, "test": n_test},
        source_start={"train": layout.first - o.n_replicate_first, "test": layout.test_start - o.n_replicate_first},
        first_number=layout.first,
        shots=layout.shots,
    ).with_bad_frames("detect", layout.numbers, layout.states)
    # The record without steps marks the identity as unfinished. Files made from its old frames are deleted with them.
    dataset.write_record(record)
    remove_outputs(dataset, name)
    write_track(dataset, record, layout, takes)
    write_crops(dataset, record, parts, layout)
    dataset.write_record(record.with_step("detect", key))
    say(f"{name}: {n_train} train and {n_test} test frames, cut from {side} to {o.cropped_image_size} pixels a side")
    if bad := record.tell_bad_frames(layout.numbers):
        say(f"{name}: {bad}; these frames are neither learnt from nor measured")


# ---- what is taken of the videos ----


@dataclass(frozen=True, eq=False)
class Take:
    """A run of a part's frames that is taken."""

    part: int
    first: int  # frame of the part
    boxes: np.ndarray  # float64 [frames, 4]: boxes of the face in pixels of the source's frames, nan where it was not found
    dark: np.ndarray  # bool [frames]: too dark or blank

    def __len__(self) -> int:
        return len(self.boxes)


def find_takes(
    detector: FaceDetector, parts: list[Part], name: str, face: FaceChoice, all_shots: bool, limit: int | None = None
) -> tuple[list[Take], list[int]]:
    """What is taken of each part, in order, and how many frames of each part were read.

    limit: number of frames to read in all; parts after them are left out.
    Raises: UserError when a part shows no face, or shows it in less than half of the frames taken.
    """
    takes: list[Take] = []
    counts: list[int] = []
    total = sum(p.info.frames for p in parts)
    with progress(desc=f"{name}: faces", total=total if limit is None else min(total, limit)) as bar:
        for number, part in enumerate(parts):
            left = None if limit is None else limit - sum(counts)
            if left == 0:
                break
            longer_side = max(part.info.width, part.info.height)
            scale = longer_side / min(longer_side, DETECT_SIDE)
            width, height = part.info.width, part.info.height
            if not isinstance(face, str) and not (0 <= face[0] < width and 0 <= face[1] < height):
                raise UserError(f"--face {face[0]:g},{face[1]:g} lies outside of {part.path}, which is {width}x{height} pixels")
            wanted = face if isinstance(face, str) else (face[0] / scale, face[1] / scale)
            frames = islice(read_frames(part.path, part.info, max_side=DETECT_SIDE), left)
            found = scan(frames, detector, max(1, round(part.info.fps)), bar.update)
            counts.append(found.follower.frames)
            for shot in choose_shots(part, found, wanted, all_shots, scale):
                takes.append(Take(number, shot.first, shot.boxes() * scale, found.dark(shot)))
    return takes, counts


def choose_shots(part: Part, found: Scan, face: FaceChoice, all_shots: bool, scale: float) -> list[Shot]:
    """The longest shot of a part that shows the face, or all in which it is the same person's. Raises: UserError when there is none.

    scale: of the part's frames, relative to the scanned ones.
    """
    shots = found.shots(face)
    longest = max(shots, key=lambda s: s.seen)
    if not longest.seen:
        raise UserError(f"no face was found in {part.path}; the video must show one person's face, upright and well lit")
    if longest.seen < len(longest) / 2:
        raise UserError(
            f"{part.path} shows a face in only {longest.seen} of {len(longest)} frames; cut it to the part where the face is visible"
        )
    kept = [longest]
    if len(shots) > 1 and all_shots:
        kept = [s for s in shots if s is longest or s.seen > len(s) / 2]
        looks = [shot_appearance(part, s, scale) for s in kept]
        own = looks[kept.index(longest)]
        kept = [s for s, look in zip(kept, looks) if s is longest or (own and look and same_person(own, look))]
    if len(shots) > 1:
        cuts = [clock(s.first / part.info.fps) for s in shots[1:]]
        named = listed(cuts, MAX_NAMED)
        took_all = listed([f"{clock(s.first / part.info.fps)} to {clock(s.end / part.info.fps)}" for s in kept], MAX_NAMED)
        if all_shots:
            warn(f"{part.path.name} has cuts at {named}; {len(kept)} of {len(shots)} shots show the person and are taken ({took_all})")
        else:
            warn(f"{part.path.name} has cuts at {named}; only the longest shot is taken ({took_all}), --all_shots takes all of the person")
    for shot in kept:
        missing = np.isnan(shot.boxes()[:, 0])
        if missing.any():
            warn(f"{part.path.name}: no face in {missing.sum()} of {len(shot)} frames; their boxes are taken from their neighbours")
    if longest.faces > 1:
        which = "largest and longest in the picture is taken; --face takes another" if face == "largest" else "asked for by --face is taken"
        warn(f"{part.path.name} shows {longest.faces} faces; the one that is {which}")
    return kept


def shot_appearance(part: Part, shot: Shot, scale: float) -> Appearance | None:
    boxes = shot.boxes() * scale
    seen = np.flatnonzero(~np.isnan(boxes[:, 0]))
    chosen = seen[spread(len(seen), SAMPLES)]
    return appearance(frames_at(part.path, part.info, (shot.first + chosen).tolist()), boxes[chosen])


def fitting_takes(takes: list[Take], main: Take, smooth: dict[Take, np.ndarray], size: tuple[int, int], dst_threshold: float) -> list[Take]:
    """Those whose face fits the main one's crop; a line tells of the others."""
    height = np.median(smooth[main][:, 3] - smooth[main][:, 1])
    kept = []
    for take in takes:
        zoom = np.median(smooth[take][:, 3] - smooth[take][:, 1]) / height
        if take is main or (max(zoom, 1 / zoom) < MAX_ZOOM and drifts([smooth[main], smooth[take]], size)[1] <= dst_threshold):
            kept.append(take)
    if len(kept) < len(takes):
        warn(f"{len(takes) - len(kept)} of {len(takes)} shots show the face elsewhere or at another size, so no crop fits all; left out")
    return kept


def clock(seconds: float) -> str:
    """m:ss.ss"""
    return f"{int(seconds // 60)}:{float(seconds) % 60:05.2f}"


@dataclass(frozen=True)
class Layout:
    """Which frames are written where, by their numbers."""

    first: int  # number of the first frame taken
    total: int  # number of frames taken
    train: list[list[int]]  # numbers of each train sequence
    test: range
    test_start: int  # number at which the test split begins, also if it is empty
    shots: list[int]  # numbers of the frames that begin another take than the frame before
    numbers: list[int]  # of all frames that are written
    states: list[str]  # their states
    offsets: list[int]  # number of every part's first frame

    @classmethod
    def of(cls, takes: list[Take], counts: list[int], o: argparse.Namespace) -> Layout:
        """Divide the frames taken among the splits: the last ones to test, the others to train sequences that no cut interrupts.

        The test split goes through: it also has what lies between two takes, marked as of another shot.
        """
        offsets = (np.cumsum([0, *counts[:-1]]) + o.n_replicate_first).tolist()
        spans = [range(offsets[t.part] + t.first, offsets[t.part] + t.first + len(t)) for t in takes]
        dark = {n for span, t in zip(spans, takes) for n, is_dark in zip(span, t.dark) if is_dark}
        spans[0] = range(spans[0].start - o.n_replicate_first, spans[0].stop)  # the first frame repeated
        taken = [n for span in spans for n in span]
        _, place = (0, 0) if o.split == "test" else split_frames(len(taken), o.test_seq_ratio, o.train_seq_length)
        test = range(taken[place], taken[-1] + 1) if place < len(taken) else range(0)
        train = []
        for span in spans if o.split == "train" else ():
            own = [n for n in span if len(test) == 0 or n < test.start]
            whole, _ = split_frames(len(own), 0.0, o.train_seq_length)
            if whole >= min(MIN_FRAMES, o.train_seq_length) or len(spans) == 1:
                train += [own[i : i + o.train_seq_length] for i in range(0, whole, o.train_seq_length)]
        numbers = [n for sequence in train for n in sequence] + list(test)
        known = set(taken)
        states = ["dark" if n in dark else "" if n in known else "other shot" for n in numbers]
        test_start = test.start if len(test) else taken[-1] + 1
        return cls(taken[0], len(taken), train, test, test_start, [s.start for s in spans[1:]], numbers, states, offsets)


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


def write_track(dataset: Dataset, record: Record, layout: Layout, takes: list[Take]) -> None:
    """Write the boxes of the face, by which the next step tells the person from others."""
    boxes = dict.fromkeys(layout.numbers, np.full(4, np.nan))
    left, top, right, _ = record.crop_box
    for take in takes:
        start = layout.offsets[take.part] + take.first
        scaled = (take.boxes - [left, top, left, top]) * (record.crop_size / (right - left))
        boxes |= {n: box for n, box in enumerate(scaled, start) if n in boxes}
    file = io.BytesIO()
    np.savez_compressed(file, numbers=np.array(layout.numbers, np.int32), boxes=np.array(list(boxes.values()), np.float32).reshape(-1, 4))
    write_bytes(dataset.track_path(record.name), file.getvalue())


def write_crops(dataset: Dataset, record: Record, parts: list[Part], layout: Layout) -> None:
    """Second pass: write the frames of both splits."""
    places: dict[int, FrameSequence] = {n: dataset.train_sequence(record.name, i) for i, own in enumerate(layout.train) for n in own}
    places |= dict.fromkeys(layout.test, dataset.sequence("test", record.name))
    last, repeated = max(places), layout.offsets[0]
    begin = max(min(places), layout.first + repeated)  # number of the first frame that is no repetition
    offsets = [*layout.offsets, repeated + sum(source["frames"] for source in record.sources)]

    def frames() -> Iterator[tuple[int, np.ndarray]]:
        """Numbers and frames from the first to the last that is written."""
        for part, start, end in zip(parts, offsets, offsets[1:]):
            number, end = max(begin, start), min(end, last + 1)
            if number >= end:
                continue
            for frame in islice(read_frames(part.path, part.info, first=number - start), end - number):
                if number == layout.first + repeated:
                    yield from ((n, frame) for n in range(layout.first, number))
                yield number, frame
                number += 1
            if number < end:
                raise UserError(f"{part.path} ends {end - number} frames earlier than before; was it changed meanwhile? run again")

    def crops() -> Iterator[tuple[Path, np.ndarray]]:
        for number, frame in progress(frames(), desc=f"{record.name}: crops", total=last + 1 - min(places)):
            if number in places:
                yield places[number].path("images", number), crop(frame, record.crop_box, record.crop_size)

    writers = min(4, os.cpu_count() or 1)
    # OpenCV encodes outside of Python's lock, so that threads help.
    for _ in map_ahead(lambda job: write_image(*job), crops(), threads=writers, depth=8 * writers):
        pass


if __name__ == "__main__":
    run(main)
