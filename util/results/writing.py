"""Writing synthesised frames, with their measures when there is a truth, while the next ones are synthesised."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import cv2
import numpy as np

from util.cli import progress
from util.image_io import write_image
from util.metrics import MEASURES, face_mask, frame_measures, heatmap, mean_measures
from util.results.folder import Results
from util.threads import one_opencv_thread, short_turns

_WRITERS = min(8, os.cpu_count() or 4)  # threads; more wait for Python's lock, and let the synthesis wait
# Frames handed to the writers at once, and how many may be unwritten when the next frame is synthesised. Beside a GPU, both
# work side by side. A network on the processor wants all cores for itself: they take turns.
_ON_GPU, _ON_PROCESSOR = (1, 16), (8, 0)


class DrivenFrame(Protocol):
    """What is known of a frame before it is synthesised (data.driving_sequence.DrivingFrame)."""

    number: int
    image: np.ndarray | None  # uint8 [H, W, 3]: the truth, or the driver's frame
    nmfc: np.ndarray  # uint8 [H, W, 3]
    gaze: np.ndarray  # uint8 [H, W, 3]
    landmarks: np.ndarray | None  # [70, 2] px


def write_results(
    results: Results,
    frames: Iterable[DrivenFrame],
    count: int,
    synthesise: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    on_gpu: bool,
    self_reenactment: bool,
    eye_gaze: bool,
    left_out: Collection[int] = (),
    show: Callable[[Mapping[str, np.ndarray]], None] | None = None,
) -> tuple[list[str], float, float]:
    """Synthesise frames in order and write all pictures of each; in self reenactment also metrics.json.

    frames, count: the driven frames and how many there are. synthesise: NMFC and gaze image -> uint8 [H, W, 3].
    on_gpu: where `synthesise` computes. eye_gaze: write the gaze images too. left_out: numbers of frames that are not
        measured, as their real pictures do not show the person well. show: called with the pictures of every written frame by kind, in
        order.
    Returns: the kinds of pictures written, the frames per second of the synthesis alone, and of all together.
    """
    per_frame: list[dict[str, float]] = []
    numbers: list[int] = []
    kinds: set[str] = set()
    finished: list[tuple[DrivenFrame, np.ndarray]] = []
    waiting: deque[Future] = deque()
    at_once, unwritten = _ON_GPU if on_gpu else _ON_PROCESSOR
    spent_s, begun = 0.0, time.perf_counter()

    with short_turns(), one_opencv_thread(), ThreadPoolExecutor(_WRITERS) as pool:

        def write(unwritten: int) -> None:
            """Hand the finished frames to the writers and wait until at most `unwritten` are not written."""
            waiting.extend(pool.submit(write_frame, results, *f, self_reenactment, eye_gaze) for f in finished)
            finished.clear()
            while len(waiting) > unwritten:
                measures, images = waiting.popleft().result()
                kinds.update(images)
                if show is not None:
                    show(images)
                if measures is not None:
                    counts = numbers[len(per_frame)] not in left_out
                    per_frame.append(measures if counts else dict.fromkeys(measures, math.nan))

        try:
            for frame in progress(frames, desc="synthesising", total=count):
                began = time.perf_counter()
                finished.append((frame, synthesise(frame.nmfc, frame.gaze)))
                spent_s += time.perf_counter() - began
                numbers.append(frame.number)
                if len(finished) == at_once:
                    write(unwritten)
            write(0)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if per_frame:
        results.write_measures(mean_measures(per_frame), per_frame, numbers, {k: m.unit for k, m in MEASURES.items()})
    return sorted(kinds), count / spent_s, count / (time.perf_counter() - begun)


def write_frame(
    results: Results, frame: DrivenFrame, fake: np.ndarray, self_reenactment: bool, eye_gaze: bool
) -> tuple[dict[str, float] | None, dict[str, np.ndarray]]:
    """Write the pictures of one frame. Returns its measures (None without a truth) and the pictures by kind."""
    images = {"fake": fake, "nmfc": frame.nmfc}
    if eye_gaze:
        images["eye_gaze"] = frame.gaze
    if frame.image is not None:
        images["real"] = frame.image
    measures = None
    if self_reenactment:
        measures = frame_measures(frame.image, fake, frame.nmfc, frame.landmarks)
        images["heatmap"] = heatmap(frame.image, fake)
        images["masked_heatmap"] = cv2.copyTo(images["heatmap"], face_mask(frame.nmfc).view(np.uint8))
    for kind, image in images.items():
        write_image(results.path(kind, frame.number), image)
    return measures, images
