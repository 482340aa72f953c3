"""Optical flow between a video's own frames, computed once and kept on disk.

RGB frames are never augmented, so the flow between them depends on the video alone. Per sequence, method and image size there
is one file (util.layout.Sequence.flow_path, util.caches.frame_file) with `key`, what it was made from, and for each step s in STEPS
`flow_<s>`: float16 [max(N - s, 0), 2, size / 2, size / 2], x first, in pixels of the size x size image, on a grid of half the size. Entry i
warps frame i onto frame i + s: frame[i + s](p) ~ frame[i](p + flow(p)).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from util.caches.digests import frames_key
from util.caches.frame_file import has_rows, read_rows, write_rows
from util.cli import UserError, progress
from util.image_io import read_image, resize_image
from util.layout import Sequence

STEPS = (1, 3, 9)
_ARRAYS = {s: f"flow_{s}" for s in STEPS}  # names in the file
VERSION = 1  # raise it when cached flow must be computed again
STEPS_PER_PIXEL = 32  # flow is rounded to 1/32 pixel: finer than its error, and the compressed file is four times smaller
_WRITERS = 2  # threads that read frames and compress flow while the next is computed

# (target, source) pairs, uint8 RGB [H, W, 3] -> each one's flow in order, float32 [2, H, W] in pixels with target(p) ~ source(p + flow(p)).
# The method itself spreads the pairs over threads or batches.
Estimate = Callable[[Iterable[tuple[np.ndarray, np.ndarray]]], Iterator[np.ndarray]]


def flow_key(sequence: Sequence, method: str, size: int, made_from: str = "") -> str:
    """Digest of what a sequence's flow is made from: method, its checkpoint (`made_from`), size, and the bytes of all frames."""
    return frames_key(f"{VERSION} {method} {size} {STEPS}{made_from}", [sequence])


def read_flows(
    sequence: Sequence, method: str, size: int, key: str | None = None, part: slice = slice(None)
) -> dict[int, np.ndarray] | None:
    """The cached flow of a sequence by step, or None when there is none, it is damaged, or not made from `key` (None: any key).

    part: the frames [first, last) of the sequence that the flow is to be among; all by default. Others are not read.
    """
    first, last = part.start or 0, part.stop
    parts = {name: slice(first, None if last is None else max(first, last - step)) for step, name in _ARRAYS.items()}
    found = read_rows(sequence.flow_path(method, size), parts, key)
    return None if found is None else {step: found[name] for step, name in _ARRAYS.items()}


def require_flows(sequence: Sequence, method: str, size: int, part: slice = slice(None)) -> dict[int, np.ndarray]:
    """The cached flow of a sequence by step, as read_flows. Raises: UserError when there is none, or it is damaged."""
    flows = read_flows(sequence, method, size, part=part)
    if flows is None:
        raise UserError(f"{sequence.flow_path(method, size)} is missing or damaged; delete it and run again")
    return flows


def write_flows(sequence: Sequence, method: str, size: int, key: str, flows: dict[int, np.ndarray]) -> None:
    """Cache the flow of a sequence, {step: float16 [max(N - step, 0), 2, size / 2, size / 2]}."""
    write_rows(sequence.flow_path(method, size), key, **{name: flows[step] for step, name in _ARRAYS.items()})


def flows_nbytes(count: int, size: int) -> int:
    """Bytes that the flow of `count` frames takes in memory."""
    return sum(max(count - step, 0) * 2 * (size // 2) ** 2 * 2 for step in STEPS)


def compute_flows(frames: Seq[np.ndarray], estimate: Estimate, done: Callable[[], object] = lambda: None) -> dict[int, np.ndarray]:
    """Flow between frames (uint8 RGB [H, W, 3]) at all STEPS, as it is cached (see above); `done` is called after each pair."""
    h, w = frames[0].shape[:2]
    flows = {}
    for s in STEPS:
        flows[s] = np.zeros((max(len(frames) - s, 0), 2, h // 2, w // 2), np.float16)
        pairs = ((frames[i + s], frames[i]) for i in range(len(frames) - s))
        for entry, flow in zip(flows[s], estimate(pairs), strict=True):
            for half, channel in zip(entry, flow):
                half[:] = np.round(cv2.resize(channel, (w // 2, h // 2), interpolation=cv2.INTER_AREA) * STEPS_PER_PIXEL) / STEPS_PER_PIXEL
            done()
    return flows


def ensure_flows(
    sequences: Seq[Sequence],
    method: str,
    size: int,
    make_estimate: Callable[[], Estimate],
    made_from: str = "",
    done: Callable[[], object] = lambda: None,
) -> int:
    """Compute and cache the flow of every sequence that has none made from its present frames.

    make_estimate: builds the method; called only when something is to be computed. made_from: digest of the method's checkpoint.
    done: called after each pair.
    Returns: the number of sequences computed now.
    """
    missing = [s for s in sequences if not has_rows(s.flow_path(method, size), _ARRAYS.values(), flow_key(s, method, size, made_from))]
    if not missing:
        return 0
    estimate = make_estimate()
    pairs = sum(max(len(s.frames()) - step, 0) for s in missing for step in STEPS)
    writing: deque[Future] = deque()
    with ThreadPoolExecutor(_WRITERS) as pool, progress(desc=f"optical flow ({method})", total=pairs, unit="pair") as bar:
        for sequence in missing:
            key = flow_key(sequence, method, size, made_from)  # before reading, so a change in between is noticed next time
            frames = list(pool.map(lambda f, s=sequence: load_frame(s.path("images", f), size), sequence.frames()))
            flows = compute_flows(frames, estimate, lambda: (bar.update(), done()))
            writing.append(pool.submit(write_flows, sequence, method, size, key, flows))
            while len(writing) > _WRITERS:
                writing.popleft().result()
        for written in writing:
            written.result()
    return len(missing)


def load_frame(path: Path, size: int) -> np.ndarray:
    """A frame as uint8 RGB [size, size, 3]."""
    return resize_image(read_image(path), size)
