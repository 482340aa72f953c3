"""Small videos made for the tests: known pictures, time stamps, sound and marks of rotation."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.stream import Disposition
from skimage.data import astronaut

FACE_CENTRE = (223, 126)  # x, y of the nose in astronaut()


def face_frame(size: tuple[int, int], centre: tuple[float, float], scale: float = 1.0) -> np.ndarray:
    """The astronaut's portrait on grey, uint8 [H, W, 3]: her nose at `centre`, enlarged by `scale`; size: width, height."""
    head = astronaut()[:240, 110:340]
    x, y = FACE_CENTRE[0] - 110, FACE_CENTRE[1]
    matrix = np.array([[scale, 0, centre[0] - scale * x], [0, scale, centre[1] - scale * y]], np.float64)
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    return cv2.warpAffine(head, matrix, size, dst=image, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT)


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: Fraction | int = 30,
    *,
    times_s: Iterable[float] | None = None,
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    rate: int = 44100,
) -> Path:
    """Write RGB frames nearly without loss, optionally at time stamps of their own and with sound (float32 [samples])."""
    fps = Fraction(fps)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.options = {"crf": "3", "preset": "ultrafast"}
        stream.pix_fmt = "yuv444p"  # colours at full resolution
        base = Fraction(1, 90000) if times_s is not None else 1 / fps
        stream.codec_context.time_base = base
        audio = container.add_stream(sound_codec, rate=rate, layout="mono") if sound is not None else None
        stamps = iter(times_s) if times_s is not None else None
        for k, image in enumerate(frames):
            if k == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (k if stamps is None else round(next(stamps) / base)), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            resampler = av.AudioResampler(format=audio.format.name, layout="mono", rate=rate)
            whole = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            whole.sample_rate, whole.time_base, whole.pts = rate, Fraction(1, rate), 0
            for frame in [*resampler.resample(whole), *resampler.resample(None)]:
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Mark an .mp4 as phones do: x' = a x + c y, y' = b x + d y (each -1, 0 or 1) makes its pictures upright."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    start = header + (40 if data[header] == 0 else 52)
    matrix = np.array([a * 65536, b * 65536, 0, c * 65536, d * 65536, 0, 0, 0, 1 << 30], ">i4")
    data[start : start + 36] = matrix.tobytes()
    path.write_bytes(bytes(data))
    return path


def read_sound(path: Path) -> tuple[float, np.ndarray, int]:
    """Start in seconds, samples float32 [n] of the first channel, rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        samples = np.concatenate([_as_float(f) for f in frames])
        return float(frames[0].pts * frames[0].time_base), samples, stream.rate


def _as_float(frame: av.AudioFrame) -> np.ndarray:
    values = frame.to_ndarray()[0]
    return values / 32768 if values.dtype == np.int16 else values


def add_sound(source: Path, path: Path, *tracks: dict) -> Path:
    """Copy the picture of `source` to `path` and add tracks of sound.

    A track: samples (float32 [n], the same for all channels, or [channels, n]); optionally codec, layout, rate, start_s, default.
    """
    with av.open(str(source)) as pictures, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(pictures.streams.video[0])
        sounds = []
        for track in tracks:
            sound = container.add_stream(track.get("codec", "aac"), rate=track.get("rate", 48000), layout=track.get("layout", "mono"))
            if "default" in track:
                sound.disposition = Disposition.default.value if track["default"] else 0  # PyAV 17 takes numbers only
            sounds.append(sound)
        packets = [p for p in pictures.demux(pictures.streams.video[0]) if p.size]
        for packet in packets:
            packet.stream = stream
        for sound, track in zip(sounds, tracks):
            packets += encode_sound(sound, **track)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def encode_sound(encoder, samples: np.ndarray, start_s: float = 0.0, **_) -> list[av.Packet]:
    """Packets of an encoder (a stream or a context) for float32 [n] or [channels, n]."""
    if not samples.size:
        return []
    rate, channels = encoder.sample_rate, encoder.layout.nb_channels
    whole = np.ascontiguousarray(np.broadcast_to(samples, (channels, samples.shape[-1])).T.reshape(1, -1), np.float32)
    frame = av.AudioFrame.from_ndarray(whole, format="flt", layout=encoder.layout.name)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start_s * rate)
    return [*encoder.encode(frame), *encoder.encode(None)]


def hide_codec(path: Path, track: int = 0) -> Path:
    """Turn the AAC of a track of an .mp4 into sound that no decoder knows, as Apple's spatial audio is for FFmpeg."""
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(track + 1):
        at = data.index(b"mp4a", at + 1)
    data[at : at + 4] = b"apac"
    at = data.index(b"esds", at)
    data[at : at + 4] = b"dapa"
    path.write_bytes(bytes(data))
    return path


LUMA = {5: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}  # matrix (ITU-T H.273) -> weights of red and blue


def write_yuv(
    path: Path,
    pictures: Iterable[np.ndarray],
    codec: str = "ffv1",
    fmt: str = "yuv444p",
    *,
    matrix: int = 1,
    full: bool = False,
    tags: tuple[int, int, int, int] = (2, 0, 2, 2),
    field: str = "",
    options: dict[str, str] | None = None,
) -> Path:
    """Write R'G'B' pictures (float [H, W, 3], 0 to 1) by the formulas of the standards, at 25 frames/s.

    fmt: planar YUV of 8 or 10 bits. tags: what the file says: matrix, range, primaries, transfer. field: "tff" or "bff" marks
    frames as interlaced, where the codec takes the frame's word.
    """
    bits = 10 if "10" in fmt else 8
    unit, most = 2 ** (bits - 8), 2**bits - 1
    red, blue = LUMA[matrix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.pix_fmt = fmt
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = tags
        for k, rgb in enumerate(pictures):
            if k == 0:
                stream.height, stream.width = rgb.shape[:2]
            r, g, b = np.moveaxis(rgb, -1, 0)
            y = red * r + (1 - red - blue) * g + blue * b
            chroma = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
            planes = [y * most if full else (16 + 219 * y) * unit, *(128 * unit + c * (most if full else 224 * unit) for c in chroma)]
            frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], fmt)
            for plane, values in zip(frame.planes, planes):
                values = values[:: frame.height // plane.height, :: frame.width // plane.width].round().clip(0, most)
                values = values.astype(np.uint8 if bits == 8 else "<u2")
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, : values.shape[1] * values.itemsize] = values.view(np.uint8)
                plane.update(rows.tobytes())
            frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = tags
            frame.pts, frame.time_base = k, Fraction(1, 25)
            if field:
                graph = av.filter.Graph()
                source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
                graph.link_nodes(source, graph.add("setfield", mode=field), graph.add("buffersink")).configure()
                graph.push(frame)
                frame = graph.vpull()
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
