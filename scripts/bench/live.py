"""Frames a second and true delay of the live engine, on a video that plays as a camera, and as fast as it goes.

    python scripts/bench/live.py --run checkpoints/D/head2head_ann --video driver.mp4 --output live.json
    python scripts/bench/live.py --untrained --video driver.mp4 --size 512

A camera of --fps frames a second is played from memory for --seconds, after some seconds of calibration and warming up. Delay: from the
moment at which a frame was to be captured until its image, with the mark, is in the hands of the output. Then every frame goes through,
none dropped. Processor time is that of all threads of this process: 100 % is one core.

Keys of the .json: fps, delay_ms_p50, delay_ms_p99, stages (median ms), dropped, cpu_percent, memory_mb, memory_grown_mb; fast: fps, stages.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from live.engine import HeadEngine, LiveFrame, Settings
from live.pipeline import Pipeline
from live.view import View
from scripts.bench.untrained_run import add_run_options, make_untrained_run
from util.cli import UserError, add_flag, run, say
from util.image_io import write_bytes
from util.video.reading import probe, read_frames

MOST_FRAMES = 300  # of the video, held in memory and played over and over
WARM_UP_S = 4.0  # of every part: calibration and first frames


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(p)
    p.add_argument("--fps", type=float, default=30, help="of the camera (default: 30)")
    p.add_argument("--seconds", type=float, default=20, help="of each measurement (default: 20)")
    p.add_argument("--gpu_ids", default="auto")
    p.add_argument("--paste_back", type=Path, metavar="VIDEO", help="blend into this video, the one the person was learnt from")
    add_flag(p, "refine", True, "correct the fit by the driver's skin")
    o = p.parse_args(argv)
    if not (o.fps > 0 and o.seconds > 0):
        raise UserError("--fps and --seconds must be above 0")
    return o


def main(argv: Sequence[str] | None = None) -> None:
    o = parse(argv)
    info = probe(o.video)
    frames = list(islice(read_frames(o.video, info), MOST_FRAMES))
    frames += frames[-2:0:-1]  # there and back, so that nothing jumps
    with tempfile.TemporaryDirectory() as folder:
        if o.untrained:
            make_untrained_run(Path(folder), o.video, loadSize=o.size)
        began_s = time.monotonic()
        settings = Settings(paste_back=bool(o.paste_back), refine=o.refine)
        engine = HeadEngine.load(o.run or folder, backend=o.backend, gpu_ids=o.gpu_ids, settings=settings, video=o.paste_back)
    with engine:
        figures = {"start_s": round(time.monotonic() - began_s, 2), "backend": engine.backend, "camera_fps": o.fps}
        say(f"{engine.backend}; ready after {figures['start_s']} s")
        figures |= camera(engine, frames, o.fps, o.seconds)
        say(tell("camera", figures))
        figures["fast"] = fast(engine, frames, o.seconds)
        say(tell("as fast as it goes", figures["fast"]))
    if o.output:
        write_bytes(o.output, (json.dumps(figures, indent=1) + "\n").encode())


class Meter:
    """Collects the frames that come out after a moment."""

    def __init__(self, from_s: float):
        self.from_s, self.out_s, self.delays, self.stages = from_s, [], [], []
        self.view = View()

    def __call__(self, frame: LiveFrame) -> None:
        self.view.compose(frame)
        now = time.monotonic()
        if now >= self.from_s:
            self.out_s.append(now)
            self.delays.append(1000 * (now - frame.time_s))
            self.stages.append(frame.stages_ms)

    def figures(self) -> dict:
        if len(self.out_s) < 2:
            raise UserError("too few frames came out in that time; give a larger --seconds")
        p50, p99 = np.percentile(self.delays, [50, 99])
        return {
            "fps": round((len(self.out_s) - 1) / (self.out_s[-1] - self.out_s[0]), 1),
            "delay_ms_p50": round(float(p50), 1),
            "delay_ms_p99": round(float(p99), 1),
            "stages": {name: round(float(np.median([s[name] for s in self.stages])), 2) for name in self.stages[0]},
        }


def camera(engine: HeadEngine, frames: list[np.ndarray], fps: float, seconds: float) -> dict:
    """The frames as a camera gives them, at a fixed rate whatever the engine does."""
    began_s = time.monotonic()
    meter = Meter(began_s + WARM_UP_S)
    busy_s = memory_mb = dropped = None
    with Pipeline(engine, meter) as pipeline:
        for k, rgb in enumerate(cycle(frames)):
            at_s = began_s + k / fps
            if at_s > meter.from_s + seconds:
                break
            if busy_s is None and at_s >= meter.from_s:
                busy_s, memory_mb, dropped = time.process_time(), used_mb(), pipeline.statistics.dropped
            time.sleep(max(0.0, at_s - time.monotonic()))
            pipeline.put(rgb, at_s)
        busy_s = time.process_time() - busy_s
        dropped = pipeline.statistics.dropped - dropped
        pipeline.finish()
    more = {"dropped": dropped, "cpu_percent": round(100 * busy_s / seconds), "memory_mb": round(used_mb(), 1)}
    return meter.figures() | more | {"memory_grown_mb": round(used_mb() - memory_mb, 1)}


def fast(engine: HeadEngine, frames: list[np.ndarray], seconds: float) -> dict:
    """Every frame, one after the other, as fast as it goes. The delay then is that of full stages, and says nothing of use."""
    engine.recalibrate()
    began_s = time.monotonic()
    meter = Meter(began_s + WARM_UP_S)
    with Pipeline(engine, meter, newest=False) as pipeline:
        for rgb in cycle(frames):
            if time.monotonic() > meter.from_s + seconds:
                break
            pipeline.put(rgb)
        pipeline.finish()
    figures = meter.figures()
    return {k: figures[k] for k in ("fps", "stages")}


def used_mb() -> float:
    """Resident memory of this process, now; nan where there is no /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS"))


def tell(what: str, figures: dict) -> str:
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in figures["stages"].items())
    delay = f", delay {figures['delay_ms_p50']:.0f} ms (99 %: {figures['delay_ms_p99']:.0f})" if "delay_ms_p50" in figures else ""
    more = ""
    if "dropped" in figures:
        more = f", {figures['dropped']} dropped, {figures['cpu_percent']} % of a core, {figures['memory_mb']} MB"
    return f"{what}: {figures['fps']:.1f} fps{delay}{more}; ms: {stages}"


if __name__ == "__main__":
    run(main)
