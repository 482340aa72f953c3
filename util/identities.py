"""What the preprocessing commands share: the frames of an identity, and the loop over the identities of a dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.cli import DiskFull, UserError
from util.layout import SPLITS, Dataset, Record, Sequence


@dataclass(frozen=True)
class IdentityFrames:
    """The frames of an identity in both splits, in order, train first."""

    sequences: list[Sequence]
    frames: list[tuple[Sequence, int]]  # sequence and number of every frame
    record: Record | None  # None: a dataset of the original system

    @property
    def splits(self) -> list[str]:
        """The splits that have frames."""
        return list(dict.fromkeys(s.split for s in self.sequences))

    @property
    def numbers(self) -> list[int]:
        return [number for _, number in self.frames]

    @property
    def usable(self) -> np.ndarray:
        """Which frames show the person well, as far as is known: bool [N]."""
        return self.record.usable(self.numbers) if self.record else np.ones(len(self.frames), bool)

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
        raise UserError(f"there is no identity '{name}' in {dataset.folder}; it holds: {', '.join(names)}")
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
            print(f"error: {e}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(names)} {what} failed ({', '.join(failed)}; see above); the others are complete")
