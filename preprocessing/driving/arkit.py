"""What the columns of a table of ARKit blendshapes mean: names in any spelling, units of weights and angles, rows without a face."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from preprocessing.driving.clock import read_clock, time_unit
from preprocessing.driving.motion import ANGLES
from preprocessing.driving.tables import MISSING, Table, brief, numbers
from util.numeric import fill_gaps, smoothstep

TIME_COLUMNS = ("timecode", "seconds", "time", "timestamp", "times", "timeseconds")  # those that are preferred, as `plain` has them
FACE_COLUMNS = ("blendshapecount", "tracked", "istracked", "facetracked", "isfacetracked", "facedetected", "isfacedetected", "facefound")
USUAL_WEIGHT, MOST_WEIGHT, MOST_PERCENT = 1.5, 3.0, 150.0  # beyond: said; in percent (the least that a face moves in a take); neither
RARE = 0.01  # share of the rows in which weights beyond MOST_WEIGHT are faults, not percent
LONGEST_LIST = 200  # letters of a list of names in a message
# A head that is seen by a camera turns by less than a quarter: in radians, angles stay below 1.6.
MOST_RADIANS, DOUBTFUL_RADIANS, MOST_EYE_RADIANS = 1.6, 1.0, 1.05
LEAST_DEGREES = 0.6  # a head that moves turns by more
MOST_SPEED = 10.0  # radians/s that a head's turning does not reach for long
HEAD_ANGLE = re.compile(r"head(?:rotation|rot|pose|angle|orientation)?(yaw|pitch|roll)(deg|rad)?(?:rees?|ians?)?")
EYE_ANGLE = re.compile(r"(?:left|right)eye(?:yaw|pitch|roll)|eye(?:yaw|pitch|roll)(?:left|right|l|r)")
TURNING = re.compile(r"(?:yaw|pitch|roll|(?:quat|euler|rot|rotation|quaternion)[a-z0-9]{0,5})$")  # ends of names that turn something
BRIDGED_S = 0.2  # a shorter gap is interpolated; over a longer one the head stands still
BLEND_S = 0.25  # time in which it moves on after that


# ---- names ----


def without_unit(name: str) -> tuple[str, str]:
    """A column's name, and the unit behind it without brackets or "": HeadYaw (deg), time [ms], JawOpen %."""
    match = re.fullmatch(r"(.*?)[\s_]*(?:[(\[](.*)[)\]]|([%\u00b0]))", name)
    return (match[1], (match[2] or match[3] or "").lower()) if match else (name, "")


def endings(name: str) -> list[str]:
    """The name, then what prefixes leave of it (blendShapes.EyeBlinkLeft, ARKit_jawOpen, bsJawOpen), the longest first."""
    starts = [m.end() for m in re.finditer(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", name)]
    return [name, *(name[start:] for start in starts)]


def plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def shape_columns(table: Table, shapes: Callable[[str], tuple[int, ...]], notes: list[str]) -> dict[int, tuple[int, ...]]:
    """The columns of weights, and what `shapes` says of their names. Of two columns for the same, the one with the shorter name."""
    found = {i: shapes(name) for i, name in enumerate(table.names)}
    chosen: dict[tuple[int, ...], int] = {}
    twice = []
    for i in sorted((i for i, called in found.items() if called), key=lambda i: len(table.names[i])):
        if chosen.setdefault(found[i], i) != i:
            twice.append(f"{table.names[i]} (column {i + 1})")
    if twice:
        notes.append(f"a shape's second column is left out: {brief(', '.join(twice), LONGEST_LIST)}")
    # those that mean both sides come first, so that a column for one side has the last word
    return {i: found[i] for i in sorted(chosen.values(), key=lambda i: (-len(found[i]), i))}


def rows_with_a_face(table: Table, columns: Iterable[int]) -> np.ndarray:
    """Bool [rows]. For a frame without a face, an app writes a row without (most) weights, or one that says so."""
    columns = list(columns)
    least = len(columns) / 2
    seen = np.array([len(r) > max(columns) and sum(r[i].lower() not in MISSING for i in columns) > least for r in table.rows], bool)
    for i, name in enumerate(table.names):
        if plain(name) in FACE_COLUMNS:
            told = seen & np.array([i >= len(row) or plain(row[i]) not in ("0", "00", "false", "no") for row in table.rows], bool)
            seen = told if told.any() else seen
    return seen


# ---- values ----


def read_times(table: Table, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the rows and which rows to keep, by the first column of times that can be read. Raises: ValueError."""
    candidates = []
    for i, name in enumerate(table.names):
        base, unit = without_unit(name)
        last = re.split("[^A-Za-z0-9]+", base)[-1]
        for part in (base, last if len(last) > 3 else base):
            is_time, told = time_unit(part, unit)
            if is_time:
                rank = TIME_COLUMNS.index(plain(part)) if plain(part) in TIME_COLUMNS else len(TIME_COLUMNS)
                candidates.append(((told == "frames", rank, i), told))
                break
    if not candidates:
        raise ValueError("it has no column Timecode or seconds, so its speed is unknown; add a column 'seconds'")
    said = re.search(r"(?i)(?:fps|frame[ _]?rate)\W{0,4}(\d+(?:\.\d+)?)|(\d+(?:\.\d+)?)\s*(?:fps|frames/s|hz)", table.title)
    rate = float(said[1] or said[2]) if said else 0
    rate = rate if 1 <= rate <= 1000 else None  # not the sound's
    # a row that was written twice
    keep = np.array([i == 0 or row != table.rows[i - 1] for i, row in enumerate(table.rows)])
    rows = np.flatnonzero(keep)
    errors = []
    for (*_, i), told in sorted(candidates, key=lambda c: c[0]):
        stamps = [table.rows[r][i] if i < len(table.rows[r]) else "" for r in rows]
        try:
            seconds, rising, more = read_clock(stamps, [table.lines[r] for r in rows], told, rate)
        except ValueError as e:
            errors.append(f"column {brief(table.names[i]) or i + 1}: {e}")
            continue
        notes += [*errors, *more]
        times = np.zeros(len(keep))
        times[rows], keep[rows] = seconds, rising
        return times, keep
    raise ValueError(f"{errors[0]}; export it again from the capture app, or add a column 'seconds'")


def read_weights(table: Table, columns: Sequence[int], filled: list[int], notes: list[str]) -> np.ndarray:
    """Weights [rows, columns] where 1 is the whole shape. filled: gets the lines of cells that were interpolated. Raises: ValueError."""
    values = numbers(table, columns)
    most, far = np.nanmax(values), np.nanmax(values, axis=1) > MOST_WEIGHT
    if far.sum() > max(2, RARE * len(far)):
        if most > MOST_PERCENT:
            r, c = np.unravel_index(np.nanargmax(values), values.shape)
            where = f"line {table.lines[r]}, column {brief(table.names[columns[c]])}"
            raise ValueError(f"weight {most:g} in {where} is neither within 0..1 nor within 0..100; export it again with weights 0..1")
        notes.append(f"weights up to {most:g} are taken as percent")
        values /= 100
    elif far.any():  # faults
        values[values > MOST_WEIGHT] = np.nan
    elif any(without_unit(table.names[i])[1] in ("%", "percent", "0..100", "0-100") for i in columns):
        values /= 100
    elif most > USUAL_WEIGHT:
        notes.append(f"weights up to {most:g} are taken as they are, though 1 is the whole shape")
    return _fill(values, table, filled)


def read_angles(table: Table, times: np.ndarray, shapes: Iterable[int], filled: list[int], notes: list[str]) -> np.ndarray:
    """HeadYaw, HeadPitch, HeadRoll [rows, 3] in degrees that do not jump by 360; 0 for those that the table lacks.

    times: of the rows, seconds. shapes: columns of weights. filled: as for `read_weights`. Raises: ValueError.
    """
    heads: dict[str, int] = {}
    units: dict[str, str] = {}
    eyes, others = [], []
    for i, name in enumerate(table.names):
        base, unit = without_unit(name)
        match = next(filter(None, (HEAD_ANGLE.fullmatch(plain(part)) for part in endings(base))), None)
        if match and match[1] not in heads:
            heads[match[1]] = i
            units[match[1]] = "deg" if "\u00b0" in unit else next((u for u in ("deg", "rad") if u in (unit[:3], match[2])), "")
        elif EYE_ANGLE.search(plain(base)):
            eyes.append(i)
        elif not match and i not in shapes and TURNING.search(plain(base)) and not re.search("eye|gaze|tongue", plain(base)):
            others.append(name)
    if others and not heads:
        listed = brief(", ".join(others), LONGEST_LIST)
        notes.append(f"not read, as signs and units are not known: {listed}; name angles HeadYaw, HeadPitch, HeadRoll")
    if 0 < len(heads) < len(ANGLES):
        notes.append(f"it has no {', '.join(f'Head{a.title()}' for a in ANGLES if a not in heads)}; 0 is taken")
    values = _fill(numbers(table, [heads.get(a, len(table.names)) for a in ANGLES]), table, filled)
    unsure = [a for a in heads if not units[a]]
    if unsure:
        angles = values[:, [ANGLES.index(a) for a in unsure]]
        try:
            eye = float(np.nanmax(np.abs(numbers(table, eyes)), initial=0))
        except ValueError:
            eye = 0.0
        coarse = _is_coarse([row[heads[a]] for row in table.rows for a in unsure if heads[a] < len(row)])
        unit = _angle_unit(angles, times, eye, coarse, ", ".join(brief(table.names[heads[a]]) for a in unsure), notes)
        units.update(dict.fromkeys(unsure, unit))
    for k, angle in enumerate(ANGLES):
        degrees = units.get(angle) == "deg"
        values[:, k] = np.unwrap(values[:, k], period=360) if degrees else np.rad2deg(np.unwrap(values[:, k]))
    return values


def bridge(times: np.ndarray, curves: np.ndarray, lines: Sequence[int], notes: list[str]) -> np.ndarray:
    """Curves [rows, any] of the rows with a face, to be interpolated over time, so that they stand still over a gap and then blend back.

    Short gaps are left as they are. lines: of the rows in their file.
    """
    steps = np.diff(times)
    gaps = np.flatnonzero(steps > max(BRIDGED_S, 2.5 * np.median(steps)))
    curves = curves.copy()
    for before in gaps:
        since = times - times[before + 1]
        late = (since >= 0) & (since < BLEND_S)
        held = curves[before].copy()
        curves[late] = held + smoothstep(since[late] / BLEND_S)[:, None] * (curves[late] - held)
    if len(gaps):
        more = f", and {len(gaps) - 1} more gaps" if len(gaps) > 1 else ""
        gap = f"no face for {steps[gaps[0]]:.3g} s after line {lines[gaps[0]]}{more}"
        notes.append(f"{gap}: the expression and pose of before are held, then blended back in {BLEND_S:g} s")
    return curves


# ---- parts ----


def _fill(values: np.ndarray, table: Table, filled: list[int]) -> np.ndarray:
    """Values [rows, columns] with what is missing interpolated; a column without any becomes 0."""
    out = np.nan_to_num(values)
    for c, there in enumerate(np.isfinite(values).T):
        if there.any() and not there.all():
            out[:, c] = fill_gaps(values[:, c], ~there)
            filled += [table.lines[r] for r in np.flatnonzero(~there)]
    return out


def _is_coarse(cells: Sequence[str]) -> bool:
    """Whether numbers that move are written with two decimals at most: radians would be steps of half a degree."""
    cells = {cell for cell in cells if cell.lower() not in MISSING}
    return len(cells) > 4 and not any("e" in c.lower() or len(c.replace(",", ".").partition(".")[2]) > 2 for c in cells)


def _angle_unit(angles: np.ndarray, times: np.ndarray, eye: float, coarse: bool, names: str, notes: list[str]) -> str:
    """ "rad" or "deg": of angles [rows, any] without a unit. eye: largest angle of the eyes, in the same unit, 0 if unknown."""
    most = float(np.abs(angles).max())
    jump = float(np.abs(np.diff(angles, axis=0)).max(initial=0))
    if jump > 4.5 and most <= 2 * np.pi + 0.01:  # once around
        return "rad"
    if most > np.pi:
        return "deg"
    speed = np.percentile(np.abs(np.diff(angles, axis=0)).max(1) / np.diff(times), 95)
    ask = "; write the unit behind the names, as in 'HeadYaw ({})', if that is wrong"
    if most > MOST_RADIANS or eye > MOST_RADIANS or speed > MOST_SPEED or (coarse and most > LEAST_DEGREES and eye == 0):
        turn = f"in radians, the head would turn by {np.rad2deg(most):.0f} degrees"
        turn += f" and by {np.rad2deg(speed):.0f} degrees/s" if speed > MOST_SPEED else ""
        notes.append(f"{names} up to {most:.3g} are taken as degrees ({turn}){ask.format('rad')}")
        return "deg"
    if most > DOUBTFUL_RADIANS and not 0.02 < eye <= MOST_EYE_RADIANS:
        notes.append(f"{names} up to {most:.3g} are taken as radians, {np.rad2deg(most):.0f} degrees{ask.format('deg')}")
    return "rad"
