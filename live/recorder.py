"""Recording what is shown live: frames that come when they come, as a video of constant rate with its sound in sync."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from live.view import fit
from util.provenance import Provenance
from util.video.sound import RATE_HZ, add_sound_stream
from util.video.writing import VideoWriter

_LATE_S = 1.0  # sound that comes later than that after its picture is silence in the video
_EARLY_S = 2.0  # sound that is kept until the first picture comes
# FFmpeg's aresample: sound is stretched by at most this many samples a second to follow its time stamps, which nobody hears (0.5 %; clocks
# differ by less than 0.05 %); what is further off than 40 ms is filled with silence or cut
_STRETCH, _CUT_S = RATE_HZ // 200, 0.04


class Recorder:
    """Writes frames with time stamps to an .mp4 of constant rate: a frame is repeated until the next one's time, or left out.

    Use as a context manager, or call close(). The file appears only when it is whole; an exception of others does not
    lose what was recorded: leaving the block closes the file in any case. Frames and sound may come from two threads.

    path, fps: as util.video.writing.VideoWriter takes them, and so are the `others`.
    audio_from: a file with the sound, that of the driver's video say; what it lacks is silent.
    audio_from_s: the time, on the clock of write(), of that file's first picture, or what tells it once frames come; None: that of the
        first frame that is written.
    live_sound: sound will be given to add_sound, which needs this.
    provenance: as of VideoWriter; may be replaced until the recorder is closed.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | int,
        *,
        audio_from: str | Path | None = None,
        audio_from_s: float | Callable[[], float | None] | None = None,
        live_sound: bool = False,
        provenance: Provenance = Provenance(),  # noqa: B008  (it cannot be changed)
        **others: Any,
    ):
        if audio_from is not None and live_sound:
            raise ValueError("sound comes from a file or from add_sound, not from both")
        self.path, self.fps, self.provenance = Path(path), Fraction(fps), provenance
        VideoWriter(path, fps, **others)  # refuses a bad name now
        self._audio_from, self._audio_from_s, self._others = audio_from, audio_from_s, others
        self._sound = _LiveSound() if live_sound else None
        self._writer: VideoWriter | None = None
        self.written = self.failed = False  # whether the file is there now; whether it could not be written
        self._origin_s = 0.0  # time of the first frame
        self._held: tuple[np.ndarray, int] | None = None  # the last frame, and its place in the video
        self._size = (0, 0)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def frames(self) -> int:
        """Frames of the video so far."""
        return self._held[1] + 1 if self._held else 0

    @property
    def duration_s(self) -> float:
        """Length of the video so far."""
        return self.frames / float(self.fps)

    def write(self, rgb: np.ndarray, time_s: float) -> None:
        """Take a frame, uint8 [H, W, 3] RGB, which must not be changed afterwards; `time_s`: when it was captured, on any clock.

        A frame of another size than the first is scaled into its size. Raises: UserError when the file cannot be written.
        """
        if self._held is None:
            self._origin_s, self._size = time_s, (rgb.shape[1], rgb.shape[0])
            audio = {}
            if self._audio_from is not None:
                zero_s = self._audio_from_s() if callable(self._audio_from_s) else self._audio_from_s
                audio = {"audio_from": self._audio_from, "audio_start_s": 0.0 if zero_s is None else time_s - zero_s}
            elif self._sound is not None:
                self._sound.begin(time_s)
                audio = {"audio_packets": self._sound.packets}
            self._writer = VideoWriter(self.path, self.fps, **audio, **self._others)
            self._held = (rgb, 0)
            return
        place = round((time_s - self._origin_s) * float(self.fps))
        if place > self._held[1]:
            self._write_held(place - self._held[1])
            self._held = (fit(rgb, *self._size), place)

    def add_sound(self, samples: np.ndarray, rate: int, time_s: float) -> None:
        """Take sound, float32 [N, 2] or [N] in -1..1 at `rate` Hz, whose first sample was heard at `time_s`, on the clock of write().

        Time stamps may be rough, by 20 ms say, and the rate a little off: sound follows the time stamps in the mean.
        """
        if self._sound is None:
            raise ValueError("a recorder takes sound that is asked for: live_sound=True")
        self._sound.put(samples, rate, time_s)

    def close(self) -> None:
        """Finish the file and give it its name; nothing when no frame was written, or after an error of write()."""
        if self._writer is None or self.failed:
            return
        self._write_held(1, last=True)
        writer, self._writer = self._writer, None
        writer.provenance = self.provenance
        try:
            writer.close()
        except BaseException:
            self.failed = True
            raise
        self.written = True

    def _write_held(self, times: int, last: bool = False) -> None:
        """Write the frame that is held so many times."""
        image, place = self._held
        try:
            for k in range(times):
                if self._sound is not None:
                    written_s = (place + k + 1) / float(self.fps)
                    self._sound.reach(written_s if last else written_s - _LATE_S, end=last)
                self._writer.write(image)
        except BaseException as e:
            self.failed = True  # the file is lost: close() must not hide why
            self._writer.__exit__(type(e))
            raise


class _LiveSound:
    """Sound that comes while the video is written, as packets for util.video.writing.VideoWriter."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[float, np.ndarray, int]] = deque()  # time, float32 [N, 2], rate
        self._lock = Lock()
        self._origin_s: float | None = None  # time of the first frame
        self._silent_to_s = 0.0  # from the first frame on; sound that has not come for what is before is silence
        self._ended = False
        self._graph: Any = None
        self._rate = 0
        self._end_s = 0.0  # of what went into the graph, from the first frame on
        self._samples = 0  # that came out of it

    def begin(self, time_s: float) -> None:
        """The time of the first frame."""
        with self._lock:
            self._origin_s = time_s

    def put(self, samples: np.ndarray, rate: int, time_s: float) -> None:
        stereo = np.repeat(samples.reshape(-1, 1), 2, 1) if samples.ndim == 1 or samples.shape[1] == 1 else samples
        with self._lock:
            self._pieces.append((time_s, np.asarray(stereo, np.float32), rate))
            while self._origin_s is None and self._pieces[-1][0] - self._pieces[0][0] > _EARLY_S:
                self._pieces.popleft()

    def reach(self, seconds: float, end: bool = False) -> None:
        """Nothing is waited for any longer before this moment of the video; end: nor after it."""
        with self._lock:
            self._silent_to_s, self._ended = seconds, end

    def packets(self, output: Any) -> Iterator[tuple[float, Any]]:
        """As util.video.sound.sound_packets; (inf, None) where the next one is not known yet."""
        stream = add_sound_stream(output)
        yield 0.0, None
        while True:
            with self._lock:
                pieces, self._pieces = self._pieces, deque()
                silent_to_s, ended = self._silent_to_s, self._ended
            for frame in self._mixed(pieces, silent_to_s, ended):
                for packet in stream.encode(frame):
                    yield float(packet.pts * packet.time_base), packet
            if ended:
                break
            yield inf, None
        for packet in stream.encode(None):
            yield float(packet.pts * packet.time_base), packet

    def _mixed(self, pieces: deque[tuple[float, np.ndarray, int]], silent_to_s: float, ended: bool) -> Iterator[Any]:
        """Frames of sound, stereo at RATE_HZ, one after the other from the video's beginning on."""
        for time_s, samples, rate in pieces:
            yield from self._push(samples, rate, time_s - self._origin_s)
        while self._end_s < silent_to_s - 1 / RATE_HZ:
            rate = self._rate or RATE_HZ
            count = max(1, round(min(1.0, silent_to_s - self._end_s) * rate))
            yield from self._push(np.zeros((count, 2), np.float32), rate, self._end_s)
        if ended:
            yield from self._close_graph()

    def _push(self, samples: np.ndarray, rate: int, start_s: float) -> Iterator[Any]:
        import av

        if rate != self._rate:
            yield from self._close_graph()
            self._open_graph(rate)
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start_s * rate)
        self._end_s = start_s + len(samples) / rate
        self._graph.push(frame)
        yield from self._pull()

    def _open_graph(self, rate: int) -> None:
        import av

        self._graph, self._rate = av.filter.Graph(), rate
        follow = f"async={_STRETCH}:min_hard_comp={_CUT_S}:first_pts={self._samples}"
        filters = [
            self._graph.add("abuffer", time_base=f"1/{rate}", sample_rate=f"{rate}", sample_fmt="flt", channel_layout="stereo"),
            self._graph.add("aresample", f"{RATE_HZ}:{follow}"),
            self._graph.add("aformat", sample_fmts="fltp", sample_rates=f"{RATE_HZ}"),
            self._graph.add("abuffersink"),
        ]
        self._graph.link_nodes(*filters).configure()

    def _close_graph(self) -> Iterator[Any]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()
            self._graph = None

    def _pull(self) -> Iterator[Any]:
        import av

        while True:
            try:
                samples = np.clip(np.nan_to_num(self._graph.pull().to_ndarray()), -1, 1)  # the encoder refuses NaN
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), self._samples
            self._samples += samples.shape[1]
            yield frame
