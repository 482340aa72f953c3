"""The clock of a table of motion: seconds from timecodes, dates, numbers in any unit or frame numbers, and clocks that jump."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from preprocessing.driving.tables import brief, number

COMMON_RATES = (24, 25, 30, 48, 50, 60, 120)  # frames/s that cameras record at
ASSUMED_RATE = 60.0  # frames/s of numbered frames: what ARKit tracks faces at
PAUSE_S = 10.0  # the clock goes on by more between two rows: recording was paused, or the clock was set
MOST_COUNT = 1e20  # of whatever a clock counts: nanoseconds since 1970 are 2e18
MOST_UNREADABLE = 0.1  # share of the rows whose time may be unreadable, or go back

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ticks": 1e-7, "ns": 1e-9}  # seconds
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "ticks": "units of 100 ns"}
UNIT_WORDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "usec", "usecs", "micros", "microsecond", "microseconds", "\N{MICRO SIGN}s"), "us"),
    **dict.fromkeys(("ns", "nsec", "nsecs", "nanos", "nanosecond", "nanoseconds"), "ns"),
    **dict.fromkeys(("frame", "frames"), "frames"),
}
KINDS_OF_TIME = "elapsed|relative|rel|absolute|abs|unix|epoch|posix|utc|local|system|device|host|frame|capture|recording|record|playback"
KINDS_OF_TIME += "|video|media|sample|smpte|take"
TIME_NAME = re.compile(
    rf"(?P<kind>{KINDS_OF_TIME})?(?P<word>timecode|timestamp|datetime|time|stamp|clock|pts|tc|ts|t)?(in)?(?P<unit>{'|'.join(UNIT_WORDS)})?"
)
FRAME_NAME = re.compile(r"(?:(?:video)?(?:frame|sample|row|line)s?)?(?:index|idx|number|num|no|id|nr|count)?|unnamed\d*")
# [date] [hours:]minutes:seconds[:frames[.part of a frame] or .decimals] [zone]
TIMECODE = re.compile(
    r"(?:\d+[-/.]\d+[-/.]\d+[T ]+)?(?:(\d{1,9})[:;])?(\d{1,9})[:;](\d{1,9})"
    r"(?:([:;.,])(\d{1,18})(?:[.,](\d{1,18}))?)?\s*(?:Z|UTC|[+-]\d\d:?\d\d)?"
)


def time_unit(name: str, unit: str = "") -> tuple[bool, str | None]:
    """Whether a column of this name tells the time or numbers frames, and in which unit: a key of UNITS, "frames", or None (not said).

    unit: what stands in brackets behind the name.
    """
    plain = re.sub(r"[^a-z0-9\u00b5]", "", name.lower())
    told = UNIT_WORDS.get(re.sub(r"[^a-z\u00b5]", "", unit.lower()))
    if FRAME_NAME.fullmatch(plain):
        return True, "frames"
    match = TIME_NAME.fullmatch(plain)
    if match and (match["word"] or match["unit"] or match["kind"] and (told or match["kind"] in ("unix", "epoch", "utc", "elapsed"))):
        return True, told or UNIT_WORDS.get(match["unit"] or "")
    return False, None


def read_clock(
    stamps: Sequence[str], lines: Sequence[int], unit: str | None = None, rate: float | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Seconds [rows], rising, of what stands in a column of times; which rows to keep, bool [rows]; notes on what was assumed.

    lines: of the rows in their file. unit: as from `time_unit`. rate: frames/s, if the file says it.
    Raises: ValueError names line and text of what is no time, or says that the time does not go on.
    """
    stamps = [stamp.strip() for stamp in stamps]
    coded = sum(bool(re.search(r"\d[:;]\d", stamp)) for stamp in stamps) > len(stamps) / 2
    values = [_code(stamp) if coded else _value(stamp) for stamp in stamps]
    bad = [i for i, value in enumerate(values) if value is None]
    if len(bad) > MOST_UNREADABLE * len(stamps):
        raise ValueError(f"'{brief(stamps[bad[0]])}' in line {lines[bad[0]]} is no timecode HH:MM:SS:FF, no HH:MM:SS.mmm and no number")
    good = [i for i, value in enumerate(values) if value is not None]
    known = [values[i] for i in good]
    times, notes = _from_codes(known, rate) if coded else _from_values(np.array(known, np.float64), unit, rate)
    if bad:
        notes.append(f"rows without a readable time: {len(bad)} (first: line {lines[bad[0]]}); it is taken from the rows around them")
    times, keep, more = _even(np.interp(np.arange(len(stamps)), good, times), lines)
    return times, keep, notes + more


# ---- what stands in a cell ----


def _value(stamp: str) -> float | None:
    try:
        value = number(stamp)
    except ValueError:
        return None
    return value if abs(value) < MOST_COUNT else None


def _code(stamp: str) -> tuple[str, ...] | None:
    """Hours, minutes, seconds, mark, frames or decimals, part of a frame; "" for what is left out."""
    match = TIMECODE.fullmatch(stamp)
    return match.groups("") if match else None


def _from_codes(codes: Sequence[tuple[str, ...]], rate: float | None) -> tuple[np.ndarray, list[str]]:
    """Seconds of timecodes, and notes. The rate is not written; frames are counted from 0 within a second."""
    notes = []
    clock = np.array([[int(h or 0), int(m), int(s)] for h, m, s, *_ in codes], np.float64)
    marks = {mark for *_, mark, _, _ in codes} - {""}
    digits = {len(part) for *_, part, _ in codes}
    if not marks & {":", ";"} and len(codes) > 2 and np.median(np.diff(clock @ [3600, 60, 1])) >= 1:  # minutes:seconds:frames
        codes = [("", h, m, ":", s, part) for h, m, s, _, part, _ in codes]
        clock, marks = np.c_[np.zeros(len(codes)), clock[:, :2]], {":"}
        notes.append("its times are taken as minutes:seconds:frames")
    seconds = clock @ [3600, 60, 1]
    parts = np.array([float(f"{part or 0}.{sub or 0}") for *_, part, sub in codes])
    counts = bool(marks & {":", ";"}) or any(sub for *_, sub in codes)  # frames or milliseconds, not decimals
    if not counts and digits == {2} and parts.max() < 60 and np.ptp(seconds) >= 1:  # hundredths would come to 99
        counts = True
        notes.append("what follows the seconds of its times is taken as frames, because it stays below 60")
    turn = 86400 if any(h for h, *_ in codes) else 3600  # midnight, or the full hour
    if not counts:
        times = seconds + np.array([float(f"0.{part or 0}") for *_, part, _ in codes])
    elif parts.max() >= 2 * COMMON_RATES[-1] or (digits == {3} and np.ptp(seconds) < 1):
        times = seconds + parts / 1000
    else:
        base = next((r for r in COMMON_RATES if r > parts.max()), parts.max() + 1)
        if np.ptp(seconds) < 1:  # not a whole second seen: what the file says, or the apps' own rate
            base = round(rate) if rate and round(rate) > parts.max() else max(base, 60)
        times = np.c_[clock, parts] @ [3600, 60, 1, 1 / base]
        dropped = base // 15 if ";" in marks and base % 30 == 0 else 0  # frame numbers left out at each minute but the tenth
        if dropped and not ((parts < dropped) & (clock[:, 2] == 0) & (clock[:, 1] % 10 > 0)).any():
            minutes = clock[:, 0] * 60 + clock[:, 1]
            times = (times * base - dropped * (minutes - minutes // 10)) * 1.001 / base
            turn = (turn * base - dropped * turn * 0.9 / 60) * 1.001 / base
    return times + turn * np.cumsum(np.r_[0, np.diff(times) < -turn / 2]), notes


def _from_values(values: np.ndarray, unit: str | None, rate: float | None) -> tuple[np.ndarray, list[str]]:
    """Seconds of plain numbers, from the first on, and notes. Without a unit, the step from row to row tells it: a frame takes 4 to
    250 ms."""
    step, notes, told = _step(values), [], unit
    if unit is None or unit == "frames" and step < 0.5 or unit in UNITS and not 1e-4 <= step * UNITS[unit] <= 2:
        whole = (values == np.rint(values)).all()
        if step >= 1e3 and step < 1e6:
            unit = "ticks" if np.abs(values).max() > 1e17 else "us"
        else:
            unit = "ns" if step >= 1e6 else "ms" if step >= 4 else "frames" if step >= 1 and whole else "s"
        if unit in UNITS and unit != (told or "s"):
            notes.append(f"its times are taken as {UNIT_NAMES[unit]}{', whatever the name of their column says' if told else ''}")
    values = values - values[0] if unit != "s" or np.abs(values).max() > 1e8 else values
    if unit != "frames":
        return values * UNITS[unit], notes
    if rate is None:
        notes.append(f"only frames are numbered; {ASSUMED_RATE:g} frames/s are assumed; add a column 'seconds' if that is wrong")
    return values / (rate or ASSUMED_RATE), notes


# ---- a clock that jumps ----


def _step(times: np.ndarray) -> float:
    """Time from a row to the next, by most of the rows: also where many share a coarse time, and some jump. Raises: ValueError."""
    steps = np.diff(times)
    if (steps > 0).sum() <= (steps < 0).sum():
        raise ValueError("the time does not go on")
    shared = np.diff(np.flatnonzero(steps > 0))  # rows at one moment
    return float(np.median(steps[steps > 0])) / max(float(np.median(shared)) if len(shared) else 1, 1)


def _even(times: np.ndarray, lines: Sequence[int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Times that rise, which rows to keep, and notes.

    Rows between a jump of the clock and the same jump back are put right. A row that is out of order, and one more at the same moment,
    are not kept. Where the clock stands still and then catches up, rows are spread evenly; where it is set back, or on by more than
    PAUSE_S, it goes on from where it was.
    """
    t, step = times.copy(), _step(times)
    keep = np.ones(len(t), bool)
    spread, back, ahead = [], {}, {}
    off = np.diff(t) - step
    jumps = np.flatnonzero(np.abs(off) > 2.5 * step)
    for i, j in pairwise(jumps):
        if off[i] * off[j] < 0 and abs(off[i] + off[j]) < (j - i + 1) * step:  # there and back
            t[i + 1 : j + 1] -= off[i]
            (ahead if off[i] > 0 else back)[lines[i + 1]] = abs(off[i])
            off[j] = 0
    around = t[2:] - t[:-2]
    keep[1:-1] = (around <= 0) | (around > 4 * step) | ((t[1:-1] >= t[:-2]) & (t[1:-1] <= t[2:]))
    keep[2:] |= ~keep[1:-1]  # of two that are swapped, one is left out
    index, t = np.flatnonzero(keep), t[keep]
    last, k = 0, 1
    while k < len(t):
        passed = t[k] - t[last]
        if 0 < passed <= max(PAUSE_S, 20 * step):
            last, k = k, k + 1
            continue
        if passed > 0:
            ahead[lines[index[k]]] = passed
            t[k:] -= passed - step
            continue
        end = k + int(np.argmax(np.r_[t[k:] > t[last], True]))  # the first row after the last moment
        still = int(np.argmin(np.r_[t[k:] == t[last], False]))  # rows at the last moment
        missed = (end - last) * step
        if end < len(t) and 0.75 * missed <= t[end] - t[last] <= missed + max(PAUSE_S, 20 * step):  # the clock caught up
            if last == 0:  # the clock stood before
                t[0] = max(t[0], t[end] - end * step)
            t[k:end] = np.linspace(t[last], t[end], end - last + 1)[1 : end - k + 1]
            spread += list(index[k:end])
            last, k = end - 1, end
        elif still == 0:
            back[lines[index[k]]] = -passed
            t[k:] += step - passed
        elif still < 3 and (end == len(t) or end == k + still):
            keep[index[k : k + still]] = False
            k += still
        else:
            t[k : k + still] += step * np.arange(1, still + 1)
            t[k + still :] += step * still
            spread += list(index[k : k + still])
            last, k = k + still - 1, k + still
    if len(back) > max(MOST_UNREADABLE * len(t), 1):
        raise ValueError(f"the time goes back in {len(back)} rows (first: line {min(back)})")
    notes = [f"the clock stands still in {len(spread)} rows (first: line {lines[min(spread)]}); they are spread evenly"] if spread else []
    for jumps, way in ((back, "back"), (ahead, "forward")):
        if jumps:
            first, *others = jumps
            more = f" (and at {len(others)} more lines)" if others else ""
            notes.append(f"the clock jumps {way} by {jumps[first]:.6g} s at line {first}{more}; the motion goes on without a gap")
    out = times.copy()
    out[index] = t
    if not (np.diff(out[keep]) > 0).all():  # steps that are lost in the numbers' precision
        raise ValueError("the time does not go on")
    return out, keep, notes
