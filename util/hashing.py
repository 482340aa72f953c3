"""SHA-256 of files: what records, caches and results use to notice that a file was replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_BLOCK = 1 << 20  # bytes read at once


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    return sha256_of_all([Path(path)], names=False)


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_kept(path: Path) -> str:
    """As sha256_of, but a process reads a file only once while its size and time stay the same."""
    status = path.stat()
    return _kept(path, status.st_size, status.st_mtime_ns, status.st_ino)


@cache
def _kept(path: Path, *_: int) -> str:
    return sha256_of(path)


def sha256_of_all(paths: Sequence[Path], names: bool = True) -> str:
    """SHA-256 over the contents of files in this order, each after its name (without its folder) if `names`."""
    digest = hashlib.sha256()
    for path in paths:
        if names:
            digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
