"""What is said of the consent of the people in the videos: asked once, kept in their records, never demanded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from dataclasses import replace

from util.cli import UserError
from util.layout import Dataset
from util.provenance import NOT_STATED

_LONGEST = 500  # characters: it goes into every result
_QUESTION = """\
Do the people in these videos agree that their heads are learned and driven? Say in a line who agreed and how ("it is me", "signed form of
3 May"). It is kept with them, and shown with every result. Enter alone: not stated.
> """


def add_consent_option(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--consent",
        metavar="TEXT",
        help="who agreed, and how, that the head in these videos is learned and driven, in your words; it is kept with the person, and "
        "goes into results and their credentials (default: asked on a terminal, else 'not stated')",
    )


def find_consent(dataset: Dataset, names: Collection[str], given: str | None) -> str:
    """The statement for these identities: the one given with --consent, else the answer of whoever sits at the terminal; '' for none.

    Nobody is asked for identities that have a statement already, nor where there is no terminal. Raises: UserError when it is too long.
    """
    if given is None:
        if all(map(dataset.consent, names)) or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            return ""
        print(_QUESTION, end="", file=sys.stderr, flush=True)
        given = sys.stdin.readline()
    text = " ".join("".join(c if c.isprintable() else " " for c in given).split())
    if len(text) > _LONGEST:
        raise UserError(f"--consent has {len(text)} characters; say it in {_LONGEST} at most")
    return "" if text == NOT_STATED else text


def keep_consent(dataset: Dataset, name: str, consent: str, given: bool = True) -> None:
    """Write a statement into an identity's record; '' leaves it as it is. given: with --consent, so that it replaces an earlier one."""
    record = dataset.read_record(name)
    if record and consent and consent != record.consent and (given or not record.consent):
        dataset.write_record(replace(record, consent=consent))
