"""Where the files of the manifest come from: their official addresses, or a mirror."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from util.cli import DiskFull, UserError
from util.downloads.archives import collect_parts, first_part
from util.downloads.fetching import Absent, fetch
from util.downloads.manifest import Entry
from util.hashing import sha256_of

_ROOM = 2.0  # an archive lies on the disk beside what is unpacked from it, which is hardly smaller


def is_url(mirror: str) -> bool:
    return "://" in mirror


def obtain(entry: Entry, folder: Path, mirror: str | None = None) -> list[Path]:
    """The files that make up an archive of the manifest, in order: a local mirror's own, else downloaded into `folder`.

    mirror: a folder or an address that holds files of the manifest's names (in the entry's folder, or directly), or the archive itself.
    Raises: UserError; Absent when the mirror does not have it.
    """
    if mirror is None:
        return _from_addresses(entry, folder)
    refusals = []
    for base, name in _places(entry, mirror):
        try:
            parts = collect_parts(name, partial(get_file, base, into=folder))
        except Absent as e:
            refusals.append(e)
            continue
        _verify(entry, parts)
        return parts
    if is_url(mirror):
        raise refusals[0]
    raise Absent(f"the mirror {mirror} holds no {entry.name}, whole or in parts, neither directly nor in {entry.folder}/; check --mirror")


def _from_addresses(entry: Entry, folder: Path) -> list[Path]:
    refusals = []
    for address in entry.addresses:

        def get(name: str, address: str = address) -> Path:
            if name != entry.name:  # an address is that of one file
                raise Absent(f"there is no address of {name}")
            return fetch(address, folder / name, size=entry.size, sha256=entry.sha256, room=_ROOM)

        try:
            return collect_parts(entry.name, get)
        except DiskFull:
            raise
        except UserError as e:
            refusals.append(str(e))
    raise UserError("; ".join(refusals) or f"no address of {entry.name} is known")


def get_file(base: str, name: str, into: Path) -> Path:
    """One file of a mirror. base: its folder or address. Raises: Absent, or UserError when it cannot be downloaded."""
    if is_url(base):
        return fetch(_joined(base, name), into / name, room=_ROOM)
    path = Path(base) / name
    if not path.is_file():
        raise Absent(f"there is no {path}")
    return path


def _joined(url: str, name: str) -> str:
    """The address of a file in the folder that an address names."""
    split = urlsplit(url)
    return split._replace(path=f"{split.path.rstrip('/')}/{quote(name)}").geturl()


def _places(entry: Entry, mirror: str) -> list[tuple[str, str]]:
    """Where the archive may be on a mirror: folder or address, and the archive's name."""
    if is_url(mirror):
        split = urlsplit(mirror)
        above, _, last = split.path.rpartition("/")
        if first_part(last).lower().endswith(".zip"):
            return [(split._replace(path=above).geturl(), first_part(unquote(last)))]
        return [(base, entry.name) for base in dict.fromkeys((_joined(mirror, entry.folder).rstrip("/"), mirror))]
    path = Path(mirror).expanduser()
    if path.is_dir():
        return [(str(path / entry.folder), entry.name), (str(path), entry.name)]
    name = first_part(path.name)
    if path.is_file() or (name.lower().endswith(".zip") and path.parent.is_dir()):
        return [(str(path.parent), name)]
    raise UserError(f"the mirror {mirror} is neither a folder nor a file; check --mirror")


def _verify(entry: Entry, parts: list[Path]) -> None:
    """Compare a mirror's file with what is known of it; parts of an archive are checked when they are unpacked."""
    if len(parts) > 1:
        return
    size = parts[0].stat().st_size
    if entry.size not in (None, size) or (entry.sha256 and sha256_of(parts[0]) != entry.sha256):
        raise UserError(f"{parts[0]} is not the expected file (of other size or SHA-256); check --mirror")
