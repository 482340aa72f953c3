"""Evaluations of results: evaluation.json, tables for terminals, and a page with several side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from util.cli import UserError
from util.image_io import write_bytes
from util.metrics import MEASURES, VIDEO_MEASURES, Measure, distance_from_real
from util.report.charts import line_chart
from util.report.web_page import page
from util.results.folder import Results
from util.stored import load_json

VERSION = 1
_COSINE = "-1 to 1"
_SAME_MOTION = "correlation over time with the driving frames"
_STANDS_STILL = 0.5  # ratio of movement; tried: synthesised and blurred heads 0.87 to 1.75, frozen ones 0.02 to 0.34
_AS_STEADY = 0.02  # distances from the real video that differ by less are equal: 2 %, less than two seeds of one recipe differ by

# All measures by name, in the order of the tables.
ALL_MEASURES: dict[str, Measure] = {
    **MEASURES,
    "LPIPS": Measure("LPIPS", "0-1", "lower", "perceptual distance of real and synthesised frames (AlexNet)"),
    "FID": Measure("FID", "squared distance of features", "lower", "Fréchet distance of all real and all synthesised frames"),
    "identity-similarity": Measure("identity similarity", _COSINE, "higher", "cosine of FaceNet's embeddings"),
    **VIDEO_MEASURES,
    "identity-distance-target": Measure(
        "identity distance to the target", "standard deviations, summed", "lower", "of the fitted identity"
    ),
    "identity-distance-source": Measure("identity distance to the driver", "standard deviations, summed", "", "should be the larger one"),
    "expression-correlation": Measure("expression", _COSINE, "higher", f"all fitted expression weights: {_SAME_MOTION}"),
    "mouth-correlation": Measure("mouth opening", _COSINE, "higher", _SAME_MOTION),
    "eye R-correlation": Measure("right eye's opening", _COSINE, "higher", _SAME_MOTION),
    "eye L-correlation": Measure("left eye's opening", _COSINE, "higher", _SAME_MOTION),
    "gaze x-correlation": Measure("gaze, sideways", _COSINE, "higher", _SAME_MOTION),
    "gaze y-correlation": Measure("gaze, up and down", _COSINE, "higher", _SAME_MOTION),
    "yaw-correlation": Measure("yaw", _COSINE, "higher", _SAME_MOTION),
    "pitch-correlation": Measure("pitch", _COSINE, "higher", _SAME_MOTION),
    "roll-correlation": Measure("roll", _COSINE, "higher", _SAME_MOTION),
    "movement-ratio": Measure(
        "movement", "ratio", "nearer", "way of the landmarks from a frame to the next, synthesised divided by driving frames"
    ),
    "jitter-ratio": Measure("jitter", "ratio", "nearer", "landmarks' second differences, synthesised divided by driving frames"),
    "faces-found": Measure("faces found", "part of the frames", "higher", "synthesised frames in which the landmark detector finds a face"),
}


@dataclass
class Evaluation:
    """The measures of one results' folder. Values that are nan could not be computed."""

    target: str
    source: str | None
    frames: list[int]  # first and last number
    size: int  # side of the synthesised frames, pixels
    values: dict[str, float] = field(default_factory=dict)
    nearest: dict[str, float] = field(default_factory=dict)  # the same measures of the nearest training frames
    per_frame: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # measure, or several -> why they are missing
    notes: list[str] = field(default_factory=list)
    real: dict[str, float] = field(default_factory=dict)  # the same measures of the real video, where results should come near to it
    real_per_frame: dict[str, list[float]] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)  # numbers of frames that no measure counts; their values are nan

    @property
    def count(self) -> int:
        return self.frames[1] - self.frames[0] + 1

    def real_value(self, name: str) -> float:
        """A measure's value in the real video; nan where it is not known."""
        return self.real.get(name, 1.0 if name.endswith("-ratio") else math.nan)

    @property
    def stands_still(self) -> bool:
        """Whether the face moves less than half as much as in the driving frames: what the tracker sees may be its own noise alone."""
        return self.values.get("movement-ratio", 1.0) < _STANDS_STILL


class Skip(Exception):
    """A measure that cannot be computed here; the message says why."""


def put_or_skip(evaluation: Evaluation, name: str, measure: Callable[..., None], *arguments: Any) -> None:
    """Call measure(evaluation, *arguments). When it cannot be computed, the reason is kept in evaluation.skipped[name].

    Reasons are Skip, UserError and ImportError; other exceptions pass through.
    """
    try:
        measure(evaluation, *arguments)
    except (Skip, UserError, ImportError) as e:
        evaluation.skipped[name] = str(e)


def write_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Write evaluation.json with units and meanings; values that are not finite become null."""

    def plain(value: float) -> float | None:
        return round(float(value), 6) if math.isfinite(value) else None

    measures: dict[str, dict[str, Any]] = {}
    for name, value in evaluation.values.items():
        m = ALL_MEASURES[name]
        measures[name] = {"value": plain(value), "unit": m.unit, "better": m.better, "meaning": m.meaning}
        if m.better == "nearer":
            real = evaluation.real_value(name)
            measures[name] |= {"real_video": plain(real), "difference": plain(value - real)}
        if name in evaluation.nearest:
            near = evaluation.nearest[name]
            measures[name]["nearest_training_frame"] = plain(near)
            if m.better == "lower":
                measures[name]["ratio"] = plain(value / near) if near else None
            else:
                measures[name]["difference"] = plain(value - near)
    data = {
        "version": VERSION,
        "target": evaluation.target,
        "source": evaluation.source,
        "frames": evaluation.frames,
        "size": evaluation.size,
        "left_out": evaluation.left_out,
        "measures": measures,
        "skipped": evaluation.skipped,
        "notes": evaluation.notes,
        "per_frame": {name: [plain(v) for v in values] for name, values in evaluation.per_frame.items()},
        "real_per_frame": {name: [plain(v) for v in values] for name, values in evaluation.real_per_frame.items()},
    }
    path = Results(folder).evaluation
    write_bytes(path, (json.dumps(data) + "\n").encode())
    return path


def read_evaluation(folder: Path) -> Evaluation | None:
    """What write_evaluation wrote, with measures that earlier versions had; None when there is none, or it is of another version.

    Raises: UserError when it is damaged.
    """
    path = Results(folder).evaluation
    try:
        data = load_json(path.read_text())
        if data["version"] != VERSION:
            return None

        def number(value: float | None) -> float:
            return math.nan if value is None else float(value)

        measures = data["measures"]
        return Evaluation(
            data["target"],
            data["source"],
            data["frames"],
            data["size"],
            {name: number(m["value"]) for name, m in measures.items()},
            {name: number(m["nearest_training_frame"]) for name, m in measures.items() if "nearest_training_frame" in m},
            {name: [number(v) for v in values] for name, values in data["per_frame"].items()},
            data["skipped"],
            data["notes"],
            {name: number(m["real_video"]) for name, m in measures.items() if "real_video" in m},
            {name: [number(v) for v in values] for name, values in data.get("real_per_frame", {}).items()},
            data.get("left_out", []),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
        raise UserError(f"{path} is damaged ({e}); delete it and run scripts/evaluate.py again") from None


# ---- tables ----


def shown(value: float) -> str:
    """A value as text: three decimals, two above 10, '-' when there is none."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def compared(evaluation: Evaluation, name: str) -> str:
    """A measure beside the value that it is judged by, as text: the real video's, or the nearest training frame's; '' without one.

    Distances are divided. Decibels and similarities have no ratio: they are subtracted.
    """
    value, better = evaluation.values[name], ALL_MEASURES[name].better
    if better == "nearer":
        real = evaluation.real_value(name)
        if not math.isfinite(real) or not math.isfinite(value):
            return ""
        less, equal, more = (
            ("moves less", "moves as much", "moves more") if name == "movement-ratio" else ("steadier", "as steady", "shakier")
        )
        word = equal if distance_from_real(value, real) < _AS_STEADY else less if value < real else more
        return f"real video {shown(real)}: {value - real:+.3f}, {word}"
    near = evaluation.nearest.get(name, math.nan)
    if not math.isfinite(near):
        return ""
    if better == "lower":
        return f"nearest training frame {shown(near)}" + (f": {value / near:.3f} times that" if near and math.isfinite(value) else "")
    return f"nearest training frame {shown(near)}" + (f": {value - near:+.3f}" if math.isfinite(value) else "")


def table(evaluation: Evaluation) -> str:
    """The measures of one evaluation, a line each, then those that are missing and the notes."""
    rows = []
    for name in (n for n in ALL_MEASURES if n in evaluation.values):
        measure = ALL_MEASURES[name]
        unit = ", ".join(filter(None, (measure.unit, measure.wanted)))
        rows.append((name, shown(evaluation.values[name]), compared(evaluation, name), unit))
    width = max([len("compared with"), *(len(text) for _, _, text, _ in rows)])
    lines = [
        f"{name:28s} {value:>9s}   {text:{width}s}   {unit}"
        for name, value, text, unit in (("measure", "value", "compared with", "unit"), *rows)
    ]
    lines += [f"without {name}: {reason}" for name, reason in evaluation.skipped.items()]
    lines += [f"note: {note}" for note in all_notes(evaluation)]
    return "\n".join(lines)


def all_notes(evaluation: Evaluation) -> list[str]:
    """The notes, and how many frames are left out."""
    left_out = evaluation.left_out
    return evaluation.notes + ([f"{len(left_out)} of {evaluation.count} frames are left out of all measures"] if left_out else [])


def winners(name: str, evaluations: Sequence[Evaluation]) -> list[bool]:
    """Which evaluations are the best by a measure: none when it has no better side, or when fewer than two have a value.

    By a measure that should come near to the real video's, all that are equally near; never a head that stands still.
    """
    better = ALL_MEASURES[name].better
    values = [e.values.get(name, math.nan) for e in evaluations]
    if better == "nearer":
        penalties = [math.inf if e.stands_still else distance_from_real(v, e.real_value(name)) for v, e in zip(values, evaluations)]
    else:
        penalties = [{"lower": v, "higher": -v}.get(better, math.nan) for v in values]
    known = [p for p, v in zip(penalties, values) if math.isfinite(v) and not math.isnan(p)]
    least = min(known) if len(known) > 1 else math.nan
    room = _AS_STEADY if better == "nearer" else 0.0
    return [math.isfinite(v) and math.isfinite(p) and p <= least + room for v, p in zip(values, penalties)]


def comparison_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Evaluations side by side under their names; a star marks the best of a line."""
    width = max(12, *(len(name) + 2 for name in evaluations))
    lines = [f"{'measure':28s}" + "".join(f"{name:>{width}s}" for name in evaluations)]
    for name in (n for n in ALL_MEASURES if any(n in e.values for e in evaluations.values())):
        values = [e.values.get(name, math.nan) for e in evaluations.values()]
        cells = [shown(v) + ("*" if best else " ") for v, best in zip(values, winners(name, list(evaluations.values())))]
        lines.append(f"{name:28s}" + "".join(f"{c:>{width}s}" for c in cells) + f"   {unit_beside(name, evaluations)}")
    lines.append(f"{'frames':28s}" + "".join(f"{e.count} ".rjust(width) for e in evaluations.values()))
    lines += ["note: " + text for text in unequal(evaluations)]
    return "\n".join(lines)


def unequal(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Notes on differences between the evaluations that make their figures incomparable."""
    notes = []
    for what, values in {
        "persons": {(e.target, e.source) for e in evaluations.values()},
        "frames": {tuple(e.frames) for e in evaluations.values()},
        "sizes": {e.size for e in evaluations.values()},
    }.items():
        if len(values) > 1:
            notes.append(f"these results show different {what}; their figures compare only roughly")
    for run, e in evaluations.items():
        if former := [n for n in e.values if n not in ALL_MEASURES]:
            notes.append(f"{run} was evaluated by an earlier version: {', '.join(former)} cannot be compared; --redo evaluates it again")
    return notes


def unit_beside(name: str, evaluations: Mapping[str, Evaluation]) -> str:
    """The unit, with the real video's value where results should come near to it (several where they differ)."""
    if ALL_MEASURES[name].better != "nearer":
        return ALL_MEASURES[name].unit
    real = dict.fromkeys(shown(v) for e in evaluations.values() if name in e.values and math.isfinite(v := e.real_value(name)))
    return ALL_MEASURES[name].unit + (f", real video {', '.join(real)}" if real else "")


def write_comparison(path: Path, evaluations: Mapping[str, Evaluation]) -> Path:
    """Write a page with evaluations side by side: a table, and every measure over time with a line for each.

    Raises: UserError when the path does not end in .html.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {path}: give a name that ends in .html")
    head = "".join(f"<th class=number>{escape(name)}</th>" for name in evaluations)
    rows = []
    for name in (n for n in ALL_MEASURES if any(n in e.values for e in evaluations.values())):
        measure, values = ALL_MEASURES[name], [e.values.get(name, math.nan) for e in evaluations.values()]
        best = winners(name, list(evaluations.values()))
        cells = "".join(f"<td class='number{' best' if wins else ''}'>{shown(v)}</td>" for v, wins in zip(values, best))
        note = ", ".join(filter(None, (f"{measure.meaning}; {unit_beside(name, evaluations)}", measure.wanted)))
        rows.append(f"<tr><th scope=row>{escape(measure.title)}<p class=note>{escape(note)}</p></th>{cells}</tr>")
    first = min(e.frames[0] for e in evaluations.values())
    last = max(e.frames[1] for e in evaluations.values())
    charts = []
    for name in (n for n in ALL_MEASURES if any(n in e.per_frame for e in evaluations.values())):
        lines = {run: spread(e, e.per_frame[name], first, last) for run, e in evaluations.items() if name in e.per_frame}
        if with_real := [e for e in evaluations.values() if name in e.real_per_frame]:
            lines["real video"] = spread(with_real[0], with_real[0].real_per_frame[name], first, last)
        charts.append(
            line_chart(
                range(first, last + 1), list(lines.values()), names=list(lines), title=name, x_label="frame", note=ALL_MEASURES[name].unit
            )
        )
    notes = "".join(f"<p class=notice>{escape(n)}</p>" for n in unequal(evaluations))
    body = (
        f"<h1>{len(evaluations)} results side by side</h1>{notes}<div class=wide><table><thead><tr><th>measure</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div><p class=note>The best of each line is coloured.</p>"
        f"<h2>Over time</h2><div class='grid'>{''.join(charts)}</div>"
    )
    write_bytes(path, page("Head2Head: comparison", body).encode())
    return path


def meaning(measure: Measure) -> str:
    """'what it is; unit, lower is better'."""
    return f"{measure.meaning}; " + ", ".join(filter(None, (measure.unit, measure.wanted)))


def spread(evaluation: Evaluation, curve: Sequence[float], first: int, last: int) -> list[float]:
    """A curve of an evaluation (a value a frame) over the frames first..last, nan where the evaluation has none."""
    values = np.full(last - first + 1, math.nan)
    values[evaluation.frames[0] - first : evaluation.frames[1] - first + 1] = curve
    return values.tolist()
