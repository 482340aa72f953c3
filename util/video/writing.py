"""Writing .mp4 videos frame by frame, with the sound of another file, marked as synthetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from util.cli import UserError, writing
from util.credentials.sealing import find_sealer
from util.part_files import begin_part
from util.provenance import PROVENANCE, Provenance
from util.video.sound import sound_packets

_BT709 = 1  # number of ITU-R BT.709 for matrix, primaries and transfer in ITU-T H.273
_LIMITED_RANGE = 1  # number of FFmpeg (AVCOL_RANGE_MPEG): luma 16 to 235


class VideoWriter:
    """Writes an .mp4 (H.264, yuv420p, BT.709) frame by frame, with the sound of another file if wanted.

    Use as a context manager. The file appears under its name only once it is whole: until then, and after an error, there
    is nothing (or the older file). Every file says in its metadata that it is synthetic, and is sealed with Content Credentials.

    path: the file to write; ends in .mp4.
    fps: exact rate.
    audio_from: take the sound of this file, if it has any that can be decoded, in stereo at 48 kHz, cut to the length of the video.
    audio_start_s: the moment of `audio_from`, counted from its first picture, that belongs to the first frame written.
    audio_packets: the sound, instead, as util.video.sound.sound_packets gives it for an output container; a packet None: not known yet.
    crf: quality, 0 (lossless) to 51; 18 is visually lossless.
    provenance: what the credentials say of the video; may be replaced until it is closed.
    Raises: UserError when the name is no .mp4's, or the user's certificate is of no use.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | int,
        *,
        audio_from: str | Path | None = None,
        audio_start_s: float = 0.0,
        audio_packets: Callable[[Any], Iterator[tuple[float, Any]]] | None = None,
        crf: int = 18,
        title: str = "",
        description: str = "",
        provenance: Provenance = Provenance(),  # noqa: B008  (it cannot be changed)
    ):
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise UserError(f"cannot write {self.path}: give the video a name that ends in .mp4")
        self.fps = Fraction(fps)
        if audio_from is not None:
            audio_packets = partial(sound_packets, path=audio_from, start_s=audio_start_s)
        self._audio_packets = audio_packets
        self._crf = crf
        self._metadata = {
            "title": title or self.path.stem,
            "comment": PROVENANCE,
            "description": f"{description.rstrip('. ')}. {PROVENANCE}" if description else PROVENANCE,
        }
        self.provenance = provenance
        self._sealer = find_sealer()  # now, not after hours of work: it may have something to say
        self._part: Path | None = None
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
        self._mux(self._stream.encode(frame))
        self.frames += 1
        self._write_sound(until_s=self.frames / float(self.fps))

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._container is None:
            raise ValueError(f"no frame was written to {self.path}")
        try:
            self._mux(self._stream.encode(None))
            self._write_sound(until_s=self.frames / float(self.fps))
            self._close_sound()
            with writing(self.path):
                self._container.close()
                if self._sealer:
                    unsealed, self._part = self._part, begin_part(self.path)
                    try:
                        self._sealer.seal_video(unsealed, self._part, self._metadata["title"], self.provenance)
                    finally:
                        unsealed.unlink()
                self._part.replace(self.path)
        except BaseException:
            self._abandon()
            raise
        self._container = None

    def _open(self, width: int, height: int) -> None:
        import av

        self._part = begin_part(self.path)
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
        if self._audio_packets is not None:
            self._sound = self._audio_packets(self._container)
            next(self._sound)  # adds the stream of sound: all streams must be known before the first packet

    def _mux(self, packets: Any) -> None:
        with writing(self.path):
            self._container.mux(packets)

    def _write_sound(self, until_s: float) -> None:
        """Write the sound that starts before `until_s`, so that picture and sound lie side by side in the file."""
        while self._sound is not None:
            if self._waiting is None:
                self._waiting = next(self._sound, None)
                if self._waiting is None:
                    self._sound = None
                    return
            start_s, packet = self._waiting
            if packet is None:
                self._waiting = None
                return
            if start_s >= until_s:
                return
            self._mux(packet)
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
        if self._part is not None:
            with suppress(OSError):
                self._part.unlink()
