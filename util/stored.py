"""Reading of stored JSON and NumPy arrays from files that may be damaged, or made to do harm.

Whatever is wrong is a ValueError, or one of UNREADABLE for arrays: not a stack that overflows, nor gigabytes that a header of a few bytes
claims.
"""

from __future__ import annotations

import io
import json
import math
import re
import types
import typing
import zipfile
import zlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np

MOST_BYTES = 256 << 20  # of one array, unpacked: cameras of a day of video have fewer
# What reading a .npz file raises that is damaged or holds other arrays; RuntimeError: said to be encrypted, or packed in a way unknown.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error, TokenError)


def brief_error(error: Exception) -> str:
    """What an error of reading says, in one short line."""
    return " ".join(str(error).split())[:100] or type(error).__name__


def load_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises: ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load_rate(value: Any, most: float = 1e6) -> Fraction:
    """A frame rate: a number, or text as "30000/1001". Raises: ValueError.

    Fraction alone would compute 1e999999999 in full.
    """
    if not has_type(value, int | float | str) or not re.fullmatch(r"\d{1,15}(\.\d{1,20})?(/\d{1,15})?", str(value)):
        raise ValueError(f"the frame rate is {str(value)[:40]!r}")
    above, _, below = str(value).partition("/")
    if not float(below or 1) or not 0 < (rate := Fraction(above) / Fraction(below or 1)) <= most:
        raise ValueError(f"the frame rate is {str(value)[:40]!r}")
    return rate


def load_array(data: bytes) -> np.ndarray:
    """The array of a .npy file's content; no objects. Raises: UNREADABLE, also when there is more or less than its header says."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 1) > len(data):
        raise ValueError(f"an array of the shape {shape} is cut off")
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def load_arrays(source: Path | BinaryIO, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays of those names in a .npz file. Raises: UNREADABLE; KeyError when there is none of a name."""
    with zipfile.ZipFile(source) as whole:
        found = {}
        for name in names:
            entry = whole.getinfo(f"{name}.npy")
            if entry.file_size > MOST_BYTES:
                raise ValueError(f"{name} has {entry.file_size >> 20} MB")
            found[name] = load_array(whole.read(entry))
        return found


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is what an annotation says: str, int, float, bool, None, list, dict, tuple and unions of them."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(has_type(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(has_type(v, parts[0]) for v in value)
    if origin is tuple:  # of a fixed length; JSON has lists
        return isinstance(value, list) and len(value) == len(parts) and all(map(has_type, value, parts))
    if origin is dict:
        return isinstance(value, dict) and all(has_type(k, parts[0]) and has_type(v, parts[1]) for k, v in value.items())
    if kind is None or kind is types.NoneType:
        return value is None
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and abs(value) < 1 << 53
    return isinstance(value, kind)


def check_fields(cls: type, fields: Any, **more: Any) -> dict[str, Any]:
    """Fields read from JSON for a dataclass, each as its annotation says, or `more`, a kind by name that says more.

    Returns: the fields. Raises: ValueError names what is wrong.
    """
    if not isinstance(fields, dict):
        raise ValueError("it is no list of fields")
    kinds = typing.get_type_hints(cls) | more
    for name, value in fields.items():
        if name not in kinds:
            raise ValueError(f"it says {name[:40]!r}, which this version does not know")
        if not has_type(value, kinds[name]):
            raise ValueError(f"{name} is {str(value)[:40]!r}")
    return fields
