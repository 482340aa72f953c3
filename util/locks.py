"""Locks among the processes of all machines that see a folder. The system frees one when its holder ends, however that ends."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from util.cli import UserError, say, warn_once, writing

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None

_POLL_S = 0.5


@contextmanager
def locked(path: Path, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` in a block; the file is there only meanwhile.

    what: that nobody else may work on, for the message. wait_s: how long to wait for another holder.
    Where the file system knows no locks a warning says so, and nothing is locked.
    Raises: UserError when another process holds it, or the file cannot be written.
    """
    deadline = time.monotonic() + wait_s
    while True:
        with writing(path):
            file = _acquire(path)
        if file:
            break
        if time.monotonic() < deadline:
            time.sleep(_POLL_S)
        else:
            with suppress(OSError):
                holder = path.read_text()
                raise UserError(f"{what} is being worked on by {holder or 'another process'}; run again when that has ended")
    with file:
        with suppress(OSError):  # the disk is full: whoever writes files says so
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock file `path` of `locked`; where the system knows no locks, whether the file is there."""
    try:
        with path.open("rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
            return True
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextmanager
def only_one(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold a lock on a file, made with its folder if missing, which may be filled, moved or removed under the lock; waits for it.

    waiting: said when another process holds it. Raises: OSError when the file cannot be made.
    """
    if fcntl is None:  # an open file could not be moved
        yield
        return
    while (file := _acquire(path, warn=False)) is None:
        if waiting:
            say(waiting)
            waiting = ""
        time.sleep(_POLL_S)
    with file:
        yield


def _acquire(path: Path, warn: bool = True) -> IO[bytes] | None:
    """The lock file, open as long as we hold it; None when another process does. warn: say where the file system knows no locks."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
        try:
            if fcntl is None:
                raise OSError("not on this system")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as e:
            if warn:
                reason = e.strerror or e
                warn_once(f"{path.parent} knows no locks ({reason}); do not let two commands work on one identity at once")
            return file
        with suppress(FileNotFoundError):  # else its holder before had moved it away when we opened it
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
