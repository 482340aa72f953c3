"""The video files that make up an identity: found by name, probed and hashed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from util.cli import UserError, warn
from util.hashing import sha256_of
from util.video.reading import VideoInfo, probe, read_frames

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
_PART = re.compile(r"(?P<name>.+)_(?P<part>\d+)")


@dataclass(frozen=True)
class Part:
    """One video file of an identity."""

    path: Path
    info: VideoInfo
    sha256: str


def find_videos(path: Path) -> dict[str, list[Path]]:
    """Identity -> its video files in order, for a video file or a folder of videos.

    Raises: UserError when there is none, or when the names of two files give the same part of one identity.
    """
    if path.is_file():
        return {identity_name(path.stem): [path]}
    if not path.is_dir():
        raise UserError(f"there is no video file or folder {path}; put your videos there or give --original_videos_path")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file() and not p.name.startswith("."))
    if not files:
        raise UserError(f"there is no video in {path}; put one there ({', '.join(VIDEO_SUFFIXES)}) or give --original_videos_path")
    groups: dict[str, dict[int, Path]] = {}
    stems = {p.stem for p in files}
    for file in files:
        match = _PART.fullmatch(file.stem)
        # "Ann_2" is a part only when there are other parts of "Ann"; alone it is an identity of its own.
        is_part = match and any(
            s == match["name"] or ((m := _PART.fullmatch(s)) and m["name"] == match["name"] and s != file.stem) for s in stems
        )
        stem, number = (match["name"], int(match["part"])) if is_part else (file.stem, 1)
        parts = groups.setdefault(identity_name(stem), {})
        if number in parts:
            raise UserError(
                f"{parts[number].name} and {file.name} in {path} would both be part {number} of '{identity_name(stem)}'; rename one"
            )
        parts[number] = file
    return {name: [parts[k] for k in sorted(parts)] for name, parts in sorted(groups.items())}


def identity_name(stem: str) -> str:
    """A file's name without underscores and blanks: sequences and pairs use them as separators."""
    return re.sub(r"[_\s]", "", stem) or "video"


def open_parts(paths: list[Path]) -> list[Part]:
    """Probe an identity's files; all get the first one's frame rate. Raises: UserError when their sizes differ."""
    parts = []
    for path in paths:
        info = probe(path)
        first = parts[0].info if parts else info
        if (info.width, info.height) != (first.width, first.height):
            raise UserError(
                f"{path} is {info.width}x{info.height}, but {paths[0].name}, the first part of the same person, is "
                f"{first.width}x{first.height}; scale it to that size, or give it a name of its own to make it another identity"
            )
        if info.fps != first.fps:
            warn(f"{path.name} has {float(info.fps):.3f} frames/s: read at {float(first.fps):.3f} like {paths[0].name}")
        parts.append(Part(path, info.at_rate(first.fps), sha256_of(path)))
    return parts


def read_parts(parts: Sequence[Part], counts: Sequence[int], n_replicate_first: int = 0) -> Iterator[np.ndarray]:
    """The first counts[i] frames of every part i in order, uint8 [H, W, 3] RGB; the very first frame n_replicate_first times more.

    Raises: UserError when a part has fewer frames.
    """
    first = True
    for part, expected in zip(parts, counts):
        count = 0
        for frame in islice(read_frames(part.path, part.info), expected):
            count += 1
            yield from [frame] * (1 + n_replicate_first * first)
            first = False
        if count != expected:
            raise UserError(f"{part.path} gave {count} frames after {expected} before; was it changed meanwhile? run again")
