"""Tables of text in any dialect: encoding, separator, comments and titles above the names, trailing commas, decimal commas."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

SEPARATORS = (",", ";", "\t", "|", " ")
COMMENTS = ("#", "//")
EXPECTED = "export the take as CSV from a face capture app"
NAMES_WITHIN = 200  # first lines of a file, one of which has the names of the columns
MOST_DAMAGED = 0.1  # share of rows with too many cells beyond which the whole file is not understood
MISSING = {"", "nan", "na", "n/a", "null", "none", "nil", "-", "--", "inf", "+inf", "-inf", "infinity", "-infinity", "#n/a"}
BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
OTHER_FILES = (
    (b"PK\x03\x04", "an Excel workbook or a zip file"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"%PDF", "a PDF file"),
    (b"\x1f\x8b", "a compressed file"),
)


@dataclass(frozen=True)
class Table:
    """Cells are stripped text. Rows may be shorter than `names` (cells that the file lacks), never longer."""

    names: list[str]
    rows: list[list[str]]
    lines: list[int]  # line of each row in the file, from 1
    title: str  # what stands above the names, comments too
    notes: list[str]  # what was assumed or left out, for a warning each


def read_table(path: Path, known: Callable[[str], bool], least: int) -> Table:
    """Read a table whose columns are named in one of its first lines, the first in which `least` cells are `known`.

    Raises: ValueError when the file is of another kind or has no such line, says why; OSError when it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        text = _decode(head, file)
    lines = list(io.StringIO(text, newline=""))
    if not text.strip():
        raise ValueError(f"it is empty; {EXPECTED}")
    if re.match(r'\s*(\{|\[\s*[\[{"])', text):
        raise ValueError("it is a JSON file; if it is a motion template, give it a name that ends with .json")
    if text.lstrip().startswith("<"):
        raise ValueError(f"it is a web page or XML; {EXPECTED}")

    most = 0
    # a comment has the names of the columns only where no other line has them
    for start in sorted(range(min(len(lines), NAMES_WITHIN)), key=lambda i: lines[i].lstrip().startswith(COMMENTS)):
        counts = {mark: sum(map(known, _split(lines[start], mark))) for mark in SEPARATORS}
        mark = max(counts, key=counts.__getitem__)
        most = max(most, counts[mark])
        if most >= least:
            break
    else:
        first = next((line for line in lines if line.strip() and not line.lstrip().startswith(COMMENTS)), lines[0])
        if not re.search(r"[A-Za-z]{2}", first) and re.search(r"\d", first):
            raise ValueError(f"line {lines.index(first) + 1} holds numbers, and no line above it names the columns; add one")
        raise ValueError(f"it names only {most} ARKit blendshapes in a line; {EXPECTED}")

    names = _split(lines[start], mark)
    while not names[-1]:
        names.pop()
    body = [(i + 1, _split(line, mark)) for i, line in enumerate(lines[start + 1 :], start + 1) if not line.lstrip().startswith(COMMENTS)]
    body = [(i, row) for i, row in body if any(row) and row[: len(names)] != names]
    if body and _is_units(body[0][1]):
        units = body.pop(0)[1]
        names = [f"{name} ({unit})" if unit else name for name, unit in zip(names, units + [""] * len(names))]
    names, body, notes = _fit(names, body, mark)
    return Table(names, [row for _, row in body], [i for i, _ in body], "".join(lines[:start]), notes)


def number(cell: str) -> float:
    """The number of a cell with a decimal point or comma; NaN where nothing was measured. Raises: ValueError."""
    cell = cell.strip()
    return np.nan if cell.lower() in MISSING else float(cell.removesuffix("%").replace(",", ".").replace("\N{MINUS SIGN}", "-"))


def numbers(table: Table, columns: Sequence[int]) -> np.ndarray:
    """Numbers [rows, columns] of a table, NaN where a cell is empty. Raises: ValueError names line and column."""
    out = np.full((len(table.rows), len(columns)), np.nan)
    for r, row in enumerate(table.rows):
        try:  # nearly all rows
            out[r] = [float(row[column]) for column in columns]
            continue
        except (ValueError, IndexError):
            pass
        for c, column in enumerate(columns):
            try:
                out[r, c] = number(row[column]) if column < len(row) else np.nan
            except ValueError:
                where = f"'{brief(row[column])}' in line {table.lines[r]}, column {brief(table.names[column]) or column + 1}"
                raise ValueError(f"it holds something other than numbers: {where}; correct that cell or leave it empty") from None
    return np.where(np.isfinite(out), out, np.nan)


def brief(text: str, most: int = 40) -> str:
    """What a message cites of a text: a part of one line."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


# ---- parts ----


def _decode(head: bytes, rest: io.BufferedReader) -> str:
    """Text of a file that begins with `head`. Raises: ValueError when it is no text."""
    for start, kind in OTHER_FILES:
        if head.startswith(start):
            raise ValueError(f"it is {kind}; {EXPECTED}")
    encoding = next((name for bom, name in BOMS if head.startswith(bom)), None)
    if encoding is None and b"\0" in head:  # UTF-16 without a mark: every other byte of plain letters is 0
        zeros = [head[side::2].count(0) > len(head) / 5 for side in (0, 1)]
        encoding = {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(tuple(zeros))
        if encoding is None:
            raise ValueError(f"it is no text; {EXPECTED}")
    data = head + rest.read()
    if encoding:
        return data.decode(encoding, "replace").lstrip("\ufeff")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if sum(ord(c) < 32 and c not in "\t\r\n\f\x1a" for c in text[:4096]) > 8:
        raise ValueError(f"it is no text; {EXPECTED}")
    return text.replace("\0", "")


def _split(line: str, mark: str) -> list[str]:
    """Cells of a line; names may stand behind the sign of a comment."""
    line = line.strip("\r\n\x1a")
    if line.lstrip().startswith(COMMENTS):
        line = line.lstrip(" \t#/")
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])]
    except csv.Error:  # a cell beyond any size
        return []


def _is_units(row: list[str]) -> bool:
    """Whether a row below the names holds no value and no time."""
    for cell in row:
        try:
            if np.isfinite(number(cell)):
                return False
        except ValueError:
            if re.search(r"\d[:;]\d", cell):
                return False
    return True


def _fit(names: list[str], body: list[tuple[int, list[str]]], mark: str) -> tuple[list[str], list[tuple[int, list[str]]], list[str]]:
    """Rows no longer than the names. Raises: ValueError when they do not belong together."""

    def is_split_time(a: str, b: str) -> bool:
        return bool(re.fullmatch(r"\d+:\d+:\d+", a) and re.fullmatch(r"\d+(\.\d+)?", b))

    def trim(row: list[str]) -> list[str]:
        while len(row) > len(names) and not row[-1]:
            row = row[:-1]
        return row

    body = [(i, trim(row)) for i, row in body]
    longer = [row for _, row in body if len(row) == len(names) + 1]
    if len(longer) > len(body) / 2:
        splits = [next((c for c, pair in enumerate(pairwise(row)) if is_split_time(*pair)), None) for row in longer]
        if splits[0] is not None and len(set(splits)) == 1:  # HH:MM:SS,mmm in a file separated by commas
            c = splits[0]
            body = [
                (i, [*row[:c], row[c] + mark + row[c + 1], *row[c + 2 :]] if len(row) > c + 1 and is_split_time(*row[c : c + 2]) else row)
                for i, row in body
            ]
        elif all(row[0].isdigit() for row in longer) and len({row[0] for row in longer}) == len(longer):
            names = ["", *names]  # numbers of rows under no name, as R writes them

    long = [(i, len(row)) for i, row in body if len(row) > len(names)]
    if not long:
        return names, body, []
    text = f"line {long[0][0]} has {long[0][1]} cells, but {len(names)} columns are named"
    if len(long) > max(MOST_DAMAGED * len(body), 1):
        commas = "; write decimal points, or separate the cells by semicolons" if mark == "," else "; export it again from the capture app"
        raise ValueError(text + commas)
    others = f" (and {len(long) - 1} more such lines)" if len(long) > 1 else ""
    return names, [(i, row) for i, row in body if len(row) <= len(names)], [f"{text}; it is left out{others}"]
