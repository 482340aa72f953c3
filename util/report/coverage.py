"""What a video shows of its person: as lines for the terminal and as a block of a page. Measured by preprocessing/driving/coverage.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

VERDICTS = {"well": "good", "little": "a little", "not": "lacking"}  # verdict -> in words
_SHARES = {"well": 100, "little": 50, "not": 8}  # percent of the bar in a page
MAX_ADVICE = 5  # pieces of advice in the terminal: more than that nobody films at once; the page has all


@dataclass(frozen=True)
class Shown:
    """How well a video shows one thing that its person can do, or how good its pictures are."""

    what: str  # as "turning left and right"
    verdict: str  # of VERDICTS
    seen: str  # as "-6 to 9 degrees"
    film: str  # what to film to make it better


def to_record(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """As it stands in dataset.json."""
    return [asdict(item) for item in shown]


def from_record(entries: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """What `to_record` gave; entries of another form are left out."""
    names = Shown.__dataclass_fields__.keys()
    return [Shown(**entry) for entry in entries if entry.keys() == names and entry["verdict"] in VERDICTS]


def advice(shown: Sequence[Shown]) -> list[str]:
    """What to film, what is missing most first."""
    return list(dict.fromkeys(item.film for verdict in ("not", "little") for item in shown if item.verdict == verdict))


def lines(name: str, shown: Sequence[Shown]) -> list[str]:
    """Two to four short lines for the terminal, with figures where something could be better."""
    found = []
    for verdict, words in VERDICTS.items():
        items = [item for item in shown if item.verdict == verdict]
        texts = [f"{i.what} ({i.seen})" if verdict != "well" and any(map(str.isdigit, i.seen)) else i.what for i in items]
        found += [f"{name}: {words}: {', '.join(texts)}"] * bool(texts)
    if film := advice(shown):
        found.append(f"{name}: for a better likeness film: {'; '.join(film[:MAX_ADVICE])} (README.md, How to film)")
    return found


def block(shown: Sequence[Shown]) -> str:
    """A compact part of a page; nothing when nothing is known."""
    if not shown:
        return ""
    rows = "".join(
        f"<div><dt>{escape(item.what)}</dt><dd>{escape(item.seen)}"
        f"<span class='shown {item.verdict}' title='{VERDICTS[item.verdict]}'>"
        f"<span style='width:{_SHARES[item.verdict]}%'></span></span></dd></div>"
        for item in shown
    )
    film = advice(shown)
    better = f"<p>To make it better, film: {escape('; '.join(film))}.</p>" if film else ""
    full, half, empty = VERDICTS.values()
    key = f"<p class=note>in the frames that were learnt from; full bar: {full}, half: {half}, empty: {empty}</p>"
    return f"<h2>What the video shows of the person</h2>{key}<dl>{rows}</dl>{better}"
