"""What every command shares: user errors, messages, progress bars, flags that can be switched off."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from util import VERSION

T = TypeVar("T")
_warned: set[str] = set()
_quiet = False
_collected: list[tuple[str, bool]] | None = None  # messages of a block in `collecting`
_ELSEWHERE = "choose a folder on another disk"
_FILE_ERRORS = {  # what the system says of a file: the cause, and the fix
    errno.ENOSPC: ("the disk is full", "free some space and run again"),
    errno.EDQUOT: ("your quota of this disk is used up", "free some space and run again"),
    errno.EFBIG: ("a file may not become that large there", f"raise the limit (ulimit -f) or {_ELSEWHERE}"),
    errno.EROFS: ("the disk is read-only", _ELSEWHERE),
    errno.EACCES: ("permission denied", "allow it (chmod u+rwX {place}, as its owner) or choose another folder"),
    errno.EPERM: ("the system forbids it", "allow it (lsattr -d {place} shows a mark) or choose another folder"),
    errno.EISDIR: ("a folder has this name", "move that folder away or choose another name"),
    errno.ENOTDIR: ("{place} is not a folder", "move it away or choose another folder"),
    errno.EEXIST: ("{place} is not a folder", "move it away or choose another folder"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ELOOP: ("its links lead in a circle", "remove the link"),
    errno.EIO: ("the disk does not answer properly", f"check it, or {_ELSEWHERE}"),
    errno.ENOENT: ("its folder is gone", "run again"),
}


class UserError(Exception):
    """An error that the user can fix. The message is one clear sentence: what is wrong, where, and the fix."""


class DiskFull(UserError):
    """There is no space for a file: nothing that comes next can be written either."""


def file_error(what: str, path: str | Path, error: OSError) -> UserError:
    """The sentence for an error of the system with a file: what cannot be done (`cannot write`, say), the file, the cause, the fix."""
    cause, fix = _FILE_ERRORS.get(error.errno, (error.strerror or str(error), "choose another folder, or run again"))
    named = Path(os.fsdecode(getattr(error, "filename2", None) or error.filename or path))
    place = next((p for p in (named, *named.parents) if os.path.lexists(p)), named)  # what is there of it
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else UserError
    return kind(f"{what} {path}: {cause.format(place=place)}; {fix.format(place=place)}")


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """For a block that does nothing but write `path`: errors of the system become a UserError that names it and the fix."""
    try:
        yield
    except OSError as e:
        raise file_error("cannot write", path, e) from None


def run(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> None:
    """Call a command's `main(argv)` and leave the process with its exit code. `--version` alone prints the version, for every command.

    A UserError is printed to stderr in one line without a traceback (exit code 1); Ctrl-C gives 130. Any other exception
    is a bug and keeps its traceback.
    """
    # Before PyTorch loads OpenMP: its idle threads spin for a moment, then sleep. Small networks wait often and for a short time. GNU
    # OpenMP's own default (300,000 turns), and 20,000 too, take the cores from whoever else computes: two trainings on two cores made 0.6
    # frames/s each where one alone makes 8; with 100 turns they make 4.5 each, and one alone is as fast (scripts/bench/two_trainings.py).
    os.environ.setdefault("GOMP_SPINCOUNT", "100")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is written with escapes, not an error
            stream.reconfigure(errors="backslashreplace")
    if argv is None and sys.argv[1:] == ["--version"]:
        print(f"Head2Head {VERSION}")
        sys.exit()
    message = ""  # printed when the exception is gone, and with it the progress bars of its stack
    try:
        code = main(argv) or 0
        sys.stdout.flush()
    except UserError as e:
        message, code = f"error: {e}", 1
    except KeyboardInterrupt:
        message, code = "\ninterrupted: run the same command again to go on from what is finished", 130
    except BrokenPipeError:
        # The reader of our output (head, less) has closed the pipe: not an error, but Python must not flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as e:  # of a file that is read, or of our own output; a file that is written is named by `writing`
        if e.errno not in _FILE_ERRORS or e.errno in (errno.ENOENT, errno.EEXIST):  # unforeseen: a bug
            raise
        if e.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as above
        message, code = f"error: {file_error('cannot use', e.filename or 'the standard output', e)}", 1
    if message:
        print(printable(message), file=sys.stderr)
    sys.exit(code)


def printable(text: str) -> str:
    """A text that can be written as UTF-8: bytes of file names that are not UTF-8 are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for a message: the first few, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def be_quiet() -> None:
    """Switch off messages, warnings and progress bars, not errors. For all but the first process of a distributed run."""
    global _quiet
    _quiet = True


@contextlib.contextmanager
def collecting() -> Iterator[list[tuple[str, bool]]]:
    """Collect the messages of a block instead of printing them, and show no progress bars in it.

    Gives the list that fills: each message, and whether it is a warning.
    """
    global _collected
    before, _collected = _collected, []
    try:
        yield _collected
    finally:
        _collected = before


def say(message: str) -> None:
    """Print a message line without breaking a progress bar."""
    if _quiet:
        return
    if _collected is not None:
        _collected.append((message, False))
        return
    tqdm.write(printable(message), file=sys.stdout)
    sys.stdout.flush()


def warn(message: str) -> None:
    """Print a warning line to stderr without breaking a progress bar."""
    if _quiet:
        return
    if _collected is not None:
        _collected.append((message, True))
        return
    tqdm.write(printable(f"warning: {message}"), file=sys.stderr)


def warn_once(message: str) -> None:
    """Print a warning the first time this process meets it."""
    if message not in _warned:
        _warned.add(message)
        warn(message)


def progress(iterable: Iterable[T] | None = None, *, desc: str, total: int | None = None, unit: str = "frame") -> tqdm:
    """A progress bar with the time left; quiet updates when stderr is no terminal (a log file). Bytes ("B") are shown as kB, MB, GB."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    desc, off = printable(desc), _quiet or _collected is not None
    how = {"unit": unit, "unit_scale": unit == "B", "mininterval": interval, "dynamic_ncols": True, "smoothing": 0.05, "disable": off}
    return tqdm(iterable, desc=desc, total=total, **how)


def add_flag(parser: argparse._ActionsContainer, name: str, default: bool, help: str) -> None:
    """Add the boolean option `--name` together with its opposite `--no_name`, so that every default can be switched off."""
    dest = name.lstrip("-")
    parser.add_argument(
        f"--{dest}", dest=dest, action="store_true", default=default, help=f"{help} (default: {'on' if default else 'off'})"
    )
    parser.add_argument(f"--no_{dest}", dest=dest, action="store_false", help=argparse.SUPPRESS)
