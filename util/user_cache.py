"""The user's cache folder: what this machine makes once and can make again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from util.cli import UserError
from util.image_io import write_bytes


def user_cache(name: str) -> Path:
    """The folder for one kind of things: <name>/ in $HEAD2HEAD_CACHE, else in head2head/ of the user's cache folder."""
    if given := os.environ.get("HEAD2HEAD_CACHE"):
        return Path(given) / name
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "head2head" / name


def cached_bytes(folder: Path, name: str, make: Callable[[], bytes], most: int, *, anew: bool = False) -> bytes:
    """What a file of a cache holds; it is made when it is missing, or `anew`.

    most: so many files stay in the folder, those that were used last. A folder that cannot be written to is no error: it holds nothing.
    """
    path = folder / name
    if not anew:
        with suppress(OSError):
            data = path.read_bytes()
            path.touch()  # used now
            return data
    data = make()
    with suppress(UserError, OSError):
        write_bytes(path, data)
        by_use = sorted(folder.glob(f"*{path.suffix}"), key=lambda p: p.stat().st_mtime)
        for old in by_use[:-most]:
            old.unlink(missing_ok=True)
    return data
