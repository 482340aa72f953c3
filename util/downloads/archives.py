"""Zip archives, whole or in parts, unpacked without harm.

Parts are read as one file, without joining them on disk. There are two kinds: split archives (x.z01, x.z02, ..., x.zip), whose directory
counts from the beginning of each part, and files that were simply cut (x.zip.001, ..., or x.zip.partaa, ...).
"""

from __future__ import annotations

import bisect
import io
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import IO

from util.cli import UserError, progress, writing
from util.downloads.fetching import Absent
from util.downloads.space import amount, check_space

MAX_RATIO = 100  # unpacked by packed size; of pictures and videos it is 1, of text 5
HARMLESS = 1 << 26  # bytes that an archive may unpack to at any ratio
_BLOCK = 4096  # bytes of a disk that a small file takes
_CHUNK = 1 << 20
_JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")  # of file managers
_METHODS = {0: "stored", 8: "deflate", 12: "bzip2", 14: "LZMA"}  # that Python unpacks
_OTHER_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 97: "WavPack", 98: "PPMd", 99: "AES encryption"}
_FIRST_PARTS = (".001", ".000", ".01", ".00", ".1", ".0", ".partaa", ".aa", ".part001", ".part01", ".part1", ".part00", ".part0")
_END, _END64, _LOCATOR64, _ENTRY = "<4s4H2LH", "<4sQ2H2L4Q", "<4sLQL", "<4s6H3L5H2L"  # records of a zip archive's directory


class BadArchive(UserError):
    """An archive that is not unpacked: damaged, unsafe, or of a kind that cannot be read. The message has no advice."""


# ---- parts ----


def collect_parts(name: str, get: Callable[[str], Path]) -> list[Path]:
    """The files that make up the archive `name` (x.zip), in order.

    get: gives a file by its name, or raises Absent. Raises: Absent when there is none, BadArchive when a part is missing.
    """
    try:
        last = get(name)
    except Absent as missing:
        return _cut_parts(name, get, missing)
    stem = last.name[:-4]  # a .zip in whatever case
    numbered = [f"{stem}.z{number:02}" for number in range(1, count_volumes(last))]
    return [*(_need(part, last.name, get) for part in numbered), last]


def _cut_parts(name: str, get: Callable[[str], Path], missing: Absent) -> list[Path]:
    for suffix in _FIRST_PARTS:
        try:
            parts = [get(name + suffix)]
        except Absent:
            continue
        try:
            while True:
                suffix = _next(suffix)
                parts.append(get(name + suffix))
        except Absent:
            return parts
    raise missing


def _next(suffix: str) -> str:
    """.001 -> .002, .part9 -> .part10, .partaz -> .partba."""
    text, label = re.fullmatch(r"(\.(?:part)?)(.+)", suffix).groups()
    if label.isdecimal():
        return f"{text}{int(label) + 1:0{len(label)}}"
    kept = label.rstrip("z")
    return text + (kept[:-1] + chr(ord(kept[-1]) + 1) if kept else "z") + "a" * (len(label) - len(kept))


def _need(part: str, last: str, get: Callable[[str], Path]) -> Path:
    try:
        return get(part)
    except Absent:
        raise BadArchive(f"{last} is the last part of a split archive, and its part {part} is missing") from None


def first_part(name: str) -> str:
    """The name of the archive (x.zip) to which a file of this name belongs: itself, or one of its parts."""
    return re.sub(r"(?i)(\.zip)\.(part)?(\d{1,3}|[a-z]{1,2})$|\.z\d\d$", lambda m: m[1] or ".zip", name)


class _Joined(io.RawIOBase):
    """Several files as one."""

    def __init__(self, files: Sequence[IO[bytes]]) -> None:
        self._files = files
        self._ends = list(accumulate(file.seek(0, io.SEEK_END) for file in files))
        self._place = 0

    def starts(self) -> list[int]:
        """Where each of the files begins."""
        return [0, *self._ends[:-1]]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._ends[-1]}[whence]
        if place < 0:
            raise OSError("points to before its beginning")  # which zipfile expects of files
        self._place = place
        return place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        index = bisect.bisect_right(self._ends, self._place)
        if index == len(self._files):
            return 0
        self._files[index].seek(self._place - self.starts()[index])
        block = self._files[index].read(min(len(buffer), self._ends[index] - self._place))
        buffer[: len(block)] = block
        self._place += len(block)
        return len(block)


def _read_end(file: IO[bytes]) -> tuple[int, int, int, int, int]:
    """Of the record at an archive's end: number of volumes; of the directory its volume, place in it, and size; number of entries.

    Raises: zipfile.BadZipFile when there is none.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 64))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < struct.calcsize(_END):
        raise zipfile.BadZipFile("its end is missing")
    _, volume, directory, _, entries, length, place, _ = struct.unpack_from(_END, tail, at)
    locator = at - struct.calcsize(_LOCATOR64)
    if locator >= 0 and tail[locator : locator + 4] == b"PK\6\7":
        volumes = struct.unpack_from(_LOCATOR64, tail, locator)[3]
        if (wide := tail.rfind(b"PK\6\6", 0, locator)) >= 0:
            *_, directory, _, entries, length, place = struct.unpack_from(_END64, tail, wide)
        return max(1, volumes), directory, place, length, entries
    return volume + 1, directory, place, length, entries


def count_volumes(last: Path) -> int:
    """Of how many parts a split archive is, by its last one (x.zip); 1 if it is whole, or no archive."""
    try:
        with last.open("rb") as file:
            return _read_end(file)[0]
    except (zipfile.BadZipFile, struct.error):
        return 1


def _unsplit_directory(file: IO[bytes], starts: list[int]) -> bytes:
    """The directory of a split archive, counted from the beginning of the joined parts; to be put behind them."""
    _, volume, place, length, entries = _read_end(file)
    size = file.seek(0, io.SEEK_END)
    file.seek(starts[volume] + place)
    old = file.read(min(length, size))
    new, at, head = bytearray(), 0, struct.calcsize(_ENTRY)
    for _ in range(entries):
        fields = list(struct.unpack_from(_ENTRY, old, at))
        name, extra, comment = fields[10:13]
        tail = old[at + head : at + head + name + extra + comment]
        at += head + len(tail)
        packed, unpacked, own_volume, offset = fields[8], fields[9], fields[13], fields[16]
        kept = b""
        for kind, data in _extra_fields(tail[name : name + extra]):
            if kind != 1:
                kept += struct.pack("<2H", kind, len(data)) + data
                continue
            values = io.BytesIO(data)  # those of the four that do not fit into the entry
            unpacked, packed, offset = (
                struct.unpack("<Q", values.read(8))[0] if v == 0xFFFFFFFF else v for v in (unpacked, packed, offset)
            )
            own_volume = struct.unpack("<L", values.read(4))[0] if own_volume == 0xFFFF else own_volume
        wide = struct.pack("<2H3Q", 1, 24, unpacked, packed, starts[own_volume] + offset) + kept
        fields[8] = fields[9] = fields[16] = 0xFFFFFFFF
        fields[11], fields[13] = len(wide), 0
        new += struct.pack(_ENTRY, *fields) + tail[:name] + wide + tail[name + extra :]
    end = struct.pack(_END64, b"PK\6\6", struct.calcsize(_END64) - 12, 45, 45, 0, 0, entries, entries, len(new), size)
    locator = struct.pack(_LOCATOR64, b"PK\6\7", 0, size + len(new), 1)
    return bytes(new) + end + locator + struct.pack(_END, b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def _extra_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        kind, length = struct.unpack_from("<2H", data)
        yield kind, data[4 : 4 + length]
        data = data[4 + length :]


@contextmanager
def _open(parts: Sequence[Path]) -> Iterator[zipfile.ZipFile]:
    """The archive that these files are. Raises: BadArchive, also when the block meets damaged content."""
    shown = parts[-1] if len(parts) == 1 else f"{parts[0]} ... {parts[-1].name}"
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(path.open("rb")) for path in parts]
            joined = _Joined(files)
            stream = stack.enter_context(io.BufferedReader(joined, _CHUNK))
            if _read_end(stream)[0] > 1:
                try:
                    directory = io.BytesIO(_unsplit_directory(stream, joined.starts()))
                except (struct.error, IndexError, OverflowError):
                    raise zipfile.BadZipFile("its directory is damaged") from None
                stream = stack.enter_context(io.BufferedReader(_Joined([*files, directory]), _CHUNK))
            yield stack.enter_context(zipfile.ZipFile(stream))
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, UnicodeDecodeError, OverflowError, OSError) as e:
            if isinstance(e, OSError) and e.errno is not None:  # of the disk; those of damaged content have none
                raise
            missing = f", or parts behind {parts[-1].name} are missing" if len(parts) > 1 else ""
            raise BadArchive(f"{shown} is no zip archive, cut off or damaged ({e}){missing}") from None
        except NotImplementedError as e:
            raise BadArchive(f"{shown} cannot be unpacked ({e})") from None


# ---- unpacking ----


def unpack(parts: Sequence[Path], folder: Path) -> None:
    """Unpack an archive into `folder`, which is empty or not there.

    Before anything is written all names are checked: nothing lands outside the folder, and links, devices, encrypted files, two files of
    one name, and archives that unpack to far more than they are, are refused. Permissions and owners are not taken over.
    Raises: BadArchive, DiskFull, UserError when a file cannot be written.
    """
    with _open(parts) as archive:
        members = _check(archive, parts)
        check_space(folder, sum(-(-info.file_size // _BLOCK) * _BLOCK for info in members.values()))
        bar = progress(desc=f"unpack {parts[-1].name}", total=sum(info.file_size for info in members.values()), unit="B")
        made: set[Path] = set()
        with bar:
            for name, info in members.items():
                target = folder / name
                with writing(target):
                    if target.parent not in made:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        made.add(target.parent)
                    file = target.open("xb")
                with file, archive.open(info) as content:
                    while block := content.read(_CHUNK):
                        with writing(target):
                            file.write(block)
                        bar.update(len(block))
                    with writing(target):
                        file.flush()


def _decoded_name(info: zipfile.ZipInfo) -> str:
    """An entry's name. Many programs write UTF-8 without saying so, which Python takes for the characters of DOS."""
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            return info.orig_filename.encode("cp437").decode()
    return info.orig_filename


def _check(archive: zipfile.ZipFile, parts: Sequence[Path]) -> dict[str, zipfile.ZipInfo]:
    """Path below the folder -> entry, of all files to unpack. Raises: BadArchive when there is anything wrong with one of them."""
    shown = parts[-1]
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = _decoded_name(info).replace("\\", "/")  # as some programs of Windows write it
        steps = [step for step in name.split("/") if step not in ("", ".")]
        kind = stat.S_IFMT(info.external_attr >> 16)
        fault = None
        if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in steps:
            fault = "would be written outside of its folder"
        elif "\0" in name or any(len(step.encode()) > 255 for step in steps):
            fault = "has no name that a file can have"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link" if kind == stat.S_IFLNK else "is a device or the like"
        if fault:
            raise BadArchive(f"{shown} is not safe and nothing of it was unpacked: {info.orig_filename[:80]!r} in it {fault}")
        if not steps or name.endswith("/") or kind == stat.S_IFDIR or any(step in _JUNK for step in steps):
            continue
        if info.flag_bits & 0x2041 or info.compress_type == 99:
            raise BadArchive(f"{shown} is encrypted ({steps[-1]!r}), and there is nowhere to give a password; it is needed without one")
        if info.compress_type not in _METHODS:
            method = _OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
            raise BadArchive(f"{shown} is compressed with {method}, which Python cannot unpack; it is needed with Deflate or uncompressed")
        path = "/".join(steps)
        other = members.setdefault(path, info)
        if (other.CRC, other.file_size) != (info.CRC, info.file_size):
            raise BadArchive(f"{shown} holds two different files '{path}', so nothing of it was unpacked")
    for path in members:
        if above := next((p for p in accumulate(path.split("/")[:-1], "{}/{}".format) if p in members), None):
            raise BadArchive(f"{shown} holds '{above}' both as a file and as a folder, so nothing of it was unpacked")
    total, packed = sum(info.file_size for info in members.values()), sum(part.stat().st_size for part in parts)
    if total > max(HARMLESS, MAX_RATIO * packed):
        raise BadArchive(f"{shown} has {amount(packed)} but would unpack to {amount(total)}, so it is no dataset, and nothing was unpacked")
    if not members:
        raise BadArchive(f"{shown} holds no files")
    return members
