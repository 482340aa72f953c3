"""How fast trainings go that share one machine's processor.

    python scripts/bench/two_trainings.py --dataset_name D --target_id T [--processes 1 2] [--minutes 1]

For each number of processes: that many previews of the same person are trained at the same time, for so many minutes each, into a
temporary folder. Prints the frames per second of each.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from util.cli import UserError, run, say
from util.layout import root

_TRAINED = re.compile(r"trained (\d+) frames in ([\d.]+) minutes")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--dataset_name", required=True, metavar="D", help="a preprocessed dataset")
    parser.add_argument("--target_id", required=True, metavar="T", help="the person")
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="folder of all datasets (default: datasets)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], metavar="N", help="how many at once (default: 1, then 2)")
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="length of each training (default: 1)")
    o = parser.parse_args(argv)
    for count in o.processes:
        speeds = train_together(o, count)
        say(f"{count} at once: " + ", ".join(f"{speed:.1f}" for speed in speeds) + " frames/s")


def train_together(o: argparse.Namespace, count: int) -> list[float]:
    """Frames per second of each of `count` trainings. Raises: UserError when one fails."""
    with TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(root() / "train.py"),
            "--dataset_name",
            o.dataset_name,
            "--target_id",
            o.target_id,
            "--gpu_ids",
            "-1",
        ]
        command += ["--preset", "preview", "--max_minutes", str(o.minutes), "--checkpoints_dir", folder]
        command += ["--datasets_dir", str(o.datasets_dir)] if o.datasets_dir else []
        started = [
            subprocess.Popen([*command, "--name", f"bench_{i}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for i in range(count)
        ]
        outputs = [process.communicate()[0] for process in started]
    speeds = []
    for output in outputs:
        match = _TRAINED.search(output)
        if match is None:
            raise UserError(f"a training failed: {output.strip().splitlines()[-1] if output.strip() else 'it printed nothing'}")
        speeds.append(int(match[1]) / (60 * float(match[2])))
    return speeds


if __name__ == "__main__":
    run(main)
