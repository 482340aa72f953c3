"""Which frames of a person are beyond what a network is to have seen; and what the benches that train persons share: datasets that are made
of a choice of frames, the real commands, figures and pictures.

Of every frame there is a measure of how far the person goes (`mouth`: the gap between the lips; `pose`: yaw and pitch). What lies *within*
a bound may be trained on, what lies *beyond* another one is tested, and the oracle is trained on as many frames drawn from everywhere but
the tested stretches.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.integrity import MIN_RUN, check_steps
from options.train_options import TrainOptions
from preprocessing.driving.heads import Person
from preprocessing.driving.motion import head_rotation, to_angles
from preprocessing.driving.openings import openings
from preprocessing.driving.people import Frames, common_face_model, read_person
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model
from util.ahead import usable_cores
from util.cli import UserError, say, warn
from util.identities import IdentityFrames, collect_frames
from util.image_io import write_bytes
from util.layout import SPLITS, Dataset, Record, continues, root
from util.workers import thread_limits

Stretch = tuple[int, int]  # consecutive frames [first, end), by their place among the person's frames

GAP = 3  # frames on either side of a tested stretch that nothing is trained on: they look almost like those tested
MAX_RUN = 50  # frames of a training sequence, as detect.py cuts them
FILES = ("images", "nmfcs", "landmarks70", "misc", "exp_coeffs")  # of every frame

FOLDERS = ("datasets", "checkpoints", "results")  # each has an option --<it>_dir
SHOWN = 6  # tested frames in a picture
PANEL, CAPTION = 256, 24  # side of each frame in a picture, and height of its captions, px

# mouth: percentiles of the frames' gaps
SHUT, OPEN = 50, 85
# pose: the range of yaw and of pitch ends where 1 % of the frames lie on either side, so that a single odd fit does not stretch it
RANGE_ENDS = (1, 99)
INNER, OUTER = 0.5, 0.8  # parts of the range around its middle: trained on within the one, tested outside of the other

# A person is unsuitable with less: the network would not be asked for anything new.
MIN_WIDENING_CM = 0.4  # from the median gap between the lips to the tested ones; a shut mouth's fit trembles by 0.1
MIN_RANGE_DEG = 10.0  # of yaw or of pitch, whichever is wider
MIN_TRAINED = 75  # frames, 3 s
MIN_TESTED = 20  # frames


class Unsuitable(Exception):
    """A person does not move enough, or there are too few frames; the message says which."""


@dataclass(frozen=True)
class Extent:
    """How far a person goes in each of N frames."""

    size: np.ndarray  # float64 [N]: the gap between the lips, cm; or the turn from the middle of the range, 1 at its ends
    within: np.ndarray  # bool [N]: what may be trained on
    beyond: np.ndarray  # bool [N]: what is tested
    facts: dict[str, float]  # the bounds, in cm or degrees


@dataclass(frozen=True)
class Choice:
    """The chosen stretches, each in order of time."""

    tested: list[Stretch]
    restricted: list[Stretch]  # trained on, all of it within
    oracle: list[Stretch]  # trained on instead: as many frames from anywhere but the tested stretches


def mouth_extent(model: MorphableModel, person: Person, usable: np.ndarray) -> Extent:
    """Of the mouth: the fitted gap between the inner lips.

    The fit's and not the detected lips' (they correlate by 0.995 in clips that speak): it is what the NMFC image asks the network for,
    it is measured along the head's own axis, so that nodding does not close the mouth, and it is smoothed over time.
    Raises: Unsuitable when the mouth hardly opens.
    """
    gap = openings(model, person.identity)[2].gap(person.expression)
    shut, open_ = np.percentile(gap[usable], (SHUT, OPEN))
    if open_ - shut < MIN_WIDENING_CM:
        raise Unsuitable(
            f"the mouth hardly opens: its {OPEN}th percentile is {open_:.2f} cm, {open_ - shut:.2f} above its median "
            f"(at least {MIN_WIDENING_CM:g} is needed)"
        )
    return Extent(gap, gap <= shut, gap > open_, {"trained_to_cm": float(shut), "tested_from_cm": float(open_)})


def pose_extent(model: MorphableModel, person: Person, usable: np.ndarray) -> Extent:
    """Of the pose: how far yaw or pitch, whichever is farther, is from the middle of its range. Raises: Unsuitable without turns."""
    yaw, pitch, _ = to_angles(head_rotation(person.cameras))
    sizes, facts = [], {}
    for name, angle in (("yaw", yaw), ("pitch", pitch)):
        low, high = np.percentile(angle[usable], RANGE_ENDS)
        sizes.append(np.abs(angle - (low + high) / 2) / max((high - low) / 2, 1e-9))
        facts |= {f"{name}_from_deg": float(low), f"{name}_to_deg": float(high)}
    width = max(facts[f"{name}_to_deg"] - facts[f"{name}_from_deg"] for name in ("yaw", "pitch"))
    if width < MIN_RANGE_DEG:
        raise Unsuitable(f"the head hardly turns: yaw and pitch range over {width:.1f} degrees at most ({MIN_RANGE_DEG:g} are needed)")
    size = np.max(sizes, 0)
    return Extent(size, size <= INNER, size > OUTER, facts)


EXTENTS: dict[str, Callable[[MorphableModel, Person, np.ndarray], Extent]] = {"mouth": mouth_extent, "pose": pose_extent}


# ---- the choice of frames ----


def stretches(wanted: np.ndarray, joined: np.ndarray) -> list[Stretch]:
    """The runs of wanted frames, bool [N], cut where a frame does not go on from the one before (joined, bool [N], is False)."""
    goes_on = wanted & joined & np.r_[False, wanted[:-1]]
    firsts, lasts = np.flatnonzero(wanted & ~goes_on), np.flatnonzero(wanted & ~np.r_[goes_on[1:], False])
    return list(zip(firsts.tolist(), (lasts + 1).tolist()))


def frames_of(chosen: Sequence[Stretch]) -> np.ndarray:
    """The places of all frames of some stretches, int."""
    return np.concatenate([np.arange(*s) for s in chosen]) if chosen else np.zeros(0, int)


def choose(extent: Extent, usable: np.ndarray, joined: np.ndarray, every: int = 1, seed: int = 0) -> Choice:
    """The stretches to test and to train on.

    usable, joined: bool [N]. every: 1 tests all stretches beyond; 2 every other one, and the oracle may see the rest.
    seed: of the oracle's draw.
    Raises: Unsuitable when too few frames are left.
    """
    tested = stretches(extent.beyond & usable, joined)[::every]
    free = usable.copy()
    for first, end in tested:
        free[max(0, first - GAP) : end + GAP] = False
    inner = [s for s in stretches(extent.within & free, joined) if s[1] - s[0] >= MIN_RUN]
    restricted = [piece for s in inner for piece in pieces(s)]
    trained, count = len(frames_of(restricted)), len(frames_of(tested))
    if trained < MIN_TRAINED or count < MIN_TESTED:
        raise Unsuitable(
            f"{trained} frames to train on and {count} to test are too few (at least {MIN_TRAINED} and {MIN_TESTED}); "
            f"only runs of {MIN_RUN} frames or more are trained on"
        )
    return Choice(tested, restricted, draw(stretches(free, joined), [b - a for a, b in restricted], np.random.default_rng(seed)))


def pieces(stretch: Stretch) -> list[Stretch]:
    """A stretch in pieces of nearly equal length, MAX_RUN at most."""
    first, end = stretch
    edges = np.linspace(first, end, -(-(end - first) // MAX_RUN) + 1).round().astype(int).tolist()
    return list(zip(edges, edges[1:]))


def draw(free: Sequence[Stretch], lengths: Sequence[int], rng: np.random.Generator) -> list[Stretch]:
    """As many frames as `lengths` have in sum, drawn from the free stretches in runs of similar lengths.

    The free stretches are cut into runs of lengths drawn from `lengths`, of which random ones are taken. They hold enough frames if runs
    of those lengths, MIN_RUN or more each, lie in them.
    """
    runs: list[Stretch] = []
    for first, end in free:
        while end - first >= MIN_RUN:
            length = int(rng.choice(lengths))
            if end - first - length < MIN_RUN:  # the rest would be too short for a run of its own
                length = end - first
            runs.append((first, first + length))
            first += length
    taken, missing = [], sum(lengths)
    for i in rng.permutation(len(runs)):
        first, end = runs[i]
        taken.append([first, min(end, first + missing)])
        missing -= taken[-1][1] - first
        if not missing:
            break
    for _ in range(MIN_RUN - (taken[-1][1] - taken[-1][0])):  # the last run became too short: the longest ones give it frames
        max(taken, key=lambda s: s[1] - s[0])[1] -= 1
        taken[-1][1] += 1
    return sorted((first, end) for first, end in taken)


# ---- datasets of a choice ----


@dataclass(frozen=True)
class Subject:
    """A preprocessed person: all frames of both splits, in order."""

    dataset: Dataset
    name: str
    frames: IdentityFrames
    record: Record
    model: MorphableModel
    person: Person

    @classmethod
    def read(cls, dataset: Dataset, name: str) -> Subject:
        """Raises: UserError when the person's preprocessing is not complete."""
        record, frames = check_steps(dataset, name), collect_frames(dataset, name)
        if record is None or not frames.is_complete(*FILES):
            raise UserError(f"the frames of '{name}' are not complete; run scripts/preprocess.py --dataset_name {dataset.home.name}")
        those = Frames(name, frames.splits[0], frames.frames, record)
        model = load_face_model(common_face_model(dataset, [those], "auto"))
        return cls(dataset, name, frames, record, model, read_person(dataset, those, model))

    @property
    def joined(self) -> np.ndarray:
        """bool [N]: whether a frame goes on from the one before."""
        return continues(self.frames.frames, self.record)

    def choose(self, kind: str, every: int = 1) -> tuple[Extent, Choice]:
        """kind: of EXTENTS. Raises: Unsuitable."""
        extent = EXTENTS[kind](self.model, self.person, self.frames.usable)
        return extent, choose(extent, self.frames.usable, self.joined, every)

    def write(self, target: Dataset, name: str, trained: Sequence[Stretch], tested: Sequence[Stretch]) -> np.ndarray:
        """Write an identity that has each run of `trained` as a training sequence, and the tested stretches in a row as its test frames.

        Frames get new numbers, from 0, and are hard links to this person's (copies where links cannot be made). Before each tested stretch
        come the GAP frames that lead to it, so that a generator that sees its own last frames does not start with another stretch's; they
        are recorded as frames that no measure counts, which also keeps measures over time from going across. What is there already of
        the same frames stays.
        Returns: the number of every tested frame, int, in order.
        """
        runs = [(list(range(*s)), 0) for s in trained]
        starts = np.flatnonzero(~self.joined)
        for first, end in tested:
            begin = int(starts[starts <= first][-1])  # of the shot: its first frame is repeated where fewer lead to the stretch
            runs.append(([max(begin, i) for i in range(first - GAP, first)] + list(range(first, end)), GAP))
        lengths = [len(places) for places, _ in runs]
        firsts = np.cumsum([0, *lengths[:-1]]).tolist()
        train_count = sum(lengths[: len(trained)])
        leads = np.array([n for first, (_, lead) in zip(firsts, runs) for n in range(first, first + lead)], int)
        measured = np.setdiff1d(np.arange(train_count, sum(lengths)), leads)
        key = {"frames": [places for places, _ in runs], "train": len(trained), "of": self.record.steps}
        if (former := target.read_record(name)) and former.is_done("unseen", key):
            return measured

        record = Record(
            name,
            self.record.fps,
            crop_box=self.record.crop_box,
            crop_size=self.record.crop_size,
            splits={"train": train_count, "test": sum(lengths) - train_count},
            face_model=self.record.face_model,
            shots=firsts,
        ).with_bad_frames("unseen", leads, ["other shot"] * len(leads))
        target.write_record(record)  # without steps: unfinished
        for split in SPLITS:
            for kind in FILES:
                for sequence in target.sequences(split, name, kind):
                    shutil.rmtree(sequence.folder(kind))
            write_bytes(target.id_coeffs_path(split, name), self.dataset.id_coeffs_path(self.frames.splits[0], self.name).read_bytes())
        for part, (first, (places, _)) in enumerate(zip(firsts, runs)):
            sequence = target.train_sequence(name, part) if part < len(trained) else target.sequence("test", name)
            for number, place in enumerate(places, first):
                source, old = self.frames.frames[place]
                for kind in FILES:
                    link(source.path(kind, old), sequence.path(kind, number))
        steps: dict[str, dict[str, Any]] = {**self.record.steps, "unseen": key}
        target.write_record(replace(record, steps=steps))
        return measured


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        write_bytes(target, source.read_bytes())


# ---- the real commands ----


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Add --datasets_dir, --checkpoints_dir and --results_dir."""
    for what in FOLDERS:
        parser.add_argument(f"--{what}_dir", type=Path, metavar="DIR", help=f"folder of all {what} (default: {what})")


def folder_option(o: argparse.Namespace, what: str) -> list[str]:
    """One of these options as it was given, for another command: [] if it was not. what: of FOLDERS."""
    path = getattr(o, f"{what}_dir")
    return [f"--{what}_dir", str(path)] if path else []


def preparation(options: TrainOptions, workers: int | None = 0) -> list[str]:
    """What scripts/prepare_training.py is to be told, so that a training with these options finds everything. workers: None: one a core."""
    flags = ["--heads" if options.move_heads else "--no_heads"]
    flow = ["--flow", options.flow if options.needs_flow else "none", "--faceflow" if options.faceflow else "--no_faceflow"]
    flow += ["--flownet2_checkpoint", str(options.flownet2_checkpoint)] if options.flownet2_checkpoint else []
    processes = [] if workers is None else ["--workers", str(workers)]
    return ["--loadSize", str(options.loadSize), "--gpu_ids", options.gpu_ids, *processes, *flags, *flow]


def run_commands(title: str, commands: Sequence[Sequence[str]], log: Path, parallel: int) -> bool:
    """Run the project's commands one after the other, each in a process of its own, until one fails; says how it went.

    commands: file and arguments of each. log: where their messages go. parallel: how many calls of this share the cores.
    Returns: whether none failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | thread_limits(max(1, usable_cores() // parallel))
    with log.open("wb") as file:
        for command, *arguments in commands:
            done = subprocess.run(
                [sys.executable, str(root() / command), *arguments], stdout=file, stderr=subprocess.STDOUT, env=environment
            )
            if done.returncode:
                last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
                warn(f"{command} of {title} failed ({log}): {last[0].removeprefix('error: ') if last else 'it said nothing'}")
                return False
    say(f"{title}: done")
    return True


# ---- figures and pictures ----


def plain(value: float | None) -> float | None:
    """A measure for JSON: None where it could not be had."""
    return round(value, 6) if value is not None and math.isfinite(value) else None


def sheet(rows: dict[str, list[np.ndarray]], above: Sequence[str]) -> np.ndarray:
    """Rows of pictures, uint8 [H, H, 3] each, under captions: uint8 [.., .., 3]. rows: caption -> pictures. above: of each column."""
    parts = [_captions(above, len(above) * PANEL)]
    for caption, pictures in rows.items():
        row = np.concatenate([cv2.resize(p, (PANEL, PANEL), interpolation=cv2.INTER_CUBIC) for p in pictures], 1)
        parts += [_captions([caption], row.shape[1]), row]
    return np.concatenate(parts)


def _captions(texts: Sequence[str], width: int) -> np.ndarray:
    strip = np.full((CAPTION, width, 3), 255, np.uint8)
    for i, text in enumerate(texts):
        place = (i * width // len(texts) + 4, CAPTION - 7)
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
