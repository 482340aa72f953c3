"""A training run's log of losses and its page: checkpoints/<D>/<run>/{loss_log.txt, web/index.html}."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from util.cli import writing
from util.image_io import write_bytes, write_image
from util.layout import Run
from util.report.charts import line_chart
from util.report.web_page import duration, page, pictures
from util.stored import load_json

_MIN_INTERVAL_S = 10.0  # between two updates of the page: more often shows nothing new
_MAX_LOAD = 0.02  # fraction of the time that updates take at most: a long log takes longer to draw, so it is drawn less often
_KEEP_SAMPLES = 24  # steps whose pictures stay: a page of them is looked through at a glance
_SAMPLE = re.compile(r"(\d{10})_(.+)\.jpg")

# Opened from a file, a page may load a script from beside it but nothing else; so the content is a script, which is
# loaded again every few seconds and puts the content in place without reloading the page.
_SCRIPT = """
var shown = {}
function show(status) {
  document.getElementById('lead').innerHTML = status.lead
  for (const part of ['samples', 'charts', 'history']) {
    if (shown[part] === status[part]) continue
    shown[part] = status[part]
    const fresh = document.createElement('div')
    fresh.innerHTML = status[part]
    const put = () => document.getElementById(part).replaceChildren(...fresh.childNodes)
    // the newest pictures take the place of older ones only when they are there
    if (part === 'samples') Promise.allSettled([...fresh.querySelectorAll('img')].map(i => i.decode())).then(put)
    else put()
  }
  if (!status.finished) setTimeout(load, 5000)
}
function load() {
  const s = document.createElement('script')
  s.src = 'status.js?' + Date.now()
  s.onload = () => s.remove()
  s.onerror = () => { s.remove(); setTimeout(load, 5000) }
  document.body.append(s)
}
load()
"""


def read_log(run: Run) -> list[dict[str, Any]]:
    """The entries of loss_log.txt: dicts with step, epoch, seconds and losses (name -> value); lines of another form are left out."""
    try:
        lines = run.log_path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entry = load_json(line)
            if isinstance(entry["losses"], dict) and isinstance(entry["step"], int) and isinstance(entry.get("epoch", 0), int):
                entries.append(entry)
        except (ValueError, KeyError, TypeError):
            continue  # the original's text lines, or a line cut off by a crash
    return entries


def training_facts(run: Run, run_options: Mapping[str, Any], which_epoch: str = "latest") -> dict[str, Any]:
    """How a checkpoint came about, as far as its run tells: JSON-able, None for what is not known.

    preset, device (what it was trained on), epoch and step (where the log of losses ends, or that epoch's end), seconds (of training until
    then), checkpoint_made (date of the file).
    """
    log = [e for e in read_log(run) if not which_epoch.isdigit() or e.get("epoch", 0) <= int(which_epoch)]
    last = log[-1] if log else {}
    made = None
    if (path := run.network_path("G", which_epoch)).is_file():
        made = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    facts = {name: last.get(name) for name in ("epoch", "step", "seconds")}
    return {"preset": run_options.get("preset"), "device": run_options.get("device"), **facts, "checkpoint_made": made}


def loss_charts(log: list[dict[str, Any]]) -> str:
    """A chart for every loss in a log, as HTML."""
    names = list(dict.fromkeys(name for entry in log for name in entry["losses"]))
    charts = []
    for name in names:
        entries = [e for e in log if e["losses"].get(name) is not None]
        values = [float(e["losses"][name]) for e in entries]
        last = f"last {np.mean(values[-max(1, len(values) // 20) :]):.3g}" if values else ""
        charts.append(line_chart([e["step"] for e in entries], values, title=name, smooth=True, note=last))
    return f"<div class=grid>{''.join(charts)}</div>"


class Visualizer:
    """Writes the log and the page of a run; cheap enough to be called after every step.

    run: whose folder to write into.
    start_step: the step that training goes on from; what the log says of later steps (of a run that was killed after its last
        checkpoint) is dropped.
    """

    def __init__(self, run: Run, start_step: int = 0):
        self._run = run
        self._title = run.checkpoints.name
        old = read_log(run)
        self._log = [e for e in old if e["step"] <= start_step]
        if len(self._log) != len(old):
            write_bytes(run.log_path, "".join(json.dumps(e) + "\n" for e in self._log).encode())
        with writing(run.log_path):
            run.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._samples: dict[int, list[str]] = {}  # step -> names of its pictures
        for path in sorted((run.web / "images").glob("*.jpg")):
            if match := _SAMPLE.fullmatch(path.name):
                if int(match[1]) <= start_step:
                    self._samples.setdefault(int(match[1]), []).append(match[2])
                else:
                    path.unlink()
        self._next_update = 0.0
        with writing(run.log_path):
            self._file = run.log_path.open("a")
        write_bytes(run.web / "index.html", page(f"Training {self._title}", self._shell(), _SCRIPT).encode())
        self._update()

    def log(self, step: int, epoch: int, losses: Mapping[str, float], seconds: float) -> None:
        """Add the losses of a step to the log. seconds: training time so far."""
        values = {k: float(v) for k, v in losses.items()}
        entry = {
            "step": step,
            "epoch": epoch,
            "seconds": round(seconds, 2),
            "losses": {k: v if np.isfinite(v) else None for k, v in values.items()},
        }
        self._log.append(entry)
        with writing(self._run.log_path):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        if time.monotonic() >= self._next_update:
            self._update()

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Show pictures of a step, name -> uint8 [H, W, 3] RGB, in the given order."""
        for name, image in images.items():
            write_image(self._sample_path(step, name), image)
        self._samples[step] = list(images)
        while len(self._samples) > _KEEP_SAMPLES:
            # Drop where the neighbours lie closest, so that the first, the newest and an even spread between them stay.
            steps = sorted(self._samples)
            dropped = min(range(1, len(steps) - 4), key=lambda i: steps[i + 1] - steps[i - 1])
            for name in self._samples.pop(steps[dropped]):
                self._sample_path(steps[dropped], name).unlink(missing_ok=True)
        self._update()

    def finish(self) -> None:
        """Bring the page to its final state and close the log."""
        self._update(finished=True)
        self._file.close()

    def _sample_path(self, step: int, name: str) -> Path:
        return self._run.web / "images" / f"{step:010d}_{name}.jpg"

    def _shell(self) -> str:
        return (
            f"<h1>Training {self._title}</h1><p class=lead id=lead></p><h2>Newest sample</h2><div id=samples></div>"
            "<h2>Losses</h2><div id=charts></div><h2>Samples so far</h2><div id=history></div>"
        )

    def _update(self, finished: bool = False) -> None:
        began = time.monotonic()
        state = "finished" if finished else "running"
        if self._log:
            last = self._log[-1]
            state += f" · epoch {last['epoch']} · step {last['step']:,} · {duration(last['seconds'])} of training"
        newest = max(self._samples, default=None)

        def row(step: int) -> str:
            return pictures(
                (f"{n}, step {step:,}" if i == 0 else n, f"images/{step:010d}_{n}.jpg") for i, n in enumerate(self._samples[step])
            )

        status = {
            "lead": state,
            "samples": row(newest) if newest is not None else "<p class=note>none yet</p>",
            "charts": loss_charts(self._log) if self._log else "<p class=note>none yet</p>",
            "history": "".join(row(s) for s in sorted(self._samples, reverse=True) if s != newest) or "<p class=note>none yet</p>",
            "finished": finished,
        }
        write_bytes(self._run.web / "status.js", f"show({json.dumps(status)})\n".encode())
        took = time.monotonic() - began
        self._next_update = time.monotonic() + max(_MIN_INTERVAL_S, took / _MAX_LOAD)
