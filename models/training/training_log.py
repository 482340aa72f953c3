"""What a run shows while it trains: progress bar, log of losses, web page, TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.clip import Clip
from models.training.progress import Progress
from util.cli import progress as progress_bar
from util.layout import Run
from util.report.training_page import Visualizer
from util.tensors import to_image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_BAR_STEPS = 1000  # of the whole bar: its unit is a thousandth of the run


class TrainingLog:
    """The log of a run from `step` on. Leaving the context finishes the page, unless the run failed.

    weights: of the losses by name, for the two sums G and D. total_frames: of the whole schedule.
    """

    def __init__(self, files: Run, step: int, weights: Mapping[str, float], total_frames: int, tensorboard: bool):
        self._weights = weights
        self._total_frames = total_frames
        self._page = Visualizer(files, step)
        self._board = _open_board(files, step) if tensorboard else None
        self._bar = progress_bar(desc="training", total=_BAR_STEPS)
        self._bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        if failure is None:
            self._page.finish()
        if self._board:
            self._board.close()

    def losses(self, p: Progress, losses: Mapping[str, float]) -> None:
        """Write mean losses, and move the bar."""
        sums = {
            "G": sum(v * self._weights[k] for k, v in losses.items() if k.startswith("G_")),
            "D": sum(v * self._weights[k] for k, v in losses.items() if k.startswith("D")),
        }
        self._page.log(p.steps, p.epoch + 1, {**sums, **losses}, p.seconds)
        if self._board:
            for name, value in {**sums, **losses}.items():
                self._board.add_scalar(name, value, p.steps)
        shown = {k: f"{v:.3g}" for k, v in sums.items()} | {"epoch": p.epoch + 1, "frames/s": f"{p.frames / max(p.seconds, 1e-6):.1f}"}
        self._bar.set_postfix(shown, refresh=False)
        done = max(min(1.0, p.frames / self._total_frames), p.share)
        self._bar.update(round(_BAR_STEPS * done) - self._bar.n)

    def pictures(self, step: int, clip: Clip, names: Iterable[str], fake: torch.Tensor) -> None:
        """Show the last frame of a clip.

        names: of its conditioning images. fake: [B, n, 3, H, W] generated frames, the last of which is the clip's last.
        """
        pictures = {"real": clip.real[0, -1].cpu().numpy(), "fake": to_image(fake[0, -1])}
        pictures |= dict(zip(names, (x.cpu().numpy() for x in clip.conditioning[0, -1].split(3, dim=-1))))
        self._page.images(step, pictures)
        if self._board:
            self._board.add_image("sample", np.concatenate(list(pictures.values()), axis=1), step, dataformats="HWC")


def _open_board(files: Run, step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only wanted with --tensorboard

    return SummaryWriter(str(files.checkpoints / "tensorboard"), purge_step=step)
