"""Arrays on disk with a key, the digest of what they were computed from: a cache is stale when the key differs."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from util.image_io import write_bytes
from util.stored import UNREADABLE, load_arrays


def read_keyed(path: Path, names: Iterable[str], key: str | None = None) -> dict[str, np.ndarray] | None:
    """The arrays of those names; None when there is no such file, it is damaged, or not made from `key` (None: any key)."""
    try:
        arrays = load_arrays(path, ["key", *names])
    except UNREADABLE:
        return None
    found = str(arrays.pop("key"))
    return arrays if key in (None, found) else None


def write_keyed(path: Path, key: str, **arrays: np.ndarray) -> None:
    """Write the file, not compressed, for it is read far more often; the write is atomic."""
    file = io.BytesIO()
    np.savez(file, key=np.array(key), **arrays)
    write_bytes(path, file.getbuffer())
