"""The report of a test: index.html in its results' folder. One file beside the frames and the video, no network needed."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from util.image_io import write_bytes
from util.layout import Run
from util.metrics import HEATMAP_FULL_SCALE, MEASURES
from util.provenance import PROVENANCE
from util.report.charts import line_chart
from util.report.training_page import loss_charts, read_log
from util.report.web_page import page, pictures, settings
from util.results.evaluation import ALL_MEASURES, Evaluation, meaning, read_evaluation, shown
from util.results.folder import Results
from util.results.panels import captions, find_source, write_videos

_SAMPLES = 6
_SAMPLE_KINDS = ("real", "fake", "heatmap")

# Arrow keys step through the frames; the charts' marker follows the video, a click on a chart moves it.
_SCRIPT = """
const video = document.querySelector('video'), fps = FPS, first = FIRST, last = LAST
const charts = [...document.querySelectorAll('svg[data-x0]')]
const place = (svg, frame) => {
  const d = svg.dataset, part = (frame - d.x0) / (d.x1 - d.x0)
  return +d.left + Math.min(1, Math.max(0, part)) * (d.right - d.left)
}
function follow() {
  const frame = Math.min(last, first + Math.floor(video.currentTime * fps + 1e-3))
  document.getElementById('frame').textContent = 'frame ' + frame
  for (const svg of charts) {
    const marker = svg.querySelector('.marker'), x = place(svg, frame)
    marker.setAttribute('x1', x); marker.setAttribute('x2', x)
  }
  if (!video.paused) requestAnimationFrame(follow)
}
const step = by => {
  video.pause()
  video.currentTime = Math.min(video.duration - .5 / fps, Math.max(0, (Math.floor(video.currentTime * fps + 1e-3) + by + .5) / fps))
}
video.addEventListener('play', follow)
video.addEventListener('seeked', follow)
document.addEventListener('keydown', e => {
  if (e.target.closest('summary') || e.ctrlKey || e.metaKey || e.altKey) return
  if (e.key === 'ArrowLeft' || e.key === ',') step(-1)
  else if (e.key === 'ArrowRight' || e.key === '.') step(1)
  else if (e.key === ' ' && e.target !== video) video.paused ? video.play() : video.pause()
  else return
  e.preventDefault()
}, true)
for (const svg of charts) svg.addEventListener('click', e => {
  const d = svg.dataset, box = svg.getBoundingClientRect()
  const x = (e.clientX - box.left) / box.width * svg.viewBox.baseVal.width
  const frame = +d.x0 + (x - d.left) / (d.right - d.left) * (d.x1 - d.x0)
  video.pause()
  video.currentTime = Math.max(0, (Math.round(frame) - first + .5) / fps)
})
video.addEventListener('loadedmetadata', follow)
"""


def write_report(results: Results, run: Run, run_options: Mapping[str, Any], datasets_dir: str | Path | None = None) -> Path:
    """Write the page of finished results, and its video if that is not there yet.

    run, run_options: the trained run and its options; its log gives the loss curves.
    Returns: the path of index.html.
    Raises: UserError when the results are unfinished.
    """
    (video,) = write_videos(results, "all", datasets_dir)
    facts = results.read()
    means, per_frame = results.read_measures()
    fps = find_source(facts, datasets_dir)[0] or Fraction(25)
    body = [_head(facts), _video(video, facts, fps)]
    if means:
        body += [_table(means, per_frame, facts), _over_time(per_frame, facts)]
    if evaluation := read_evaluation(results.folder):
        body += [_evaluation(evaluation), _evaluation_over_time(evaluation)]
    body += [_samples(results, facts), _training(run), _settings(facts, run_options, fps), _provenance()]
    title = f"{facts['target']} driven by {facts['source'] or 'own held-out frames'}"
    script = _SCRIPT
    for name, value in {"FPS": f"{float(fps):.9g}", "FIRST": facts["frames"][0], "LAST": facts["frames"][1]}.items():
        script = script.replace(name, str(value))
    write_bytes(results.page, page(f"Head2Head: {title}", "\n".join(body), script).encode())
    return results.page


def _head(facts: dict) -> str:
    count = facts["frames"][1] - facts["frames"][0] + 1
    target, source = escape(facts["target"]), escape(facts["source"] or "")
    if source:
        title, what = f"{target}, driven by {source}", f"{count} frames of {source}'s motion, synthesised as {target}."
    else:
        title = f"{target}, self reenactment"
        what = f"{count} held-out frames, synthesised from their conditioning images alone: the networks never saw these frames."
    return (
        f"<h1>{title}</h1><p class=lead>{what}</p><p class=notice><strong>AI-generated.</strong> "
        f"The pictures called “synthesised” were made by a neural network. They do not show a real recording.</p>"
    )


def _video(video: Path, facts: dict, fps: Fraction) -> str:
    panels = " | ".join(captions(facts)[k] for k in ("real", "nmfc", "eye_gaze", "fake") if k in facts["kinds"])
    return (
        f'<video src="{escape(video.name)}" controls loop muted autoplay playsinline preload=auto></video>'
        f"<p class=note>{escape(panels)} · {float(fps):.5g} frames/s · <span id=frame></span> · "
        "keys ← → step by a frame, space plays and stops</p>"
    )


def _table(means: dict[str, float], per_frame: list[dict[str, float]], facts: dict) -> str:
    rows = []
    for name, measure in MEASURES.items():
        values = np.array([m.get(name, math.nan) for m in per_frame])
        values = values[np.isfinite(values)]
        worst = (values.max() if measure.better == "lower" else values.min()) if values.size else math.nan
        rows.append(
            f"<tr><th scope=row>{escape(measure.title)}<p class=note>{escape(meaning(measure))}</p></th>"
            f"<td class=number>{shown(means.get(name, math.nan))}</td><td class=number>{shown(worst)}</td></tr>"
        )
    return (
        f"<h2>Measures against the truth</h2><p class=note>at {facts['size']}x{facts['size']} pixels</p>"
        "<table><thead><tr><th>measure</th><th class=number>mean</th><th class=number>worst frame</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _over_time(per_frame: list[dict[str, float]], facts: dict) -> str:
    frames = list(range(facts["frames"][0], facts["frames"][1] + 1))
    charts = [
        line_chart(frames, [m.get(name, math.nan) for m in per_frame], title=name, x_label="frame", note=measure.unit, marker=True)
        for name, measure in MEASURES.items()
    ]
    return (
        "<h2>Measures over time</h2><p class=note>the mark follows the video; click to go there</p>"
        f"<div class='grid seek'>{''.join(charts)}</div>"
    )


def _evaluation(evaluation: Evaluation) -> str:
    rows = []
    head = "<th>measure</th><th class=number>value</th>"
    if evaluation.nearest:
        head += "<th class=number>nearest training frame</th><th class=number>ratio</th>"
    for name in (n for n in ALL_MEASURES if n in evaluation.values):
        measure, value = ALL_MEASURES[name], evaluation.values[name]
        cells = f"<td class=number>{shown(value)}</td>"
        if evaluation.nearest:
            near = evaluation.nearest.get(name, math.nan)
            cells += f"<td class=number>{shown(near)}</td><td class=number>{shown(value / near if near else math.nan)}</td>"
        rows.append(f"<tr><th scope=row>{escape(measure.title)}<p class=note>{escape(meaning(measure))}</p></th>{cells}</tr>")
    missing = [f"{name}: {reason}" for name, reason in evaluation.skipped.items()]
    notes = "".join(f"<p class=note>{escape(text)}</p>" for text in (*evaluation.notes, *(f"without {text}" for text in missing)))
    return (
        "<h2>Evaluation</h2><p class=note>scripts/evaluate.py; what is found again in the synthesised frames, and all other measures</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{notes}"
    )


def _evaluation_over_time(evaluation: Evaluation) -> str:
    """The curves that test.py's own measures do not have."""
    frames = range(evaluation.frames[0], evaluation.frames[1] + 1)
    charts = [
        line_chart(frames, evaluation.per_frame[name], title=measure.title, x_label="frame", note=measure.unit, marker=True)
        for name, measure in ALL_MEASURES.items()
        if name in evaluation.per_frame and name not in MEASURES
    ]
    return f"<div class='grid seek'>{''.join(charts)}</div>" if charts else ""


def _samples(results: Results, facts: dict) -> str:
    first, last = facts["frames"]
    kinds = [k for k in _SAMPLE_KINDS if k in facts["kinds"]]
    names = captions(facts)
    frames = sorted({int(f) for f in np.linspace(first, last, min(_SAMPLES, last - first + 1))})
    cards = [
        pictures((f"{names[k]}, frame {frame}" if i == 0 else names[k], f"{k}/{results.path(k, frame).name}") for i, k in enumerate(kinds))
        for frame in frames
    ]
    scale = ""
    if "heatmap" in kinds:
        scale = f"<p class=note>error: RGB distance per pixel, blue 0 to red {HEATMAP_FULL_SCALE:.0f} and more</p>"
    return f"<h2>Frames</h2>{scale}<div class='grid samples'>{''.join(cards)}</div>"


def _training(run: Run) -> str:
    log = read_log(run)
    if not log:
        return "<h2>Training</h2><p class=note>no log of losses: these networks were trained elsewhere</p>"
    return f"<details open><summary><h2>Loss curves</h2></summary><p class=note>against optimiser steps</p>{loss_charts(log)}</details>"


def _settings(facts: dict, run_options: Mapping[str, Any], fps: Fraction) -> str:
    test = {
        "dataset": facts["dataset_name"],
        "run": facts["run"],
        "checkpoint": facts["which_epoch"],
        "checkpoint SHA-256": facts["key"]["checkpoint"][:16] + "…",
        "frames": f"{facts['frames'][0]} to {facts['frames'][1]}",
        "frame rate": f"{fps} per second",
        "image size": f"{facts['size']} px",
        "face model": facts["face_model"] or "not recorded",
        "computed on": facts["device"],
        "arithmetic": facts["precision"],
        "synthesis": f"{facts['frames_per_s']:.3g} frames/s",
        "Python, PyTorch": f"{platform.python_version()}, {facts['torch']}",
        "made": facts["made"],
    }
    plain = {k: v for k, v in run_options.items() if isinstance(v, str | int | float | bool) or v is None}
    return f"<h2>Settings</h2>{settings(test)}<details><summary>All training options</summary>{settings(plain)}</details>"


def _provenance() -> str:
    return (
        f"<h2>Provenance</h2><p>{escape(PROVENANCE)}. The video's metadata says the same. "
        "Show it only with the consent of the people in it, and say what it is.</p>"
    )
