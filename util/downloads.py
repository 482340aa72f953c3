"""Downloads files: resumed, retried, verified by SHA-256, written atomically."""

from __future__ import annotations

import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

from util.cli import UserError, progress, writing
from util.hashing import sha256_of

CHUNK = 1 << 18
TIMEOUT_S = 30.0  # without a byte
PAUSES_S = (1.0, 3.0, 10.0)  # before the 2nd, 3rd and 4th try
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_RANGE_TOTAL = re.compile(r"bytes \*/(\d+)")


def fetch(url: str, target: str | Path, *, sha256: str | None = None, pauses_s: tuple[float, ...] = PAUSES_S) -> Path:
    """Download `url` (http, https or file) to `target` and return it.

    What arrives is kept as `<target>.part` and the next try or call goes on from there, where the server allows it.
    `target` appears only when it is whole (and its SHA-256 is `sha256`, if given); an existing right one is kept.

    Raises: UserError, one sentence, when the file cannot be downloaded.
    """
    target = Path(target)
    if target.is_file() and (sha256 is None or sha256_of(target) == sha256):
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for pause in (*pauses_s, None):
        try:
            _transfer(url, part)
            break
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as e:
            reason, passing = _explain(e)
            if pause is None or not passing:
                kept = f"; what arrived is kept in {part}, run again to go on" if part.is_file() and part.stat().st_size else ""
                raise UserError(f"cannot download {url}: {reason}{kept}") from None
            time.sleep(pause)
    if sha256 is not None and (found := sha256_of(part)) != sha256:
        part.unlink()
        raise UserError(f"{url} is not the expected file (SHA-256 {found}, not {sha256}); it was deleted, run again or use a mirror")
    with writing(target):
        return part.replace(target)


def _transfer(url: str, part: Path) -> None:
    """One try: append what is missing to `part`. Raises when the connection ends before the end of the file."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "head2head"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as e:
        if e.code == 416 and have:  # nothing lies beyond what we have: it is whole, or another file now
            total = _RANGE_TOTAL.fullmatch(e.headers.get("Content-Range", ""))
            if total and int(total[1]) == have:
                return
            part.unlink()
        raise
    with reply:
        length = reply.headers.get("Content-Length")
        match = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        resumed = have > 0 and getattr(reply, "status", None) == 206 and match is not None and int(match[1]) == have
        start = have if resumed else 0
        expected = start + int(length) if length is not None else None
        target = part.with_name(part.name.removesuffix(".part"))
        bar = progress(desc=f"download {target.name}", total=expected, unit="B")
        bar.unit_scale = True
        with writing(target):
            file = part.open("ab" if resumed else "wb", buffering=0)  # unbuffered: else closing it fails again on a full disk
        with bar, file:
            bar.update(start)
            while block := reply.read(CHUNK):
                bar.update(len(block))
                while block:  # a nearly full disk takes a part of it
                    with writing(target):
                        block = block[file.write(block) :]
            size = file.tell()
    if expected is not None and size < expected:
        raise http.client.IncompleteRead(b"", expected - size)


def _explain(error: Exception) -> tuple[str, bool]:
    """The cause as text for a user, and whether trying again may help."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}", error.code in (408, 416, 425, 429, 500, 502, 503, 504)
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "its host is unknown (is there a network?)", False
    if isinstance(cause, TimeoutError):
        return f"nothing came for {TIMEOUT_S:.0f} s", True
    if isinstance(cause, FileNotFoundError):
        return "there is no such file", False
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection ended before the end of the file", True
    if isinstance(error, ValueError):
        return str(error), False
    return str(cause) or type(cause).__name__, True
