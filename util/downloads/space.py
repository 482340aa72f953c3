"""Space on a disk, asked for before it is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

from util.cli import DiskFull


def check_space(path: Path, needed: float) -> None:
    """Raise a DiskFull when the disk of `path` (a file or folder that may not be there yet) has less than `needed` bytes free."""
    free = shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.is_dir())).free
    if needed > free:
        raise DiskFull(
            f"cannot write {path}: {amount(needed)} are needed, but its disk has only {amount(free)} free; free some space and run again, "
            "or choose a folder on another disk"
        )


def amount(size: float) -> str:
    """A number of bytes in words: 1.4 GB."""
    power = 0
    while size >= 999.5 and power < 4:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
