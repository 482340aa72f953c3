"""Options of train.py: what a user decides, and --set for every other constant of the recipe (options/presets.py).

Each setting is also an option of its own name, as in the original; --help leaves most of these out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from options.base_options import BaseOptions, add_base_options, make_options
from options.presets import FLOWS, PRESETS, SETTINGS, Recipe, default_text, describe_settings, parse_setting, resolve
from util.cli import UserError, add_flag

__all__ = ["ARCHITECTURE", "FLOWS", "PRESETS", "UNCRITICAL", "TrainOptions", "build_parser", "parse"]

MOST_CHANNELS = 4096  # of the generator, where the image is smallest: eight times the published one's; beyond, no memory holds them
# Settings that determine the networks' shapes; they cannot change when a run is continued.
ARCHITECTURE = (
    "loadSize",
    "ngf",
    "n_downsample_G",
    "n_blocks",
    "margin",
    "prev_output",
    "eye_gaze",
    "appearance",
    "conditioning_frames",
    "half",
    "ndf",
    "num_D",
    "n_layers_D",
    "mouth_D",
    "use_eyes_D",
    "n_scales_temporal",
)
# Options that do not affect the result; they may differ when an interrupted run is resumed.
UNCRITICAL = frozenset(
    "dataset_name target_id name datasets_dir checkpoints_dir gpu_ids which_epoch preset max_minutes vgg_weights continue_train "
    "load_pretrain save_latest_freq save_epoch_freq keep_checkpoints tensorboard "
    "faceflow flownet2_checkpoint".split()  # these two decide on `flow`, which is recorded as the method that was used
)
# Settings that --help shows; the others are in --list_settings.
_SHOWN = ("precision", "max_minutes", "loadSize", "batch_size", "niter", "niter_decay", "save_epoch_freq")
_ALIASES = {"batch_size": ["--batchSize"]}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Recipe, BaseOptions):
    """All options of a training run, flat: which data and run (BaseOptions), the settings (Recipe), and how it starts."""

    preset: str
    continue_train: bool
    load_pretrain: Path | None  # folder of a run to start from

    @property
    def needs_flow(self) -> bool:
        return self.n_scales_temporal > 0 or self.lambda_warp > 0

    def as_dict(self) -> dict[str, Any]:
        """All options as plain values for opt.txt."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


class _Set(argparse.Action):
    """Collects NAME=VALUE words; the word help prints all settings and ends the command."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        if self.nargs == 0 or "help" in values:
            print(describe_settings())
            parser.exit()
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *values])


def build_parser() -> argparse.ArgumentParser:
    """The parser of train.py. A setting that is not given is argparse.SUPPRESS in what it returns."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Learn to synthesise a person's head from conditioning images.",
        epilog="Every setting of --list_settings is also an option of its own name: --ngf 32 means --set ngf=32, "
        "--no_vgg means --set vgg=false.",
        allow_abbrev=False,
    )
    add_base_options(parser)
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="default",
        help="recipe: default (for a GPU), published (its networks as published), literal (all as published, slower), or preview (quick, "
        "for CPUs)",
    )
    add_flag(parser, "continue_train", False, "go on from the run's latest checkpoint; options may differ, except the networks'")
    parser.add_argument("--load_pretrain", type=Path, metavar="DIR", help="start from the networks in this run's folder")
    for name in SETTINGS:
        if name != "precision":
            _add_setting(parser, name)
    parser.add_argument("--use_faceflow", dest="faceflow", action="store_true", help=argparse.SUPPRESS)  # the original's name
    parser.add_argument(
        "--set",
        dest="settings",
        action=_Set,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change settings of the preset; repeatable",
    )
    parser.add_argument("--list_settings", dest="settings", action=_Set, nargs=0, help="print all settings and their values, and end")
    parser.set_defaults(**dict.fromkeys(SETTINGS, argparse.SUPPRESS))
    return parser


def _add_setting(parser: argparse.ArgumentParser, name: str) -> None:
    """Add a setting as an option of its own name, with its opposite --no_NAME if it is on or off."""
    f = SETTINGS[name]
    if isinstance(f.default, bool):
        for flag, action in ((f"--{name}", "store_true"), (f"--no_{name}", "store_false")):
            parser.add_argument(flag, dest=name, action=action, help=argparse.SUPPRESS)
        return
    text = f"{f.metadata['text']} (default: {default_text(name)})".replace("%", "%%")
    metavar = {"px": "PX", "min": "M"}.get(f.metadata["unit"], "N")
    names = [f"--{name}", *_ALIASES.get(name, [])]
    parser.add_argument(*names, dest=name, metavar=metavar, help=text if name in _SHOWN else argparse.SUPPRESS)


def parse(argv: Sequence[str] | None = None) -> TrainOptions:
    """Parse and check the command line of train.py. A value given as an option or by --set wins over the preset's.

    Raises: UserError for a setting that does not exist, a value of the wrong type or range, the same setting given with different
    values, and values that cannot work together.
    """
    args = vars(build_parser().parse_args(argv))
    chosen = {}
    for name in SETTINGS:
        given = args.pop(name, argparse.SUPPRESS)
        if given != argparse.SUPPRESS:
            chosen[name] = given if isinstance(given, bool) else parse_setting(name, given, f"--{name} ")
    origin = {name: "as an option" for name in chosen}
    for word in args.pop("settings"):
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"--set {word} is not of the form NAME=VALUE; --list_settings prints all settings")
        value = parse_setting(name, text, f"--set {name}=")
        if name in chosen and chosen[name] != value:
            raise UserError(f"{name} is {chosen[name]} {origin[name]} and {value} by --set; give it once")
        chosen[name] = value
        origin.setdefault(name, "by --set")
    options = make_options(TrainOptions, {**args, **resolve(args["preset"], chosen)})
    _check(options)
    return options


def _check(o: TrainOptions) -> None:
    """Check settings that depend on one another, and files."""
    if o.niter + o.niter_decay < 1:
        raise UserError("--niter and --niter_decay are both 0: there is nothing to train")
    multiple = 2**o.n_downsample_G
    if o.loadSize % multiple or o.loadSize < 4 * multiple:
        raise UserError(f"--loadSize {o.loadSize} must be a multiple of {multiple} (2 to the n_downsample_G), at least {4 * multiple}")
    if o.ngf << o.n_downsample_G > MOST_CHANNELS:
        raise UserError(f"--ngf {o.ngf} with n_downsample_G {o.n_downsample_G} makes more than {MOST_CHANNELS} channels; make one smaller")
    if o.margin % multiple:
        raise UserError(f"--margin {o.margin} must be a multiple of {multiple} (2 to the n_downsample_G)")
    if o.flownet2_checkpoint is not None and o.flow == "dis":
        raise UserError("--flownet2_checkpoint has no use with --flow dis; leave one of them out")
    if o.vgg_weights is not None and not o.vgg_weights.is_file():
        raise UserError(f"--vgg_weights: there is no file {o.vgg_weights}")
    if o.load_pretrain is not None and not o.load_pretrain.is_dir():
        raise UserError(f"--load_pretrain: there is no folder {o.load_pretrain}; give the folder of a trained run (checkpoints/<D>/<name>)")
