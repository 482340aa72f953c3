"""Step 1 for one identity: its crops, train and test."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.steps.takes import Take, find_takes, fitting_takes
from preprocessing.tracking.crop_box import choose_box, drifts, smooth_boxes
from preprocessing.tracking.detectors import FaceDetector
from preprocessing.tracking.follower import parse_face
from util.ahead import map_ahead, usable_cores
from util.cli import UserError, progress, say, warn
from util.image_io import ImageStore, crop, write_bytes
from util.layout import KINDS, SPLITS, Dataset, Record
from util.layout import Sequence as FrameSequence
from util.numeric import fill_gaps
from util.video.reading import read_frames
from util.video.sources import Part, open_parts

MIN_FRAMES = 10  # shortest video to train on


@dataclass(frozen=True)
class CropSettings:
    """How an identity is cropped; see the options of the same names (preprocessing/steps/options.py)."""

    split: str = "train"
    detector: str = "mediapipe"
    cropped_image_size: int = 256  # px
    margin: int = 100  # px of a 256-pixel crop
    dst_threshold: float = 0.3  # fraction of the mean of the frame's sides
    window_length: int = 99  # frames
    polyorder: int = 3
    height_recentre: float = 0.0  # fraction of the crop's side
    train_seq_length: int = 50  # frames
    test_seq_ratio: float = 0.33
    n_replicate_first: int = 0  # frames
    max_seconds: float = 0.0  # 0: all
    face: str = "largest"
    all_shots: bool = False

    def key(self) -> dict[str, Any]:
        """What the frames depend on."""
        values = asdict(self)
        del values["dst_threshold"]  # refuses videos, changes no frame
        if not self.max_seconds:  # frames of versions without this option stay valid
            del values["max_seconds"]
        return values


def crops_key(o: CropSettings, sha256s: list[str]) -> dict[str, Any]:
    """What an identity's crops are made from. sha256s: of its video files in order."""
    return {"version": 2, "sources": sha256s, **o.key()}


def make_crops(
    o: CropSettings,
    dataset: Dataset,
    name: str,
    paths: list[Path],
    get_detector: Callable[[], FaceDetector],
    images: ImageStore | None = None,
) -> None:
    """Detect and crop one identity, unless its frames are complete.

    paths: its video files in order. get_detector: called when a face must be found. images: remembers the crops.
    Raises: UserError when the videos cannot be read, or do not show one face well enough.
    """
    parts = open_parts(paths)
    for part in parts:
        for note in part.info.notes:
            say(f"{part.path.name}: {note}")
    key = crops_key(o, [p.sha256 for p in parts])
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
        consent=old.consent if old and [s["sha256"] for s in old.sources] == [p.sha256 for p in parts] else "",  # of this video
    ).with_bad_frames("detect", layout.numbers, layout.states)
    # The record without steps marks the identity as unfinished. Files made from its old frames are deleted with them.
    dataset.write_record(record)
    remove_outputs(dataset, name)
    write_track(dataset, record, layout, takes)
    write_crops(dataset, record, parts, layout, images or ImageStore())
    dataset.write_record(record.with_step("detect", key))
    say(f"{name}: {n_train} train and {n_test} test frames, cut from {side} to {o.cropped_image_size} pixels a side")
    if bad := record.tell_bad_frames(layout.numbers):
        say(f"{name}: {bad}; these frames are neither learnt from nor measured")


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
    def of(cls, takes: list[Take], counts: list[int], o: CropSettings) -> Layout:
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


def write_crops(dataset: Dataset, record: Record, parts: list[Part], layout: Layout, images: ImageStore) -> None:
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

    def wanted() -> Iterator[tuple[int, np.ndarray]]:
        for number, frame in progress(frames(), desc=f"{record.name}: crops", total=last + 1 - min(places)):
            if number in places:
                yield number, frame

    def write(job: tuple[int, np.ndarray]) -> None:
        number, frame = job
        images.write(places[number].path("images", number), crop(frame, record.crop_box, record.crop_size))

    # OpenCV and ISA-L work outside of Python's lock, so that threads help.
    writers = min(4, usable_cores())
    for _ in map_ahead(write, wanted(), threads=writers, depth=2 * writers):
        pass
