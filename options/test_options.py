"""Options of test.py, with the original system's names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from options.base_options import BaseOptions, add_base_options, make_options
from options.signing_options import add_signing_options, use_certificate
from util.cli import UserError, add_flag
from util.device import BACKENDS
from util.layout import check_name
from util.paste_back.plan import AUDIO


@dataclass(frozen=True)
class TestOptions(BaseOptions):
    source_id: str | None  # the driver; None: the target's own held-out frames
    results_dir: Path | None  # None: <repository>/results
    loadSize: int | None  # None: as trained
    how_many: int | None  # None: all frames
    report: bool
    paste_back: bool
    backend: str  # one of util.device.BACKENDS
    audio: str  # of the pasted-back video, one of util.paste_back.plan.AUDIO

    __test__ = False  # no test for pytest to collect


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="test.py",
        description="Synthesise a trained person's head from conditioning images: of the person's own held-out frames "
        "(self reenactment, with measures against the truth), or of a driver.",
        allow_abbrev=False,
    )
    add_base_options(parser)
    parser.add_argument(
        "--source_id", "--source_name", metavar="S", help="the driver, prepared by preprocessing/reenact.py (default: none)"
    )
    parser.add_argument("--results_dir", type=Path, metavar="DIR", help="folder of all results (default: results)")
    parser.add_argument("--loadSize", type=int, metavar="PX", help="side of the images (default: as trained)")
    parser.add_argument("--how_many", type=int, metavar="N", help="only the first N frames (default: all)")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what runs the generator (default: auto, the recorded graph on a GPU, else the fastest that is installed). On the processor "
        "OpenVINO computes in bf16 where it can, unless --precision says otherwise",
    )
    add_flag(parser, "report", True, "write the video and the report page")
    add_flag(parser, "paste_back", False, "put the head back into the target's full original frames: paste_back.mp4")
    parser.add_argument(
        "--audio",
        choices=AUDIO,
        default="source",
        help="sound of paste_back.mp4: of the video that drives (in self reenactment the target's own), of the target, or none "
        "(default: source)",
    )
    add_signing_options(parser)
    return parser


def parse(argv: Sequence[str] | None = None) -> TestOptions:
    """Parse and check the command line of test.py.

    Raises: UserError for values that no run can have, and a certificate that cannot seal.
    """
    args = build_parser().parse_args(argv)
    options = make_options(TestOptions, args)
    check_name("--source_id", options.source_id)
    for name in ("loadSize", "how_many"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} must be at least 1")
    use_certificate(args)
    return options
