"""Videos of results: panels side by side with captions, at the source's exact frame rate, with its sound."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from util.ahead import map_ahead
from util.cli import UserError, progress, warn, warn_once
from util.image_io import read_image
from util.layout import Dataset
from util.results.folder import MODES, Results
from util.results.origin import provenance_of
from util.video.writing import VideoWriter

CAPTIONS = {
    "real": "real",
    "nmfc": "NMFC",
    "eye_gaze": "eye gaze",
    "fake": "synthesised",
    "heatmap": "error",
    "masked_heatmap": "error, face only",
}
PANEL = 256  # smaller frames are enlarged to this height in videos of several panels
CAPTION = 30  # height of the strip with the captions, for panels of PANEL
_FALLBACK_FPS = Fraction(25)
_BACKLOG = 8  # frames that may wait for the video's thread


def captions(facts: dict) -> dict[str, str]:
    """The caption of each kind; in reenactment the real frames are the driver's."""
    return {**CAPTIONS, "real": f"driver ({facts['source']})"} if facts["source"] else CAPTIONS


def write_videos(results: Results, mode: str, datasets_dir: str | Path | None = None, fps: Fraction | None = None) -> list[Path]:
    """Write the videos of an output mode into the results' folder; those that are there already are left.

    Kinds that the results lack (eye gaze of a run without it, the driver's frames) are left out of a row of panels.
    datasets_dir: where the dataset lies, if not where test.py found it.
    fps: frame rate, when the dataset does not know it; when given, existing videos are written again.
    Raises: UserError when the results are unfinished or hold nothing of what the mode shows.
    """
    facts = results.read()
    if facts is None:
        raise UserError(f"{results.folder} holds no finished results; run test.py (again)")
    written = []
    for name, wanted in MODES[mode].items():
        kinds = [k for k in wanted if k in facts["kinds"]]
        lacking = [k for k in wanted if k not in kinds]
        if not kinds or ("heatmap" in mode and lacking):
            raise UserError(
                f"{results.folder} has no {lacking[0]} frames, so there is no '{mode}' video (heatmaps need the truth: self reenactment)"
            )
        path = results.video(name)
        if not path.exists() or fps is not None:
            _write_video(results, facts, kinds, path, datasets_dir, fps)
        written.append(path)
    return written


def _write_video(
    results: Results, facts: dict, kinds: list[str], path: Path, datasets_dir: str | Path | None, fps: Fraction | None
) -> None:
    first, last = facts["frames"]
    names = captions(facts)
    with _open_video(facts, path, datasets_dir, fps, composite="real" in kinds) as video:
        frames = range(first, last + 1)
        for panels in progress(_read_ahead(results, kinds, frames), desc=path.name, total=len(frames)):
            video.write(panels[0] if len(kinds) == 1 else side_by_side(panels, [names[k] for k in kinds]))


def _open_video(facts: dict, path: Path, datasets_dir: str | Path | None, fps: Fraction | None, composite: bool) -> VideoWriter:
    """composite: whether real frames are seen beside the synthesised ones."""
    dataset = find_dataset(facts, datasets_dir)
    rate, sound, start_s = find_source(facts, datasets_dir)
    if fps is None and rate is None:
        driver = facts["source"] or facts["target"]
        said = f"dataset {facts['dataset_name']} does not say {driver}'s frame rate"
        if not dataset.folder.is_dir():
            said = f"there is no {dataset.folder} to say {driver}'s frame rate (--datasets_dir says where the dataset is now)"
        warn(f"{said}: using {_FALLBACK_FPS}; images_to_video.py --fps sets another")
    who = f"{facts['target']} driven by {facts['source'] or 'own held-out frames'}"
    origin = provenance_of(facts, dataset, composite=composite)
    rate = fps or rate or _FALLBACK_FPS
    return VideoWriter(path, rate, audio_from=sound, audio_start_s=start_s, title=f"Head2Head: {who}", provenance=origin)


class PanelVideo:
    """The video of the report, written from the pictures in memory while results are made, on a thread of its own. A context manager.

    facts: of the results, as test.py writes them; `kinds` is not needed.
    """

    def __init__(self, results: Results, facts: dict, datasets_dir: str | Path | None = None):
        ((name, self._wanted),) = MODES["all"].items()
        self._names = captions(facts)
        self._video = _open_video(facts, results.video(name), datasets_dir, None, composite=True)
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque()

    def write(self, images: Mapping[str, np.ndarray]) -> None:
        """Append a frame: its pictures by kind, uint8 [H, W, 3]. Raises: what went wrong with one before."""
        self._waiting.append(self._thread.submit(self._write, {k: images[k] for k in self._wanted if k in images}))
        while len(self._waiting) > _BACKLOG:
            self._waiting.popleft().result()

    def _write(self, panels: Mapping[str, np.ndarray]) -> None:
        self._video.write(side_by_side(list(panels.values()), [self._names[k] for k in panels]))

    def __enter__(self) -> PanelVideo:
        return self

    def __exit__(self, kind, *error) -> None:
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)
        try:
            for waiting in self._waiting if kind is None else ():
                waiting.result()
        except BaseException as e:
            self._video.__exit__(type(e), e, None)
            raise
        self._video.__exit__(kind, *error)


def find_source(facts: dict, datasets_dir: str | Path | None = None) -> tuple[Fraction | None, Path | None, float]:
    """The driver's frame rate, the file with its sound, and the moment in that file (seconds) that belongs to the first frame.

    The frame rate is None when the dataset has no record of the driver (a dataset of the original system), the file is None
    when it is not known or not there any more, or a file of motion drives.
    """
    dataset = find_dataset(facts, datasets_dir)
    pair = dataset.read_pair(facts["target"], facts["source"]) if facts["source"] else None
    if pair and pair.driver["kind"] != "identity":
        return pair.fps, None, 0.0
    record = dataset.read_record(facts["source"] or facts["target"])
    if record is None:
        return None, None, 0.0
    split = pair.driver["split"] if pair else "test"
    sound = record.sound_source(split, dataset)
    if sound is None and (part := record.part_at(split)):
        warn_once(f"no sound: {dataset.lost_video(record.name, part[0])}")
    return record.fps, *(sound or (None, 0.0))


def find_dataset(facts: dict, datasets_dir: str | Path | None = None) -> Dataset:
    """The dataset of results, from complete.json's facts: in datasets_dir if given, else where test.py found it, else in datasets/."""
    return Dataset.find(facts["dataset_name"], datasets_dir, facts.get("datasets_dir"))


def side_by_side(panels: list[np.ndarray], names: list[str]) -> np.ndarray:
    """Images of one height, uint8 [H, W, 3], in a row under their captions; small ones are enlarged to 256 pixels."""
    height = max(PANEL, max(p.shape[0] for p in panels))
    scaled = []
    for p in panels:
        if p.shape[0] != height:
            p = cv2.resize(p, (round(p.shape[1] * height / p.shape[0]), height), interpolation=cv2.INTER_CUBIC)
        scaled.append(p)
    strip = CAPTION * height // PANEL
    tops = [_caption(name, p.shape[1], strip) for name, p in zip(names, scaled)]
    return np.vstack([np.hstack(tops), np.hstack(scaled)])


@lru_cache(maxsize=64)
def _caption(text: str, width: int, height: int) -> np.ndarray:
    """White text in the middle of a dark strip, uint8 [height, width, 3]; made smaller if it is too long."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, height), (24, 26, 30))
    draw = ImageDraw.Draw(image)
    size = height * 0.6
    font = ImageFont.load_default(size)
    if (length := draw.textlength(text, font)) > 0.94 * width:
        font = ImageFont.load_default(size * 0.94 * width / length)
    draw.text((width / 2, height / 2), text, (240, 240, 240), font, anchor="mm")
    return np.asarray(image)


def _read_ahead(results: Results, kinds: list[str], frames: range) -> Iterator[list[np.ndarray]]:
    """The panels of every frame, read on threads a few frames ahead."""
    return map_ahead(lambda frame: [read_image(results.path(kind, frame)) for kind in kinds], frames, threads=4)
