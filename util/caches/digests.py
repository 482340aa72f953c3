"""Digests of a sequence's files, kept on disk so that files which nobody touched are not read at every start.

`<split>/digests/<kind>/<sequence>.json` (util.layout.Sequence.digests_path) holds `stamp`, a digest of the names, sizes, times and inodes
of the files, and `digests`, frame number -> digest of the file's bytes. A stamp that differs, as after copying or linking files, has them
all read again. Writing to a file changes its times: that of its content, which programs may set back, and that of its status, which none
can.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from util.cli import UserError
from util.image_io import write_bytes
from util.layout import Sequence
from util.stored import load_json

# Files that changed later than this before they were read may have been written in the same tick of the file system's clock: 2 s on FAT.
_SETTLED_NS = 2_000_000_000
_BYTES = 16


def frames_key(made_by: str, sequences: Iterable[Sequence]) -> str:
    """A digest of how something is made (`made_by`) and of the bytes of all frames of the sequences."""
    digest = hashlib.blake2b(made_by.encode(), digest_size=_BYTES)
    for sequence in sequences:
        for _, own in sorted(file_digests(sequence, "images").items()):
            digest.update(own)
    return digest.hexdigest()


def file_digests(sequence: Sequence, kind: str) -> dict[int, bytes]:
    """A digest of the bytes of each of a sequence's files of a kind, by frame number."""
    path, begun = sequence.digests_path(kind), time.time_ns()
    stamp, newest = _stamp(sequence, kind)
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored = load_json(path.read_bytes())
        if stored["stamp"] == stamp:
            return {int(number): bytes.fromhex(own) for number, own in stored["digests"].items()}
    paths = {number: sequence.path(kind, number) for number in sequence.frames(kind)}
    digests = {number: hashlib.blake2b(read_file(path), digest_size=_BYTES).digest() for number, path in paths.items()}
    if newest < begun - _SETTLED_NS:
        with suppress(UserError):  # a dataset that may not be written to
            write_bytes(path, json.dumps({"stamp": stamp, "digests": {n: own.hex() for n, own in digests.items()}}).encode())
    return digests


def read_file(path: Path) -> bytes:
    return path.read_bytes()


def _stamp(sequence: Sequence, kind: str) -> tuple[str, int]:
    """A digest of what the file system says of the files, and the latest of their times, in nanoseconds."""
    digest, newest = hashlib.blake2b(digest_size=_BYTES), 0
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(sequence.folder(kind)) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            status = entry.stat()
            digest.update(f"{entry.name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}\n".encode())
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
    return digest.hexdigest(), newest
