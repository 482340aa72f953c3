"""Put the synthesised head back into the target's full original frames: a video at the original resolution, with sound.

    python scripts/paste_back.py --results_dir results/D/head2head_T/latest_epoch/test/T

Every finished result in --results_dir and below gets paste_back.mp4 beside its frames (written anew if it is there). Needs the
original video: where preprocessing/detect.py found it, or under any name in datasets/<D>/original_videos (it is known by its content).
`test.py --paste_back` does the same right after synthesis.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from options.signing_options import add_signing_options, use_certificate
from preprocessing.tracking.person_matte import create_person_mask
from util.cli import run, say
from util.paste_back.plan import AUDIO
from util.paste_back.writing import write_paste_back
from util.results.folder import find_results


def main(argv: Sequence[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(
        prog="paste_back.py", description="Put the synthesised head into the target's full original frames.", allow_abbrev=False
    )
    parser.add_argument("--results_dir", type=Path, required=True, metavar="DIR", help="a result's folder, or one above several")
    parser.add_argument(
        "--audio",
        choices=AUDIO,
        default="source",
        help="sound: of the video that drives (in self reenactment the target's own), of the target, or none (default: source)",
    )
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="where the dataset lies now, if it was moved since test.py")
    add_signing_options(parser)
    args = parser.parse_args(argv)
    use_certificate(args)
    found = find_results(args.results_dir)
    person = create_person_mask()
    for results in found:
        say(f"video: {write_paste_back(results, args.datasets_dir, args.audio, person)}")
    return None


if __name__ == "__main__":
    run(main)
