"""Who is who: names of identities, their frames, and the loop over the identities of a dataset."""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from util.cli import DiskFull, UserError, printable, say
from util.layout import SPLITS, Dataset, Record, Run, Sequence, usable_frames

NAME_BYTES = 120  # of an identity; a pair's folder is called <target>_<source>, and names of files end at 255 bytes
# What people bring and PyAV reads. Of a folder only these are taken; a file that is named itself is taken whatever it is called.
VIDEO_SUFFIXES = tuple(
    ".mp4 .mov .m4v .avi .mkv .webm .mts .m2ts .m2t .ts .wmv .asf .3gp .3g2 .mpg .mpeg .m2v .vob .flv .f4v .ogv .mxf .dv .qt .gif".split()
)


def composed(text: str) -> str:
    """Unicode's composed form (NFC): names that look the same are equal, also those of macOS."""
    return unicodedata.normalize("NFC", text)


def identity_name(stem: str) -> str:
    """The identity that a file of this name (without suffix) becomes, unless another one has it.

    Left out are underscores and blanks (sequences and pairs use them as separators), slashes, characters that cannot be seen, and dashes
    and dots at the start (commands would take the name for an option). Bytes that are no UTF-8 become x and two hexadecimal digits. A name
    of more than NAME_BYTES ends in a digest of the whole.
    """
    text = re.sub("[\udc80-\udcff]", lambda m: f"x{ord(m[0]) - 0xDC00:02x}", composed(stem))
    text = "".join(c for c in text if c.isprintable() and not c.isspace() and c not in "_/\\").lstrip("-.")
    if len(text.encode()) > NAME_BYTES:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        text = f"{text.encode()[: NAME_BYTES - 9].decode(errors='ignore')}-{digest}"
    return text or "video"


def find_identity(dataset: Dataset, name: str | None, checkpoints_dir: Path | None = None) -> str | None:
    """The identity that is meant by its name, or by the name of a video that it was made from, with or without suffix.

    checkpoints_dir: where the runs are (None: checkpoints/ of the repository); a person whom only a run knows keeps the name.
    Returns a name that the dataset does not have where there is none (whoever looks for it says so), and None for None.
    """
    names = dataset.identities()
    if name is None or name in names:
        return name
    is_file = Path(name).suffix.lower() in VIDEO_SUFFIXES
    stem = composed(Path(name).stem if is_file else name)
    made_from = {n: [composed(file.stem) for file in _sources(dataset, n)] for n in names}
    for first in (True, False):  # a later part's name too, unless it is what another identity is called after
        of_file = [n for n, stems in made_from.items() if stem in (stems[:1] if first else stems)]
        if len(of_file) == 1:
            return of_file[0]
    plain = identity_name(stem)
    # ab.mp4 is not the identity "ab" that was made from a_b.mp4
    if is_file and made_from.get(plain) and plain in map(identity_name, made_from[plain]):
        return name
    run = Run.open(dataset.home.name, f"head2head_{name}", checkpoints_dir)
    return name if plain not in names and "/" not in name and run.checkpoints.is_dir() else plain


def assign_identities(dataset: Dataset | None, groups: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Identity -> files, for name -> files: names that would become the same identity get NAME, NAME-2, ..., and a line says which.

    dataset: whose identities stay with the videos that they were made from.
    """
    chosen: dict[str, list[Path]] = {}
    for stem in sorted(groups, key=lambda s: (identity_name(s) != s, s)):  # what needs no change keeps its name
        base, paths = identity_name(stem), groups[stem]
        taken: dict[str, list[Path]] = {}  # base, base-2, ... as far as they are made of something
        for number in count(1):
            name = base if number == 1 else f"{base}-{number}"
            taken[name] = _sources(dataset, name) if dataset else []
            if number > 1 and not taken[name] and name not in chosen:
                break
        free = [n for n in taken if n not in chosen]
        name = next((n for n in free if {p.resolve() for p in paths} & set(taken[n])), None)  # a link's own name is not on record
        name = name or next((n for n in free if taken[n] and composed(taken[n][0].stem) == composed(paths[0].stem)), None)
        name = name or next(n for n in free if not taken[n])
        chosen[name] = paths
        if name != base:
            other = (taken[base] or chosen[base])[0].stem
            say(f"{groups[stem][0].name} is called '{name}', since '{base}' is made of {other}")
        elif name != re.sub(r"[_\s]", "", stem):
            say(f"{groups[stem][0].name} is called '{name}'")
    return dict(sorted(chosen.items()))


def did_you_mean(name: str, names: Collection[str]) -> str:
    """ " (did you mean Ann?)" for an unknown name, or nothing when no other is like it."""
    plain = {identity_name(n).casefold(): n for n in names}
    wanted = identity_name(Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name).casefold()
    near = [plain[n] for n in difflib.get_close_matches(wanted, plain)]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _sources(dataset: Dataset, name: str) -> list[Path]:
    """The videos that an identity was made from, in order; [] when nothing tells."""
    try:
        record = dataset.read_record(name)
    except UserError:  # damaged: whoever needs it says so
        return []
    return [Path(source["file"]) for source in record.sources] if record else []


class RecordedFrames:
    """What lists of an identity's frames with its record have in common."""

    frames: list[tuple[Sequence, int]]  # sequence and number of every frame
    record: Record | None  # None: a dataset of the original system

    @property
    def numbers(self) -> list[int]:
        return [number for _, number in self.frames]

    @property
    def usable(self) -> np.ndarray:
        """Which frames show the person well, as far as is known: bool [N]."""
        return usable_frames(self.record, self.numbers)


@dataclass(frozen=True)
class IdentityFrames(RecordedFrames):
    """The frames of an identity in both splits, in order, train first."""

    sequences: list[Sequence]
    frames: list[tuple[Sequence, int]]  # sequence and number of every frame
    record: Record | None  # None: a dataset of the original system

    @property
    def splits(self) -> list[str]:
        """The splits that have frames."""
        return list(dict.fromkeys(s.split for s in self.sequences))

    def paths(self, kind: str) -> list[Path]:
        """The file of every frame, of a kind in util.layout.KINDS."""
        return [s.path(kind, number) for s, number in self.frames]

    def is_complete(self, *kinds: str) -> bool:
        """Whether the files of each kind are exactly those of the frames."""
        return all(s.frames(kind) == s.frames() for s in self.sequences for kind in kinds)


def collect_frames(dataset: Dataset, name: str) -> IdentityFrames:
    """The frames of one identity. Raises: UserError when there are none, or the record is damaged."""
    sequences = [s for split in SPLITS for s in dataset.sequences(split, name)]
    frames = [(s, number) for s in sequences for number in s.frames()]
    if not frames:
        raise UserError(f"'{name}' has no frames in {dataset.folder}; run preprocessing/detect.py again")
    return IdentityFrames(sequences, frames, dataset.read_record(name))


def identities_with_frames(dataset: Dataset, name: str | None) -> list[str]:
    """All identities of the dataset. Raises: UserError when it has none, or when it does not have `name` (None: any)."""
    names = dataset.identities()
    if not names:
        raise UserError(
            f"there are no frames in {dataset.folder}; run preprocessing/detect.py --dataset_name {dataset.home.name} first, or say where "
            "the dataset is now: --datasets_dir"
        )
    if name is not None and name not in names:
        raise UserError(f"there is no identity '{name}' in {dataset.folder}; it holds: {', '.join(names)}{did_you_mean(name, names)}")
    return names


def for_each(names: Collection[str], process: Callable[[str], None], what: str = "identities") -> None:
    """Call process(name) for every name; a UserError is printed and does not stop the others, unless the disk is full.

    Raises: UserError at the end when some failed; with a single name, its own.
    """
    failed = []
    for name in names:
        try:
            process(name)
        except UserError as e:
            if len(names) == 1 or isinstance(e, DiskFull):
                raise
            failed.append(name)
            print(printable(f"error: {e}"), file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(names)} {what} failed ({', '.join(failed)}; see above); the others are complete")
