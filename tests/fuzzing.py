"""Damaged inputs by Hypothesis: bytes, JSON and .npz files that were whole before, and what a parser may do with them."""

import io
import json
import os
import resource
import signal
import time
import zipfile
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

LONGEST_S = 20  # of the processor, for one input: beyond, the parser hangs. Not of the clock: a busy machine stops processes for longer
MOST_MEMORY = 2 << 30  # bytes that one input of a few kB may have a parser reserve
SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))  # of each test; 0: a few dozen inputs, always the same

TOKENS = (
    b"nan",
    b"1e999",
    b"-1",
    b"0",
    b"9" * 30,
    b"\0",
    b",",
    b";",
    b"\n",
    b"[",
    b"{",
    b'"',
    b"\xff",
    b"\xef\xbb\xbf",
    b"1_0",
    b"0x10",
    b":",
)
ODD = (None, True, False, -1, 0, 1, 10**30, 2**63, 1e308, -0.5, float("nan"), float("inf"), "", "x", "1/0", "../x", "\ud800", [], {}, [[]])
ODD += ([None], {"x": None}, [1, [2]], "9" * 5000, [0] * 3, [-1], ["x"], 10**400)
DEEP = b"[" * 5000


@st.composite
def damaged(draw, seeds):
    """One of these bytes after up to six changes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        how = draw(st.integers(0, 6))
        if how == 0 and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == 1:
            del data[at : at + length]
        elif how == 2:
            data[at:at] = draw(st.sampled_from(TOKENS))
        elif how == 3:
            data[at : at + length] = draw(st.sampled_from(TOKENS))
        elif how == 4:
            del data[at:]
        elif how == 5:
            data[at:at] = data[at : at + 8 * length]
        else:
            data[at : at + length] = draw(st.binary(max_size=8))
    return bytes(data)


@st.composite
def damaged_value(draw, value):
    """A JSON value in which up to four places hold something else, are gone or are there twice."""
    top = {"": deepcopy(value)}
    for _ in range(draw(st.integers(1, 4))):
        holder, key = top, ""
        while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 9)):
            holder = holder[key]
            key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        how = draw(st.integers(0, 5))
        if how <= 3:
            holder[key] = deepcopy(draw(st.sampled_from(ODD))) if how < 3 else draw(st.integers() | st.floats() | st.text(max_size=8))
        elif how == 4 and holder is not top:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        elif holder is not top:
            holder[str(draw(st.sampled_from(ODD)))[:20]] = deepcopy(holder[key])
    return top[""]


def damaged_json(value):
    """Text of JSON, damaged as a value or as bytes; nested beyond what Python follows now and then."""
    text = json.dumps(value).encode()
    return damaged_value(value).map(lambda v: json.dumps(v).encode()) | damaged([text]) | st.just(DEEP)


@st.composite
def damaged_npz(draw, arrays):
    """A .npz file in which an array is missing, has another shape or type, or a header that claims another size; or damaged as bytes."""
    arrays, claims = dict(arrays), {}
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(arrays)))
        how = draw(st.integers(0, 5))
        if how == 0 and len(arrays) > 1:
            del arrays[name]
        elif how == 1:
            shape = draw(st.lists(st.integers(0, 4), max_size=4))
            arrays[name] = np.zeros(shape, draw(st.sampled_from(["f8", "f2", "i8", "u1", "?", "U3", "S2", "c16", "M8[s]", [("a", "f8")]])))
        elif how == 2 and arrays[name].size and arrays[name].dtype.kind == "f":
            arrays[name] = arrays[name].copy()
            arrays[name].flat[draw(st.integers(0, arrays[name].size - 1))] = draw(st.sampled_from([np.nan, np.inf, 1e300, -1, 0]))
        elif how == 3:
            claims[name] = draw(st.sampled_from(["(10000000000,)", "(1000000, 1000000)", "(-1,)", "()", "(3", "'x'", "(2.5,)", "None"]))
        elif how == 4 and arrays[name].dtype.kind == "U":
            arrays[name] = np.array(json.dumps(draw(damaged_value(json.loads(str(arrays[name]))))) if str(arrays[name])[:1] == "{" else "x")
        else:
            arrays[name] = np.array(arrays[name], dtype=object)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    if claims:
        with (
            zipfile.ZipFile(io.BytesIO(file.getvalue())) as whole,
            zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as other,
        ):
            for entry in whole.namelist():
                claim = claims.get(entry.removesuffix(".npy"))
                other.writestr(entry, with_shape(whole.read(entry), claim) if claim else whole.read(entry))
    return draw(damaged([file.getvalue()])) if draw(st.booleans()) else file.getvalue()


def with_shape(npy: bytes, shape: str) -> bytes:
    """A .npy file whose header claims this shape."""
    start, end = npy.index(b"'shape': ") + 9, npy.index(b"}")
    length = int.from_bytes(npy[8:10], "little")
    header = npy[10:start] + shape.encode() + b", " + npy[end : 10 + length].rstrip() + b"\n"
    return npy[:8] + len(header).to_bytes(2, "little") + header + npy[10 + length :]


@contextmanager
def bounded():
    """Fail a block that takes too long or reserves too much memory."""
    with open("/proc/self/statm") as file:  # noqa: PTH123  (no such file on other systems: then the test is skipped)
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)

    def stop(*_):
        raise TimeoutError(f"longer than {LONGEST_S} s")

    handler = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)


def fuzz(inputs, parse, *errors, examples=40):
    """Have `parse` read many inputs: whatever it raises must be one of these errors, with a message of one line."""
    count = 0

    def check(data):
        nonlocal count
        count += 1
        with bounded():
            try:
                parse(data)
            except errors as e:
                assert str(e) and ("\n" not in str(e) or not isinstance(data, bytes)), repr(e)  # given words may have two lines
                assert len(str(e)) < 2000, f"a message of {len(str(e))} characters"

    how = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    if not SECONDS:
        settings(max_examples=examples, derandomize=True, phases=[Phase.generate], **how)(given(inputs)(check))()
        return
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        settings(max_examples=500, **how)(given(inputs)(check))()
    print(f"{count} inputs in {SECONDS:g} s")
