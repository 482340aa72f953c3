"""A run of untrained networks for tests of live use, and a driver's frames."""

from pathlib import Path

import numpy as np
from synthetic_videos import face_frame, write_video

from live.engine import LiveFrame
from scripts.bench.untrained_run import make_untrained_run

SIZE = 64
FPS = 20
FRAME = (320, 240)  # width, height of a driver's frames
START = (140, 120)  # place of the nose


def target_place(i: int) -> tuple[float, float]:
    """Where the nose of the target is in frame i of its video."""
    return START[0] + 4 * i - 40, START[1]


def make_live_run(folder: Path) -> Path:
    """Write a run of the astronaut, with mesh478 and a tiny generator, beside the video that it was made from; returns its folder."""
    video = write_video(folder / "ann.mp4", (face_frame(FRAME, target_place(i), 1.0) for i in range(20)), FPS)
    make_untrained_run(folder / "head2head_ann", video, face_model="mesh478", loadSize=SIZE, ngf=4, n_blocks=1)
    return folder / "head2head_ann"


def driver_frames(count: int, step_px: float = 0.0, start: int = 0) -> list[np.ndarray]:
    """A portrait that moves to the right."""
    return [face_frame(FRAME, (START[0] + step_px * (start + i), START[1]), 1.0) for i in range(count)]


def nobody() -> np.ndarray:
    return np.full((FRAME[1], FRAME[0], 3), 128, np.uint8)


def head_place(frame: LiveFrame) -> float:
    """Where the driven head is, pixels from the left of the target's crop."""
    return float(frame.driven.camera.translation[0])
