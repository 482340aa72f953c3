"""The frames to measure, wherever they are: pictures in a results' folder, its videos, or the dataset.

Results are brought back from another machine in parts: often the video alone, to save the transfer. Synthesised frames are taken from
fake/, else from a video that shows them (only_fake.mp4, target.mp4, or cut out of all.mp4 and its like); real frames and NMFC images
from their folders, else from the dataset (exact), else from the videos.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from util.cli import UserError, say
from util.image_io import read_image, write_image
from util.layout import Dataset, Sequence
from util.results.folder import MODES, Results
from util.results.panels import CAPTION, PANEL
from util.stored import load_json
from util.video.reading import probe, read_frames

# kind of the results -> kind of the dataset's own test frames, and of a driven pair's
_IN_DATASET = {"real": ("images", "source_images"), "nmfc": ("nmfcs", "source_nmfcs")}
_VIDEOS = ("only_fake", "target", "source", "all", "source_nmfc_target", "source_target", "all_heatmaps")  # single panels first
_NMFC_NOISE = 16  # grey levels: what is darker in an NMFC image cut from a video is the codec's noise


@dataclass
class ResultFrames:
    """A results' folder as it is to be measured."""

    folder: Path
    dataset: Dataset | None  # None: not there
    target: str
    source: str | None  # None: self reenactment
    numbers: list[int]
    paths: dict[str, list[Path]]  # 'fake', and 'real', 'nmfc' where they can be had: one picture a frame
    size: int  # side of the synthesised frames, pixels
    facts: dict[str, Any] | None  # complete.json, if it is there
    notes: list[str] = field(default_factory=list)  # what the reader of the measures should know of the frames
    left_out: frozenset[int] = frozenset()  # numbers of frames that no measure is to count

    def read(self, kind: str, index: int) -> np.ndarray:
        """A picture at the size of the synthesised frames, uint8 [size, size, 3]."""
        return self.scaled(read_image(self.paths[kind][index]), kind)

    def scaled(self, image: np.ndarray, kind: str = "real") -> np.ndarray:
        """Any other square picture at that size."""
        if image.shape[0] == self.size:
            return image
        way = cv2.INTER_AREA if image.shape[0] > self.size else cv2.INTER_CUBIC
        return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_NEAREST if kind == "nmfc" else way)

    def read_size(self, kind: str) -> int:
        """Side of the pictures of a kind as they lie there, pixels."""
        return read_image(self.paths[kind][0]).shape[0]

    @property
    def counted(self) -> np.ndarray:
        """Which frames the measures count; bool [N]."""
        return np.array([n not in self.left_out for n in self.numbers], bool)

    @property
    def driven(self) -> bool:
        return self.source is not None

    def sequence(self) -> Sequence | None:
        """The dataset's sequence of these frames: the target's test frames, or the driven pair."""
        if self.dataset is None:
            return None
        return self.dataset.pair(self.target, self.source) if self.source else self.dataset.sequence("test", self.target)


@contextmanager
def open_frames(
    folder: Path,
    datasets_dir: str | Path | None = None,
    dataset_name: str | None = None,
    target: str | None = None,
    source: str | None = None,
) -> Iterator[ResultFrames]:
    """Find the frames of a results' folder; frames cut from videos are there as long as the block runs.

    datasets_dir: where the dataset lies, if not where test.py found it. dataset_name, target, source: when neither complete.json nor the
    folder's place (results/<D>/head2head_<T>/<epoch>/test/<T> or <T>_<S>) says it.
    Raises: UserError when there are no synthesised frames, or nothing says whose they are.
    """
    if not folder.is_dir():
        raise UserError(f"there is no results' folder {folder}; give the one that holds fake/ or the videos")
    folder = folder.resolve()
    facts = _facts(folder)
    known: Mapping[str, Any] = facts or _from_place(folder)
    target, source = target or known.get("target"), source or known.get("source")
    name = dataset_name or known.get("dataset_name")
    if not target or not name:
        raise UserError(f"nothing in or about {folder} says whose frames these are; give --dataset_name and --target_id (and --source_id)")
    dataset: Dataset | None = Dataset.find(name, datasets_dir, (facts or {}).get("datasets_dir"))
    if not dataset.folder.is_dir():
        dataset = None
    results = Results(folder)
    notes: list[str] = []
    with TemporaryDirectory(prefix="head2head_frames_") as temporary:
        paths: dict[str, list[Path]] = {}
        if numbers := results.frames("fake"):
            paths["fake"] = [results.path("fake", n) for n in numbers]
        else:
            cut = _cut_videos(results, facts, ("fake",), Path(temporary))
            if "fake" not in cut:
                raise UserError(f"{folder} holds neither fake/*.png nor a video of synthesised frames (all.mp4, only_fake.mp4)")
            paths["fake"] = cut["fake"]
            notes.append("synthesised frames are cut from a video: its compression is measured with them")
            first = facts["frames"][0] if facts else 0
            numbers = list(range(first, first + len(paths["fake"])))
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise UserError(f"frames are missing in {folder / 'fake'}; run test.py again")
        sequence = (dataset.pair(target, source) if source else dataset.sequence("test", target)) if dataset else None
        if sequence and facts is None and not results.frames("fake"):
            own = sequence.frames("source_nmfcs" if source else "nmfcs")
            if own:  # a video says how many frames there are, not which
                numbers = list(range(own[0], own[0] + len(numbers)))
        for kind, in_dataset in _IN_DATASET.items():
            there = set(results.frames(kind))
            if there >= set(numbers):
                paths[kind] = [results.path(kind, n) for n in numbers]
            elif sequence and set(sequence.frames(in_dataset[source is not None])) >= set(numbers):
                paths[kind] = [sequence.path(in_dataset[source is not None], n) for n in numbers]
        missing = tuple(k for k in _IN_DATASET if k not in paths)
        if missing:
            for kind, found in _cut_videos(results, facts, missing, Path(temporary)).items():
                if len(found) == len(numbers):
                    paths[kind] = found
                    notes.append(f"{'real' if kind == 'real' else 'NMFC'} frames are cut from a video as well")
        size = read_image(paths["fake"][0]).shape[0]
        left_out = _bad_frames(dataset, target, source, numbers) if dataset else (facts or {}).get("left_out", [])
        yield ResultFrames(folder, dataset, target, source, numbers, paths, size, facts, notes, frozenset(left_out))


def _bad_frames(dataset: Dataset, target: str, source: str | None, numbers: list[int]) -> list[int]:
    """Frames in which the truth, or the driver, is not seen well."""
    if source is None:
        return dataset.bad_frames(target, "test", numbers)
    pair = dataset.read_pair(target, source)
    return dataset.bad_frames(source, pair.driver["split"], numbers) if pair and pair.driver["kind"] == "identity" else []


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of open_frames."""
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="where the dataset lies (default: where test.py found it)")
    parser.add_argument("--dataset_name", metavar="D", help="dataset of the results, if nothing in or about the folder says it")
    parser.add_argument("--target_id", "--target_name", metavar="T", help="the person, likewise")
    parser.add_argument("--source_id", "--source_name", metavar="S", help="the driver, likewise")


def open_as_asked(folder: Path, args: argparse.Namespace) -> AbstractContextManager[ResultFrames]:
    """open_frames with what add_result_options parsed."""
    return open_frames(folder, args.datasets_dir, args.dataset_name, args.target_id, args.source_id)


def self_reenactments(description: str, argv: Iterable[str] | None, face_models: Iterable[str] = ()) -> Iterator[tuple[Any, ResultFrames]]:
    """What the preprocessing/compute_*.py share: parse the command line, and open the results that have a truth, one after the other.

    face_models: the choices of --face_model, for a command that fits one.
    Yields: the parsed options and the frames. Results in which another person drives are left out with a message.
    Raises: UserError when there are no results, or no real frames.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, required=True, metavar="DIR", help="a result's folder, or one above several")
    if face_models:
        parser.add_argument("--face_model", choices=("auto", *face_models), default="auto", help="face model (default: the dataset's)")
    add_result_options(parser)
    args = parser.parse_args(None if argv is None else list(argv))
    for folder in find_folders(args.results_dir):
        with open_as_asked(folder, args) as frames:
            if frames.driven:
                say(f"{folder}: {frames.source} drives {frames.target}, so there is no truth to compare with")
            elif "real" not in frames.paths:
                raise UserError(f"there are no real frames to compare those in {folder} with; give --datasets_dir, or bring real/ back too")
            else:
                yield args, frames


def find_folders(folder: Path) -> list[Path]:
    """All folders with frames to measure: `folder` itself, or those below it. Raises: UserError when there are none."""

    def holds_frames(place: Path) -> bool:
        return bool(Results(place).frames("fake")) or any(Results(place).video(name).is_file() for name in _VIDEOS if name != "source")

    if holds_frames(folder):
        return [folder]
    found = sorted({p.parent for p in folder.rglob("*") if p.name == "fake" or p.suffix == ".mp4"}) if folder.is_dir() else []
    found = [f for f in found if holds_frames(f)]
    if not found:
        raise UserError(f"{folder} holds no results (fake/*.png, all.mp4 or only_fake.mp4); run test.py first")
    return found


def _facts(folder: Path) -> dict[str, Any] | None:
    """complete.json as it is, whether or not the frames are still there."""
    try:
        facts = load_json((folder / "complete.json").read_text())
        return facts if {"dataset_name", "target", "source", "frames"} <= facts.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _from_place(folder: Path) -> dict[str, str | None]:
    """What the names of the folders say: results/<D>/head2head_<T>/<epoch>_epoch/test/<T> or <T>_<S>."""
    parts = folder.parts
    if len(parts) < 5 or not parts[-3].endswith("_epoch"):
        return {}
    target = parts[-4].removeprefix("head2head_")
    source = parts[-1].removeprefix(f"{target}_") if parts[-1].startswith(f"{target}_") else None
    if parts[-1] != target and source is None:
        return {}
    return {"dataset_name": parts[-5], "target": target, "source": source}


def _cut_videos(results: Results, facts: dict[str, Any] | None, kinds: tuple[str, ...], folder: Path) -> dict[str, list[Path]]:
    """Write the frames of these kinds as pictures, from the first videos that show them."""
    panels_of = {name: panels for mode in MODES.values() for name, panels in mode.items()}
    cut: dict[str, list[Path]] = {}
    for name in _VIDEOS:
        wanted = [k for k in kinds if k in panels_of[name] and k not in cut]
        path = results.video(name)
        if not wanted or not path.is_file():
            continue
        info = probe(path)
        panels = _panels(panels_of[name], info.width, info.height, facts)
        wanted = [k for k in wanted if k in panels]
        side = info.width // len(panels)
        size = (facts or {}).get("size", side)
        top = info.height - side
        for index, frame in enumerate(read_frames(path, info)):
            for kind in wanted:
                left = panels.index(kind) * side
                image = frame[top : top + side, left : left + side]
                if size < side:  # panels are enlarged to be seen
                    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
                if kind == "nmfc":
                    image = np.where(image.max(-1, keepdims=True) < _NMFC_NOISE, 0, image)
                target = folder / kind / f"{index:06d}.png"
                write_image(target, image)
                cut.setdefault(kind, []).append(target)
    return cut


def _panels(panels: tuple[str, ...], width: int, height: int, facts: dict[str, Any] | None) -> list[str]:
    """Which kinds the panels of a video show, from left to right: those that the results did not have were left out."""
    if len(panels) == 1:
        return list(panels)
    if facts and "kinds" in facts:
        return [k for k in panels if k in facts["kinds"]]
    side = height / (1 + CAPTION / PANEL)
    count = round(width / side)
    left_out = {4: (), 3: ("eye_gaze",), 2: ("eye_gaze", "real")}.get(count, ())
    return [k for k in panels if k not in left_out] if len(panels) == 4 else list(panels)
