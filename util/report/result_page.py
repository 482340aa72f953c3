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

from util.hashing import sha256_of
from util.image_io import write_bytes
from util.layout import Run
from util.metrics import HEATMAP_FULL_SCALE
from util.provenance import PROVENANCE, Provenance
from util.report.charts import line_chart
from util.report.coverage import block, from_record
from util.report.training_page import loss_charts, read_log, training_facts
from util.report.web_page import duration, page, pictures, settings
from util.results.evaluation import ALL_MEASURES, Evaluation, all_notes, compared, meaning, read_evaluation, shown
from util.results.folder import Results
from util.results.origin import provenance_of
from util.results.panels import captions, find_dataset, find_source, write_videos

# What three real clips reached (docs/results.md), with the default recipe on one H100 and with the preview on one core.
REACHED = {
    "APD-L2": ("9 to 13", "13 to 16"),
    "MAPD-L2": ("12 to 15", "16 to 21"),
    "mouth-APD-L2": ("9 to 15", "14 to 19"),
    "PSNR": ("25 to 27", "24 to 26"),
    "SSIM": ("0.85 to 0.89", "0.82 to 0.85"),
    "eye-landmarks": ("0.5 to 0.55", ""),
    "expression-correlation": ("0.91 to 0.94", ""),
    "jitter-ratio": ("1.00 to 1.07", ""),
}
REACHED_NOTE = (
    "What good results look like: three real clips with the default recipe (7 to 8 minutes on one H100, 256 pixels) and with the preview "
    "(7.5 minutes on one processor core, 128 pixels). Figures depend on the clip: hair, background, how much the person moves. The nearest "
    "training frame depends on it as well, so it is the better yardstick: no better than that means nothing learnt (in those clips, APD-L2 "
    "15 to 26 and mouth-APD-L2 23 to 31)."
)
_SAMPLES = 6
_WORST = 3
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
    fps = find_source(facts, datasets_dir)[0] or Fraction(25)
    evaluated = read_evaluation(results.folder)
    evaluation = _measured(results, facts, evaluated)
    body = [
        *(_head(facts), _origin(facts, run, run_options), _video(video, facts, fps)),
        *(_table(evaluation, evaluated is not None), _over_time(evaluation), _coverage(facts, datasets_dir)),
        *(_samples(results, facts, evaluation), _training(run), _settings(facts, run_options, fps)),
        _provenance(provenance_of(facts, find_dataset(facts, datasets_dir))),
    ]
    title = f"{facts['target']} driven by {facts['source'] or 'own held-out frames'}"
    script = _SCRIPT
    for name, value in {"FPS": f"{float(fps):.9g}", "FIRST": facts["frames"][0], "LAST": facts["frames"][1]}.items():
        script = script.replace(name, str(value))
    write_bytes(results.page, page(f"Head2Head: {title}", "\n".join(body), script).encode())
    return results.page


def _measured(results: Results, facts: dict, evaluation: Evaluation | None) -> Evaluation:
    """All that is known of the results, each measure once: evaluation.json, and what metrics.json alone has."""
    means, per_frame = results.read_measures()
    curves = {name: [m.get(name, math.nan) for m in per_frame] for name in means}
    if evaluation is None:
        return Evaluation(facts["target"], facts["source"], facts["frames"], facts["size"], means, per_frame=curves)
    if evaluation.frames == facts["frames"]:
        evaluation.values = means | evaluation.values
        evaluation.per_frame = curves | evaluation.per_frame
    return evaluation


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


def _origin(facts: dict, run: Run, run_options: Mapping[str, Any]) -> str:
    """Which networks made the frames, and how those came about."""
    known = facts.get("training")  # earlier versions did not record it: the run tells, if it still holds the same networks
    checkpoint = run.network_path("G", facts["which_epoch"])
    if known is None and checkpoint.is_file() and sha256_of(checkpoint) == facts["key"]["checkpoint"]:
        known = training_facts(run, run_options, facts["which_epoch"])
    known = known or {}
    trained = [duration(known["seconds"])] if known.get("seconds") is not None else []
    trained += [f"{name} {known[name]:,}" for name in ("epoch", "step") if known.get(name) is not None]
    values = {
        "run": facts["run"],
        "preset": known.get("preset") or "not recorded",
        "trained": ", ".join(trained) or "not recorded",
        "trained on": known.get("device") or "not recorded",
        "checkpoint": facts["which_epoch"] + (f", of {made}" if (made := known.get("checkpoint_made")) else ""),
        "synthesised": facts["made"],
        "synthesised on": f"{facts['device']}, {facts.get('backend', 'torch')}, {facts['frames_per_s']:.3g} frames/s",
    }
    return settings(values)


def _video(video: Path, facts: dict, fps: Fraction) -> str:
    panels = " | ".join(captions(facts)[k] for k in ("real", "nmfc", "eye_gaze", "fake") if k in facts["kinds"])
    gaze = "With the picture of the eyes' gaze, it" if "eye_gaze" in facts["kinds"] else "It"
    return (
        f'<video src="{escape(video.name)}" controls loop muted autoplay playsinline preload=auto></video>'
        f"<p class=note>{escape(panels)} · {float(fps):.5g} frames/s · <span id=frame></span> · "
        "keys ← → step by a frame, space plays and stops</p>"
        "<p class=note>NMFC (normalised mean face coordinates) is a drawing of the fitted 3D face whose colours say which point of the "
        f"face each pixel shows. {gaze} is all that the networks were given.</p>"
    )


def _table(evaluation: Evaluation, evaluated: bool) -> str:
    """Every measure once: its value, what it is judged by, its worst frame, and what was reached elsewhere."""
    rows = []
    for name in (n for n in ALL_MEASURES if n in evaluation.values):
        measure = ALL_MEASURES[name]
        worst = _worst(evaluation, name, 1)
        cells = {
            "value": shown(evaluation.values[name]),
            "compared with": compared(evaluation, name),
            "worst frame": f"{shown(worst[0][1])} in frame {worst[0][0]}" if worst else "",
            "good: full recipe": REACHED.get(name, ("", ""))[0],
            "good: preview": REACHED.get(name, ("", ""))[1],
        }
        tds = "".join(
            f"<td{' class=number' if label == 'value' else ''} data-label='{label}'>{escape(text)}</td>" for label, text in cells.items()
        )
        rows.append(f"<tr><th scope=row>{escape(measure.title)}<p class=note>{escape(meaning(measure))}</p></th>{tds}</tr>")
    how = "" if evaluated else "<p class=note>More measures, and the nearest training frames to compare with: scripts/evaluate.py</p>"
    if not rows:  # another person drives: there is no truth to compare with
        return "<p class=note>How well the motion arrives, and whether it is still the person: scripts/evaluate.py</p>"
    missing = [f"without {name}: {reason}" for name, reason in evaluation.skipped.items()]
    notes = "".join(f"<p class=note>{escape(text)}</p>" for text in (*all_notes(evaluation), *missing))
    return (
        f"<h2>Measures</h2><p class=note>at {evaluation.size}x{evaluation.size} pixels, mean over the frames</p>"
        "<table class=stack><thead><tr><th>measure</th><th class=number>value</th><th>compared with</th><th>worst frame</th>"
        f"<th>good: full recipe*</th><th>good: preview*</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p class=note>* {escape(REACHED_NOTE)}</p>{how}{notes}"
    )


def _worst(evaluation: Evaluation, name: str, count: int) -> list[tuple[int, float]]:
    """Numbers and values of the frames with the worst values of a measure, the worst first; at most one of a tenth of the video."""
    values = np.array(evaluation.per_frame.get(name, []), float)
    penalty = {"lower": values, "higher": -values}.get(ALL_MEASURES[name].better, np.full(len(values), np.nan)).copy()
    apart = max(1, len(values) // 10)  # neighbours look alike
    found = []
    while len(found) < count and np.isfinite(penalty).any():
        worst = int(np.nanargmax(np.where(np.isfinite(penalty), penalty, np.nan)))
        found.append((evaluation.frames[0] + worst, float(values[worst])))
        penalty[max(0, worst - apart + 1) : worst + apart] = np.nan
    return found


def _over_time(evaluation: Evaluation) -> str:
    frames = range(evaluation.frames[0], evaluation.frames[1] + 1)
    charts = []
    for name, measure in ALL_MEASURES.items():
        if name not in evaluation.per_frame:
            continue
        own, real = evaluation.per_frame[name], evaluation.real_per_frame.get(name)
        curves = {"y": [own, real], "names": ["synthesised", "real video"]} if real else {"y": own}
        charts.append(line_chart(frames, **curves, title=measure.title, x_label="frame", note=measure.unit, marker=True))
    if not charts:
        return ""
    return (
        "<h2>Measures over time</h2><p class=note>the mark follows the video; click to go there</p>"
        f"<div class='grid seek'>{''.join(charts)}</div>"
    )


def _coverage(facts: dict, datasets_dir: str | Path | None) -> str:
    """What the target's video shows, where the dataset is here and knows it."""
    record = find_dataset(facts, datasets_dir).read_record(facts["target"])
    return block(from_record(record.coverage)) if record else ""


def _samples(results: Results, facts: dict, evaluation: Evaluation) -> str:
    """The worst frames by APD-L2, where there is a truth, and others at equal distances."""
    first, last = facts["frames"]
    kinds = [k for k in _SAMPLE_KINDS if k in facts["kinds"]]
    names = captions(facts)

    def card(frame: int, remark: str = "") -> str:
        texts = [f"frame {frame}{remark}: {names[k]}" if i == 0 else names[k] for i, k in enumerate(kinds)]
        return pictures((text, f"{k}/{results.path(k, frame).name}") for text, k in zip(texts, kinds))

    worst = dict(_worst(evaluation, "APD-L2", _WORST)) if evaluation.frames == facts["frames"] else {}
    frames = sorted({int(f) for f in np.linspace(first, last, min(_SAMPLES, last - first + 1))} - set(worst))
    scale = ""
    if "heatmap" in kinds:
        scale = f"<p class=note>error: RGB distance per pixel, blue 0 to red {HEATMAP_FULL_SCALE:.0f} and more</p>"
    parts = []
    if worst:
        cards = "".join(card(frame, f", APD-L2 {shown(value)}") for frame, value in worst.items())
        parts.append(f"<h2>Worst frames</h2>{scale}<div class='grid samples'>{cards}</div>")
        scale = ""
    if frames:
        parts.append(f"<h2>Frames</h2>{scale}<div class='grid samples'>{''.join(map(card, frames))}</div>")
    return "".join(parts)


def _training(run: Run) -> str:
    log = read_log(run)
    if not log:
        return "<h2>Training</h2><p class=note>no log of losses: these networks were trained elsewhere</p>"
    return f"<details open><summary><h2>Loss curves</h2></summary><p class=note>against optimiser steps</p>{loss_charts(log)}</details>"


def _settings(facts: dict, run_options: Mapping[str, Any], fps: Fraction) -> str:
    test = {
        "dataset": facts["dataset_name"],
        "checkpoint SHA-256": facts["key"]["checkpoint"][:16] + "…",
        "frames": f"{facts['frames'][0]} to {facts['frames'][1]}",
        "frame rate": f"{fps} per second",
        "image size": f"{facts['size']} px",
        "face model": facts["face_model"] or "not recorded",
        "arithmetic": facts["precision"],
        "Python, PyTorch": f"{platform.python_version()}, {facts['torch']}",
    }
    plain = {k: v for k, v in run_options.items() if isinstance(v, str | int | float | bool) or v is None}
    return f"<h2>Settings</h2>{settings(test)}<details><summary>All training options</summary>{settings(plain)}</details>"


def _provenance(origin: Provenance) -> str:
    consent = {f"consent of {origin.target}": origin.consent}
    if origin.driver_consent:
        consent[f"consent of the driver, {origin.driver}"] = origin.driver_consent
    return (
        f"<h2>Provenance</h2><p>{escape(PROVENANCE)}. The video's metadata says the same, and so do its Content Credentials "
        "(C2PA), which show whether it was changed since: scripts/verify.py reads them. Show it only with the consent of the people in it, "
        "and say what it is.</p>"
        f"{settings(consent)}"
    )
