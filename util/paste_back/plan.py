"""Which original frame each synthesised frame goes back into, and the original frames themselves.

It follows from time stamps, never from frame counts: in self reenactment it is the frame that the crop was cut from; of a driven pair,
pair.json says it (the target's frame of that moment, played there and back).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from util.cli import UserError
from util.layout import Record
from util.results.panels import find_dataset, find_source
from util.video.reading import frames_at, probe

AUDIO = ("source", "target", "none")


@dataclass(frozen=True)
class Plan:
    """Which original frame each synthesised frame goes into."""

    target: Record  # its sources' files as they were found, which is not always where they were recorded
    fps: Fraction  # of the result
    numbers: list[int]  # of the synthesised frames
    originals: list[int]  # as many: frame of the target's source video(s), counted over all parts from 0
    # as many: the NMFC image of the target's own head in that frame; [] when it moves as the synthesised one (the same pose)
    own_nmfcs: list[Path]
    aligned: bool  # whether pose and place of the head are the original frame's
    sound: tuple[Path, float] | None  # file, and the moment in it (seconds from its first picture) of the first frame

    @property
    def parts(self) -> list[int]:
        """The target's source videos that are used, by their places among its sources."""
        return sorted({_part_of(self.target, i)[0] for i in self.originals})


def make_plan(facts: dict[str, Any], datasets_dir: str | Path | None, audio: str) -> Plan:
    """The plan of finished results, from complete.json's facts. Raises: UserError as write_paste_back does."""
    dataset = find_dataset(facts, datasets_dir)
    if not dataset.folder.is_dir():
        raise UserError(f"there is no {dataset.folder}; give the folder that holds {facts['dataset_name']} now with --datasets_dir")
    target, source = facts["target"], facts["source"]
    record = dataset.read_record(target)
    if record is None or not record.sources or len(record.crop_box) != 4 or not record.source_start:
        raise UserError(
            f"dataset {facts['dataset_name']} does not record where {target}'s crops come from, so they cannot be put back; "
            "run preprocessing/detect.py on the original video, after moving away frames that it did not make, and all that follows"
        )
    numbers = list(range(facts["frames"][0], facts["frames"][1] + 1))
    sound: tuple[Path, float] | None = None
    if audio == "source" or (audio == "target" and source is None):
        _, file, start_s = find_source(facts, datasets_dir)
        sound = (file, start_s) if file else None
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
    originals = [source_index(record, n) for n in wanted]
    sources = list(record.sources)
    for part in sorted({_part_of(record, i)[0] for i in originals}):
        if (file := dataset.find_video(sources[part])) is None:
            raise UserError(dataset.lost_video(target, sources[part]))
        sources[part] = {**sources[part], "file": str(file)}
    record = replace(record, sources=sources)
    if audio == "target" and source is not None:
        begins = record.source_index(wanted[0])
        in_part, _ = _part_of(record, max(0, begins))
        sound = (Path(sources[in_part]["file"]), _seconds_in_part(record, begins))
    return Plan(record, fps, numbers, originals, own_nmfcs, aligned, sound)


def source_index(record: Record, number: int) -> int:
    """The frame of the source (counted over all parts from 0) that a frame of this number was cut from."""
    # numbers count the repetitions of the first frame (detect.py --n_replicate_first), the source does not
    return max(record.first_number, record.source_index(number))


def _part_of(record: Record, index: int) -> tuple[int, int]:
    """Part and frame within it of a source frame. Raises: UserError when the record has no such frame."""
    for part, source in enumerate(record.sources):
        if index < source["frames"]:
            return part, index
        index -= source["frames"]
    raise UserError(f"dataset.json of {record.name} knows fewer frames than there are results: it was made anew since; run test.py again")


def _seconds_in_part(record: Record, index: int) -> float:
    """The moment of a source frame within its own file; negative for a repetition of the first."""
    return float((_part_of(record, index)[1] if index >= 0 else index) / record.fps)


def original_frames(record: Record, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """The source's frames of these numbers, uint8 [H, W, 3], over all parts, as detect.py counted them. record: a Plan's target."""
    infos: dict[int, Any] = {}
    places = [_part_of(record, i) for i in indices]
    for part in sorted({p for p, _ in places}):
        infos[part] = probe(record.sources[part]["file"]).at_rate(record.fps)
    for part, run in groupby(places, key=lambda place: place[0]):
        yield from frames_at(record.sources[part]["file"], infos[part], [index for _, index in run])
