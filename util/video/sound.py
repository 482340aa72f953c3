"""The sound of one file as packets of another."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from util.video.container import decode, demux, open_video
from util.video.reading import probe


def sound_packets(output: Any, path: str | Path, start_s: float) -> Iterator[tuple[float, Any]]:
    """Packets of sound for an output container, each with its start in seconds from the first frame of the video.

    output: PyAV's output container; it gets a stream of sound unless `path` has none.
    path: the file with the sound. AAC is copied as it is; anything else is encoded as AAC.
    start_s: the moment of `path`, in seconds from its first picture, that belongs to the first frame of the video.
    Yields: (0, None) once the stream is added (or there is no sound), then (start in seconds, packet) in order.
    Raises: UserError when the file is missing or damaged.
    """
    import av

    video_start_s = None
    with open_video(path) as container:
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
            for packet in demux(container, source, path):
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
        for decoded in decode(container, source, path):
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
