"""Where a live driver's frames come from: a camera, a file, or an address.

    with open_source("0") as source:
        for rgb, time_s in source: ...

Frames are uint8 [H, W, 3] RGB; `time_s` is when a frame was captured on the clock of time.monotonic(). Nothing is queued: of a camera or
an address always the newest frame comes, however slow the reader is.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from util.cli import UserError, file_error, warn
from util.video.colour import colour_of, stream_tags, to_rgb
from util.video.reading import probe, read_frames

CAMERA_FPS = Fraction(30)  # asked for, and taken where a camera or an address does not tell
_LEAST_FPS, _MOST_FPS = 1, 240  # what is told outside of it is no rate
_SILENT_S = 5.0  # a camera that gives no picture for so long is gone, or somebody else's
_RETRY_S = 0.02  # after a picture that could not be read
_ANSWER_S = 10.0  # for which an address may be silent
_GIVE_UP_S = 60.0  # without a picture, for which a lost address is tried again
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.5, 5.0  # between two tries
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Source:
    """A stream of frames; iterate it once, in one thread. A context manager; close() ends the iteration, from any thread.

    name: for messages. fps: the rate; of a camera the one that it tells. size: width, height of the frames.
    is_file: whether it has an end. frames: how many there are, as far as is known.
    sound_file: the file with the driver's sound; None: no sound. sound_zero_s: the time of that file's first picture, once frames come.
    """

    name: str
    fps: Fraction = CAMERA_FPS
    size: tuple[int, int]
    is_file = False
    frames: int | None = None
    sound_file: Path | None = None
    sound_zero_s: float | None = None

    def __init__(self) -> None:
        self._closed = threading.Event()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        raise NotImplementedError

    def close(self) -> None:
        self._closed.set()


def open_source(text: str, *, as_fast_as_possible: bool = False, loop: bool = False) -> Source:
    """Open a source by what a user calls it: a camera's number, a file, or an address (rtsp://, http://, ...).

    as_fast_as_possible: every frame of a file, without waiting; else it plays at its own rate, and late frames are left out.
    loop: begin a file again at its end; it is silent then.
    Raises: UserError when it cannot be opened, or an option is for files alone.
    """
    text = text.strip()
    is_camera = text.isdecimal() or bool(re.fullmatch(r"/dev/video\d+", text))
    is_address = bool(_SCHEME.match(text)) and not text.lower().startswith("file://")
    if (is_camera or is_address) and (as_fast_as_possible or loop):
        option = "--as_fast_as_possible" if as_fast_as_possible else "--loop"
        raise UserError(f"{option} is for files; {text} is {'a camera' if is_camera else 'an address'}")
    if is_camera:
        return CameraSource(int(re.sub(r"\D", "", text)))
    if is_address:
        return AddressSource(text)
    path = Path(text[7:] if text.lower().startswith("file://") else text)
    if not path.exists() and path.suffix == "" and path.parent == Path():
        raise UserError(f"--source {text} is no file, no camera's number and no address; {_cameras_in_words()}")
    return FileSource(path, as_fast_as_possible, loop)


class FileSource(Source):
    """A video file: at its own rate, or as fast as it goes. Time stamps are those of the file either way."""

    is_file = True

    def __init__(self, path: str | Path, as_fast_as_possible: bool = False, loop: bool = False) -> None:
        super().__init__()
        self.path, self.as_fast_as_possible, self._loop = Path(path), as_fast_as_possible, loop
        self._info = probe(path)
        self.name, self.fps, self.size = self.path.name, self._info.fps, (self._info.width, self._info.height)
        self.frames = None if loop else self._info.frames
        self.sound_file = self.path if self._info.has_audio and not loop else None

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        first_s: float | None = None
        count, period_s = 0, 1 / float(self.fps)
        while not self._closed.is_set():
            with closing(read_frames(self.path, self._info)) as frames:
                for rgb in frames:
                    if first_s is None:  # now: opening a file takes a while
                        first_s = self.sound_zero_s = time.monotonic()
                    time_s = first_s + count * period_s
                    count += 1
                    if self._closed.wait(0 if self.as_fast_as_possible else max(0.0, time_s - time.monotonic())):
                        return
                    if self.as_fast_as_possible or time.monotonic() - time_s < period_s:
                        yield rgb, time_s
            if not self._loop:
                return


class _Newest:
    """Runs `work(give)` in a thread; `frames` yields the newest of what it gives, and raises what it raises.

    silent_s: longest time without anything; then `frames` raises `silence`.
    """

    def __init__(self, work: Callable[[Callable[[np.ndarray, float], None]], None], silent_s: float, silence: UserError) -> None:
        self._work, self._silent_s, self._silence = work, silent_s, silence
        self._changed = threading.Condition()
        self._item: tuple[np.ndarray, float] | None = None
        self._ended, self._error = False, None
        self._thread = threading.Thread(target=self._run, name="head2head capture", daemon=True)
        self._thread.start()

    def frames(self) -> Iterator[tuple[np.ndarray, float]]:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._item is not None or self._ended, self._silent_s):
                    raise self._silence
                item, self._item = self._item, None
            if item is None:
                if self._error is not None:
                    raise self._error
                return
            yield item

    def end(self) -> None:
        """No more frames: whoever waits for one goes on."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def join(self) -> None:
        self._thread.join(_SILENT_S)  # a driver that hangs must not keep us

    def _give(self, rgb: np.ndarray, time_s: float) -> None:
        with self._changed:
            if not self._ended:
                self._item = rgb, time_s
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._work(self._give)
        except BaseException as e:  # raised again in the reader's thread
            self._error = e
        self.end()


class _NewestSource(Source):
    """A source that a thread reads, and of which the newest frame counts: `_newest`."""

    _newest: _Newest

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        return self._newest.frames()

    def close(self) -> None:
        super().close()
        self._newest.end()
        self._newest.join()


class CameraSource(_NewestSource):
    """A camera, by its number."""

    def __init__(self, number: int, capture: Any = None) -> None:
        """capture: an opened cv2.VideoCapture to take instead of the camera's own."""
        super().__init__()
        import cv2

        self.name = f"camera {number}"
        self._capture = capture or _open_camera(number)
        read, picture = self._capture.read()
        if not read:
            self._capture.release()
            raise UserError(f"camera {number} gives no picture; it is in use by another program, or not a camera; {_cameras_in_words()}")
        self.size = picture.shape[1], picture.shape[0]
        self.fps = _sensible_rate(self._capture.get(cv2.CAP_PROP_FPS))
        gone = UserError(f"camera {number} gives no picture any more; was it unplugged?")
        self._newest = _Newest(self._read, _SILENT_S, gone)

    def _read(self, give: Callable[[np.ndarray, float], None]) -> None:
        import cv2

        try:
            while not self._closed.is_set():
                grabbed, time_s = self._capture.grab(), time.monotonic()
                read, picture = self._capture.retrieve() if grabbed else (False, None)
                if read:
                    give(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), time_s)
                else:  # once in a while a picture is broken
                    self._closed.wait(_RETRY_S)
        finally:
            self._capture.release()


class AddressSource(_NewestSource):
    """A stream by its address; a lost connection is taken up again. What has an end (a file on a server) plays at its own rate."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.name = re.sub(r"//[^/@]*@", "//", address)  # without a password
        self._container = self._connect()
        stream = self._container.streams.video[0]
        self.fps = _sensible_rate(float(stream.average_rate or stream.guessed_rate or 0))
        self.size = stream.codec_context.width, stream.codec_context.height
        silence = UserError(f"{self.name} has given no picture for {_GIVE_UP_S:.0f} s; check that it is on, and the network")
        self._newest = _Newest(self._read, _GIVE_UP_S + _ANSWER_S, silence)

    def _connect(self) -> Any:
        import av

        av.logging.set_level(None)  # util.video.container says why
        how = {"rtsp_transport": "tcp"} if self._address.lower().startswith("rtsp") else {}  # lost packets of UDP are grey smears
        try:
            container = av.open(self._address, options=how, timeout=_ANSWER_S)
        except (av.error.FFmpegError, ValueError, OSError) as e:
            reason = getattr(e, "strerror", None) or e
            raise UserError(f"{self.name} cannot be opened ({reason}); check the address, that it is on, and the network") from None
        if not container.streams.video or container.streams.video[0].codec_context is None:
            container.close()
            raise UserError(f"{self.name} has no picture that can be read")
        return container

    def _read(self, give: Callable[[np.ndarray, float], None]) -> None:
        import av

        seen_s, pause_s, has_end = time.monotonic(), _LEAST_PAUSE_S, False
        while not self._closed.is_set():
            try:
                with self._container or self._connect() as container:
                    self._container, has_end = None, bool(container.duration)
                    for rgb, time_s in self._decode(container, has_end):
                        give(rgb, time_s)
                        seen_s, pause_s = time.monotonic(), _LEAST_PAUSE_S
                        if self._closed.is_set():
                            return
                if has_end:
                    return
                reason = "it ended"
            except (av.error.FFmpegError, UserError) as e:
                reason = getattr(e, "strerror", None) or e
            if has_end:
                raise UserError(f"{self.name} cannot be played from there ({reason}); download it, and give the file")
            if time.monotonic() - seen_s > _GIVE_UP_S:
                raise UserError(f"{self.name} is lost ({reason}), and did not come back within {_GIVE_UP_S:.0f} s; check the network")
            if pause_s == _LEAST_PAUSE_S:
                warn(f"{self.name} is lost ({reason}): trying again")
            self._closed.wait(pause_s)
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)

    def _decode(self, container: Any, has_end: bool) -> Iterator[tuple[np.ndarray, float]]:
        """Frames and when they came; of a stream that has an end, when they are to be seen."""
        stream = container.streams.video[0]
        tags, zero_s = stream_tags(stream), None
        if has_end:
            stream.thread_type = "AUTO"  # of a live stream each thread would hold back a frame
        for frame in container.decode(stream):
            now_s = time.monotonic()
            if has_end and frame.time is not None:
                zero_s = now_s - frame.time if zero_s is None else zero_s
                if self._closed.wait(max(0.0, zero_s + frame.time - now_s)):
                    return
                now_s = zero_s + frame.time
            yield to_rgb(frame, colour_of(frame, tags), frame.width, frame.height), now_s


def _open_camera(number: int) -> Any:
    """The camera's opened cv2.VideoCapture. Raises: UserError, which says what cameras there are."""
    import cv2

    device = Path(f"/dev/video{number}")
    if sys.platform == "linux":
        if not device.exists():
            raise UserError(f"there is no camera {number}; {_cameras_in_words()}")
        if not os.access(device, os.R_OK | os.W_OK):
            fix = "add yourself to the group video (sudo usermod -aG video $USER) and log in again"
            raise UserError(f"camera {number} ({device}) may not be used: permission denied; {fix}")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what goes wrong is said in words
    try:
        capture = cv2.VideoCapture(number)
    except OSError as e:
        raise file_error("cannot open", device, e) from None
    if not capture.isOpened():
        capture.release()
        raise UserError(f"camera {number} cannot be opened; it is in use by another program, or not a camera; {_cameras_in_words()}")
    # Compressed, since USB 2 carries few uncompressed frames; one buffer, since each more makes every picture older by a frame.
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    capture.set(cv2.CAP_PROP_FPS, float(CAMERA_FPS))
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def _cameras_in_words(folder: Path = Path("/sys/class/video4linux")) -> str:
    """Which cameras there are, as far as the system tells without opening them."""
    if sys.platform != "linux":
        return "try another number (--source 0, 1, 2, ...)"
    cameras = []
    for place in sorted(folder.glob("video*"), key=lambda p: int(p.name[5:])):
        # every camera has a second device, for data about its pictures
        if _line(place / "index") in ("", "0"):
            cameras.append(f"{place.name[5:]} ({_line(place / 'name') or 'without a name'})")
    return f"there are {', '.join(cameras)}" if cameras else "this machine has no camera; plug one in, or give a video file"


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _sensible_rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001) if _LEAST_FPS <= fps <= _MOST_FPS else CAMERA_FPS
