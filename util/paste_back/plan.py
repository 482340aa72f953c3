"""Which original frame each synthesised frame goes back into, and the original frames themselves.

It follows from time stamps, never from frame counts: in self reenactment it is the frame that the crop was cut from; of a driven pair,
pair.json says it (the target's frame of that moment, played there and back).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from util.cli import UserError
from util.hashing import sha256_of
from util.layout import Dataset, Record
from util.results.panels import find_source
from util.video.reading import frames_at, probe

AUDIO = ("source", "target", "none")


@dataclass(frozen=True)
class Plan:
    """Which original frame each synthesised frame goes into."""

    target: Record
    fps: Fraction  # of the result
    numbers: list[int]  # of the synthesised frames
    originals: list[int]  # as many: frame of the target's source video(s), counted over all parts from 0
    # as many: the NMFC image of the target's own head in that frame; [] when it moves as the synthesised one (the same pose)
    own_nmfcs: list[Path]
    aligned: bool  # whether pose and place of the head are the original frame's
    sound: tuple[Path, float] | None  # file, and the moment in it (seconds from its first picture) of the first frame


def make_plan(facts: dict[str, Any], datasets_dir: str | Path | None, audio: str) -> Plan:
    """The plan of finished results, from complete.json's facts. Raises: UserError as write_paste_back does."""
    dataset = Dataset.open(facts["dataset_name"], datasets_dir or facts["datasets_dir"])
    target, source = facts["target"], facts["source"]
    record = dataset.read_record(target)
    if record is None or not record.sources or len(record.crop_box) != 4 or not record.source_start:
        raise UserError(
            f"dataset {facts['dataset_name']} does not record where {target}'s crops come from, so they cannot be put back; "
            "run preprocessing/detect.py on the original video"
        )
    numbers = list(range(facts["frames"][0], facts["frames"][1] + 1))
    rate, own_sound, start_s = find_source(facts, datasets_dir)
    sound = (own_sound, start_s) if own_sound else None
    own_nmfcs: list[Path] = []
    if source is None:
        wanted, fps, aligned = numbers, record.fps, True
    else:
        pair = dataset.read_pair(target, source)
        if pair is None or not pair.complete:
            raise UserError(
                f"there is no complete record of {source} driving {target} in {dataset.pair_path(target, source)}; run "
                f"preprocessing/reenact.py --dataset_name {facts['dataset_name']} --source_id {source} --target_id {target}, then test.py"
            )
        if numbers[0] < pair.frames[0] or numbers[-1] - pair.frames[0] >= len(pair.target_frames):
            raise UserError(f"the results of {source} driving {target} are older than the pair; run test.py again")
        first = numbers[0] - pair.frames[0]
        wanted = pair.target_frames[first : first + len(numbers)]
        fps, aligned = pair.fps, pair.mode == "face"
        if not aligned:
            places = {n: s for s in dataset.sequences(pair.target_split, target, "nmfcs") for n in s.frames("nmfcs")}
            if lacking := sorted(set(wanted) - set(places)):
                raise UserError(f"the NMFC image of {target}'s frame {lacking[0]} is missing; run preprocessing/reconstruct.py again")
            own_nmfcs = [places[n].path("nmfcs", n) for n in wanted]
        if audio == "target":
            sound = record.sound_source(pair.target_split)
            if sound:
                begins = wanted[0] + record.source_start["train"]
                in_part, _ = _part_of(record, max(0, begins))
                sound = (Path(record.sources[in_part]["file"]), _seconds_in_part(record, begins))
    originals = [source_index(record, n) for n in wanted]
    for part in sorted({_part_of(record, i)[0] for i in originals}):
        if not (file := Path(record.sources[part]["file"])).is_file():
            raise UserError(f"{target}'s original video {file} is gone; put it back, or run preprocessing/detect.py on it where it is now")
    return Plan(record, fps, numbers, originals, own_nmfcs, aligned, None if audio == "none" else sound)


def source_index(record: Record, number: int) -> int:
    """The frame of the source (counted over all parts from 0) that a frame of this number was cut from."""
    # numbers count the repetitions of the first frame (detect.py --n_replicate_first), the source does not
    return max(0, number + record.source_start["train"])


def _part_of(record: Record, index: int) -> tuple[int, int]:
    """Part and frame within it of a source frame. Raises: UserError when the record has no such frame."""
    for part, source in enumerate(record.sources):
        if index < source["frames"]:
            return part, index
        index -= source["frames"]
    raise UserError(f"dataset.json of {record.name} knows fewer frames than there are results; run preprocessing/detect.py again")


def _seconds_in_part(record: Record, index: int) -> float:
    """The moment of a source frame within its own file; negative for a repetition of the first."""
    return float((_part_of(record, index)[1] if index >= 0 else index) / record.fps)


def original_frames(record: Record, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """The source's frames of these numbers, uint8 [H, W, 3], over all parts, as detect.py counted them.

    Raises: UserError when a file is not the one that detect.py read.
    """
    infos: dict[int, Any] = {}
    places = [_part_of(record, i) for i in indices]
    for part in sorted({p for p, _ in places}):
        source = record.sources[part]
        path = Path(source["file"])
        if sha256_of(path) != source["sha256"]:
            raise UserError(f"{path} is not the file any more that {record.name}'s crops were cut from; run preprocessing/detect.py again")
        infos[part] = probe(path).at_rate(record.fps)
    for part, run in groupby(places, key=lambda place: place[0]):
        yield from frames_at(record.sources[part]["file"], infos[part], [index for _, index in run])
