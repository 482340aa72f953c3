"""What was downloaded: found by its content, whatever folders are around it, and moved to its place whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from util.cli import UserError, listed, writing
from util.identities import VIDEO_SUFFIXES
from util.layout import SPLITS
from util.locks import only_one

_GENERATOR = re.compile(r".+_net_G\.pth")


def find_dataset(folder: Path) -> Path:
    """The folder with train/ or test/ in it, images and all, somewhere below `folder`. Raises: UserError when there is none, or several."""

    def is_dataset(place: Path, folders: list[str], files: list[str]) -> bool:
        return any(split in folders and _holds_frames(place / split / "images") for split in SPLITS)

    found = sorted(_find(folder, is_dataset))
    if not found:
        raise UserError("is not a dataset of this layout, {train,test}/images/<sequence>/<frame>.png; " + _content(folder))
    if len(found) > 1:
        raise UserError(f"holds {len(found)} datasets ({listed([str(p.relative_to(folder)) for p in found])})")
    return found[0]


def _holds_frames(images: Path) -> bool:
    return any(path.stem.isdecimal() for path in images.glob("*/*.png")) if images.is_dir() else False


def find_videos(folder: Path) -> Path:
    """The lowest folder that has all videos in it or below it. Raises: UserError when there are none."""
    found = {Path(base) for base, _, files in os.walk(folder) if any(Path(f).suffix.lower() in VIDEO_SUFFIXES for f in files)}
    if not found:
        raise UserError("holds no videos; " + _content(folder))
    return Path(os.path.commonpath(found))


def find_runs(folder: Path, depth: int = 4) -> list[Path]:
    """The folders of trained persons, head2head_<T>/ with a generator in it, at most `depth` folders below `folder`."""

    def is_run(place: Path, folders: list[str], files: list[str]) -> bool:
        return place.name.startswith("head2head_") and any(map(_GENERATOR.fullmatch, files))

    return sorted(_find(folder, is_run, depth))


def find_file(folder: Path, name: str, depth: int = 4) -> Path | None:
    """The file of this name that lies highest in a folder, at most `depth` folders below it; None if there is none."""
    found = [place / name for place in _find(folder, lambda place, folders, files: name in files, depth)]
    return min(found, key=lambda path: len(path.parts), default=None)


def _find(folder: Path, is_it: Callable[[Path, list[str], list[str]], bool], depth: int | None = None) -> Iterator[Path]:
    """The highest folders, `folder` among them, of which is_it(place, folders, files) is true."""
    for base, folders, files in os.walk(folder):
        place = Path(base)
        if is_it(place, folders, files):
            yield place
            folders.clear()
        elif depth is not None and len(place.relative_to(folder).parts) >= depth:
            folders.clear()


def _content(folder: Path) -> str:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return f"it holds {listed([str(p.relative_to(folder)) for p in paths], 4)}"


def others(folder: Path, taken: Path) -> list[str]:
    """The files below `folder` that are not below `taken`, by their paths."""
    found = []
    for base, folders, files in os.walk(folder):
        if Path(base) == taken:
            folders.clear()
        else:
            folders.sort()
            found += [str((Path(base) / f).relative_to(folder)) for f in sorted(files)]
    return found


@contextmanager
def staging(folder: Path, waiting: str) -> Iterator[None]:
    """A folder for what is being fetched, made if missing, for one process at a time. If it is empty at the end, it goes; else the next
    run goes on with what is in it.

    waiting: said when another process has it. Raises: UserError when the folder cannot be made.
    """
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    lock = folder.with_suffix(".lock")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    try:
        with only_one(lock, waiting):
            try:
                folder.mkdir(exist_ok=True)  # the process before us may have removed it
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        for path in dict.fromkeys([folder, *made]):
            with suppress(OSError):  # gone already, or not empty
                path.rmdir()


def is_occupied(path: Path) -> bool:
    """Whether there is anything that must not be overwritten: a file, a link, or a folder that is not empty."""
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir()))


def place(source: Path, target: Path) -> None:
    """Move a folder or file to its place in one step. Raises: UserError when there is something already."""
    if is_occupied(target):
        raise UserError(f"{target} is there already, and nothing is overwritten; move it away and run again")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            target.rmdir()
        source.rename(target)
