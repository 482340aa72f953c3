"""The videos that a command line names: files, folders, patterns and lists of them, as identities with their files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from util.cli import UserError, file_error, listed, say, warn
from util.identities import VIDEO_SUFFIXES, assign_identities, composed
from util.layout import Dataset
from util.video.sources import grouped

LIST_SUFFIX = ".txt"


def search_videos(named: Sequence[str | Path], dataset: Dataset) -> dict[str, list[Path]]:
    """Identity -> its video files in order.

    named: video files, whatever they are called; folders, of which the videos are taken; patterns (`videos/**/*.mp4`); and text files
    with one of these a line, seen from the list's folder. NAME_2 to NAME_99 of the same folder are parts of NAME.
    dataset: whose identities keep their names.
    Raises: UserError when something names no video, or two files in different folders are called the same.
    """
    folders: dict[Path, dict[Path, None]] = {}  # folder -> its files, each once
    for file in _all_files(named, Path()):
        path = Path(os.path.abspath(file))  # noqa: PTH100 (a link keeps its own name)
        folders.setdefault(path.parent, {})[path] = None
    groups: dict[str, list[Path]] = {}
    for folder, files in folders.items():
        for stem, parts in grouped(folder, list(files), by_option=False).items():
            same = groups.get(composed(stem))
            if same:
                both = f"{same[0]} and {parts[0]} would both become '{composed(stem)}'"
                raise UserError(f"{both}; rename one, or give it another --dataset_name")
            groups[composed(stem)] = parts
    videos = assign_identities(dataset, groups)
    for identity, files in videos.items():
        if len(files) > 1:
            say(f"{identity}: {' + '.join(p.name for p in files)}")
    return videos


def _all_files(named: Iterable[str | Path], base: Path, source: str = "") -> Iterator[Path]:
    """base: where relative paths start. source: the list and its line that name them, for messages."""
    for text in named:
        path = base / text
        if path.is_dir():
            if not (found := _videos_of(path)):
                raise UserError(f"{source}there is no video in {path}; put one there ({', '.join(VIDEO_SUFFIXES)}), or name the files")
            others = [p.name for p in sorted(path.iterdir()) if p.is_file() and p not in found and not p.name.startswith(".")]
            if others:
                warn(f"not taken from {path}: {listed(others)} (no video by its name; a file that is named itself is taken)")
            yield from found
        elif path.is_file() and path.suffix.lower() == LIST_SUFFIX and not source:
            yield from _listed_files(path)
        elif path.is_file():
            yield path
        elif glob.has_magic(str(text)):
            matches = [Path(m) for m in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (this one knows ** and absolute patterns)
            found = [f for m in matches for f in (_videos_of(m) if m.is_dir() else [m] if _is_video(m) else [])]
            if not found:
                raise UserError(f"{source}no video matches {text}; check the pattern and the folder that it starts in ({base.absolute()})")
            yield from found
        else:
            raise UserError(f"{source}there is no video file, folder or list {path}; check its name")


def _listed_files(path: Path) -> Iterator[Path]:
    try:
        lines = path.read_text("utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as e:
        raise file_error("cannot read", path, e) from None
    named = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    named = [(number, line) for number, line in named if line and not line.startswith("#")]
    if not named:
        raise UserError(f"the list {path} names no video; write one path a line into it")
    for number, line in named:
        yield from _all_files([line], path.parent, f"{path} line {number}: ")


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _videos_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _is_video(p))
