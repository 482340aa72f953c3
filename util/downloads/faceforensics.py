"""The folder that the download script of FaceForensics++'s authors makes, and its videos in our layout."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path

from util.cli import UserError, listed, progress, warn
from util.downloads.space import check_space
from util.image_io import replacing

VIDEOS = 1000  # 000.mp4 to 999.mp4
QUALITIES = ("raw", "c0", "c23", "c40")  # best first
_PLACES = ("original_sequences/youtube/{}/videos", "original_sequences/{}/videos", "youtube/{}/videos", "{}/videos")
_NAME = re.compile(r"\d{3}\.mp4")


def find_originals(folder: Path) -> dict[str, Path]:
    """File name -> video, of the original sequences in their folder, or of any folder of mp4 files; of each the best quality there is.

    Lines tell the qualities, and what is missing or empty. Raises: UserError when there is no video.
    """
    if not folder.is_dir():
        raise UserError(f"--from {folder} is not a folder; give the one into which the authors' script downloaded")
    places = [(quality, folder / place.format(quality)) for quality in QUALITIES for place in _PLACES]
    places += [("unknown", folder / "videos"), ("unknown", folder)]
    files = [(quality, path) for quality, place in places for path in sorted(place.glob("*.mp4")) if path.is_file()]
    originals = [(quality, path) for quality, path in files if _NAME.fullmatch(path.name)]
    found: dict[str, tuple[str, Path]] = {}
    for quality, path in originals or files:
        if path.stat().st_size:
            found.setdefault(path.name, (quality, path))
    if not found:
        raise UserError(f"--from {folder} holds no videos, neither in {_PLACES[0].format('{raw,c0,c23,c40}')} nor directly (*.mp4)")
    if empty := sorted({path.name for _, path in originals or files} - found.keys()):
        warn(f"{len(empty)} videos in {folder} are empty and left out: {listed(empty)}; download them again")
    numbers = [f"{number:03}.mp4" for number in range(VIDEOS)]
    if originals and (missing := [name for name in numbers if name not in found]):
        warn(f"{folder} has {VIDEOS - len(missing)} of the {VIDEOS} videos; missing: {listed(missing)}")
    counts = Counter(quality for quality, _ in found.values())
    if len(counts) > 1:
        warn("the videos are of different qualities: " + ", ".join(f"{count} {quality}" for quality, count in counts.items()))
    return {name: path for name, (_, path) in sorted(found.items())}


def link_videos(videos: dict[str, Path], folder: Path) -> None:
    """Put videos into a folder under these names: as hard links, else as symbolic links, else as copies. What is there stays.

    Raises: UserError when one cannot be written.
    """
    kept = []
    for name, path in progress(videos.items(), desc="link", unit="video"):
        target = folder / name
        if target.is_symlink() and not target.exists():  # it leads to where they were before
            target.unlink()
        if not target.exists():
            _link(path.resolve(), target)
        elif not target.samefile(path) and target.stat().st_size != path.stat().st_size:
            kept.append(name)
    if kept:
        warn(f"{len(kept)} files in {folder} are other ones and stay: {listed(kept)}; move them away and run again to take the new ones")


def _link(path: Path, target: Path) -> None:
    with replacing(target) as part:
        for link in (os.link, os.symlink):
            with suppress(OSError):  # another disk, a file of somebody else, a system without links
                return link(path, part)
        check_space(target, path.stat().st_size)
        shutil.copyfile(path, part)
