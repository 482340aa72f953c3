"""Print the identity that is meant by a name: its own, or that of the video it was made from. For the shell scripts.

python scripts/find_identity.py --dataset_name D under_score        of a dataset's identities
python scripts/find_identity.py --dataset_name D --video me.mp4     what detect.py makes of this video
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from util.cli import UserError, run
from util.identities import find_identity
from util.layout import Dataset
from util.video.sources import find_videos


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset_name", required=True, metavar="D")
    p.add_argument("--datasets_dir", type=Path, metavar="DIR")
    p.add_argument("--checkpoints_dir", type=Path, metavar="DIR")
    p.add_argument("--video", type=Path, metavar="FILE")
    p.add_argument("name", nargs="?", metavar="NAME")
    o = p.parse_args(argv)
    if (o.name is None) == (o.video is None):
        raise UserError("give a NAME or --video FILE")
    dataset = Dataset.open(o.dataset_name, o.datasets_dir)
    if o.video is None:
        name = find_identity(dataset, o.name, o.checkpoints_dir)
    else:
        with contextlib.redirect_stdout(sys.stderr):  # only the identity goes to the output
            name = next(iter(find_videos(o.video, dataset)))
    sys.stdout.buffer.write(os.fsencode(name) + b"\n")  # not print: a script needs the name itself, whatever a terminal can show
    sys.stdout.flush()


if __name__ == "__main__":
    run(main)
