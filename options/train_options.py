"""Options of train.py: the original's names and defaults, and presets that change defaults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from options.base_options import BaseOptions, add_base_options, make_options
from util.cli import UserError, add_flag

# Presets change defaults; an option given on the command line wins over them.
PRESETS: dict[str, dict[str, Any]] = {
    # The published networks and losses, trained several times faster and to better pictures (docs/log/).
    "default": {
        "batch_size": 0,
        "margin": 16,
        "use_eyes_D": True,
        "ema": 0.999,
        "augment": False,
        "move_heads": 0.7,
        "lambda_L1": 50.0,
        "lambda_gradient": 50.0,
        "niter": 100,
        "niter_decay": 50,
        "niter_step": 8,
        "epoch_frames": 650,
    },
    "literal": {"precision": "fp32", "cuda_graphs": False},  # the published recipe to the letter: the reference
    # For a processor without a GPU: the best picture after a few minutes on two cores.
    "preview": {
        "max_minutes": 6.0,
        "ema": 0.99,
        "loadSize": 128,
        "augment": False,
        "move_heads": 0.5,
        "perspective": True,
        "ngf": 16,
        "n_blocks": 6,
        "prev_output": False,
        "ndf": 8,
        "num_D": 1,
        "use_eyes_D": True,
        "n_scales_temporal": 0,
        "lambda_warp": 0.0,
        "vgg": False,
        "lambda_L1": 200.0,
        "lambda_gradient": 150.0,
        "lr": 1e-3,
        "n_frames_total": 2,
        # without end: the time limit is the schedule
        "niter": 40000,
        "niter_decay": 20000,
        "niter_step": 100000,
    },
}
FLOWS = ("auto", "dis", "flownet2")
# What the networks' shapes depend on: it cannot change when a run is continued.
ARCHITECTURE = (
    "loadSize",
    "ngf",
    "n_downsample_G",
    "n_blocks",
    "margin",
    "prev_output",
    "eye_gaze",
    "ndf",
    "num_D",
    "n_layers_D",
    "mouth_D",
    "use_eyes_D",
    "n_scales_temporal",
)


@dataclass(frozen=True)
class TrainOptions(BaseOptions):
    preset: str
    max_minutes: float | None
    # data
    loadSize: int
    batch_size: int
    augment: bool
    move_heads: float
    perspective: bool
    flow: str
    faceflow: bool
    flownet2_checkpoint: Path | None
    seed: int
    cuda_graphs: bool
    # networks
    ngf: int
    n_downsample_G: int
    n_blocks: int
    margin: int
    prev_output: bool
    eye_gaze: bool
    ndf: int
    num_D: int
    n_layers_D: int
    mouth_D: bool
    use_eyes_D: bool
    ROI_size: int
    n_scales_temporal: int
    detail_init: bool
    # losses
    lambda_feat: float
    lambda_vgg: float
    vgg: bool
    vgg_weights: Path | None
    lambda_warp: float
    lambda_L1: float
    lambda_gradient: float
    # schedule
    lr: float
    niter: int
    niter_decay: int
    niter_step: int
    epoch_frames: int
    n_frames_total: int
    max_frames_per_gpu: int
    ema: float
    # checkpoints and logs
    continue_train: bool
    load_pretrain: Path | None
    save_latest_freq: int
    save_epoch_freq: int
    tensorboard: bool

    @property
    def needs_flow(self) -> bool:
        return self.n_scales_temporal > 0 or self.lambda_warp > 0

    def as_dict(self) -> dict[str, Any]:
        """All options as plain values for opt.txt."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Learn to synthesise a person's head from conditioning images.",
        allow_abbrev=False,
    )
    add_base_options(parser)
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="default",
        help="default: our recipe; literal: the published one, slower; preview: quick, for CPUs",
    )
    parser.add_argument("--max_minutes", type=float, metavar="M", help="end after M minutes, with the whole schedule fitted into them")

    data = parser.add_argument_group("data")
    _number(data, "--loadSize", 256, "side of the images that are trained on", "PX")
    text = "clips trained on at the same time; 0: as many as the GPU's memory holds, at most 4"
    _number(data, "--batch_size", 1, text, alias="--batchSize")
    add_flag(data, "augment", True, "jitter the conditioning images, so that another person's motion does not look foreign later")
    text = "share of the clips in which the head is moved, in frames and conditioning alike: poses that were not filmed"
    _number(data, "--move_heads", 0.0, text, "P")
    add_flag(data, "perspective", False, "heads are moved as the person's camera, which is near, sees them; else as one far away would")
    data.add_argument(
        "--flow", choices=FLOWS, default="auto", help="reference optical flow; auto: flownet2 if its checkpoint is there, else dis"
    )
    add_flag(data, "faceflow", True, "of the published FlowNet2 checkpoints take the one that is tuned on faces")
    data.add_argument("--use_faceflow", dest="faceflow", action="store_true", help=argparse.SUPPRESS)  # the original's name
    data.add_argument("--flownet2_checkpoint", type=Path, metavar="FILE", help="FlowNet2's weights (default: in models/flownet2_pytorch)")
    _number(data, "--seed", 0, "of the initial weights, the windows and the jitter")
    add_flag(data, "cuda_graphs", True, "on a GPU, record each kind of step once and replay it: faster, with more memory")

    networks = parser.add_argument_group("networks")
    _number(networks, "--ngf", 64, "base width of the generator")
    _number(networks, "--n_downsample_G", 3, "halvings in the generator")
    _number(networks, "--n_blocks", 9, "residual blocks on the generator's way")
    _number(networks, "--margin", 0, "columns beyond the picture that the generator works on as well", "PX")
    add_flag(networks, "prev_output", True, "the generator sees its last two frames")
    add_flag(networks, "eye_gaze", True, "the generator sees the eye gaze image")
    _number(networks, "--ndf", 64, "base width of the discriminators")
    _number(networks, "--num_D", 2, "scales of every discriminator")
    _number(networks, "--n_layers_D", 3, "strided layers of every discriminator")
    add_flag(networks, "mouth_D", True, "a discriminator for the mouth")
    add_flag(networks, "use_eyes_D", False, "a discriminator for the eyes")
    _number(networks, "--ROI_size", 72, "window of mouth and eyes, for 256-pixel images", "PX")
    _number(networks, "--n_scales_temporal", 3, "temporal discriminators (steps 1, 3, 9)")

    add_flag(networks, "detail_init", False, "initial weights that give the discriminators an eye for detail from the start")

    losses = parser.add_argument_group("losses")
    _number(losses, "--lambda_feat", 10.0, "weight of feature matching", "W")
    _number(losses, "--lambda_vgg", 10.0, "weight of the VGG19 loss", "W")
    add_flag(losses, "vgg", True, "the VGG19 loss, if its weights can be had")
    losses.add_argument("--vgg_weights", type=Path, metavar="FILE", help="torchvision's vgg19 weights, instead of a download")
    _number(losses, "--lambda_warp", 10.0, "weight of the warp loss", "W")
    _number(losses, "--lambda_L1", 0.0, "weight of the mean absolute difference", "W")
    _number(losses, "--lambda_gradient", 0.0, "weight of the difference of the pictures' gradients", "W")

    schedule = parser.add_argument_group("schedule")
    _number(schedule, "--lr", 2e-4, "learning rate of Adam", "R")
    _number(schedule, "--niter", 40, "epochs at the full learning rate")
    _number(schedule, "--niter_decay", 20, "epochs of its linear decay")
    _number(schedule, "--niter_step", 5, "epochs after which clips become twice as long")
    _number(schedule, "--epoch_frames", 0, "frames that an epoch has at least: it goes through a shorter video more than once")
    _number(schedule, "--n_frames_total", 12, "frames of a clip at first")
    _number(schedule, "--max_frames_per_gpu", 4, "frames of a chunk, i.e. of one step")
    _number(schedule, "--ema", 0.0, "decay of the moving average of the generator's weights, which is what is saved; 0: none", "D")

    files = parser.add_argument_group("checkpoints and logs")
    add_flag(files, "continue_train", False, "go on from the run's latest checkpoint; options may differ, except the networks'")
    files.add_argument("--load_pretrain", type=Path, metavar="DIR", help="start from the networks in this run's folder")
    _number(files, "--save_latest_freq", 100, "clips between two checkpoints")
    _number(files, "--save_epoch_freq", 100, "epochs between two checkpoints that are kept")
    add_flag(files, "tensorboard", True, "write TensorBoard logs")
    return parser


def _number(group: argparse._ArgumentGroup, name: str, default: float, help: str, metavar: str = "N", alias: str | None = None) -> None:
    names = [name, alias] if alias else [name]
    group.add_argument(*names, type=type(default), default=default, metavar=metavar, help=f"{help} (default: %(default)s)")


def parse(argv: Sequence[str] | None = None) -> TrainOptions:
    """Parse and check the command line of train.py.

    Raises: UserError for values that cannot work together.
    """
    parser = build_parser()
    preset = parser.parse_args(argv).preset
    parser.set_defaults(**PRESETS[preset])
    options = make_options(TrainOptions, parser.parse_args(argv))
    _check(options)
    return options


def _check(o: TrainOptions) -> None:
    networks = "loadSize ngf n_blocks ndf num_D n_layers_D ROI_size"
    schedule = "niter_step n_frames_total max_frames_per_gpu save_latest_freq save_epoch_freq"
    for name in f"{networks} {schedule}".split():
        if getattr(o, name) < 1:
            raise UserError(f"--{name} {getattr(o, name)} must be at least 1")
    losses = "lambda_feat lambda_vgg lambda_warp lambda_L1 lambda_gradient"
    for name in f"batch_size niter niter_decay epoch_frames n_downsample_G margin {losses} seed".split():
        if getattr(o, name) < 0:
            raise UserError(f"--{name} {getattr(o, name)} must not be negative")
    if o.niter + o.niter_decay < 1:
        raise UserError("--niter and --niter_decay are both 0: there is nothing to train")
    if not 0 <= o.move_heads <= 1:
        raise UserError(f"--move_heads {o.move_heads} must be 0 to 1")
    if not 0 <= o.ema < 1:
        raise UserError(f"--ema {o.ema} must be at least 0 and below 1")
    if o.lr <= 0:
        raise UserError(f"--lr {o.lr} must be above 0")
    if o.max_minutes is not None and o.max_minutes <= 0:
        raise UserError(f"--max_minutes {o.max_minutes} must be above 0")
    if not 0 <= o.n_scales_temporal <= 3:
        raise UserError(f"--n_scales_temporal {o.n_scales_temporal} must be 0, 1, 2 or 3")
    multiple = 2**o.n_downsample_G
    if o.loadSize % multiple or o.loadSize < 4 * multiple:
        raise UserError(f"--loadSize {o.loadSize} must be a multiple of {multiple} (2 to the n_downsample_G), at least {4 * multiple}")
    if o.margin % multiple:
        raise UserError(f"--margin {o.margin} must be a multiple of {multiple} (2 to the n_downsample_G)")
    if o.flownet2_checkpoint is not None and o.flow == "dis":
        raise UserError("--flownet2_checkpoint has no use with --flow dis; leave one of them out")
    if o.vgg_weights is not None and not o.vgg_weights.is_file():
        raise UserError(f"--vgg_weights: there is no file {o.vgg_weights}")
    if o.load_pretrain is not None and not o.load_pretrain.is_dir():
        raise UserError(f"--load_pretrain: there is no folder {o.load_pretrain}; give the folder of a trained run (checkpoints/<D>/<name>)")
