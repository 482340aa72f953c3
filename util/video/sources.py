"""The video files that make up an identity: found by name, probed and hashed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util.cli import UserError, listed, say, warn
from util.hashing import sha256_of
from util.identities import VIDEO_SUFFIXES, assign_identities, composed, did_you_mean, identity_name
from util.layout import Dataset
from util.video.reading import VideoInfo, probe

_PART = re.compile(r"(?P<name>.+)_(?P<part>[1-9][0-9]?)", re.DOTALL)  # no leading zero: IMG_0412 is a camera's counter


@dataclass(frozen=True)
class Part:
    """One video file of an identity."""

    path: Path
    info: VideoInfo
    sha256: str


def find_videos(
    path: Path, dataset: Dataset | None = None, name: str | None = None, parts: Sequence[str] | None = None
) -> dict[str, list[Path]]:
    """Identity -> its video files in order, for a video file or a folder of videos.

    Parts of NAME are NAME.mp4 or NAME_1.mp4, then NAME_2.mp4 to NAME_99.mp4. A line says what is joined, which files are not taken, and
    which look like parts and are none.
    dataset: whose identities keep their names. name: only this identity, by its own name or a file's; of parts: its name.
    parts: files of the folder that are the parts of one identity, in order; []: all, in the order of their names.
    Raises: UserError when there is none, or when the names of two files give the same part of one identity.
    """
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"there is no video file or folder {path}; put your videos there or give --original_videos_path")
        groups = {path.stem: [path]}
    elif parts:
        groups = {Path(parts[0]).stem: [path / p for p in dict.fromkeys(parts)]}
        for file in groups[Path(parts[0]).stem]:
            if not file.is_file():
                raise UserError(f"there is no file {file}; check --parts and --original_videos_path")
    else:
        files = _videos_in(path)
        groups = grouped(path, files) if parts is None else {files[0].stem: files}
    if parts is not None and name is not None:
        identity, files = identity_name(name), next(iter(groups.values()))
        record = dataset.read_record(identity) if dataset else None
        known = [Path(source["file"]).name for source in record.sources] if record else []
        if known and not {p.resolve().name for p in files} & set(known):
            raise UserError(f"'{identity}' is already made of {listed(known)} in {dataset.folder}; give another --name")
        return {identity: files}
    videos = assign_identities(dataset, groups)
    for identity, files in videos.items():
        if len(files) > 1:
            say(f"{identity}: {' + '.join(p.name for p in files)}")
    if name is None:
        return videos
    meant = [n for n, files in videos.items() if composed(name) in (n, *(composed(t) for f in files for t in (f.name, f.stem)))]
    meant = meant or [n for n in videos if n == identity_name(name)]
    if not meant:
        raise UserError(f"there is no video of '{name}' in the folder; it holds: {listed(list(videos))}{did_you_mean(name, videos)}")
    return {meant[0]: videos[meant[0]]}


def _videos_in(folder: Path) -> list[Path]:
    """The videos of a folder in the order of their names, numbers counted; a line names what else is there."""
    there = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=_natural)
    files = [p for p in there if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
    others = listed([p.name + "/" * p.is_dir() for p in there if p not in files])
    if not files:
        holds = f", only {others}" if others else ""
        raise UserError(f"there is no video in {folder}{holds}; put one there ({', '.join(VIDEO_SUFFIXES)}) or give --original_videos_path")
    if others:
        warn(f"not taken from {folder}: {others} (no video by its name; --original_videos_path FILE takes any file)")
    return files


def grouped(folder: Path, files: list[Path], by_option: bool = True) -> dict[str, list[Path]]:
    """Name -> its parts in order, for files of a folder. by_option: whether --parts can say otherwise.

    Raises: UserError when two files would be the same part.
    """
    stems: dict[str, Path] = {}
    for file in files:
        if (other := stems.setdefault(composed(file.stem), file)) != file:
            raise UserError(f"{other.name} and {file.name} in {folder} would both be part 1 of '{identity_name(file.stem)}'; rename one")
    groups: dict[str, dict[int, Path]] = {}
    later: set[str] = set()  # parts but the first
    for stem, file in sorted(stems.items(), key=lambda item: len(item[0])):  # Ann_2 before Ann_2_2, which is no part of it
        match = _PART.fullmatch(stem)
        firsts = [s for s in (match["name"], f"{match['name']}_1") if s in stems and s not in later] if match else []
        if not firsts or match["part"] == "1":
            continue
        if len(firsts) == 2:
            one, two = (stems[s].name for s in firsts)
            fix = "rename one, or give --parts" if by_option else "rename one"
            raise UserError(f"{one} and {two} in {folder} would both be part 1 of '{match['name']}'; {fix}")
        groups.setdefault(match["name"], {1: stems[firsts[0]]})[int(match["part"])] = file
        later.add(stem)
    joined = {file for own in groups.values() for file in own.values()}
    alone = {stem: file for stem, file in stems.items() if file not in joined}
    alike: dict[str, list[str]] = {}
    for stem, file in alone.items():
        if match := re.fullmatch(r"(.+?)_?[0-9]+", stem, re.DOTALL):
            alike.setdefault(match[1], []).append(file.name)
    if look_alikes := [name for names in alike.values() if len(names) > 1 for name in names]:
        how = "give --parts if they are of one person, or call them NAME, NAME_2, NAME_3"
        how = how if by_option else "call those of one person NAME, NAME_2, NAME_3"
        say(f"not joined, each an identity of its own: {listed(look_alikes)}; {how}")
    return {name: [own[k] for k in sorted(own)] for name, own in groups.items()} | {stem: [file] for stem, file in alone.items()}


def _natural(path: Path) -> list[tuple[int, str]]:
    """Key that sorts clip9.mp4 before clip10.mp4."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"([0-9]+)", composed(path.name).casefold())]


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
