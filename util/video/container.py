"""Opening video files and taking packets and frames out of them; every error is a UserError that names the file and the fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.cli import UserError

if TYPE_CHECKING:
    import av


@contextmanager
def open_video(path: str | Path) -> Iterator[av.container.InputContainer]:
    """A video file as PyAV's input container, closed at the end. Raises: UserError when it is missing, empty or not a video."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no video {path}; check the path" if not path.is_dir() else f"{path} is a folder, not a video file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; copy or download the file again")
    import av

    # FFmpeg's warnings about unusual files are of no use to a user; real errors come as exceptions. Logging must be off altogether: else
    # a decoder's thread with an error to log waits for Python's lock, while the thread that holds it closes the decoder and waits
    # for the decoder's threads.
    av.logging.set_level(None)
    try:
        # Tags in an old encoding are no reason to refuse a video; PyAV 19 and later never does.
        lenient = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
        container = av.open(str(path.absolute()), **lenient)  # FFmpeg would take "12:30.mp4" for an address
    except av.error.PermissionError:
        raise UserError(f"{path} may not be read; allow reading it (chmod +r)") from None
    except (av.error.FFmpegError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{path} is not a readable video ({reason}); it is damaged, cut short, or no video") from None
    with container:
        yield container


def video_stream(container: Any, path: str | Path) -> Any:
    """The stream of pictures that players show. Raises: UserError when there is none."""
    stream = container.streams.best("video")
    if stream is not None and stream.codec_context is not None:
        return stream
    raise UserError(f"{path} has no picture that can be read, only {', '.join(sorted({s.type for s in container.streams})) or 'nothing'}")


def demux(container: Any, stream: Any, path: str | Path) -> Iterator[Any]:
    """The packets of a stream in the file's order. Raises: UserError when the file is damaged."""
    import av

    try:
        yield from container.demux(stream)
    except av.error.FFmpegError as e:
        raise UserError(f"{path} is damaged ({e.strerror}); copy or download the file again") from None


def go_to(container: Any, stream: Any, time_s: float) -> bool:
    """Go to the key frame before a time; False when the file has no index to do so."""
    import av

    try:
        container.seek(int(time_s / stream.time_base), stream=stream)
        return True
    except av.error.FFmpegError:
        return False


def decode(container: Any, stream: Any, path: str | Path) -> Iterator[Any]:
    """The decoded frames of a stream in the order in which they are shown. Raises: UserError as demux does."""
    for packet in demux(container, stream, path):
        yield from decode_packet(packet)


def decode_packet(packet: Any) -> list[Any]:
    """The frames of a packet; of a broken one none (the frame before it then lasts longer)."""
    import av

    try:
        return packet.decode()
    except (av.error.InvalidDataError, av.error.ArgumentError):
        return []
