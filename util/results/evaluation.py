"""Evaluations of results: evaluation.json, tables for terminals, and a page with several side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from util.cli import UserError
from util.image_io import write_bytes
from util.metrics import MEASURES, VIDEO_MEASURES, Measure
from util.report.charts import line_chart
from util.report.web_page import page
from util.results.folder import Results

VERSION = 1
_COSINE = "-1 to 1"
_SAME_MOTION = "correlation over time with the driving frames"

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
    "jitter-ratio": Measure("jitter", "ratio", "lower", "landmarks' second differences, synthesised divided by driving frames"),
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

    @property
    def count(self) -> int:
        return self.frames[1] - self.frames[0] + 1


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
        if name in evaluation.nearest:
            near = evaluation.nearest[name]
            measures[name] |= {"nearest_training_frame": plain(near), "ratio": plain(value / near) if near else None}
    data = {
        "version": VERSION,
        "target": evaluation.target,
        "source": evaluation.source,
        "frames": evaluation.frames,
        "size": evaluation.size,
        "measures": measures,
        "skipped": evaluation.skipped,
        "notes": evaluation.notes,
        "per_frame": {name: [plain(v) for v in values] for name, values in evaluation.per_frame.items()},
    }
    path = Results(folder).evaluation
    write_bytes(path, (json.dumps(data) + "\n").encode())
    return path


def read_evaluation(folder: Path) -> Evaluation | None:
    """What write_evaluation wrote; None when there is none, or it is of another version. Raises: UserError when it is damaged."""
    path = Results(folder).evaluation
    try:
        data = json.loads(path.read_text())
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
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path} is damaged ({e}); delete it and run scripts/evaluate.py again") from None


# ---- tables ----


def shown(value: float) -> str:
    """A value as text: three decimals, two above 10, '-' when there is none."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def table(evaluation: Evaluation) -> str:
    """The measures of one evaluation, a line each, then those that are missing and the notes."""
    lines = [f"{'measure':28s} {'value':>9s}" + (f" {'nearest':>9s} {'ratio':>7s}" if evaluation.nearest else "") + "   unit"]
    for name in (n for n in ALL_MEASURES if n in evaluation.values):
        measure, value = ALL_MEASURES[name], evaluation.values[name]
        line = f"{name:28s} {shown(value):>9s}"
        if evaluation.nearest:
            near = evaluation.nearest.get(name, math.nan)
            line += f" {shown(near):>9s} {shown(value / near) if near else '-':>7s}"
        line += f"   {measure.unit}" + (f", {measure.better} is better" if measure.better else "")
        lines.append(line)
    lines += [f"without {name}: {reason}" for name, reason in evaluation.skipped.items()]
    lines += [f"note: {note}" for note in evaluation.notes]
    return "\n".join(lines)


def best(name: str, values: list[float]) -> float:
    """The best of several values of a measure; nan when the measure has no better side, or there is only one value."""
    finite = [v for v in values if math.isfinite(v)]
    better = ALL_MEASURES[name].better
    if not better or len(finite) < 2:
        return math.nan
    return min(finite) if better == "lower" else max(finite)


def comparison_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Evaluations side by side under their names; a star marks the best of a line."""
    width = max(12, *(len(name) + 2 for name in evaluations))
    lines = [f"{'measure':28s}" + "".join(f"{name:>{width}s}" for name in evaluations)]
    for name in (n for n in ALL_MEASURES if any(n in e.values for e in evaluations.values())):
        values = [e.values.get(name, math.nan) for e in evaluations.values()]
        winner = best(name, values)
        cells = [shown(v) + ("*" if v == winner else " ") for v in values]
        lines.append(f"{name:28s}" + "".join(f"{c:>{width}s}" for c in cells) + f"   {ALL_MEASURES[name].unit}")
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
    return notes


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
        winner = best(name, values)
        cells = "".join(f"<td class='number{' best' if v == winner else ''}'>{shown(v)}</td>" for v in values)
        rows.append(f"<tr><th scope=row>{escape(measure.title)}<p class=note>{escape(meaning(measure))}</p></th>{cells}</tr>")
    first = min(e.frames[0] for e in evaluations.values())
    last = max(e.frames[1] for e in evaluations.values())
    charts = []
    for name in (n for n in ALL_MEASURES if any(n in e.per_frame for e in evaluations.values())):
        lines = {run: spread(e, name, first, last) for run, e in evaluations.items() if name in e.per_frame}
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
    return f"{measure.meaning}; {measure.unit}" + (f", {measure.better} is better" if measure.better else "")


def spread(evaluation: Evaluation, name: str, first: int, last: int) -> list[float]:
    """A measure over the frames first..last, nan where the evaluation has none."""
    values = np.full(last - first + 1, math.nan)
    values[evaluation.frames[0] - first : evaluation.frames[1] - first + 1] = evaluation.per_frame[name]
    return values.tolist()
