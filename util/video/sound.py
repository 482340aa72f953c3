"""The sound of one file as packets of another: AAC, stereo, 48 kHz, whatever the file holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain, pairwise
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from util.cli import warn_once
from util.video.container import demux, go_to, open_video
from util.video.reading import probe

if TYPE_CHECKING:
    import av

RATE_HZ = 48000
_BITS_PER_S = 192_000
_SEEK_MARGIN_S = 1.0  # decoders need a few packets before they are right
_HOLE_S = 0.015  # a time stamp so far from the end of the sound before it is a hole (or an overlap); packets take 20 ms and more
_WRONG_S = 10.0  # one time stamp that is so far from both its neighbours is wrong
_DRIFT_S = 0.003  # the time stamps' mean distance that is mended; single ones are often wrong by some ms
_DRIFT_FRAMES = 16
_TRIES = 100  # broken packets (2 s) after which a track counts as one that cannot be decoded; in noise some packet is valid at last
_MOST_CHANNELS = 64  # that FFmpeg's "pan" takes
_DEFAULT_LAYOUTS = {2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}  # as in WAV files


def sound_packets(output: Any, path: str | Path, start_s: float) -> Iterator[tuple[float, Any]]:
    """Packets of sound for an output container, each with its start in seconds from the first frame of the video.

    The default track is taken if it can be decoded, else the next one that can; if none can, there is no sound. Both are said in
    a warning. All channels are mixed to two.

    output: PyAV's output container; it gets a stream of sound (AAC, stereo, RATE_HZ) unless `path` has none at that time.
    path: the file with the sound.
    start_s: the moment of `path`, in seconds from its first picture, that belongs to the first frame of the video.
    Yields: (0, None) once the stream is added (or there is no sound), then (start in seconds, packet) in order.
    Raises: UserError when the file is missing or damaged.
    """
    import av

    pieces = _read_stereo(path, start_s)
    first = next(pieces, None)
    if first is None:
        yield 0.0, None
        return
    stream = add_sound_stream(output)
    yield 0.0, None
    for place, samples in chain([first], pieces):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), place
        for packet in stream.encode(frame):
            yield float(packet.pts * packet.time_base), packet
    for packet in stream.encode(None):
        yield float(packet.pts * packet.time_base), packet


def add_sound_stream(output: Any) -> Any:
    """The stream of sound that every video of ours has, new in an output container: AAC, stereo, RATE_HZ."""
    stream = output.add_stream("aac", rate=RATE_HZ, layout="stereo")
    stream.bit_rate = _BITS_PER_S
    return stream


def _read_stereo(path: str | Path, start_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Stereo sound without holes: its place in samples at RATE_HZ from `start_s` on, and float32 [2, n] in -1..1. May be nothing."""
    from av.stream import Disposition

    with open_video(path) as container:
        tracks = container.streams.audio
        if not tracks:
            return
        codecs = [track.codec_context.name if track.codec_context else "unknown codec" for track in tracks]
        starts_s = [float((track.start_time or 0) * (track.time_base or 0)) for track in tracks]
        order = sorted(range(len(tracks)), key=lambda k: not tracks[k].disposition & Disposition.default)  # keeps the file's order
        has_picture = bool(container.streams.video)
    picture_s = probe(path).start_s if has_picture else None
    for k in order:
        if codecs[k] == "unknown codec":
            continue
        origin_s = start_s + (starts_s[k] if picture_s is None else picture_s)
        frames = _decode(path, k, origin_s)
        first = next(frames, None)
        if first is None:
            continue
        if k != order[0]:
            bad = order[0]
            warn_once(f"sound track {bad + 1} of {path} cannot be decoded ({codecs[bad]}): taking track {k + 1} ({codecs[k]})")
        yield from _without_holes(_mix(chain([first], frames), origin_s))
        return
    which = ", ".join(sorted(set(codecs)))
    warn_once(f"the sound of {path} is empty or cannot be decoded ({which}): the video is silent; convert the sound to AAC to keep it")


def _decode(path: str | Path, track: int, origin_s: float) -> Iterator[tuple[float | None, av.AudioFrame, list[str]]]:
    """Time (None: not known), frame and channels' names of a track, from shortly before `origin_s` on or from its beginning."""
    for seek in (True, False) if origin_s > _SEEK_MARGIN_S else (False,):
        with open_video(path) as container:
            stream = container.streams.audio[track]
            names = _channel_names(stream.codec_context)
            if seek and not go_to(container, stream, origin_s - _SEEK_MARGIN_S):
                continue
            begun = False
            for time_s, frame in _decode_all(container, stream, path):
                if seek and not begun and (time_s is None or time_s > origin_s):
                    break  # the file's index led astray
                begun = True
                own = [channel.name for channel in frame.layout.channels]
                yield time_s, frame, names if len(names) == len(own) and "NONE" in own else own
            if begun:
                return


def _decode_all(container: Any, stream: Any, path: str | Path) -> Iterator[tuple[float | None, av.AudioFrame]]:
    """Time and frame of all that can be decoded; broken packets leave holes. Nothing when the first _TRIES packets are broken."""
    import av

    broken, whole = 0, False
    for packet in demux(container, stream, path):
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError):  # ValueError: a format of samples that PyAV does not know
            broken += 1
            if broken == _TRIES and not whole:
                return
            continue
        whole = whole or bool(frames)
        for frame in frames:
            if frame.samples and frame.sample_rate and 0 < frame.layout.nb_channels <= _MOST_CHANNELS:
                stamp = frame.pts if frame.pts is not None else frame.dts
                yield None if stamp is None else float(stamp * frame.time_base), frame


def _channel_names(context: Any) -> list[str]:
    """The channels' names in the file's order, such as FL, where frames may lack them; else [].

    A layout with a list of its own of channels (in an unusual order, say, as in MOV files) must not reach a frame: PyAV frees the list
    twice, which kills the process. The context gets one without; the list then belongs to `layout` alone.
    """
    layout = context.layout
    listed = "(" in layout.name
    if layout.nb_channels:
        context.layout = f"{layout.nb_channels} channels" if listed else layout.name
    return [channel.name for channel in layout.channels] if listed else []


def _mix(frames: Iterator[tuple[float | None, av.AudioFrame, list[str]]], origin_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Stereo sound, as _read_stereo gives it, but where its time stamps say: with holes, overlaps, and parts before `origin_s`."""
    mixer: _Mixer | None = None
    end_s = drift_s = 0.0
    for time_s, frame, names in _without_wrong_times(frames):
        duration_s = frame.samples / frame.sample_rate
        if mixer is None and time_s + duration_s <= origin_s:
            end_s = time_s + duration_s
            continue
        # Samples follow one another as long as their time stamps nearly say so: those are rounded, or taken from a clock.
        drift_s += (time_s - end_s - drift_s) / _DRIFT_FRAMES
        if mixer is None or not mixer.takes(frame, names) or abs(time_s - end_s) > _HOLE_S or abs(drift_s) > _DRIFT_S:
            if mixer is not None:
                yield from mixer.mix(None)
            mixer, end_s, drift_s = _Mixer(frame, names, round((time_s - origin_s) * RATE_HZ)), time_s, 0.0
        end_s += duration_s
        yield from mixer.mix(frame)
    if mixer is not None:
        yield from mixer.mix(None)


def _without_wrong_times(
    frames: Iterator[tuple[float | None, av.AudioFrame, list[str]]],
) -> Iterator[tuple[float, av.AudioFrame, list[str]]]:
    """The frames, with a time that follows from the neighbours' where it is unknown or wrong."""
    end_s: float | None = None
    for (time_s, frame, names), following in pairwise(chain(frames, [None])):
        duration_s = frame.samples / frame.sample_rate
        next_s = following[0] if following else None
        if time_s is not None and next_s is not None and abs(time_s + duration_s - next_s) > _WRONG_S:
            if end_s is None:
                time_s = next_s - duration_s
            elif abs(time_s - end_s) > _WRONG_S:
                time_s = end_s
        if time_s is None:
            time_s = end_s or 0.0
        yield time_s, frame, names
        end_s = time_s + duration_s


def _without_holes(pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of _mix from place 0 on, each where the one before it ends: overlaps are cut, holes between them silent."""
    position = None
    for place, samples in pieces:
        done = position or 0
        samples = samples[:, max(0, done - place) :]
        place = max(done, place)
        if not samples.shape[1]:
            continue
        while position is not None and position < place:  # in parts: a wrong time stamp may be far away
            silence = np.zeros((2, min(place - position, RATE_HZ)), np.float32)
            yield position, silence
            position += silence.shape[1]
        yield place, samples
        position = place + samples.shape[1]


class _Mixer:
    """Mixes frames of one format to stereo at RATE_HZ, by libavfilter: PyAV's arrays of 8 and more channels kill the process.

    frame, names: the first frame and its channels' names.
    place: the place of its first sample, at RATE_HZ.
    """

    def __init__(self, frame: av.AudioFrame, names: list[str], place: int):
        import av

        self._place = place
        self._kind = self._kind_of(frame, names)
        rows = ["+".join(f"{gain:.4f}*c{i}" for i, gain in enumerate(row)).replace("+-", "-") for row in stereo_gains(names)]
        self._graph = av.filter.Graph()
        source = {"sample_rate": f"{frame.sample_rate}", "sample_fmt": frame.format.name, "channel_layout": frame.layout.name}
        filters = [
            self._graph.add("abuffer", time_base=f"{frame.time_base}", **source),
            self._graph.add("aformat", sample_fmts="fltp"),
            self._graph.add("pan", f"stereo|c0={rows[0]}|c1={rows[1]}"),
            self._graph.add("aformat", sample_fmts="fltp", sample_rates=f"{RATE_HZ}"),
            self._graph.add("abuffersink"),
        ]
        self._graph.link_nodes(*filters).configure()

    @staticmethod
    def _kind_of(frame: av.AudioFrame, names: list[str]) -> tuple[Any, ...]:
        return frame.sample_rate, frame.format.name, frame.layout.name, names

    def takes(self, frame: av.AudioFrame, names: list[str]) -> bool:
        """Whether a frame is of the same format as the first one."""
        return self._kind_of(frame, names) == self._kind

    def mix(self, frame: av.AudioFrame | None) -> Iterator[tuple[int, np.ndarray]]:
        """What is ready after a frame, or (None) all the rest, with its place."""
        import av

        self._graph.push(frame)
        while True:
            try:
                samples = self._graph.pull().to_ndarray()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield self._place, np.clip(np.nan_to_num(samples), -1, 1)  # the encoder refuses NaN
            self._place += samples.shape[1]


def stereo_gains(names: Sequence[str]) -> tuple[list[float], list[float]]:
    """How much of each channel goes to the left and to the right.

    names: of the channels, as FFmpeg has them (FL, LFE, AMBI0, ...); "NONE" for one without a name. ITU-R BS.775's gains; channels
    without a name are taken as WAV files order them, or, if there are more than 8, for left and right in turn. LFE is left out.
    """
    import av

    if set(names) == {"NONE"} and len(names) in _DEFAULT_LAYOUTS:
        names = [channel.name for channel in av.AudioLayout(_DEFAULT_LAYOUTS[len(names)]).channels]
    if len(names) == 1:
        return [1.0], [1.0]
    half = sqrt(0.5)
    fixed = {"FL": (1, 0), "FR": (0, 1), "FC": (half, half), "DL": (1, 0), "DR": (0, 1), "BIL": (1, 0), "BIR": (0, 1)}
    fixed |= {"FLC": (half, 0), "FRC": (0, half), "LFE": (0, 0), "LFE2": (0, 0), "AMBI0": (half, half), "AMBI1": (0.5, -0.5)}
    by_last_letter = {"L": (half, 0), "R": (0, half), "C": (0.5, 0.5)}
    unnamed = [i for i, name in enumerate(names) if name.startswith(("NONE", "UN", "USR"))]
    gains = []
    for i, name in enumerate(names):
        if i in unnamed:
            share = min(1.0, sqrt(2 / len(unnamed)))
            gains.append((0, share) if unnamed.index(i) % 2 else (share, 0))
        elif name.startswith("AMBI"):
            gains.append(fixed.get(name, (0, 0)))
        else:
            gains.append(fixed.get(name) or by_last_letter.get(name[-1], (0, 0)))
    left, right = ([float(pair[side]) for pair in gains] for side in (0, 1))
    if not any(left + right):
        left = [1 / len(names)] * len(names)
    return left if any(left) else right, right if any(right) else left
