"""A lock among the processes of all machines that see a folder. The system frees it when its holder ends, however that ends."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from util.cli import UserError, warn_once, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_POLL_S = 1.0


@contextmanager
def locked(path: Path, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` in a block; the file is there only meanwhile.

    what: that nobody else may work on, for the message. wait_s: how long to wait for another holder.
    Where the file system knows no locks a warning says so, and nothing is locked.
    Raises: UserError when another process holds it, or the file cannot be written.
    """
    deadline = time.monotonic() + wait_s
    while (file := _acquire(path)) is None:
        if time.monotonic() >= deadline:
            with suppress(OSError):
                holder = path.read_text()
                raise UserError(f"{what} is being worked on by {holder or 'another process'}; run again when that has ended")
        else:
            time.sleep(_POLL_S)
    with file:
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _acquire(path: Path) -> IO[bytes] | None:
    """The lock file, open as long as we hold it; None when another process does."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
    try:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise FileNotFoundError  # its holder before removed it when we had opened it
    except (BlockingIOError, FileNotFoundError) as e:
        file.close()
        return None if isinstance(e, BlockingIOError) else _acquire(path)
    except OSError as e:
        warn_once(f"{path.parent} knows no locks ({e.strerror}); do not let two commands work on one identity at once")
        return file
    with suppress(OSError):  # the disk is full: whoever writes files says so
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}".encode())
    return file
