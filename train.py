"""Train the generator of one person, or of all persons of a dataset.

    python train.py --dataset_name D --target_id T               the published recipe
    python train.py --dataset_name D --target_id T --preset preview --max_minutes 6

    torchrun --nproc_per_node 2 train.py ...                    on two GPUs (the wrappers: GPUS=2)

Writes checkpoints/<D>/<name>/ (docs/formats.md). Ctrl-C and SIGTERM save first; the same command goes on from there, exactly.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parent)

from options.base_options import choose_identities
from options.train_options import ARCHITECTURE, TrainOptions, parse
from util.caches.flow import ensure_flows, read_flows
from util.caches.persons import Persons, ensure_persons, read_persons
from util.cli import UserError, be_quiet, progress, run, say, warn
from util.distributed import Processes
from util.face.roi import scaled_size, window
from util.image_io import write_bytes
from util.layout import Dataset, Run

if TYPE_CHECKING:
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from data.clips import ClipIndex, VideoDataset
    from models.flow import FlowChoice
    from models.head2head_model import Clip, Head2HeadModel
    from models.losses import VGGLoss

# Options that do not change what is learned: they may differ when an interrupted run is taken up again.
UNCRITICAL = {"dataset_name", "target_id", "name", "datasets_dir", "checkpoints_dir", "gpu_ids", "which_epoch", "preset", "max_minutes"}
UNCRITICAL |= {"vgg_weights", "continue_train", "load_pretrain", "save_latest_freq", "save_epoch_freq", "tensorboard"}
UNCRITICAL |= {"faceflow", "flownet2_checkpoint"}  # they decide on `flow`, which is recorded as the method that was used
LOG_INTERVAL_S = 5.0  # reading the losses waits for the device, so it is done seldom
IMAGE_INTERVAL_S = 60.0
SAVE_INTERVAL_S = 300.0  # besides --save_latest_freq: on a slow machine that many clips take long
REGIONS = ("mouth", "eyes")
# Memory of a training step with the default networks at 256x256, as measured on an H200: weights, moments and gradients; and each frame's
GB_FIXED, GB_PER_FRAME = 6.0, 0.9
_LOADERS = 6  # threads that prepare batches for a GPU
DIVERGED = (
    "training diverged: {} became infinite or NaN. The last checkpoint is sound: run again with --continue_train and half the "
    "--lr, or with --precision fp32"
)


def main(argv: Sequence[str] | None = None) -> int | None:
    started = time.monotonic()
    options = parse(argv)
    processes = Processes.of_environment()
    if not processes.is_first:
        be_quiet()
    dataset = Dataset.open(options.dataset_name, options.datasets_dir)
    names = choose_identities(options, dataset.identities())
    run_name = options.name or f"head2head_{options.target_id or (names[0] if len(names) == 1 else options.dataset_name)}"
    files = Run.open(options.dataset_name, run_name, options.checkpoints_dir)

    from data.clips import VideoDataset
    from util.device import choose_device, choose_precision

    flow = _choose_flow(options, files) if options.needs_flow else None
    options = replace(options, flow=flow.name if flow else "dis")  # what auto stands for; any will do where none is needed
    flows = _flow_reader(options) if flow else None
    videos = VideoDataset(
        dataset,
        names,
        options.loadSize,
        augment=options.augment,
        move_heads=options.move_heads,
        perspective=options.perspective,
        flows=flows,
        persons=lambda name: _read_persons(dataset, name),
    )
    facts = {"identities": names, "face_model": videos.face_model, "data": _data_key(dataset, names, videos)}
    beginning = check_run(files, options, facts)
    if beginning == "finished":
        say(f"{files.checkpoints} is trained to its end already (to go on: --continue_train with a larger --niter)")
        return None
    device = choose_device(options.gpu_ids, processes.local_rank)
    dtype = choose_precision(options.precision, device)
    processes.connect(device)  # all of them have read what was there before the first one writes
    if flow and processes.is_first:
        import torch

        ensure_flows(videos.sequences, flow.name, options.loadSize, lambda: flow.create(device).estimate, flow.made_from)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what FlowNet2 took: the batch size is chosen by what is free
    if options.move_heads and processes.is_first:
        _find_persons(dataset, names)
    processes.wait()
    with _advice_when_out_of_memory(options), StopSignal() as stop:
        training = Training(options, files, videos, device, dtype, processes)
        training.begin(beginning, facts)
        code = training.run(stop, started)
    processes.disconnect()
    return code


def _choose_flow(options: TrainOptions, files: Run) -> FlowChoice:
    from models.checkpoints import read_run_options
    from models.flow import choose_flow

    before = read_run_options(files).get("flow") if files.options_path.is_file() else None
    return choose_flow(options.flow, options.faceflow, options.flownet2_checkpoint, before)


def _flow_reader(options: TrainOptions) -> Callable:
    def read(sequence):
        flows = read_flows(sequence, options.flow, options.loadSize)
        if flows is None:
            raise UserError(f"{sequence.flow_path(options.flow, options.loadSize)} is missing or damaged; delete it and run again")
        return flows

    return read


def _find_persons(dataset: Dataset, names: list[str]) -> None:
    """See where every training frame shows the person, unless that is kept already."""
    from preprocessing.tracking.person_matte import create_person_mask

    for name in progress(names, desc="person and background", unit="person"):
        if not ensure_persons(dataset, name, create_person_mask):
            raise UserError(
                "moving heads in training needs MediaPipe to find the person in the frames; install it with: "
                "pip install --no-deps mediapipe==0.10.21, or train with --move_heads 0"
            )


def _read_persons(dataset: Dataset, name: str) -> Persons:
    persons = read_persons(dataset, name)
    if persons is None:
        raise UserError(f"{dataset.persons_path(name)} is missing or damaged; delete it and run again")
    return persons


def _data_key(dataset: Dataset, names: list[str], videos: VideoDataset) -> list[Any]:
    """What the run learns from, to notice when that was replaced: the sequences, and where their frames come from."""
    records = [dataset.read_record(name) for name in names]
    sequences = [[s.id, n] for s, n in zip(videos.sequences, videos.lengths)]
    return [sequences, [[r.sources, r.crop_box, r.face_model] if r else None for r in records]]


def check_run(files: Run, options: TrainOptions, facts: dict[str, Any]) -> str:
    """How the run begins: 'new', 'resume' (exactly), 'weights' (of a checkpoint without its training state), or 'finished'.

    Raises: UserError when the folder holds another run than this command describes.
    """
    from models.checkpoints import read_run_options, read_tensors

    weights = files.network_path("G", options.which_epoch)
    if not files.state_path.is_file():
        if weights.is_file():
            if not options.continue_train:
                raise UserError(f"{files.checkpoints} holds a trained generator; go on with --continue_train, or choose another --name")
            return "weights"
        if options.continue_train:
            if options.which_epoch != "latest":
                raise UserError(f"--continue_train --which_epoch {options.which_epoch}: there is no {weights}")
            say(f"nothing to continue in {files.checkpoints}: starting anew")
        return "new"
    before = read_run_options(files)
    now = json.loads(json.dumps({**options.as_dict(), **facts}))
    if before.get("data") != now["data"]:
        raise UserError(
            f"{files.checkpoints} was trained on other frames than dataset {options.dataset_name} holds now; delete that folder, or choose "
            f"another --name (with --load_pretrain {files.checkpoints} to start from its networks)"
        )
    fixed = ARCHITECTURE if options.continue_train else [k for k in options.as_dict() if k not in UNCRITICAL]
    changed = [f"--{k} was {before.get(k)}, is {now[k]}" for k in fixed if before.get(k) != now[k]]
    if changed:
        go_on = "" if options.continue_train else ", go on with --continue_train"
        raise UserError(
            f"{files.checkpoints} holds a run with other options ({'; '.join(changed)}); use the same{go_on}, or another --name"
        )
    if options.which_epoch != "latest" and options.continue_train:
        return "weights"
    state = read_tensors(files.state_path, lazily=True)
    return "finished" if state["finished"] and state["epochs"] >= options.niter + options.niter_decay else "resume"


@contextlib.contextmanager
def _advice_when_out_of_memory(options: TrainOptions) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as e:
        chosen = {"batch_size": options.batch_size or 2, "max_frames_per_gpu": options.max_frames_per_gpu, "ngf": options.ngf}
        halves = [f"--{name} {value // 2}" for name, value in chosen.items() if value > 1]
        raise UserError(f"out of GPU memory ({str(e).splitlines()[0][:160]}); try {', '.join(halves)}, or a smaller --loadSize") from None


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a wish to stop at the next good moment; a second one stops at once."""

    def __init__(self) -> None:
        self.received = 0  # the signal's number

    def __enter__(self) -> StopSignal:
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        say("stopping after this clip (once more: at once, without saving)")


def choose_batch_size(options: TrainOptions, device: torch.device) -> int:
    """The most clips of 1, 2, 4 that the device's memory holds at the chosen image size; 1 without a GPU."""
    import torch

    if device.type != "cuda":
        return 1
    free_gb = torch.cuda.mem_get_info(device)[0] / 1e9
    per_clip_gb = GB_PER_FRAME * options.max_frames_per_gpu * (options.loadSize / 256) ** 2 * options.ngf / 64
    return max((n for n in (1, 2, 4) if GB_FIXED + n * per_clip_gb <= free_gb), default=1)


class LossMeter:
    """Means of the losses since the last reading, kept on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means, and start again ({} when nothing was added). Raises: UserError when a loss is not finite."""
        import torch

        if not self._sums:
            return {}
        values = torch.stack(list(self._sums.values())).tolist()
        means = {name: value / count for (name, count), value in zip(self._counts.items(), values)}
        self._sums, self._counts = {}, {}
        bad = [k for k, v in means.items() if not math.isfinite(v)]
        if bad:
            raise UserError(DIVERGED.format(", ".join(bad)))
        return means


@dataclass
class Progress:
    """Where a run stands; saved with it."""

    epoch: int = 0  # complete epochs
    clip: int = 0  # clips done in the present epoch
    steps: int = 0  # optimiser steps in all
    frames: int = 0  # frames in all
    seconds: float = 0.0  # of training in all
    share: float = 0.0  # how much of the schedule is done by time limits, 0..1


class Clock:
    """Fits what is left of the schedule into a command's time limit."""

    def __init__(self, started: float, max_minutes: float | None, share: float, reserve_s: float):
        """started: when the command began (time.monotonic). share: of the schedule that earlier commands did. reserve_s: for saving."""
        self.before = share
        self.begin = time.monotonic()
        self.end = None if max_minutes is None else max(started + 60 * max_minutes - reserve_s, self.begin + 1e-3)

    def share(self) -> float:
        """How much of the schedule is over by time, 0..1."""
        if self.end is None:
            return self.before
        return self.before + (1 - self.before) * min(1.0, (time.monotonic() - self.begin) / (self.end - self.begin))


class Training:
    """The training loop with its clock, checkpoints and log."""

    def __init__(
        self, options: TrainOptions, files: Run, videos: VideoDataset, device: torch.device, dtype: torch.dtype, processes: Processes
    ):
        import torch

        from models.head2head_model import Head2HeadModel, ModelOptions
        from models.schedule import Schedule

        self.options, self.files, self.videos, self.device, self.processes = options, files, videos, device, processes
        self.schedule = _pick(Schedule, options)
        self.roi_px = scaled_size(options.loadSize, options.ROI_size)
        torch.manual_seed(options.seed)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # the shapes repeat, so looking for the fastest convolutions pays
        vgg = _load_vgg(options)
        chosen = _pick(ModelOptions, options, roi_px=self.roi_px)
        self.model: Head2HeadModel = Head2HeadModel(chosen, device, dtype, vgg, graphs=options.cuda_graphs, processes=processes)
        self.batch_size = options.batch_size or choose_batch_size(options, device)
        self.batch_size = -processes.agree(0.0, -self.batch_size, device)[1]  # the smallest GPU decides
        self.clips_at_once = self.batch_size * processes.size
        self.progress = Progress()
        self.meter = LossMeter()
        self.writer = CheckpointWriter(files)

    # -- beginning -----------------------------------------------------------------------------------------------------

    def begin(self, how: str, facts: dict[str, Any]) -> None:
        """Bring the model to where check_run said that the run begins, and write opt.txt."""
        from models.checkpoints import read_iteration, write_run_options

        o = self.options
        if how == "resume":
            self.load_state()
            say(f"going on at epoch {self.progress.epoch + 1}, step {self.progress.steps}")
        elif how == "weights":
            self.load_networks(self.files, o.which_epoch)
            self.progress.epoch = int(o.which_epoch) if o.which_epoch != "latest" else read_iteration(self.files)
            warn(f"this checkpoint has no training state: the optimisers start afresh, at epoch {self.progress.epoch + 1}")
        elif o.load_pretrain:
            self.load_networks(Run(o.load_pretrain, o.load_pretrain), o.which_epoch)
        if how != "resume":
            self.model.restart_average()
        self.model.copy_from_first()
        if self.processes.is_first:
            write_run_options(self.files, {**o.as_dict(), **facts})

    def load_state(self) -> None:
        import torch

        from models.checkpoints import read_tensors

        state = read_tensors(self.files.state_path)
        for label, network in self.model.networks.items():
            network.load_state_dict(state["networks"][label])
        self.model.load_optimizers(state["optimizers"])
        if self.model.average is not None:
            self.model.average.load_state(state["average"])
        torch.set_rng_state(state["rng"])
        self.progress = Progress(**state["progress"])

    def load_networks(self, source: Run, which_epoch: str) -> None:
        """Load the generator, and every discriminator that is there."""
        from models.checkpoints import load_weights

        for label, network in self.model.networks.items():
            path = source.network_path(label, which_epoch)
            if label == "G" or path.is_file():
                load_weights(network, path)
            else:
                say(f"there is no {path}: {label} starts from random weights")

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self, stop: StopSignal, started: float) -> int | None:
        """Train to the end of the schedule, or until told to stop. started: when the command began (time.monotonic).

        Returns: None, or the exit code of a command that was told to stop.
        """
        from util.report.training_page import Visualizer

        p = self.progress
        if self.finished:
            say(f"{self.files.checkpoints} has had its {self.schedule.epochs} epochs already; raise --niter to go on")
            return None
        self.clock = Clock(started, self.options.max_minutes, p.share, self.model_bytes() / 1e8 + 1)
        self.total_frames = self.schedule.frames(self.videos.lengths)
        first = self.processes.is_first  # it alone writes
        self.visualizer = Visualizer(self.files, p.steps) if first else None
        self.board = _tensorboard(self.files, p.steps) if first and self.options.tensorboard else None
        self.logged = self.saved = time.monotonic()
        self.shown = -math.inf
        self.unsaved_clips = 0
        earlier, begun = p.seconds, time.monotonic()
        sample = None
        with self.writer, progress(desc="training", total=1000) as self.bar:
            self.bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            with contextlib.closing(self.clips()) as clips:
                while not (stop.received or self.finished):
                    clip = next(clips)
                    sample = clip, self.train(clip)
                    p.seconds = earlier + time.monotonic() - begun
                    p.share, stop.received = self.processes.agree(self.clock.share(), stop.received, self.device)
                    self.after_clip(*sample)
            if sample and first:
                self.show(*sample)
            self.save()
        if self.visualizer:
            self.visualizer.finish()
        if self.board:
            self.board.close()
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
        """The clips that are to come, without end, in batches on the device, with the learning rate set for each."""
        from data.loader import choose_clips, load_clips

        lengths, on_gpu = self.videos.lengths, self.device.type == "cuda"
        while True:
            n_frames = self.schedule.clip_length(self.position)
            first = self.progress.epoch * self.schedule.clips(lengths) + self.progress.clip
            batches = (range(i, i + self.clips_at_once) for i in itertools.count(first, self.clips_at_once))
            indices = (self.own_part(choose_clips(lengths, n_frames, batch, self.options.seed)) for batch in batches)
            with contextlib.closing(load_clips(self.videos, indices, workers=_LOADERS if on_gpu else 1, pin_memory=on_gpu)) as batches:
                for batch in batches:
                    self.model.set_lr(self.schedule.learning_rate(self.position))
                    yield self.to_clip(batch)
                    if self.schedule.clip_length(self.position) != n_frames:
                        break  # longer clips from here on

    def to_clip(self, batch: dict[str, Any]) -> Clip:
        """A batch of the loader as a clip on the device, heads moved if that is asked for."""
        from data.augmentation.head_motion import move_heads
        from util.tensors import to_device

        corners = self.windows(batch["landmarks"])
        batch = to_device(batch, self.device)
        return self.model.to_clip(move_heads(batch) if "motion" in batch else batch, corners)

    def own_part(self, clips: list[ClipIndex]) -> list[ClipIndex]:
        """What this process trains on, of a batch of all processes; all get clips of the same length, so that they take the same steps."""
        length = min(c.length for c in clips)
        first = self.processes.rank * self.batch_size
        return [replace(c, length=length) for c in clips[first : first + self.batch_size]]

    def windows(self, landmarks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Corners of the mouth's and eyes' windows, int64 [B, T, 2], of landmarks [B, T, 70, 2] on the CPU."""
        import torch

        side = self.options.loadSize
        return {r: torch.from_numpy(window(landmarks.numpy(), r, self.roi_px, side, side)) for r in REGIONS}

    def train(self, clip: Clip) -> torch.Tensor:
        """Train on a clip; returns the frames generated last, [B, n, 3, H, W]."""
        for losses, fake in self.model.train_clip(clip):  # noqa: B007
            self.meter.add(losses)
            self.progress.steps += 1
        return fake

    def after_clip(self, clip: Clip, fake: torch.Tensor) -> None:
        """Count the clip; log, show and save when it is time to."""
        p, now = self.progress, time.monotonic()
        before = p.epoch
        more, p.clip = divmod(p.clip + self.clips_at_once, self.schedule.clips(self.videos.lengths))
        p.epoch += more
        p.frames += self.clips_at_once * clip.length
        self.unsaved_clips += self.clips_at_once
        if not self.processes.is_first:
            return
        if now - self.logged >= LOG_INTERVAL_S:
            self.log()
        if now - self.shown >= IMAGE_INTERVAL_S:
            self.show(clip, fake)
        if p.epoch // self.options.save_epoch_freq > before // self.options.save_epoch_freq:
            self.save(str(p.epoch))
        elif self.unsaved_clips >= self.options.save_latest_freq or now - self.saved >= SAVE_INTERVAL_S:
            self.save()

    def log(self) -> None:
        """Write the mean losses since the last time, and move the bar. Raises: UserError when training diverged."""
        p = self.progress
        losses = self.meter.read()
        self.logged = time.monotonic()
        if not losses:
            return
        sums = {
            "G": sum(v * self.model.weights[k] for k, v in losses.items() if k.startswith("G_")),
            "D": sum(v * self.model.weights[k] for k, v in losses.items() if k.startswith("D")),
        }
        self.visualizer.log(p.steps, p.epoch + 1, {**sums, **losses}, p.seconds)
        if self.board:
            for name, value in {**sums, **losses}.items():
                self.board.add_scalar(name, value, p.steps)
        shown = {k: f"{v:.3g}" for k, v in sums.items()} | {"epoch": p.epoch + 1, "frames/s": f"{p.frames / max(p.seconds, 1e-6):.1f}"}
        self.bar.set_postfix(shown, refresh=False)
        frames = min(1.0, p.frames / self.total_frames)
        self.bar.update(round(1000 * max(frames, p.share)) - self.bar.n)

    def show(self, clip: Clip, fake: torch.Tensor) -> None:
        """Put the last frame of a clip on the page."""
        from util.tensors import to_image

        pictures = {"real": clip.real[0, -1].cpu().numpy(), "fake": to_image(fake[0, -1])}
        pictures |= dict(zip(("nmfc", "gaze"), (x.cpu().numpy() for x in clip.conditioning[0, -1].split(3, dim=-1))))
        self.visualizer.images(self.progress.steps, pictures)
        if self.board:
            self.board.add_image("sample", np.concatenate(list(pictures.values()), axis=1), self.progress.steps, dataformats="HWC")
        self.shown = time.monotonic()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def model_bytes(self) -> int:
        """About the size of a checkpoint: weights once as such, once in the state, with two moments each."""
        return sum(4 * v.numel() * v.element_size() for v in self.model.parameters())

    def save(self, epoch: str | None = None) -> None:
        """Write the checkpoint 'latest' (and one to keep, named `epoch`) from a copy, while training goes on."""
        import torch

        from models.checkpoints import snapshot

        if not self.processes.is_first:
            return
        self.log()
        m = self.model
        if not torch.stack([v.isfinite().all() for v in m.networks["G"].state_dict().values()]).all():
            raise UserError(DIVERGED.format("the generator's weights"))
        state = {
            "networks": {label: network.state_dict() for label, network in m.networks.items()},
            "average": m.average.state() if m.average is not None else None,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in m.optimizers.items()},
            "rng": torch.get_rng_state(),
            "progress": asdict(self.progress),
            "epochs": self.schedule.epochs,
            "finished": self.finished,
        }
        self.writer.write(snapshot(state), epoch)
        self.unsaved_clips, self.saved = 0, time.monotonic()


class CheckpointWriter:
    """Writes checkpoints on a thread of its own, one at a time; leaving the context waits for the last."""

    def __init__(self, files: Run):
        self.files = files
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if self._writing is not None:
            self._writing.result()

    def write(self, state: dict[str, Any], epoch: str | None) -> None:
        """Write all files of a checkpoint. Raises what went wrong with the one before."""
        if self._writing is not None:
            self._writing.result()
        self._writing = self._thread.submit(self._write, state, epoch)

    def _write(self, state: dict[str, Any], epoch: str | None) -> None:
        from models.checkpoints import write_tensors

        networks = dict(state["networks"])
        if state["average"] is not None:
            networks["G"] = state["average"]["network"]
        for name in ("latest", epoch) if epoch else ("latest",):
            for label, weights in networks.items():
                write_tensors(self.files.network_path(label, name), weights)
        position = state["progress"]
        write_bytes(self.files.iteration_path, f"{position['epoch'] + 1}\n{position['clip']}\n".encode())
        # Last: it alone says where the run stands, and it is complete in itself.
        write_tensors(self.files.state_path, state)


def _pick(cls: type, options: TrainOptions, **values: Any) -> Any:
    """Make a dataclass from the options of the same names, and further values."""
    return cls(**{f.name: getattr(options, f.name) for f in fields(cls) if f.name not in values}, **values)


def _tensorboard(files: Run, step: int) -> SummaryWriter:
    """TensorBoard's log of a run, going on from a step."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(files.checkpoints / "tensorboard"), purge_step=step)


def _load_vgg(options: TrainOptions) -> VGGLoss | None:
    """The VGG19 loss, or None when it is off or its weights cannot be had."""
    if not options.vgg or not options.lambda_vgg:
        return None
    from models.losses import VGG19_URL, VGGLoss, find_vgg_weights

    path = options.vgg_weights or find_vgg_weights()
    if path is None:
        warn(f"training without the VGG loss: its weights cannot be downloaded ({VGG19_URL}); --vgg_weights FILE takes a local copy")
        return None
    return VGGLoss(path)


if __name__ == "__main__":
    run(main)
