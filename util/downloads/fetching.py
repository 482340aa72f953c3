"""Downloads one file: resumed, retried, verified by size and SHA-256, written in one step."""

from __future__ import annotations

import email.utils
import gzip
import html
import http.client
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from util.cli import UserError, progress, say, writing
from util.downloads.space import check_space
from util.hashing import sha256_of
from util.locks import only_one

CHUNK = 1 << 18
TIMEOUT_S = 30.0  # without a byte
PAUSES_S = (1.0, 3.0, 10.0)  # before the 2nd, 3rd and 4th try; counted anew whenever a try brought something
LONGEST_PAUSE_S = 120.0  # that a server may ask for
_FIRST = 4096  # bytes by which a web page is told
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_RANGE_TOTAL = re.compile(r"bytes \*/(\d+)")
_TITLE = re.compile(r"<title[^>]*>([^<]{1,200})", re.IGNORECASE)


class Absent(UserError):
    """The address answers, but does not give the file: it is not there (any more), or not for everybody."""


class _Failure(Exception):
    """Why a try failed, as the middle of a sentence."""

    def __init__(self, reason: str, passing: bool = False, absent: bool = False, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.passing = passing  # whether trying again may help
        self.absent = absent
        self.pause_s = pause_s  # that the server asks for before the next try


@dataclass(frozen=True)
class _Wanted:
    """A file to download."""

    url: str
    target: Path
    size: int | None
    sha256: str | None
    room: float  # free space that is needed, in sizes of the file

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def note(self) -> Path:
        """Beside the part: which file of which address it is the beginning of."""
        return self.target.with_name(self.target.name + ".part.json")

    def have(self) -> int:
        """Bytes that lie in the part."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def fault(self, path: Path) -> str | None:
        """In what way a file is not the expected one; None if it is."""
        if self.size is not None and (found := path.stat().st_size) != self.size:
            return f"{found} bytes, not {self.size}"
        if self.sha256 is not None and (digest := sha256_of(path)) != self.sha256:
            return f"SHA-256 {digest}, not {self.sha256}"
        return None


def fetch(
    url: str,
    target: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    room: float = 1.0,
    pauses_s: tuple[float, ...] = PAUSES_S,
) -> Path:
    """Download `url` (http, https or file) to `target` and return it.

    What arrives is kept as `<target>.part`, and the next try or call goes on from there, where the server allows it and the file is still
    the same. `target` appears only when it is whole (and of `size` bytes and this SHA-256, if given); an existing right one is kept.
    A second process that wants the same file waits for the first.

    room: how many times the file's size must be free on the disk, as far as it is known.
    Raises: UserError, one sentence, when the file cannot be downloaded; Absent when the address does not have it; DiskFull.
    """
    target = Path(target)
    wanted = _Wanted(url, target, size, sha256, room)

    def is_there() -> bool:
        return target.is_file() and wanted.fault(target) is None

    if is_there():
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        wanted.part.touch()
    with only_one(wanted.part, f"waiting for another process that downloads {target}"):
        try:
            if is_there():
                return target
            resumed = wanted.have() > 0
            while True:
                _bring(wanted, pauses_s)
                fault = wanted.fault(wanted.part)
                if fault is None:
                    break
                _drop(wanted)
                if not resumed:
                    raise UserError(f"{url} is not the expected file ({fault}); it was deleted, run again or use a mirror")
                resumed = False  # what was there before may have been of another file
            with writing(target):
                wanted.part.replace(target)
        finally:
            if not wanted.have():
                wanted.part.unlink(missing_ok=True)
                wanted.note.unlink(missing_ok=True)
    return target


def _drop(wanted: _Wanted) -> None:
    """Empty the part. It stays the same file: it is locked."""
    with writing(wanted.target), wanted.part.open("wb"):
        wanted.note.unlink(missing_ok=True)


def _bring(wanted: _Wanted, pauses_s: tuple[float, ...]) -> None:
    """Fill the part, with as many tries as it takes. Raises: UserError."""
    pauses, longest = list(pauses_s), wanted.have()
    while True:
        try:
            return _transfer(wanted)
        except (_Failure, urllib.error.URLError, http.client.HTTPException, OSError, EOFError, zlib.error, ValueError) as e:
            failure = _explain(e)
        have = wanted.have()
        if have >= longest + CHUNK:
            pauses, longest = list(pauses_s), have
        if not failure.passing or not pauses:
            kept = f"; what arrived is kept in {wanted.part}, run again to go on" if have else ""
            raise (Absent if failure.absent else UserError)(f"cannot download {wanted.url}: {failure}{kept}")
        pause = max(pauses.pop(0), failure.pause_s)
        say(f"{wanted.target.name}: {failure}; trying again in {pause:.0f} s")
        time.sleep(pause)


def _transfer(wanted: _Wanted) -> None:
    """One try: append what is missing to the part. Raises when the file does not come to its end."""
    reply, start = _open(wanted)
    if reply is None:
        return
    with reply:
        length = _length(reply)
        stream, encoded = _decoded(reply, wanted.target)
        total = start + length if length is not None and not encoded else None
        expected = wanted.size if total is None else total
        block = stream.read(_FIRST)
        if start == 0:
            _refuse_page(reply, block)
        if total and wanted.size not in (None, total):
            raise _Failure(f"it has {total} bytes, not {wanted.size}, so it is another file")
        check_space(wanted.target, (expected or 0) * wanted.room - start)
        with writing(wanted.target):
            if start == 0:
                _write_note(wanted, reply, total, encoded)
            file = wanted.part.open("ab" if start else "wb", buffering=0)  # unbuffered: else closing it fails again on a full disk
        bar = progress(desc=f"download {wanted.target.name}", total=expected, unit="B")
        bar.initial = bar.n = start  # so that the time left is that of this connection
        try:
            with bar, file:
                while block:
                    bar.update(len(block))
                    while block:  # a nearly full disk takes a part of it
                        with writing(wanted.target):
                            block = block[file.write(block) :]
                    block = stream.read1(CHUNK)  # what is there: when the connection ends, nothing of it is lost
        except Exception:
            if encoded:  # no place in the file belongs to where it broke off
                _drop(wanted)
            raise
    have = wanted.have()
    if not have:
        raise _Failure("what it sends is empty", passing=True)
    if expected is not None and have < expected:
        raise http.client.IncompleteRead(b"", expected - have)


def _open(wanted: _Wanted, afresh: bool = False) -> tuple[Any, int]:
    """The server's reply, and the place in the file where its content begins; None when the part is whole already.

    The part is emptied when its rest cannot be had. afresh: do not try.
    """
    have, note = wanted.have(), _read_note(wanted)
    if have and (afresh or note.get("encoded") or (note.get("url", wanted.url) != wanted.url and not wanted.sha256)):
        _drop(wanted)
        have, note = 0, {}
    address = quote(wanted.url, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(address, headers={"User-Agent": "head2head"})  # noqa: S310  (a mirror may be a file: the user says so)
    if have:
        request.add_header("Range", f"bytes={have}-")
        etag = note.get("etag") or ""
        if same := (etag if etag.startswith('"') else note.get("modified")):  # a weak ETag (W/) does not promise the same bytes
            request.add_header("If-Range", same)
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as e:
        if e.code == 416 and have:  # nothing lies beyond what we have: it is whole, or another file now
            total = _RANGE_TOTAL.fullmatch(e.headers.get("Content-Range", ""))
            return (None, have) if total and int(total[1]) == have else _open(wanted, afresh=True)
        raise
    if getattr(reply, "status", None) != 206:  # the whole file; the status of a local one is None
        return reply, 0
    place = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if not have:
        reply.close()
        raise _Failure("it sends a part of the file though all of it was asked for", passing=True)
    same = (
        place is not None
        and int(place[1]) == have
        and place[2] in ("*", str(note.get("size") or place[2]))
        and reply.headers.get("ETag") in (None, note.get("etag") or reply.headers["ETag"])
        and reply.headers.get("Content-Encoding", "identity") == "identity"
    )
    if not same:
        reply.close()
        return _open(wanted, afresh=True)
    return reply, have


def _length(reply: Any) -> int | None:
    """Content-Length, where it says something of the content."""
    text = reply.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and "chunked" not in reply.headers.get("Transfer-Encoding", "").lower() else None


def _decoded(reply: Any, target: Path) -> tuple[Any, bool]:
    """A stream of the file's content, and whether it is decoded on the way."""
    encoding = reply.headers.get("Content-Encoding", "identity").lower()
    if encoding in ("", "identity") or (encoding in ("gzip", "x-gzip") and target.suffix in (".gz", ".tgz")):  # the file itself is meant
        return reply, False
    if encoding in ("gzip", "x-gzip"):
        return gzip.GzipFile(fileobj=reply), True
    raise _Failure(f"it is sent in the encoding '{encoding}', which was not asked for")


def _refuse_page(reply: Any, block: bytes) -> None:
    """Raise when the content is a web page (file deleted, log in, too many downloads): none of our files is one."""
    start = block.lstrip(b"\xef\xbb\xbf \t\r\n")
    said = reply.headers.get_content_type() == "text/html" and start and b"\0" not in start
    if said or start[:15].lower().startswith((b"<!doctype html", b"<html")):
        title = _TITLE.search(start.decode(errors="replace"))
        named = f" ('{' '.join(html.unescape(title[1]).split())}')" if title else ""
        raise _Failure(f"it gives a web page{named} instead of the file", absent=True)


def _read_note(wanted: _Wanted) -> dict[str, Any]:
    try:
        note = json.loads(wanted.note.read_text())
        return note if isinstance(note, dict) else {}
    except (OSError, ValueError):
        return {}


def _write_note(wanted: _Wanted, reply: Any, total: int | None, encoded: bool) -> None:
    note = {"url": wanted.url, "size": total, "encoded": encoded}
    note |= {"etag": reply.headers.get("ETag"), "modified": reply.headers.get("Last-Modified")}
    wanted.note.write_text(json.dumps(note))


def _explain(error: Exception) -> _Failure:
    """The cause in words for a user."""
    if isinstance(error, _Failure):
        return error
    if isinstance(error, urllib.error.HTTPError):
        return _explain_status(error)
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return _Failure("its host is unknown (is there a network?)")
    if isinstance(cause, TimeoutError):
        return _Failure(f"nothing came for {TIMEOUT_S:.0f} s", passing=True)
    if isinstance(cause, FileNotFoundError):
        return _Failure("there is no such file", absent=True)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _Failure(f"its certificate is not trusted ({cause.verify_message})")
    if isinstance(cause, http.client.IncompleteRead | EOFError):
        return _Failure("the connection ended before the end of the file", passing=True)
    if isinstance(cause, zlib.error | gzip.BadGzipFile):
        return _Failure("what it sends is damaged", passing=True)
    if isinstance(error, ValueError | http.client.InvalidURL):
        return _Failure(str(error))
    return _Failure(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__, passing=True)


def _explain_status(error: urllib.error.HTTPError) -> _Failure:
    if 300 <= error.code < 400:
        return _Failure("it redirects in a circle, or to nowhere")
    reason = f"the server answers {error.code} {error.reason}"
    pause = _retry_after(error.headers.get("Retry-After", ""))
    if pause > LONGEST_PAUSE_S:
        return _Failure(f"{reason}, and asks to come back in {pause / 60:.0f} minutes")
    passing = error.code in (408, 425, 429, 500, 502, 503, 504)
    return _Failure(reason, passing=passing, absent=error.code in (403, 404, 410), pause_s=pause)


def _retry_after(text: str) -> float:
    """Seconds that the header Retry-After asks to wait: a number, or a date; 0 when it says nothing."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
