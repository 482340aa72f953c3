"""Arrays on disk with a key, the digest of what they were computed from: a cache is stale when the key differs."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError

import numpy as np

from util.image_io import write_bytes

# What numpy.load raises for a file that is missing, damaged, or holds other arrays; RuntimeError: for zip files said to be encrypted.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, TokenError)


def read_keyed(path: Path, names: Iterable[str], key: str | None = None) -> dict[str, np.ndarray] | None:
    """The arrays of those names; None when there is no such file, it is damaged, or not made from `key` (None: any key)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if key is not None and str(file["key"]) != key:
                return None
            return {name: file[name] for name in names}
    except UNREADABLE:
        return None


def write_keyed(path: Path, key: str, **arrays: np.ndarray) -> None:
    """Write the file, compressed; the write is atomic."""
    file = io.BytesIO()
    np.savez_compressed(file, key=np.array(key), **arrays)
    write_bytes(path, file.getbuffer())
