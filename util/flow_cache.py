"""Optical flow between a video's own frames, computed once and kept on disk.

RGB frames are never augmented, so the flow between them depends on the video alone. Per sequence, method and image size there
is one .npz (util.layout.Sequence.flow_path) with `key`, what it was made from, and for each step s in STEPS `flow_<s>`:
float16 [max(N - s, 0), 2, size / 2, size / 2], x first, in pixels of the size x size image, on a grid of half the size. Entry i
warps frame i onto frame i + s: frame[i + s](p) ~ frame[i](p + flow(p)).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from util.cli import progress
from util.image_io import read_image, write_bytes
from util.layout import Sequence

STEPS = (1, 3, 9)
VERSION = 1  # raise it when flows must be made anew
GRAIN = 32  # flow is kept to 1/32 pixel: far finer than it is right, and the file gets a quarter of the size
_WRITERS = 2  # threads that read frames and compress flow while the next is computed

# (target, source) pairs, uint8 RGB [H, W, 3] -> each one's flow in order, float32 [2, H, W] in pixels with target(p) ~ source(p + flow(p)).
# How pairs are spread over threads or batches is the method's own affair.
Estimate = Callable[[Iterable[tuple[np.ndarray, np.ndarray]]], Iterator[np.ndarray]]


def flow_key(sequence: Sequence, method: str, size: int, made_from: str = "") -> str:
    """What a sequence's flow is made from, as a digest: method, its checkpoint (`made_from`), size, and the bytes of all frames."""
    digest = hashlib.blake2b(f"{VERSION} {method} {size} {STEPS}{made_from}".encode(), digest_size=16)
    for frame in sequence.frames():
        digest.update(hashlib.blake2b(sequence.path("images", frame).read_bytes(), digest_size=16).digest())
    return digest.hexdigest()


def read_flows(sequence: Sequence, method: str, size: int, key: str | None = None) -> dict[int, np.ndarray] | None:
    """The cached flow of a sequence by step, or None when there is none, it is damaged, or not made from `key` (None: any key)."""
    try:
        with np.load(sequence.flow_path(method, size), allow_pickle=False) as file:
            if key is not None and str(file["key"]) != key:
                return None
            return {s: file[f"flow_{s}"] for s in STEPS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _is_cached(sequence: Sequence, method: str, size: int, key: str) -> bool:
    try:
        with np.load(sequence.flow_path(method, size), allow_pickle=False) as file:
            return str(file["key"]) == key and all(f"flow_{s}" in file.files for s in STEPS)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def compute_flows(frames: Seq[np.ndarray], estimate: Estimate, done: Callable[[], object] = lambda: None) -> dict[int, np.ndarray]:
    """Flow between frames (uint8 RGB [H, W, 3]) at all STEPS, in the form that is cached; `done` is called after each pair."""
    h, w = frames[0].shape[:2]
    flows = {}
    for s in STEPS:
        flows[s] = np.zeros((max(len(frames) - s, 0), 2, h // 2, w // 2), np.float16)
        pairs = ((frames[i + s], frames[i]) for i in range(len(frames) - s))
        for entry, flow in zip(flows[s], estimate(pairs), strict=True):
            for half, channel in zip(entry, flow):
                half[:] = np.round(cv2.resize(channel, (w // 2, h // 2), interpolation=cv2.INTER_AREA) * GRAIN) / GRAIN
            done()
    return flows


def ensure_flows(sequences: Seq[Sequence], method: str, size: int, make_estimate: Callable[[], Estimate], made_from: str = "") -> int:
    """Compute and cache the flow of every sequence that has none made from its present frames.

    make_estimate: builds the method; called only when something is to be computed. made_from: digest of the method's checkpoint.
    Returns: the number of sequences computed now.
    """
    missing = [s for s in sequences if not _is_cached(s, method, size, flow_key(s, method, size, made_from))]
    if not missing:
        return 0
    estimate = make_estimate()
    pairs = sum(max(len(s.frames()) - step, 0) for s in missing for step in STEPS)
    writing: deque[Future] = deque()
    with ThreadPoolExecutor(_WRITERS) as pool, progress(desc=f"optical flow ({method})", total=pairs, unit="pair") as bar:
        for sequence in missing:
            key = flow_key(sequence, method, size, made_from)  # before reading, so a change in between is noticed next time
            frames = list(pool.map(lambda f, s=sequence: load_frame(s.path("images", f), size), sequence.frames()))
            flows = compute_flows(frames, estimate, bar.update)
            writing.append(pool.submit(_write_flows, sequence.flow_path(method, size), key, flows))
            while len(writing) > _WRITERS:
                writing.popleft().result()
        for written in writing:
            written.result()
    return len(missing)


def _write_flows(path: Path, key: str, flows: dict[int, np.ndarray]) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, key=np.array(key), **{f"flow_{s}": flow for s, flow in flows.items()})
    write_bytes(path, file.getbuffer())


def load_frame(path: Path, size: int) -> np.ndarray:
    """A frame as uint8 RGB [size, size, 3]."""
    image = read_image(path)
    if image.shape[:2] != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_CUBIC)
    return image
