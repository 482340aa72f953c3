"""The loop that the preprocessing commands share: over the identities of a dataset, one failure stopping none of the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

from util.cli import UserError
from util.layout import Dataset


def identities_with_frames(dataset: Dataset, name: str | None) -> list[str]:
    """All identities of the dataset. Raises: UserError when it has none, or has no `name` (None: whichever)."""
    names = dataset.identities()
    if not names:
        raise UserError(f"there are no frames in {dataset.folder}; run preprocessing/detect.py --dataset_name {dataset.home.name} first")
    if name is not None and name not in names:
        raise UserError(f"there is no identity '{name}' in {dataset.folder}; it holds: {', '.join(names)}")
    return names


def for_each(names: Collection[str], process: Callable[[str], None], what: str = "identities") -> None:
    """Call process(name) for every name; a UserError is shown and the next one taken.

    Raises: UserError at the end when some failed; with a single name, its own.
    """
    failed = []
    for name in names:
        try:
            process(name)
        except UserError as e:
            if len(names) == 1:
                raise
            failed.append(name)
            print(f"error: {e}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(names)} {what} failed ({', '.join(failed)}; see above); the others are complete")
