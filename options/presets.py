"""The recipe of a training run as data: every constant is a documented field of `Recipe`, and a preset names the values it changes.

Read a recipe with `resolve(preset, chosen)`. Print all settings with `describe_settings()`.
"""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from options.base_options import LARGEST_SIDE, PRECISIONS
from util.cli import UserError

FLOWS = ("auto", "dis", "flownet2")


def setting(
    default: Any,
    group: str,
    text: str,
    *,
    unit: str = "",
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of a recipe. text: meaning and reason; unit: of the value; low <= value <= high and above < value < below, where given."""
    limits = {"low": low, "above": above, "high": high, "below": below}
    return field(default=default, metadata={"group": group, "text": text, "unit": unit, "choices": choices, **limits})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All constants of a training run. The defaults are the published recipe; a preset changes some of them."""

    precision: str = setting("auto", "machine", "arithmetic of the networks; auto: bf16 on a GPU that can, else fp32", choices=PRECISIONS)
    max_minutes: float | None = setting(None, "schedule", "time limit; the whole schedule is fitted into it", unit="min", above=0)

    loadSize: int = setting(
        256, "data", "side of the images; a multiple of 8, at least 32 (for n_downsample_G = 3)", unit="px", low=1, high=LARGEST_SIDE
    )
    batch_size: int = setting(
        1, "data", "clips trained on at once; 0: as many as the GPU's memory holds, at most 4", unit="clips", low=0, high=1024
    )
    augment: bool = setting(True, "data", "jitter the conditioning images, so that another person's motion does not look foreign later")
    move_heads: float = setting(0.0, "data", "share of the clips in which the head is moved, for poses not filmed", low=0, high=1)
    change_expressions: float = setting(
        0.0, "data", "share of the moved clips in which the expression changes too, for mouths not filmed", low=0, high=1
    )
    flow: str = setting("auto", "data", "reference optical flow; auto: flownet2 if its checkpoint is there, else dis", choices=FLOWS)
    faceflow: bool = setting(True, "data", "of the two published FlowNet2 checkpoints, take the one tuned on faces")
    flownet2_checkpoint: Path | None = setting(None, "data", "weights of FlowNet2; none: found in models/flownet2_pytorch")
    seed: int = setting(0, "data", "seed of the initial weights, the clips and the augmentation", low=0, high=2**32 - 1)
    cuda_graphs: bool = setting(True, "machine", "on a GPU, record each kind of step once and replay it; faster, needs more memory")

    ngf: int = setting(64, "networks", "base width of the generator", unit="channels", low=1, high=1024)
    n_downsample_G: int = setting(3, "networks", "halvings of the image in the generator", low=0, high=8)
    n_blocks: int = setting(9, "networks", "residual blocks of the generator", low=1, high=99)
    margin: int = setting(
        0,
        "networks",
        "extra columns the generator works on beyond the image; a multiple of 2^n_downsample_G",
        unit="px",
        low=0,
        high=LARGEST_SIDE,
    )
    prev_output: bool = setting(True, "networks", "the generator sees its last two frames; without them it is faster")
    eye_gaze: bool = setting(True, "networks", "the generator sees the gaze image")
    appearance: bool = setting(False, "networks", "the generator sees the person drawn in mean colours")
    conditioning_frames: int = setting(
        3, "networks", "frames whose NMFC and gaze images the generator sees, the current one last", unit="frames", low=1, high=3
    )
    half: bool = setting(False, "networks", "the generator's first and last layers work on blocks of 2x2 pixels: faster, above all on CPUs")
    ndf: int = setting(64, "networks", "base width of the discriminators", unit="channels", low=1, high=1024)
    num_D: int = setting(2, "networks", "image scales of every discriminator", low=1, high=8)
    n_layers_D: int = setting(3, "networks", "strided layers of every discriminator", low=1, high=8)
    mouth_D: bool = setting(True, "networks", "a discriminator for the mouth")
    use_eyes_D: bool = setting(False, "networks", "a discriminator for the eyes")
    ROI_size: int = setting(72, "networks", "window around mouth and eyes, at an image side of 256", unit="px", low=1, high=LARGEST_SIDE)
    n_scales_temporal: int = setting(3, "networks", "temporal discriminators (frame steps 1, 3, 9); 0: none", low=0, high=3)

    lambda_feat: float = setting(10.0, "losses", "weight of feature matching", low=0)
    lambda_vgg: float = setting(10.0, "losses", "weight of the VGG19 loss", low=0)
    vgg: bool = setting(True, "losses", "use the VGG19 loss, if its weights can be had")
    vgg_weights: Path | None = setting(None, "losses", "file with torchvision's vgg19 weights; none: downloaded")
    lambda_warp: float = setting(10.0, "losses", "weight of the warp loss; above 0 it needs optical flow", low=0)
    lambda_L1: float = setting(0.0, "losses", "weight of the mean absolute difference of the images", low=0)
    lambda_gradient: float = setting(0.0, "losses", "weight of the difference of the images' gradients", low=0)

    lr: float = setting(2e-4, "schedule", "learning rate of Adam", above=0)
    niter: int = setting(40, "schedule", "epochs at the full learning rate", unit="epochs", low=0)
    niter_decay: int = setting(20, "schedule", "epochs of the linear decay that follows", unit="epochs", low=0)
    niter_step: int = setting(5, "schedule", "epochs after which clips become twice as long", unit="epochs", low=1)
    epoch_frames: int = setting(0, "schedule", "least length of an epoch; a shorter video is gone through again", unit="frames", low=0)
    n_frames_total: int = setting(12, "schedule", "length of a clip at first", unit="frames", low=1)
    max_frames_per_gpu: int = setting(4, "schedule", "frames of one training step; fewer need less memory", unit="frames", low=1)
    ema: float = setting(
        0.0, "schedule", "decay of the moving average of the generator's weights, which is what is saved; 0: none", low=0, below=1
    )

    save_latest_freq: int = setting(100, "checkpoints and logs", "clips between two writes of the latest checkpoint", unit="clips", low=1)
    save_epoch_freq: int = setting(100, "checkpoints and logs", "epochs between two numbered checkpoints", unit="epochs", low=1)
    keep_checkpoints: int = setting(
        3,
        "checkpoints and logs",
        "numbered checkpoints to keep, the newest; older ones are deleted; 0: all, as when save_epoch_freq is given and this is not",
        unit="epochs",
        low=0,
    )
    tensorboard: bool = setting(True, "checkpoints and logs", "write TensorBoard logs")


SETTINGS = {f.name: f for f in fields(Recipe)}
_TYPES = typing.get_type_hints(Recipe)

# The published networks and losses, with faster training and better images (docs/log/).
_PUBLISHED: dict[str, Any] = {
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
}
# What a preset changes in Recipe.
PRESETS: dict[str, dict[str, Any]] = {
    # A generator with a twelfth of the published one's operations, whose frames do not depend on one another, and training that shows it
    # faces and poses which were not filmed (docs/log/2026-11-27_beyond_what_was_filmed.md).
    "default": {
        **_PUBLISHED,
        "margin": 0,
        "change_expressions": 0.6,
        "ngf": 24,
        "n_blocks": 6,
        "prev_output": False,
        "appearance": True,
        "conditioning_frames": 1,
        "half": True,
        "ndf": 32,
        "n_scales_temporal": 0,
        "lambda_warp": 0.0,
        "vgg": False,
        # Twice the published rate for networks that are a third as wide: cleaner outlines, and as good after half of the frames.
        "lr": 4e-4,
        "n_frames_total": 4,
        "niter": 1600,
        "niter_decay": 800,
        "niter_step": 100000,
        "save_latest_freq": 5000,
        "save_epoch_freq": 800,
    },
    # The published networks, with faster training and better images.
    "published": _PUBLISHED,
    # Exactly the published recipe, as a reference.
    "literal": {"precision": "fp32", "cuda_graphs": False},
    # Without a GPU: the best images after a few minutes on two cores.
    "preview": {
        "max_minutes": 6.0,
        "ema": 0.99,
        "loadSize": 128,
        "augment": False,
        "move_heads": 0.5,
        "change_expressions": 0.6,
        "ngf": 16,
        "n_blocks": 6,
        "prev_output": False,
        "appearance": True,
        "conditioning_frames": 1,
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
        # More epochs than fit: the time limit is the schedule.
        "niter": 40000,
        "niter_decay": 20000,
        "niter_step": 100000,
    },
}


def resolve(preset: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all settings: the preset's, where `chosen` (checked values by name) has no other."""
    values = {**{name: f.default for name, f in SETTINGS.items()}, **PRESETS[preset], **chosen}
    if "save_epoch_freq" in chosen and "keep_checkpoints" not in chosen:
        values["keep_checkpoints"] = 0  # checkpoints that were asked for are all kept
    return values


def parse_setting(name: str, text: str, label: str) -> Any:
    """The value of a setting, of its type, from text.

    label: how the value was given, for messages ("--ngf " or "--set ngf=").
    Raises: UserError for an unknown name, with the nearest known ones; for a wrong type; for a value out of range.
    """
    if name not in SETTINGS:
        near = difflib.get_close_matches(name.lower(), [k.lower() for k in SETTINGS], n=1)
        match = next((k for k in SETTINGS if near and k.lower() == near[0]), None)
        hint = f"did you mean {match}?" if match else "train.py --list_settings prints all settings"
        raise UserError(f"there is no setting '{name}'; {hint}")
    kind, *other = typing.get_args(_TYPES[name]) or (_TYPES[name],)
    if other and text.lower() == "none":
        return None
    try:
        value = _convert(kind, text)
    except ValueError:
        kinds = {int: "a whole number", float: "a number", bool: "true or false", Path: "a file"}
        raise UserError(f"{label}{text} must be {kinds[kind]}") from None
    _check_range(SETTINGS[name].metadata, value, f"{label}{value}")
    return value


def _convert(kind: type, text: str) -> Any:
    if kind is bool:
        word = text.lower()
        if word not in ("true", "false", "on", "off", "yes", "no", "1", "0"):
            raise ValueError(text)
        return word in ("true", "on", "yes", "1")
    if kind is Path and not text:
        raise ValueError(text)
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError(text)
    return value


def _check_range(limits: Mapping[str, Any], value: Any, given: str) -> None:
    if limits["choices"] and value not in limits["choices"]:
        raise UserError(f"{given} must be one of {', '.join(limits['choices'])}")
    low, above, high, below = (limits[k] for k in ("low", "above", "high", "below"))
    too_small = (low is not None and value < low) or (above is not None and value <= above)
    too_large = (high is not None and value > high) or (below is not None and value >= below)
    if too_small or too_large:
        raise UserError(f"{given} must {range_text(limits)}")


def range_text(limits: Mapping[str, Any]) -> str:
    """The range of a setting in words that follow "must"."""
    low, above, high, below = (limits[k] for k in ("low", "above", "high", "below"))
    if high is not None:
        return f"be {low} to {high}"
    if below is not None:
        return f"be at least {low} and below {below}"
    if above is not None:
        return f"be above {above}"
    return "not be negative" if low == 0 else f"be at least {low}"


def default_text(name: str) -> str:
    """The value of a setting in the presets: "256; preview: 128"."""
    values = {preset: _show(resolve(preset, {})[name]) for preset in PRESETS}
    first = values["default"]
    return "; ".join([first, *(f"{preset}: {v}" for preset, v in values.items() if v != first)])


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def describe_settings() -> str:
    """All settings with meaning, unit, range and the presets' values, for a person to read."""
    lines = [
        "Settings of train.py: --set NAME=VALUE, or --NAME VALUE; what is true or false also as --NAME and --no_NAME.",
        "The first value is the default preset's. Other presets' values follow where they differ.",
    ]
    for group in dict.fromkeys(f.metadata["group"] for f in SETTINGS.values()):
        lines += ["", f"{group}:"]
        for name, f in SETTINGS.items():
            m = f.metadata
            if m["group"] != group:
                continue
            limited = any(m[k] is not None for k in ("low", "above", "high", "below"))
            facts = [m["unit"], f"must {range_text(m)}" if limited else "", "|".join(m["choices"])]
            facts = ", ".join(x for x in facts if x)
            lines += [f"  {name} = {default_text(name)}", f"      {m['text']}" + (f" [{facts}]" if facts else "")]
    return "\n".join(lines)
