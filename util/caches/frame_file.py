"""Arrays with a row for each frame, compressed row by row, so that a clip's rows are read without the others; with a key as in keyed_file.

A file is: the 8 bytes of MAGIC; the header's length, 4 bytes, little-endian; the header, JSON: `key`, and `arrays`, name -> `dtype`,
`shape` of a row, and `edges`, where each row begins and the last one ends, in bytes from the header's end; then the rows. A row is a zlib
stream of the row's bytes in planes: the first byte of all its numbers, then the second of all, and so on, which makes files a sixth
smaller.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from isal import isal_zlib

from util.image_io import write_bytes
from util.stored import load_json

MAGIC = b"h2hrows1"
_LEVEL = 1  # of ISA-L: twenty times as fast as zlib's default level, for files a tenth larger
_HEAD = struct.Struct("<8sI")
# What reading a damaged file raises.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, SyntaxError, struct.error, isal_zlib.error)
_DEFLATE_RATIO = 1032  # no zlib stream holds more bytes for one of its own


@dataclass(frozen=True)
class _Header:
    key: str
    arrays: dict[str, dict[str, Any]]
    start: int  # of the rows, in bytes from the file's start


class PackedRows:
    """An array for write_rows whose rows are compressed as they come, for those that memory should not hold whole."""

    def __init__(self, rows: Iterable[np.ndarray] = ()):
        self.dtype, self.shape, self.packed = np.dtype(np.uint8), (), []
        for row in rows:
            self.append(row)

    def append(self, row: np.ndarray) -> None:
        """Add a row; all are to have the same type and shape."""
        self.dtype, self.shape = row.dtype, row.shape
        self.packed.append(isal_zlib.compress(_planes(row), _LEVEL))


def write_rows(path: Path, key: str, **arrays: np.ndarray | PackedRows) -> None:
    """Write arrays, of which the first dimension counts rows; the write is atomic."""
    described, packed = {}, []
    end = 0
    for name, array in arrays.items():
        rows = array.packed if isinstance(array, PackedRows) else PackedRows(array).packed
        shape = array.shape if isinstance(array, PackedRows) else array.shape[1:]
        edges = [end, *(end + np.cumsum([len(row) for row in rows])).tolist()]
        end = edges[-1]
        packed += rows
        described[name] = {"dtype": array.dtype.str, "shape": shape, "edges": edges}
    header = json.dumps({"key": key, "arrays": described}).encode()
    write_bytes(path, b"".join([_HEAD.pack(MAGIC, len(header)), header, *packed]))


def read_rows(path: Path, parts: Mapping[str, slice], key: str | None = None) -> dict[str, np.ndarray] | None:
    """These rows of the arrays of these names; the others are not read.

    None when there is no such file, what is read of it is damaged, or it is not made from `key` (None: any key).
    """
    try:
        with path.open("rb") as file:
            header = _read_header(file)
            if key is not None and header.key != key:
                return None
            return {name: _read_array(file, header, name, part) for name, part in parts.items()}
    except _UNREADABLE:
        return None


def has_rows(path: Path, names: Iterable[str], key: str) -> bool:
    """Whether there is a whole file made from `key` with arrays of those names; the rows are not read."""
    try:
        with path.open("rb") as file:
            header = _read_header(file)
            end = max(array["edges"][-1] for array in header.arrays.values())
            return header.key == key and header.arrays.keys() >= set(names) and path.stat().st_size == header.start + end
    except _UNREADABLE:
        return False


def _read_header(file: BinaryIO) -> _Header:
    magic, length = _HEAD.unpack(file.read(_HEAD.size))
    if magic != MAGIC:
        raise ValueError("another kind of file")
    if length > os.fstat(file.fileno()).st_size:  # else Python takes as much memory first
        raise ValueError("cut off")
    fields = load_json(file.read(length))
    return _Header(fields["key"], fields["arrays"], _HEAD.size + length)


def _read_array(file: BinaryIO, header: _Header, name: str, part: slice) -> np.ndarray:
    array = header.arrays[name]
    first, last, _ = part.indices(len(array["edges"]) - 1)
    edges = array["edges"][first : max(first, last) + 1]
    size = edges[-1] - edges[0]
    dtype, shape = np.dtype(array["dtype"]), (len(edges) - 1, *array["shape"])
    if not 0 <= size <= os.fstat(file.fileno()).st_size or math.prod(shape) * dtype.itemsize > _DEFLATE_RATIO * size:
        raise ValueError("no file of this size holds so many rows")
    rows = np.empty(shape, dtype)
    file.seek(header.start + edges[0])
    packed = memoryview(file.read(size))
    for row, start, end in zip(rows.reshape(len(rows), math.prod(array["shape"])), edges, edges[1:]):
        unpacked = isal_zlib.decompress(packed[start - edges[0] : end - edges[0]], bufsize=row.nbytes)
        planes = np.frombuffer(unpacked, np.uint8).reshape(row.itemsize, 1, row.size)  # refuses a row of another length
        cv2.merge(list(planes), row.view(np.uint8).reshape(1, row.size, row.itemsize))
    return rows


def _planes(row: np.ndarray) -> np.ndarray:
    """The bytes of a row, in planes: uint8, contiguous."""
    return np.ascontiguousarray(np.ascontiguousarray(row).reshape(-1).view(np.uint8).reshape(-1, row.itemsize).T)
