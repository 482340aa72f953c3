"""The training loop."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from models.checkpoints import read_iteration, snapshot, write_run_options
from models.clip import Clip
from models.head2head_model import Head2HeadModel
from models.schedule import Schedule
from models.training.beginning import keep_damaged_state, load_networks, load_state, tell_finished
from models.training.checkpoint_writer import CheckpointWriter
from models.training.clock import Clock
from models.training.loss_meter import LossMeter, diverged
from models.training.progress import Progress
from models.training.stop_signal import StopSignal
from models.training.training_log import TrainingLog
from util.cli import say, warn
from util.distributed import Processes
from util.layout import Run

_LOG_INTERVAL_S = 5.0  # reading the losses waits for the device, so it is rare
_IMAGE_INTERVAL_S = 60.0  # a picture a minute shows progress and costs nothing that could be measured
_SAVE_INTERVAL_S = 300.0  # besides save_latest_freq: on a slow machine that many clips take long
_BYTES_SAVED_PER_S = 1e8  # of a slow disk, for the time that a limited run keeps for its last checkpoint


class ClipSource(Protocol):
    """Where clips come from (data.clip_stream.ClipStream)."""

    @property
    def lengths(self) -> list[int]:
        """Number of frames of each sequence."""

    def batches(self, first: int, n_frames: int, batch_size: int, *, part: int, parts: int) -> Iterator[dict[str, Any]]:
        """Batches on the device, without end."""


@dataclass(frozen=True)
class LoopOptions:
    """Limits and intervals of the loop."""

    max_minutes: float | None = None  # time limit of the command; the whole schedule is fitted into it
    save_latest_freq: int = 100  # clips between two checkpoints
    save_epoch_freq: int = 100  # epochs between two numbered checkpoints
    keep_checkpoints: int = 0  # that many newest numbered checkpoints stay; 0: all
    tensorboard: bool = False


class Training:
    """One run's training: the model, where it stands, and what it writes.

    batch_size: clips of each process at once.
    """

    def __init__(
        self, options: LoopOptions, schedule: Schedule, model: Head2HeadModel, source: ClipSource, files: Run, batch_size: int = 1
    ):
        self.options, self.schedule, self.model, self.source, self.files = options, schedule, model, source, files
        self.processes: Processes = model.processes
        self.batch_size = batch_size
        self.clips_at_once = batch_size * self.processes.size
        self.progress = Progress()
        self.meter = LossMeter()
        self.recorded: dict[str, Any] = {}  # what opt.txt holds
        self.log: TrainingLog | None = None  # of the first process, while the loop runs

    def begin(self, how: str, recorded: dict[str, Any], which_epoch: str = "latest", pretrained: Path | None = None) -> None:
        """Bring the model to where the run begins, and write opt.txt.

        how: new, resume or weights, as models.training.beginning.check_run says. recorded: what opt.txt is to hold.
        which_epoch: of the weights that are loaded. pretrained: folder of a run whose networks a new run starts from.
        """
        if how == "resume":
            self.progress = load_state(self.model, self.files, self.schedule, self.processes.is_first)
            say(f"going on at epoch {self.progress.epoch + 1}, step {self.progress.steps}")
        elif how == "weights":
            load_networks(self.model, self.files, which_epoch)
            epoch = int(which_epoch) if which_epoch != "latest" else read_iteration(self.files)
            if epoch is None:
                warn(f"{self.files.iteration_path} is missing or damaged: the epochs of before are taken for none")
            self.progress.epoch = epoch or 0
            if self.processes.is_first:
                keep_damaged_state(self.files)
            warn(f"this checkpoint has no training state: the optimisers start afresh, at epoch {self.progress.epoch + 1}")
        elif pretrained:
            load_networks(self.model, Run(pretrained, pretrained), which_epoch)
        if how != "resume":
            self.model.restart_average()
        self.model.copy_from_first()
        self.recorded = json.loads(json.dumps(recorded, default=str))
        if self.processes.is_first:
            write_run_options(self.files, recorded)

    def run(self, stop: StopSignal, started: float) -> int | None:
        """Train to the end of the schedule, or until told to stop. started: when the command began (time.monotonic, s).

        Returns: None, or the exit code of a command that was told to stop.
        """
        p = self.progress
        if self.finished:
            tell_finished(self.files, max(p.epoch, self.schedule.epochs), self.schedule.niter_decay)
            return None
        clock = Clock(started, self.options.max_minutes, p.share, self.state_bytes() / _BYTES_SAVED_PER_S + 1)
        self.logged = self.saved = time.monotonic()
        self.shown = -math.inf
        self.unsaved_clips = 0
        earlier, begun = p.seconds, time.monotonic()
        with self.open_log(), CheckpointWriter(self.files) as self.writer:
            sample = None
            with contextlib.closing(self.clips()) as clips:
                while not (stop.received or self.finished):
                    clip = next(clips)
                    sample = clip, self.train(clip)
                    p.seconds = earlier + time.monotonic() - begun
                    p.share, stop.received = self.processes.agree(clock.done(), stop.received, self.model.device)
                    self.after_clip(*sample)
            if sample:
                self.show(*sample)
            self.save()
        if not self.finished:
            say(f"saved {self.files.checkpoints} at step {p.steps}; run the same command to go on")
            return 128 + stop.received
        say(f"trained {p.frames} frames in {p.seconds / 60:.1f} minutes; generator: {self.files.network_path('G')}")
        return None

    @property
    def position(self) -> float:
        return self.schedule.position(self.progress.epoch, self.progress.share)

    @property
    def finished(self) -> bool:
        return self.position >= self.schedule.epochs

    def clips(self) -> Iterator[Clip]:
        """The coming clips, without end, with the learning rate set for each."""
        lengths, processes = self.source.lengths, self.processes
        while True:
            n_frames = self.schedule.clip_length(self.position)
            first = self.progress.epoch * self.schedule.clips(lengths) + self.progress.clip
            stream = self.source.batches(first, n_frames, self.batch_size, part=processes.rank, parts=processes.size)
            with contextlib.closing(stream) as batches:
                for batch in batches:
                    self.model.set_lr(self.schedule.learning_rate(self.position))
                    yield self.model.to_clip(batch)
                    if self.schedule.clip_length(self.position) != n_frames:
                        break  # longer clips from here on

    def train(self, clip: Clip) -> torch.Tensor:
        """Train on a clip; returns the frames generated last, [B, n, 3, H, W]."""
        for losses, fake in self.model.train_clip(clip):  # noqa: B007
            self.meter.add(losses)
            self.progress.steps += 1
        return fake

    def after_clip(self, clip: Clip, fake: torch.Tensor) -> None:
        """Count the clip; log, show and save when due."""
        p, now = self.progress, time.monotonic()
        before = p.epoch
        if self.log is not None:
            self.writer.check()
        more, p.clip = divmod(p.clip + self.clips_at_once, self.schedule.clips(self.source.lengths))
        p.epoch += more
        p.frames += self.clips_at_once * clip.length
        self.unsaved_clips += self.clips_at_once
        if now - self.logged >= _LOG_INTERVAL_S:
            self.write_log()
        if now - self.shown >= _IMAGE_INTERVAL_S:
            self.show(clip, fake)
        if p.epoch // self.options.save_epoch_freq > before // self.options.save_epoch_freq:
            self.save(numbered=True)
        elif self.unsaved_clips >= self.options.save_latest_freq or now - self.saved >= _SAVE_INTERVAL_S:
            self.save()

    # -- what the first process writes ---------------------------------------------------------------------------------

    def open_log(self) -> contextlib.AbstractContextManager:
        if not self.processes.is_first:
            return contextlib.nullcontext()
        frames = self.schedule.frames(self.source.lengths)
        self.log = TrainingLog(self.files, self.progress.steps, self.model.losses.weights, frames, self.options.tensorboard)
        return self.log

    def write_log(self) -> None:
        """Log the mean losses since the last time. Raises: UserError when training diverged."""
        if self.log is None:
            return
        losses = self.meter.read()
        self.logged = time.monotonic()
        if losses:
            self.log.losses(self.progress, losses)

    def show(self, clip: Clip, fake: torch.Tensor) -> None:
        """Put the last frame of a clip on the page."""
        if self.log is not None:
            self.log.pictures(self.progress.steps, clip, self.model.conditioning_images, fake)
            self.shown = time.monotonic()

    def state_bytes(self) -> int:
        """About the size of a checkpoint: weights once as such, once in the state, with two moments each."""
        return sum(4 * v.numel() * v.element_size() for v in self.model.parameters())

    def save(self, numbered: bool = False) -> None:
        """Write the checkpoint 'latest' from a copy, while training goes on. numbered: and one with the epoch's number.

        Raises: UserError when training diverged; the checkpoint before stays.
        """
        if self.log is None:
            return
        self.write_log()
        m, p = self.model, self.progress
        if not torch.stack([v.isfinite().all() for v in m.networks["G"].state_dict().values()]).all():
            raise diverged("the generator's weights")
        outdated = self.replace_numbered() if numbered else []
        state = {
            "networks": {label: network.state_dict() for label, network in m.networks.items()},
            "average": m.average.state() if m.average is not None else None,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in m.optimizers.items()},
            "rng": torch.get_rng_state(),
            "progress": asdict(p),
            "epochs": self.schedule.epochs,
            "finished": self.finished,
            "options": self.recorded,  # for an opt.txt that was lost
        }
        self.writer.write(snapshot(state), p.epoch if numbered else None, outdated)
        self.unsaved_clips, self.saved = 0, time.monotonic()

    def replace_numbered(self) -> list[int]:
        """Note the present epoch's numbered checkpoint; returns the epochs of those that it replaces."""
        p, keep = self.progress, self.options.keep_checkpoints
        if not keep:
            return []  # it stays for good
        known = [*(e for e in p.temporary if e != p.epoch), p.epoch]
        p.temporary = known[-keep:]
        return known[:-keep]
