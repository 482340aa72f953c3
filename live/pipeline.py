"""Runs the engine's stages in threads: between two of them lies one frame at most, and the newest one counts.

So no frame waits in a queue: the delay is the stages' own time, whatever the rates of camera and machine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from live.engine import HeadEngine, LiveFrame
from util.threads import short_turns

RECENT_S = 5.0  # seconds that the statistics look back


class Closed(Exception):
    """The slot was closed and is empty."""


class Slot:
    """A place for one item between two threads. newest: a new item takes the place of the old one; else `put` waits for the place."""

    def __init__(self, newest: bool) -> None:
        self._newest, self._item, self._closed = newest, None, False
        self._changed = threading.Condition()
        self.dropped = 0

    def put(self, item: LiveFrame) -> None:
        with self._changed:
            if not self._newest:
                self._changed.wait_for(lambda: self._item is None or self._closed)
            if self._closed:
                return
            if self._item is not None:
                self.dropped += 1
                item.begins |= self._item.begins
            self._item = item
            self._changed.notify_all()

    def take(self) -> LiveFrame:
        """The item; waits for it. Raises: Closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed)
            if self._item is None:
                raise Closed
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Take nothing more; what is in it can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(frozen=True)
class Figures:
    """What a pipeline did in the last RECENT_S seconds."""

    fps: float
    delay_ms_p50: float
    delay_ms_p99: float
    stages: dict[str, float]  # median milliseconds
    dropped: int  # frames that newer ones replaced, since the start

    def as_text(self) -> str:
        return f"{self.fps:.0f} fps, delay {self.delay_ms_p50:.0f} ms"


class Statistics:
    """Rate and delay of the frames that came out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: deque[tuple[float, float, dict[str, float]]] = deque()  # when it was out, its delay in ms, its stages

    def add(self, frame: LiveFrame, out_s: float) -> None:
        with self._lock:
            self._frames.append((out_s, 1000 * (out_s - frame.time_s), frame.stages_ms))
            while out_s - self._frames[0][0] > RECENT_S:
                self._frames.popleft()

    def figures(self, dropped: int = 0) -> Figures:
        with self._lock:
            frames = list(self._frames)
        if len(frames) < 2:
            return Figures(0.0, 0.0, 0.0, {}, dropped)
        delays = [delay for _, delay, _ in frames]
        names = frames[-1][2]
        stages = {name: float(np.median([s[name] for _, _, s in frames if name in s])) for name in names}
        fps = (len(frames) - 1) / max(frames[-1][0] - frames[0][0], 1e-6)
        return Figures(fps, *np.percentile(delays, [50, 99]).tolist(), stages, dropped)


class Pipeline:
    """Runs an engine's stages in threads. A context manager.

    output: called with every finished frame, in the last thread; the frames of a slow output are dropped before it, not queued.
    newest: False: nothing is dropped, and `put` waits until there is room (for a file as fast as it goes).
    An error in a stage or in `output` ends the pipeline, and is raised by the next `put` or `finish`.
    """

    def __init__(self, engine: HeadEngine, output: Callable[[LiveFrame], None], newest: bool = True) -> None:
        self._engine, self._output = engine, output
        self._error: BaseException | None = None
        self._statistics = Statistics()
        steps = [partial(engine.run_stage, *stage) for stage in engine.stages] + [self._put_out]
        self._slots = [Slot(newest) for _ in steps]
        followers = [*self._slots[1:], None]
        self._threads = [
            threading.Thread(target=self._work, args=each, name=f"head2head {i}", daemon=True)
            for i, each in enumerate(zip(steps, self._slots, followers))
        ]

    def __enter__(self) -> Pipeline:
        self._turns = ExitStack()
        self._turns.enter_context(short_turns())
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        for slot in self._slots:
            slot.close()
        for thread in self._threads:
            thread.join()
        self._turns.close()

    def put(self, rgb: np.ndarray, time_s: float | None = None) -> None:
        """A captured frame, see HeadEngine.begin. Raises: what a stage or the output raised."""
        if self._error:
            raise self._error
        self._slots[0].put(self._engine.begin(rgb, time_s))

    def finish(self) -> None:
        """Wait until the frames that were put are out; nothing can be put after. Raises: what a stage or the output raised."""
        for slot, thread in zip(self._slots, self._threads):
            slot.close()
            thread.join()
        if self._error:
            raise self._error

    @property
    def statistics(self) -> Figures:
        """Rate, delay and stages of the last seconds."""
        return self._statistics.figures(sum(slot.dropped for slot in self._slots))

    def _put_out(self, frame: LiveFrame) -> None:
        self._output(frame)
        self._statistics.add(frame, time.monotonic())

    def _work(self, step: Callable[[LiveFrame], None], source: Slot, sink: Slot | None) -> None:
        try:
            while True:
                frame = source.take()
                step(frame)
                if sink:
                    sink.put(frame)
        except Closed:
            pass
        except BaseException as e:  # handed to the caller's thread
            self._error = self._error or e
            for slot in self._slots:
                slot.close()
