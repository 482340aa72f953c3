"""Make videos of results: H.264 with the exact frame rate and the sound of the video that drove them.

    python scripts/images_to_video.py --results_dir results/D/head2head_T/latest_epoch/test/T --output_mode all

Every finished result in --results_dir and below gets <mode>.mp4 beside its frames (source_target_separate: source.mp4 and
target.mp4). Videos that are there already are left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from options.signing_options import add_signing_options, use_certificate
from util.cli import UserError, run, say
from util.results.folder import MODES, find_results
from util.results.panels import write_videos


def main(argv: Sequence[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(prog="images_to_video.py", description="Make videos of results.", allow_abbrev=False)
    parser.add_argument("--results_dir", type=Path, required=True, metavar="DIR", help="a result's folder, or one above several")
    parser.add_argument(
        "--output_mode", choices=tuple(MODES), default="all", help="what to show (default: all: real, NMFC, eye gaze, synthesised)"
    )
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="where the dataset lies now, if it was moved since test.py")
    parser.add_argument("--fps", metavar="F", help="frame rate, e.g. 25 or 30000/1001 (default: the driver's)")
    add_signing_options(parser)
    args = parser.parse_args(argv)
    use_certificate(args)
    fps = None
    if args.fps is not None:
        try:
            fps = Fraction(args.fps)
        except (ValueError, ZeroDivisionError):
            raise UserError(f"--fps {args.fps} is no number of frames per second; give one like 25 or 30000/1001") from None
        if not 0 < fps <= 1000:
            raise UserError(f"--fps {args.fps} must be above 0 and at most 1000")
    for results in find_results(args.results_dir):
        for path in write_videos(results, args.output_mode, args.datasets_dir, fps):
            say(f"video: {path}")
    return None


if __name__ == "__main__":
    run(main)
