"""Interlaced video to whole pictures: one for each frame of the file, at the time of its first field (libavfilter's bwdif)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def deinterlaced(frames: Iterable[Any]) -> Iterator[Any]:
    """The decoded frames with the same time stamps; those marked as interlaced become whole, all others pass as they are.

    Nothing is filtered, or held back, before the first marked frame. A frame depends on itself and its two neighbours only.
    """
    filters: _Bwdif | None = None
    previous = None
    for frame in frames:
        if filters is not None and filters.layout != _layout(frame):  # size or format changes on the way
            yield from filters.rest()
            filters = previous = None
        if filters is None:
            if not frame.interlaced_frame:
                previous = frame
                yield frame
                continue
            filters = _Bwdif(frame)
            if previous is not None and _layout(previous) == filters.layout:
                filters.skip = 1  # has been yielded; here it is but a neighbour
                yield from filters.push(previous)
        yield from filters.push(frame)
    if filters is not None:
        yield from filters.rest()


def _layout(frame: Any) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


class _Bwdif:
    """Deinterlaces frames of one size and format, one frame behind."""

    def __init__(self, frame: Any):
        import av

        self.layout = _layout(frame)
        self.skip = 0  # results that are not wanted
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        deinterlace = self._graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
        self._graph.link_nodes(source, deinterlace, self._graph.add("buffersink")).configure()

    def push(self, frame: Any) -> Iterator[Any]:
        self._graph.push(frame)
        yield from self._pull()

    def rest(self) -> Iterator[Any]:
        self._graph.push(None)
        yield from self._pull()

    def _pull(self) -> Iterator[Any]:
        import av

        while True:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if self.skip:
                self.skip -= 1
            else:
                yield frame
