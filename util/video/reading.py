"""Reading videos as a stream of frames: memory does not grow with a video's length.

Frames are RGB uint8 [H, W, 3] in the colours of an sRGB screen (util/video/colour.py), deinterlaced, upright (rotation and mirror
marks of phones applied), with square pixels and at a constant rate, whatever the file holds: a file with a variable frame rate is
resampled, so frame k is always the picture shown at k / fps seconds and sound stays in sync.

PyAV is imported when the first file is opened.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from util.ahead import usable_cores
from util.cli import UserError
from util.video.colour import Tags, colour_of, stream_tags, to_rgb
from util.video.container import decode, decode_packet, demux, go_to, open_video, video_stream
from util.video.interlace import deinterlaced

_COMMON_RATES = [Fraction(n, 1001) for n in (24000, 30000, 48000, 60000, 120000)] + [
    Fraction(n) for n in (5, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)
]
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
    notes: tuple[str, ...] = ()  # what reading does to the pictures besides, in words: HDR, wide gamut, interlaced

    def at_rate(self, fps: Fraction) -> VideoInfo:
        """The same video as if it had this rate: read_frames then repeats or leaves out frames."""
        return replace(self, fps=fps, frames=max(1, round(self.duration_s * fps)))


def probe(path: str | Path) -> VideoInfo:
    """Read a video's size, rate and length; goes through the whole file, but decodes one frame only.

    Raises: UserError when the file is missing, empty, broken, or has no picture.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        tags = stream_tags(stream)
        # Time stamps of the packets tell the rate better than the headers do, above all with a variable rate.
        stamps = array("d")
        first = None
        for packet in demux(container, stream, path):
            if first is None:
                first = next(iter(decode_packet(packet)), None)
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
            has_audio=any(s.codec_context is not None for s in container.streams.audio),
            rotation=round(math.degrees(math.atan2(matrix[1], matrix[0]))) % 360,
            variable_rate=variable,
            start_s=float(times[0]) if times.size else 0.0,
            matrix=matrix,
            notes=tuple(n for n in (colour_of(first, tags).note, "interlaced: deinterlaced" if first.interlaced_frame else "") if n),
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
    """Frames from `first` on. With `seek` none at all when the file has no index, or one that leads to that frame or behind it."""
    period_s = 1 / float(info.fps)
    count = first if seek else 0
    next_s = info.start_s + count * period_s  # time of the next frame to be yielded
    with open_video(path) as container:
        stream = video_stream(container, path)
        tags = stream_tags(stream)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(4, usable_cores())  # each thread holds frames of its own
        if seek and not go_to(container, stream, max(info.start_s, next_s - _SEEK_MARGIN_S)):
            return
        previous: tuple[float, Any] | None = None
        for frame in deinterlaced(decode(container, stream, path)):
            stamp = frame.pts if frame.pts is not None else frame.dts
            # Deinterlacing needs the frame before as well.
            if seek and previous is None and (stamp is None or float(stamp * frame.time_base) > next_s - period_s / 2):
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
                        image = _upright(previous[1], tags, size, info.matrix) if image is None else image
                        yield image
                    count += 1
                    next_s = info.start_s + count * period_s
            previous = (time_s, frame)
        if previous:
            image = _upright(previous[1], tags, size, info.matrix)
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


def _upright(frame: Any, tags: Tags, size: tuple[int, int], matrix: tuple[int, int, int, int]) -> np.ndarray:
    """A decoded frame as RGB uint8, upright; tags: the container's; size: width, height after turning by the display matrix."""
    a, b, c, d = matrix
    stored = size if a else size[::-1]
    image = to_rgb(frame, colour_of(frame, tags), *stored)
    if not a:
        image = image.transpose(1, 0, 2)
    if a + c < 0:
        image = image[:, ::-1]
    if b + d < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)
