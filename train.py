"""Train the generator of one person, or of all persons of a dataset.

    python train.py --dataset_name D --target_id T               the default recipe (as published: --preset literal)
    python train.py --dataset_name D --target_id T --preset preview --max_minutes 6

    torchrun --nproc_per_node 2 train.py ...                    on two GPUs (the wrappers: GPUS=2)

Writes checkpoints/<D>/<name>/ (docs/formats.md). Ctrl-C and SIGTERM save first; the same command resumes exactly there.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parent)
    import util.environment  # noqa: F401  (says what to do where packages are missing)

# The loader's threads multiply matrices at the same time: with a BLAS thread a core for each of them, 32 cores do little but wait.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from data.integrity import tell_left_out
from options.base_options import choose_identities
from options.train_options import ARCHITECTURE, UNCRITICAL, TrainOptions, parse
from util import VERSION
from util.caches.flow import require_flows
from util.caches.persons import require_persons
from util.cli import UserError, be_quiet, run, say, warn
from util.distributed import Processes
from util.face.roi import scaled_size
from util.identities import find_identity
from util.image_io import write_bytes
from util.layout import Dataset, Run
from util.locks import locked
from util.provenance import NOT_STATED

if TYPE_CHECKING:
    import torch

    from data.clips import VideoDataset
    from models.flow import FlowChoice
    from models.head2head_model import Head2HeadModel
    from models.training.loop import Training

MAX_NAMED = 8  # persons whose frames that are left out are told of
MAX_PROFILES = 20  # persons; each profile delays the training by a second or two


def main(argv: Sequence[str] | None = None) -> int | None:
    started = time.monotonic()
    options = parse(argv)
    processes = Processes.of_environment()
    if not processes.is_first:
        be_quiet()
    dataset = Dataset.open(options.dataset_name, options.datasets_dir)
    options = replace(options, target_id=find_identity(dataset, options.target_id))
    names = choose_identities(options, dataset.identities())
    run_name = options.name or f"head2head_{options.target_id or (names[0] if len(names) == 1 else options.dataset_name)}"
    files = Run.open(options.dataset_name, run_name, options.checkpoints_dir)
    with locked(files.lock_path, f"the run {files.checkpoints}") if processes.is_first else nullcontext():
        return train(options, dataset, names, files, processes, started)


def train(options: TrainOptions, dataset: Dataset, names: list[str], files: Run, processes: Processes, started: float) -> int | None:
    """Train a run on these persons, from its beginning or from where it was stopped; the command's exit code."""
    # PyTorch takes seconds to import: wrong options are found before
    from models.training.beginning import check_pretrained, check_run, finish_again
    from models.training.memory import advice_when_out_of_memory
    from models.training.stop_signal import StopSignal
    from util.device import choose_device, choose_precision, device_name

    flow = choose_flow(options, files) if options.needs_flow else None
    options = replace(options, flow=flow.name if flow else "dis")  # the method that auto chose; without use of flow, any value
    videos = open_videos(options, dataset, names)
    facts = {"identities": names, "face_model": videos.face_model, "data": data_key(dataset, names, videos)}
    consent = {"consent": {name: dataset.consent(name) or NOT_STATED for name in names}}
    beginning = check_run(files, options.as_dict(), facts, architecture=ARCHITECTURE, free=UNCRITICAL)
    if beginning == "finished":
        if processes.is_first:
            write_profiles(dataset, names, files, lost_only=True)
            write_appearances(options, videos, names, files, lost_only=True)
        finish_again(files, options.niter_decay, {**options.as_dict(), **facts, **consent}, processes.is_first)
        return None
    if beginning == "new" and options.load_pretrain:
        networks = {name: getattr(options, name) for name in ARCHITECTURE}
        check_pretrained(options.load_pretrain, videos.face_model, networks, options.which_epoch)
    for name in names if len(names) <= MAX_NAMED else ():
        if left_out := tell_left_out(dataset, name):
            say(left_out)
    device = choose_device(options.gpu_ids, processes.local_rank)
    dtype = choose_precision(options.precision, device)
    processes.connect(device)  # after all processes have read the run's state, before the first one writes
    prepare(options, dataset, names, flow, device, processes)
    sizes = {"batch_size": options.batch_size or 2, "max_frames_per_gpu": options.max_frames_per_gpu, "ngf": options.ngf}
    with advice_when_out_of_memory(sizes), StopSignal() as stop:
        training = make_training(options, files, videos, device, dtype, processes)
        recorded = {**options.as_dict(), **facts, **consent, "head2head": VERSION}
        recorded["device"] = ", ".join([device_name(device)] * processes.size)
        training.begin(beginning, recorded, options.which_epoch, options.load_pretrain)
        if processes.is_first:
            write_profiles(dataset, names, files)
            write_appearances(options, videos, names, files)
        code = training.run(stop, started)
    processes.disconnect()
    return code


def choose_flow(options: TrainOptions, files: Run) -> FlowChoice:
    """The method that the options ask for; with auto, the one that an earlier run of the same name took."""
    from models import flow
    from models.checkpoints import recorded_options

    before = (recorded_options(files) or {}).get("flow")
    return flow.choose_flow(options.flow, options.faceflow, options.flownet2_checkpoint, before)


def open_videos(options: TrainOptions, dataset: Dataset, names: list[str]) -> VideoDataset:
    from data.clips import VideoDataset
    from preprocessing.driving.head_mesh import HeadMeshes

    return VideoDataset(
        dataset,
        names,
        options.loadSize,
        augment=options.augment,
        move_heads=options.move_heads,
        change_expressions=options.change_expressions,
        appearance=options.appearance,
        context=options.conditioning_frames - 1,
        flows=partial(require_flows, method=options.flow, size=options.loadSize) if options.needs_flow else None,
        persons=partial(require_persons, dataset),
        meshes=HeadMeshes(dataset),
    )


def data_key(dataset: Dataset, names: list[str], videos: VideoDataset) -> list[Any]:
    """Identifies the training data, so that a resumed run notices other data: the sequences, and the sources of their frames."""
    records = [dataset.read_record(name) for name in names]
    return [videos.description, [[r.sources, r.crop_box, r.face_model] if r else None for r in records]]


def prepare(
    options: TrainOptions, dataset: Dataset, names: list[str], flow: FlowChoice | None, device: torch.device, processes: Processes
) -> None:
    """Compute the flow and masks that are not cached yet, shared among the processes."""
    import torch

    from data.preparation import Recipe, choose_workers, share_items
    from data.preparation import prepare as prepare_items
    from preprocessing.tracking.person_matte import create_person_mask

    recipe = Recipe(options.loadSize, heads=bool(options.move_heads), make_mask=create_person_mask)
    if flow:
        make_estimate = partial(flow.make_estimate, device)
        recipe = replace(recipe, flow=flow.name, flow_made_from=flow.made_from, make_estimate=make_estimate)
    items = share_items(dataset, names, processes.rank, processes.size)
    # FlowNet2 stays on this process's GPU
    workers = 0 if flow and flow.checkpoint else choose_workers(len(items), processes.size)
    if flow or recipe.heads:
        prepare_items(items, recipe, workers=workers, done=processes.report_alive)
    processes.wait("preparing flow and masks")
    if flow and device.type == "cuda":
        torch.cuda.empty_cache()  # FlowNet2's memory: the batch size is chosen by the free memory


def write_profiles(dataset: Dataset, names: list[str], files: Run, lost_only: bool = False) -> None:
    """Write the persons' target profiles beside the checkpoint, so that driving them needs no dataset.

    lost_only: those alone that are missing or damaged, and say so.
    """
    from preprocessing.driving.people import profile_of_dataset

    if lost_only:
        names = [name for name in names if not is_profile(files.profile_path(name))] if len(names) <= MAX_PROFILES else []
    if len(names) > MAX_PROFILES:
        say(f"{len(names)} persons: target profiles and colours are not written; scripts/write_profile.py makes them one by one")
        return
    for name in names:
        profile = profile_of_dataset(dataset, name)
        if profile is not None:
            write_bytes(files.profile_path(name), profile.to_bytes())
            if lost_only:
                warn(f"{files.profile_path(name)} was missing or damaged: written anew from the dataset")


def write_appearances(options: TrainOptions, videos: VideoDataset, names: list[str], files: Run, lost_only: bool = False) -> None:
    """Write what the persons look like beside the checkpoint, where the generator sees it.

    lost_only: leave what is there as it is, for it is what a finished run has learnt with.
    """
    if not options.appearance or len(names) > MAX_PROFILES:  # of so many, scripts/write_profile.py writes those that are to be drawn
        return
    for name in names:
        if not lost_only or not files.appearance_path(name).is_file():
            write_bytes(files.appearance_path(name), videos.appearance(name).to_bytes())


def is_profile(path: Path) -> bool:
    from preprocessing.driving.profile import TargetProfile

    try:
        TargetProfile.from_bytes(path.read_bytes(), path)
    except (FileNotFoundError, UserError):
        return False
    return True


def make_training(
    options: TrainOptions, files: Run, videos: VideoDataset, device: torch.device, dtype: torch.dtype, processes: Processes
) -> Training:
    """The networks with random weights of the seed, and the loop that trains them."""
    from data.clip_stream import ClipStream
    from models.schedule import Schedule
    from models.training.loop import LoopOptions, Training
    from models.training.memory import choose_batch_size

    roi_px = scaled_size(options.loadSize, options.ROI_size)
    model = make_model(options, roi_px, device, dtype, processes)
    batch_size = options.batch_size or choose_batch_size(
        device, frames=options.max_frames_per_gpu, load_size=options.loadSize, ngf=options.ngf
    )
    batch_size = processes.smallest(batch_size, device)  # the smallest GPU decides
    clips = ClipStream(videos, device, roi_px=roi_px, seed=options.seed)
    return Training(pick(LoopOptions, options), pick(Schedule, options), model, clips, files, batch_size)


def make_model(options: TrainOptions, roi_px: int, device: torch.device, dtype: torch.dtype, processes: Processes) -> Head2HeadModel:
    import torch

    from models.head2head_model import Head2HeadModel, ModelOptions
    from models.losses import load_vgg

    torch.manual_seed(options.seed)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the shapes repeat, so looking for the fastest convolutions pays
    vgg = load_vgg(options.vgg_weights) if options.vgg and options.lambda_vgg else None
    return Head2HeadModel(pick(ModelOptions, options, roi_px=roi_px), device, dtype, vgg, graphs=options.cuda_graphs, processes=processes)


def pick(cls: type, options: TrainOptions, **values: Any) -> Any:
    """Make a dataclass from the options of the same names, and further values."""
    return cls(**{f.name: getattr(options, f.name) for f in fields(cls) if f.name not in values}, **values)


if __name__ == "__main__":
    run(main)
