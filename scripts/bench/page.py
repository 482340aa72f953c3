"""Frames a second and true delay through the page: a real Chromium and the server on this machine, with a video as the camera.

    python scripts/bench/page.py --run checkpoints/D/head2head_ann --video driver.mp4 --output page.json
    python scripts/bench/page.py --untrained --video driver.mp4

Delay: from the moment at which the browser's camera took a picture until the synthesised one is drawn, on the browser's own clock. Needs
Chromium (Debian: apt-get install chromium) and the package playwright.

Keys of the .json: fps, delay_ms_p50, delay_ms_p99; backend; engine: median time of its stages at the end, as the page tells it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import cv2
import numpy as np

from live.web.options import WebOptions
from scripts.bench.untrained_run import add_run_options, make_untrained_run
from util.cli import UserError, run, say
from util.image_io import write_bytes
from util.video.reading import probe, read_frames

WARM_UP_S = 6.0  # calibration and first pictures
SIDES = (640, 480)  # of the camera
MOST_FRAMES = 300  # of the video, played over and over
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(p)
    p.add_argument("--seconds", type=float, default=20, help="of the measurement (default: 20)")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError("there is no Chromium here (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        person = folder / "checkpoints" / "bench" / "person"
        if o.run:
            person.parent.mkdir(parents=True)
            person.symlink_to(o.run.absolute(), target_is_directory=True)
        else:
            make_untrained_run(person, o.video, loadSize=o.size)
        camera = write_camera(o.video, folder / "camera.mjpeg")
        options = WebOptions(port=0, checkpoints_dir=folder / "checkpoints", results_dir=folder / "results", backend=o.backend)
        figures = measure(options, browser, camera, o.seconds)
    say(f"{figures['backend']}; {', '.join(figures['engine'])}")
    say(f"{figures['fps']:.1f} pictures a second, delay {figures['delay_ms_p50']:.0f} ms, of 99 % at most {figures['delay_ms_p99']:.0f} ms")
    if o.output:
        write_bytes(o.output, json.dumps(figures, indent=1).encode())
    return 0


def write_camera(video: Path, path: Path) -> Path:
    """The file that Chromium plays as its camera: JPEGs one after the other, at 30 frames/s."""
    width, height = SIDES
    info = probe(video).at_rate(30)
    with path.open("wb") as file:
        for frame in islice(read_frames(video, info), MOST_FRAMES):
            scale = max(width / frame.shape[1], height / frame.shape[0])
            large = cv2.resize(frame, None, fx=scale, fy=scale)
            top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
            picture = cv2.cvtColor(large[top : top + height, left : left + width], cv2.COLOR_RGB2BGR)
            file.write(cv2.imencode(".jpg", picture)[1].tobytes())
    return path


def measure(options: WebOptions, browser: str, camera: Path, seconds: float) -> dict[str, float]:
    import uvicorn
    from playwright.sync_api import sync_playwright

    from live.web.app import make_app
    from live.web.server import listen, server_config

    listening = listen(options.host, options.port)
    server = uvicorn.Server(server_config(make_app(options).state.guard))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    flags = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    try:
        with sync_playwright() as playwright:
            running = playwright.chromium.launch(executable_path=browser, args=flags)
            page = running.new_context(permissions=["camera"]).new_page()
            page.set_default_timeout(120_000)
            page.goto(f"http://localhost:{listening.getsockname()[1]}")
            page.click(".people a >> nth=0")
            page.wait_for_selector("text=Start the camera")
            page.wait_for_selector(".hint", state="hidden")
            page.click("text=Start the camera")
            page.wait_for_selector("#delay")
            time.sleep(WARM_UP_S)
            page.evaluate("() => { window.delays = []; document.addEventListener('shown', e => delays.push(e.detail)) }")
            time.sleep(seconds)
            delays = page.evaluate("window.delays")
            told = page.get_attribute(".figures span >> nth=-1", "title").splitlines()
            running.close()
    finally:
        server.should_exit = True
        thread.join()
    if not delays:
        raise UserError("no picture was shown in that time; give a larger --seconds")
    p50, p99 = np.percentile(delays, [50, 99])
    return {
        "fps": round(len(delays) / seconds, 1),
        "delay_ms_p50": round(float(p50), 1),
        "delay_ms_p99": round(float(p99), 1),
        "backend": told[0],
        "engine": told[1:],
    }


if __name__ == "__main__":
    run(main)
