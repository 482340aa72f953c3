"""Runs a source through the engine to its outputs, obeys keys, and says what happens: what demo.py does."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from live.engine import HeadEngine, LiveFrame
from live.outputs import Window
from live.pipeline import Pipeline
from live.recorder import Recorder
from live.sources import FileSource, Source
from live.view import View
from util.cli import UserError, progress, say, warn
from util.provenance import Provenance

KEYS = {
    "c": "calibrate again (look ahead, face at rest)",
    "m": "mirror",
    "f": "head or face: whose motion the head follows",
    "s": "side by side",
    "p": "paste back into the full picture",
    "o": "overlay of rate and delay",
    "r": "record, and stop recording",
    "h": "this help",
    "q": "quit (also Esc)",
}
_QUIT = ("q", "escape", "close")
_TOLD_EVERY_S = 0.25  # how often the overlay's figures change: faster ones cannot be read
_LOST_S = 0.7  # a face that is away for less is not worth a message
_WAIT_S = 0.2  # in which Ctrl-C is heard
_LOOK_AHEAD_S = 3.0  # of a file, in which the engine calibrates before the first frame is shown
_RECORDING = " - recording"  # in the window's title


class Output(Protocol):
    """What takes pictures, uint8 [H, W, 3] RGB with the time of their capture: a window, a virtual camera, a recorder."""

    def write(self, picture: np.ndarray, time_s: float) -> None: ...

    def close(self) -> None: ...


class Show:
    """One run of the live system. `run` works in the main thread; keys come from the window, or from `press`.

    outputs: besides the window. recordings: the folder for what key r records.
    """

    def __init__(
        self,
        engine: HeadEngine,
        source: Source,
        view: View,
        outputs: Sequence[Output] = (),
        window: Window | None = None,
        recordings: Path = Path(),
    ) -> None:
        self.engine, self.source, self.view, self.window = engine, source, view, window
        self._outputs = [*outputs, *([window] if window else [])]
        self._origin = origin_of(engine, source)
        for output in outputs:
            if isinstance(output, Recorder):
                output.provenance = self._origin
        self._recordings, self._recorder, self._lock = recordings, None, threading.Lock()
        self._fast = isinstance(source, FileSource) and source.as_fast_as_possible
        self._pipeline: Pipeline | None = None
        self._error: BaseException | None = None
        self._told = (0.0, "")  # when the pipeline was asked, and what the overlay tells since
        self._state, self._seen_s = "", 0.0  # what was said last; time of the last frame with a face
        self._bar = None
        self.frames = 0  # that came out

    def run(self) -> None:
        """Until the source ends, `stop` or key q, or Ctrl-C. Closes the outputs: files are whole. Raises: UserError."""
        try:
            if self.source.is_file:
                self._calibrate()
            with Pipeline(self.engine, self._put_out, newest=not self._fast) as self._pipeline:
                feeder = threading.Thread(target=self._feed, name="head2head feeder", daemon=True)
                if self._fast:
                    self._bar = progress(desc=self.source.name, total=self.source.frames)
                try:
                    feeder.start()
                    while feeder.is_alive():
                        if self.window is None:
                            feeder.join(_WAIT_S)
                            continue
                        for key in self.window.poll():
                            self.press(key)
                except KeyboardInterrupt:
                    say("stopping")
                finally:
                    self.stop()
                    feeder.join()
                    self._tell_figures()
        finally:
            self._close()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """End the run, from any thread."""
        self.source.close()

    def press(self, key: str) -> None:
        """Do what a key stands for (KEYS); others do nothing."""
        settings, view = self.engine.settings, self.view
        try:
            if key in _QUIT:
                self.stop()
            elif key == "c":
                self.engine.recalibrate()
            elif key == "m":
                self.engine.settings = replace(settings, mirror=not settings.mirror)
            elif key == "f":
                self.engine.settings = replace(settings, mode="head" if settings.mode == "face" else "face")
                say(f"mode: {self.engine.settings.mode}")
            elif key == "s":
                view.side_by_side = not view.side_by_side
            elif key == "p":
                self.engine.settings = replace(settings, paste_back=not settings.paste_back)
            elif key == "o":
                view.overlay = not view.overlay
            elif key == "r":
                self._record()
            elif key == "h" and self.window:
                self.window.shows_help = not self.window.shows_help
        except UserError as e:  # a wish that cannot be met is no reason to end
            warn(str(e))

    def _record(self) -> None:
        """Begin a recording, or end the one that runs."""
        if self._recorder is None:
            path = self._recordings / f"{self.engine.profile.name}_{datetime.now():%Y-%m-%d_%H-%M-%S}.mp4"
            with self._lock:
                self._recorder = recorder_for(self.source, path)
                self._recorder.provenance = self._origin
            say(f"recording to {path}")
        else:
            with self._lock:
                recorder, self._recorder = self._recorder, None
            finish_recording(recorder)
        if self.window:
            self.window.title = self.window.title.removesuffix(_RECORDING) + (_RECORDING if self._recorder else "")

    def _calibrate(self) -> None:
        """Let the engine see the first moments of a file, so that its first frame already drives."""
        now_s = time.monotonic()
        with FileSource(self.source.path, as_fast_as_possible=True) as first:
            for rgb, time_s in first:
                passed_s = time_s - first.sound_zero_s
                if passed_s > _LOOK_AHEAD_S:
                    break
                if self.engine.step(rgb, now_s - _LOOK_AHEAD_S + passed_s).state == "driving":  # as if it had been just now
                    break

    def _feed(self) -> None:
        try:
            for rgb, time_s in self.source:
                self._pipeline.put(rgb, time_s)
            self._pipeline.finish()
        except BaseException as e:  # raised again in the main thread
            self._error = e

    def _put_out(self, frame: LiveFrame) -> None:
        """The pipeline's output."""
        self._tell_state(frame)
        picture = self.view.compose(frame, self._recent_figures())
        mixed = self.view.side_by_side or self.engine.settings.paste_back  # real pictures are in it as well
        with self._lock:
            recorder = self._recorder
            for output in [*self._outputs, *([recorder] if recorder else [])]:
                output.write(picture, frame.time_s)
                if mixed and isinstance(output, Recorder):
                    output.provenance = replace(output.provenance, composite=True)
        self.frames += 1
        if self._bar is not None:
            self._bar.update()

    def _recent_figures(self) -> str:
        asked_s, text = self._told
        if self.view.overlay and time.monotonic() - asked_s > _TOLD_EVERY_S:
            figures = self._pipeline.statistics
            text = f"{figures.fps:.0f} fps" if self._fast else figures.as_text()  # there is no delay behind a file that does not play
            self._told = time.monotonic(), text
        return text

    def _tell_state(self, frame: LiveFrame) -> None:
        if frame.state != "lost":
            self._seen_s = frame.time_s
        elif frame.time_s - self._seen_s < _LOST_S:
            return
        if frame.state != self._state:
            was, self._state = self._state, frame.state
            if frame.state == "calibrating":
                say("calibrating: look ahead for a second, with the face at rest")
            elif frame.state == "lost":
                say("no face is seen: the head rests until it is back")
            elif was:
                say("the face is back" if was == "lost" else "calibrated: the head follows")

    def _tell_figures(self) -> None:
        if self._bar is not None:
            self._bar.close()
        figures = self._pipeline.statistics
        if figures.fps and self._fast:
            say(f"{self.frames} frames")
        elif figures.fps:
            delay = f"delay {figures.delay_ms_p50:.0f} ms (one of a hundred {figures.delay_ms_p99:.0f} ms or more)"
            say(f"{self.frames} frames; in the last seconds {figures.fps:.1f} a second, {delay}, {figures.dropped} left out")

    def _close(self) -> None:
        """Close all outputs; an error of one must not lose the others."""
        outputs = [*self._outputs, *([self._recorder] if self._recorder else [])]
        self._recorder = None
        for output in outputs:
            try:
                finish_recording(output) if isinstance(output, Recorder) else output.close()
            except Exception as e:
                self._error = self._error or e


def origin_of(engine: HeadEngine, source: Source) -> Provenance:
    """What the credentials say of the engine's person driven by a source."""
    return replace(engine.origin, driver=Path(source.name).stem, driver_kind="identity") if source.is_file else engine.origin


def recorder_for(source: Source, path: Path) -> Recorder:
    """A recorder of what a source drives, with its sound where it has any. Raises: UserError for a name that no video can have."""
    return Recorder(path, source.fps, audio_from=source.sound_file, audio_from_s=lambda: source.sound_zero_s)


def finish_recording(recorder: Recorder) -> None:
    """Close a recorder and say what became of it."""
    recorder.close()
    if recorder.written:
        say(f"recorded {recorder.duration_s:.1f} s: {recorder.path}")
    elif not recorder.failed:
        warn(f"nothing was recorded: no frame came for {recorder.path}")
