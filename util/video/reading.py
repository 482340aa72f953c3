"""Reading and writing videos as a stream of frames: memory does not grow with a video's length.

Frames are RGB uint8 [H, W, 3], upright (rotation and mirror marks of phones applied), with square pixels and at a constant
rate, whatever the file holds: a file with a variable frame rate is resampled, so frame k is always the picture shown
at k / fps seconds and sound stays in sync.

PyAV is imported when the first file is opened.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from util import VERSION
from util.cli import UserError

if TYPE_CHECKING:
    import av

# In the metadata of every video we write.
PROVENANCE = f"AI-generated: synthetic video made by Head2Head {VERSION}; it does not show a real recording"

_COMMON_RATES = [Fraction(n, 1001) for n in (24000, 30000, 48000, 60000, 120000)] + [
    Fraction(n) for n in (5, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)
]
_BT709 = 1  # number of ITU-R BT.709 for matrix, primaries and transfer in ITU-T H.273
_LIMITED_RANGE = 1
_SEEK_MARGIN_S = 1.0  # some files' indices name a time by that of decoding
_BLOCK_BYTES = 200_000_000  # of frames that are held to be played backwards
_JUMP_FRAMES = 250  # nearer frames are decoded on the way rather than jumped to


@dataclass(frozen=True)
class VideoInfo:
    """What a video file shows. `width` and `height` are upright and in square pixels; `frames` is what read_frames yields."""

    width: int
    height: int
    fps: Fraction
    frames: int
    duration_s: float
    has_audio: bool
    rotation: int  # degrees clockwise by which the stored picture is turned to be upright: 0, 90, 180, 270
    variable_rate: bool
    start_s: float  # time stamp of the first frame, on the clock that it shares with the sound
    # the turn or mirroring that makes pictures upright: a, b, c, d of x' = a x + c y, y' = b x + d y; each -1, 0 or 1
    matrix: tuple[int, int, int, int] = (1, 0, 0, 1)

    def at_rate(self, fps: Fraction) -> VideoInfo:
        """The same video as if it had this rate: read_frames then repeats or leaves out frames."""
        return replace(self, fps=fps, frames=max(1, round(self.duration_s * fps)))


def probe(path: str | Path) -> VideoInfo:
    """Read a video's size, rate and length; goes through the whole file, but decodes one frame only.

    Raises: UserError when the file is missing, empty, broken, or has no picture.
    """
    with _open(path) as container:
        stream = _video_stream(container, path)
        # Time stamps of the packets tell the rate better than the headers do, above all with a variable rate.
        stamps = array("d")
        first = None
        for packet in _demux(container, stream, path):
            if first is None:
                first = next(iter(_decode_packet(packet)), None)
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size and stamp is not None and not getattr(packet, "is_discard", False):
                stamps.append(float(stamp * packet.time_base))
        if first is None:
            raise UserError(f"{path} holds no readable picture; convert it, for instance with: ffmpeg -i INPUT -pix_fmt yuv420p OUTPUT.mp4")
        times = np.unique(np.frombuffer(stamps))
        missing_s = float((stream.duration or 0) * stream.time_base) - (times[-1] - times[0] if times.size else 0)
        if len(stamps) < 0.95 * stream.frames and missing_s * float(stream.average_rate or 25) > 0.05 * stream.frames + 1:
            raise UserError(f"{path} is cut short: {len(stamps)} of {stream.frames} frames are there; copy or download the file again")
        tick_s = float(stream.time_base)
        header_rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        fps, variable = _frame_rate(times, tick_s, header_rate)
        frames = max(1, round((times[-1] - times[0]) * float(fps)) + 1) if times.size else stream.frames
        width, height = first.width, first.height
        if stream.sample_aspect_ratio:
            width = round(width * float(stream.sample_aspect_ratio))
        matrix = _display_matrix(first)
        if matrix[0] == 0:
            width, height = height, width
        return VideoInfo(
            width=width,
            height=height,
            fps=fps,
            frames=frames,
            duration_s=frames / float(fps),
            has_audio=bool(container.streams.audio),
            rotation=round(math.degrees(math.atan2(matrix[1], matrix[0]))) % 360,
            variable_rate=variable,
            start_s=float(times[0]) if times.size else 0.0,
            matrix=matrix,
        )


def read_frames(path: str | Path, info: VideoInfo | None = None, *, max_side: int | None = None, first: int = 0) -> Iterator[np.ndarray]:
    """Yield a video's frames, uint8 [H, W, 3] RGB, upright, at the constant rate `probe(path).fps`.

    info: what probe(path) told, when the caller has it already; or `info.at_rate(fps)` for another rate.
    max_side: shrink frames whose longer side is longer than this (faster than shrinking them later).
    first: start at this frame, without decoding all that is before it; frames are the same as without.
    Raises: UserError as probe does, and when the file turns out to be damaged on the way.
    """
    info = info or probe(path)
    shrink = min(1.0, max_side / max(info.width, info.height)) if max_side else 1.0
    size = (max(1, round(info.width * shrink)), max(1, round(info.height * shrink)))
    frames = _read(path, info, size, first, seek=first > 0)
    start = next(frames, None)
    if start is None and first:  # the file's index led astray
        frames = _read(path, info, size, first, seek=False)
        start = next(frames, None)
    if start is not None:
        yield start
    yield from frames


def _read(path: str | Path, info: VideoInfo, size: tuple[int, int], first: int, seek: bool) -> Iterator[np.ndarray]:
    """Frames from `first` on. With `seek` none at all when the file has no index, or one that leads behind that frame."""
    period_s = 1 / float(info.fps)
    count = first if seek else 0
    next_s = info.start_s + count * period_s  # time of the next frame to be yielded
    with _open(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(4, os.cpu_count() or 1)  # each thread holds frames of its own
        if seek and not _seek(container, stream, max(info.start_s, next_s - _SEEK_MARGIN_S)):
            return
        previous: tuple[float, Any] | None = None
        for frame in _decode(container, stream, path):
            stamp = frame.pts if frame.pts is not None else frame.dts
            if seek and previous is None and (stamp is None or float(stamp * frame.time_base) > next_s):
                return
            if stamp is not None:
                time_s = float(stamp * frame.time_base)
            else:  # a raw stream has no clock
                time_s = previous[0] + period_s if previous else next_s
            if previous:
                # The previous frame stands for all times nearer to it than to this one.
                image = None
                while next_s < (previous[0] + time_s) / 2:
                    if count >= first:
                        image = _upright(previous[1], size, info.matrix) if image is None else image
                        yield image
                    count += 1
                    next_s = info.start_s + count * period_s
            previous = (time_s, frame)
        if previous:
            image = _upright(previous[1], size, info.matrix)
            # One frame at least; more when the end of a variable-rate video stands still.
            while count == 0 or next_s < previous[0] + period_s / 2 - 1e-6:
                if count >= first:
                    yield image
                count += 1
                next_s = info.start_s + count * period_s
    if count < 0.98 * info.frames - 2:
        raise UserError(f"{path} is damaged: only {count} of {info.frames} frames can be read; copy or download the file again")


def frames_at(path: str | Path, info: VideoInfo, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames of these numbers, in this order, as read_frames would yield them; forwards, backwards, or the same again.

    Runs backwards are read in blocks of at most _BLOCK_BYTES, so memory does not grow with the number of frames. A frame that
    comes again right after itself is the same array.
    Raises: UserError as read_frames does, and when the video ends before a number.
    """
    size = info.height * info.width * 3
    block = max(2, _BLOCK_BYTES // max(size, 1))
    place = 0
    while place < len(numbers):
        end = place + 1
        while end < len(numbers) and numbers[end] >= numbers[end - 1]:
            end += 1
        if end - place > 1 or end == len(numbers):
            yield from _ascending(path, info, numbers[place:end])
        else:
            while end < len(numbers) and numbers[end] <= numbers[end - 1] and end - place < block:
                end += 1
            wanted = numbers[place:end]
            ascending = sorted(set(wanted))
            held = dict(zip(ascending, _ascending(path, info, ascending)))
            for n in wanted:
                yield held[n]
            held = {}  # before the next block is read
        place = end


def _ascending(path: str | Path, info: VideoInfo, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames of ascending numbers; what lies far ahead is jumped to."""
    frames: Iterator[np.ndarray] | None = None
    at, image = -1, None
    for number in numbers:
        if frames is None or number - at > _JUMP_FRAMES:
            frames, at = read_frames(path, info, first=number), number - 1
        while at < number:
            image = next(frames, None)
            at += 1
            if image is None:
                raise UserError(f"{path} ends before its frame {number}; was it changed after preprocessing/detect.py? run that again")
        yield image


class VideoWriter:
    """Writes an .mp4 (H.264, yuv420p, BT.709) frame by frame, with the sound of another file if wanted.

    Use as a context manager. The file appears under its name only once it is whole: until then, and after an error, there
    is nothing (or the older file). Every file says in its metadata that it is synthetic.

    path: the file to write; ends in .mp4.
    fps: exact rate.
    audio_from: take the sound of this file, if it has any, cut to the length of the video.
    audio_start_s: the moment of `audio_from`, counted from its first picture, that belongs to the first frame written.
    crf: quality, 0 (lossless) to 51; 18 is visually lossless.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | int,
        *,
        audio_from: str | Path | None = None,
        audio_start_s: float = 0.0,
        crf: int = 18,
        title: str = "",
        description: str = "",
    ):
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise UserError(f"cannot write {self.path}: give the video a name that ends in .mp4")
        self.fps = Fraction(fps)
        self._audio_from, self._audio_start_s = audio_from, audio_start_s
        self._crf = crf
        self._metadata = {
            "title": title or self.path.stem,
            "comment": PROVENANCE,
            "description": f"{description.rstrip('. ')}. {PROVENANCE}" if description else PROVENANCE,
        }
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._container: Any = None
        self._sound: Iterator[tuple[float, Any]] | None = None
        self._waiting: tuple[float, Any] | None = None  # first packet of sound that is not written yet
        self._size: tuple[int, int] | None = None
        self.frames = 0

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def write(self, rgb: np.ndarray) -> None:
        """Append a frame, uint8 [H, W, 3] RGB; all frames have the first one's size. Odd sizes gain an edge row or column."""
        import av

        height, width = rgb.shape[:2]
        if self._size is None:
            self._size = (width, height)
            try:
                self._open(width + width % 2, height + height % 2)
            except BaseException:
                self._abandon()
                raise
        if rgb.dtype != np.uint8 or rgb.shape != (self._size[1], self._size[0], 3):
            raise ValueError(f"expected a uint8 frame of {self._size[0]}x{self._size[1]}x3, got {rgb.dtype} {rgb.shape}")
        if width % 2 or height % 2:  # yuv420p halves both sides
            rgb = cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.colorspace, frame.color_range = _BT709, _LIMITED_RANGE
        frame.pts, frame.time_base = self.frames, 1 / self.fps
        self._container.mux(self._stream.encode(frame))
        self.frames += 1
        self._write_sound(until_s=self.frames / float(self.fps))

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._container is None:
            raise ValueError(f"no frame was written to {self.path}")
        try:
            self._container.mux(self._stream.encode(None))
            self._write_sound(until_s=self.frames / float(self.fps))
            self._close_sound()
            self._container.close()
            self._part.replace(self.path)
        except BaseException:
            self._abandon()
            raise
        self._container = None

    def _open(self, width: int, height: int) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The index goes to the front, so that a browser plays the file while it loads; the clock of the whole file is fine
        # enough for the start of the sound (its default is 1 ms).
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart", "movie_timescale": "90000"})
        self._container.metadata.update(self._metadata)
        stream = self._stream = self._container.add_stream("libx264", rate=self.fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = 1 / self.fps
        stream.options = {"crf": str(self._crf), "preset": "veryfast"}  # against medium: 2.5 times as fast, smaller files, 0.4 dB less
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        if self._audio_from is not None:
            self._sound = _sound_packets(self._container, self._audio_from, self._audio_start_s)
            next(self._sound)  # adds the stream of sound: all streams must be known before the first packet

    def _write_sound(self, until_s: float) -> None:
        """Write the sound that starts before `until_s`, so that picture and sound lie side by side in the file."""
        while self._sound is not None:
            if self._waiting is None:
                self._waiting = next(self._sound, None)
                if self._waiting is None:
                    self._sound = None
                    return
            start_s, packet = self._waiting
            if start_s >= until_s:
                return
            self._container.mux(packet)
            self._waiting = None

    def _close_sound(self) -> None:
        if self._sound is not None:
            self._sound.close()
            self._sound = None

    def _abandon(self) -> None:
        self._close_sound()
        if self._container is not None:
            with suppress(Exception):  # the error that brought us here (a full disk, say) is the one to report
                self._container.close()
            self._container = None
        self._part.unlink(missing_ok=True)


def _sound_packets(output: Any, path: str | Path, start_s: float) -> Iterator[tuple[float, Any]]:
    """Yield first (0, None) once the output has its stream of sound, then packets with their start in seconds.

    AAC is copied as it is; anything else is encoded as AAC.
    """
    import av

    video_start_s = None
    with _open(path) as container:
        if not container.streams.audio:
            yield 0.0, None
            return
        if container.streams.video:
            video_start_s = probe(path).start_s
        source = container.streams.audio[0]
        origin_s = start_s + (video_start_s if video_start_s is not None else float((source.start_time or 0) * source.time_base))
        if source.codec_context.name == "aac" and source.codec_context.extradata:
            stream = output.add_stream_from_template(source)
            yield 0.0, None
            if origin_s > 1:
                container.seek(int((origin_s - 1) / source.time_base), stream=source)
            for packet in _demux(container, source, path):
                if packet.pts is None:
                    continue
                time_s = float(packet.pts * packet.time_base) - origin_s
                if time_s >= 0:
                    packet.stream = stream
                    packet.pts = packet.dts = round(time_s / packet.time_base)
                    yield time_s, packet
            return
        # WAV files say only how many channels there are, which the encoder does not take for a layout
        layout = {1: "mono", 2: "stereo"}.get(source.codec_context.channels, source.codec_context.layout)
        stream = output.add_stream("aac", rate=source.codec_context.sample_rate, layout=layout)
        yield 0.0, None
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        if origin_s > 1:
            container.seek(int((origin_s - 1) / source.time_base), stream=source)
        position = 0  # samples written so far, of a sound without holes that starts with the video
        for decoded in _decode(container, source, path):
            for frame in resampler.resample(decoded):
                samples = frame.to_ndarray()
                hole = round((float(frame.pts * frame.time_base) - origin_s) * frame.sample_rate) - position
                if position and abs(hole) < 0.002 * frame.sample_rate:
                    hole = 0  # time stamps in whole milliseconds
                samples = samples[:, -hole:] if hole < 0 else np.pad(samples, ((0, 0), (hole, 0)))
                if samples.shape[1] == 0:
                    continue
                piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=frame.layout.name)
                piece.sample_rate, piece.time_base, piece.pts = frame.sample_rate, Fraction(1, frame.sample_rate), position
                position += samples.shape[1]
                for packet in stream.encode(piece):
                    yield float(packet.pts * packet.time_base), packet
        for packet in stream.encode(None):
            yield float(packet.pts * packet.time_base), packet


@contextmanager
def _open(path: str | Path) -> Iterator[av.container.InputContainer]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no video {path}; check the path" if not path.is_dir() else f"{path} is a folder, not a video file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; copy or download the file again")
    import av

    # FFmpeg's remarks on odd files help nobody; real errors come as exceptions. And no other level will do: with one, a decoder's thread
    # that has an error to report waits for Python's lock, which is held by who closes that decoder and waits for its threads.
    av.logging.set_level(None)
    try:
        # Tags in an old encoding are no reason to refuse a video; PyAV 19 and later never does.
        lenient = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
        container = av.open(str(path), **lenient)
    except av.error.PermissionError:
        raise UserError(f"{path} may not be read; allow reading it (chmod +r)") from None
    except (av.error.FFmpegError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{path} is not a readable video ({reason}); it is damaged, cut short, or no video") from None
    with container:
        yield container


def _video_stream(container: Any, path: str | Path) -> Any:
    stream = container.streams.best("video")
    if stream is not None and stream.codec_context is not None:
        return stream
    raise UserError(f"{path} has no picture that can be read, only {', '.join(sorted({s.type for s in container.streams})) or 'nothing'}")


def _demux(container: Any, stream: Any, path: str | Path) -> Iterator[Any]:
    import av

    try:
        yield from container.demux(stream)
    except av.error.FFmpegError as e:
        raise UserError(f"{path} is damaged ({e.strerror}); copy or download the file again") from None


def _seek(container: Any, stream: Any, time_s: float) -> bool:
    """Go to the key frame before a time; False when the file has no index to do so."""
    import av

    try:
        container.seek(int(time_s / stream.time_base), stream=stream)
        return True
    except av.error.FFmpegError:
        return False


def _decode(container: Any, stream: Any, path: str | Path) -> Iterator[Any]:
    for packet in _demux(container, stream, path):
        yield from _decode_packet(packet)


def _decode_packet(packet: Any) -> list[Any]:
    """The frames of a packet; of a broken one none (the frame before it then lasts longer)."""
    import av

    try:
        return packet.decode()
    except av.error.InvalidDataError:
        return []


def _frame_rate(times_s: np.ndarray, tick_s: float, header_rate: Fraction) -> tuple[Fraction, bool]:
    """A constant rate for the time stamps [n] of a video, and whether they are irregular."""
    if times_s.size < 2 or times_s[-1] <= times_s[0]:
        return Fraction(header_rate), False
    steps = np.diff(times_s)
    typical = np.median(steps)
    regular = steps[(steps > 0.5 * typical) & (steps < 1.5 * typical)]  # leaves out the holes of dropped frames
    rate = 1 / regular.mean()
    expected = times_s[0] + np.arange(times_s.size) / rate
    variable = bool(np.abs(times_s - expected).max() > max(0.25 / rate, 1.5 * tick_s))
    # With a variable rate every rate near the typical one is as good, so it may as well be a common one.
    tolerance = 0.02 if variable else 5e-4 + tick_s / (times_s[-1] - times_s[0])
    candidates = sorted([*_COMMON_RATES, *([] if variable else [Fraction(header_rate)])], key=lambda r: abs(float(r) / rate - 1))
    if abs(float(candidates[0]) / rate - 1) <= tolerance:
        return candidates[0], variable
    return Fraction(rate).limit_denominator(1001), variable


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """VideoInfo.matrix. Asked of every frame, PyAV's side data would keep hundreds of them alive (reference cycles)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(np.float64)
    if abs(a) >= abs(b):
        return (1 if a >= 0 else -1), 0, 0, (1 if d >= 0 else -1)
    return 0, (1 if b >= 0 else -1), (1 if c >= 0 else -1), 0


def _upright(frame: Any, size: tuple[int, int], matrix: tuple[int, int, int, int]) -> np.ndarray:
    """A decoded frame as RGB uint8, upright; size: width, height after turning by the display matrix."""
    a, b, c, d = matrix
    stored = size if a else size[::-1]
    image = frame.to_ndarray(format="rgb24", width=stored[0], height=stored[1])
    if not a:
        image = image.transpose(1, 0, 2)
    if a + c < 0:
        image = image[:, ::-1]
    if b + d < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)
