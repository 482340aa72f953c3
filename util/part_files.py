"""Names of half-written files and folders, `.<name>.<number>.<process>@<machine>.part`, and the removal of those that a killed process
has left."""

from __future__ import annotations

import errno
import itertools
import os
import platform
import re
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from util.cli import writing

_PART = re.compile(r"\..+\.(?P<process>\d+)(@(?P<machine>.+))?\.part", re.DOTALL)  # without machine: of earlier versions
_NAME_SHOWN = 40  # characters: with all else, a part's name stays below 255 bytes
_FORGOTTEN_S = 24 * 3600  # nobody writes that long to a file without touching it
_numbers = itertools.count()
_lock = threading.Lock()
_clean: set[tuple[int, int, int]] = set()  # process, and device and inode of the folders that it has looked through


def begin_part(path: Path, is_folder: bool = False) -> Path:
    """Make a file's folder, and give the name under which to write it, in the same folder, until it is whole.

    The first time that a process writes into a folder, the parts that killed processes have left there are removed.
    is_folder: a folder is to be written, which may be there already.
    Raises: UserError when the folder cannot be made, or `path` is a folder.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not is_folder:  # now, not after hours of work
            raise IsADirectoryError(errno.EISDIR, "", str(path))
        status = path.parent.stat()
        with _lock:  # nobody of this process writes there yet
            folder = os.getpid(), status.st_dev, status.st_ino
            if folder not in _clean:
                _clean.add(folder)
                _remove_leftovers(path.parent)
    return path.with_name(f".{path.name[:_NAME_SHOWN]}.{next(_numbers)}.{os.getpid()}@{platform.node()}.part")


def _remove_leftovers(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _PART.fullmatch(entry.name)
            if match and _is_leftover(Path(entry), int(match["process"]), match["machine"]):
                with suppress(OSError):  # another process was quicker, or it is not ours to remove
                    shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else Path(entry).unlink()


def _is_leftover(part: Path, process: int, machine: str | None) -> bool:
    if machine in (None, platform.node()) and (process == os.getpid() or not _is_alive(process)):
        return True
    with suppress(OSError):  # of another machine; or its number went to another process
        return time.time() - part.stat().st_mtime > _FORGOTTEN_S
    return False


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # there is no such question on Windows
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True
