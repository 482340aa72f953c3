"""All measures of results at once: a table, evaluation.json beside the frames, and curves over time in the report page.

    python scripts/evaluate.py results/D/head2head_T/latest_epoch/test/T
    python scripts/evaluate.py --compare RESULTS_DIR1 RESULTS_DIR2 ...     side by side, in the terminal and as a page

Works on any machine: a measure is left out, with the reason, when something it needs is missing (MediaPipe, a network's weights, the
dataset). Frames copied from another machine may be images (fake/*.png) or videos alone (all.mp4, only_fake.mp4).

Measures and their definitions: docs/formats.md, section "Measures". APD-L2, MAPD-L2 and mouth-APD-L2 are in grey levels, 0..441. Flicker
and jitter are to be as in the real video, neither above nor below: the best of several results is the nearest to it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in reconstruct.py

from preprocessing.face_models.registry import FACE_MODELS
from preprocessing.measures.motion import motion
from preprocessing.measures.pictures import flicker, pixels
from util.cli import UserError, run, say
from util.device import choose_device
from util.layout import Run
from util.results.evaluation import Evaluation, comparison_table, put_or_skip, read_evaluation, table, write_comparison, write_evaluation
from util.results.folder import Results
from util.results.frames import ResultFrames, add_result_options, find_folders, open_as_asked
from util.results.network_measures import fid, identity_similarity, lpips


def main(argv: Sequence[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("results_dir", type=Path, nargs="*", metavar="RESULTS_DIR", help="a result's folder, or one above several")
    parser.add_argument("--compare", type=Path, nargs="+", metavar="DIR", help="put the evaluations of these results side by side")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), help="page of --compare (default: comparison.html)")
    parser.add_argument("--redo", action="store_true", help="with --compare: also evaluate again results that have an evaluation")
    parser.add_argument("--face_model", choices=("auto", *FACE_MODELS), default="auto", help="face model to fit (default: the dataset's)")
    parser.add_argument("--download", action="store_true", help="download missing weights of networks (LPIPS, FID, FaceNet)")
    parser.add_argument("--gpu_ids", default="-1", metavar="N", help="GPU for those networks: auto, 0, 1, ... (default: -1, the CPU)")
    parser.add_argument(
        "--checkpoints_dir", type=Path, metavar="DIR", help="folder of all runs, for the report page (default: checkpoints)"
    )
    add_result_options(parser)
    args = parser.parse_args(argv)
    if bool(args.results_dir) == bool(args.compare):
        raise UserError("give either a results' folder, or several with --compare")
    for folder in [f for d in args.results_dir for f in find_folders(d)]:
        show(folder, evaluate(folder, args))
    if args.compare:
        names = short_names(args.compare)
        compared = {name: (None if args.redo else read_evaluation(d)) or evaluate(d, args) for name, d in zip(names, args.compare)}
        say(comparison_table(compared))
        say(f"page: {write_comparison(args.output, compared)}")
    return None


def show(folder: Path, evaluation: Evaluation) -> None:
    who = f"{evaluation.target} driven by {evaluation.source or 'own held-out frames'}"
    say(f"{folder}: {who}, {evaluation.count} frames of {evaluation.size} pixels")
    say(table(evaluation))


def short_names(folders: Sequence[str | Path]) -> list[str]:
    """Names of folders without their common parts at the beginning and at the end. Raises: UserError for a folder given twice."""
    parts = [Path(f).resolve().parts for f in folders]
    if len(set(parts)) < len(parts):
        raise UserError("--compare names one folder twice")
    shortest = min(map(len, parts))
    start = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), shortest)
    end = next((i for i in range(shortest - start) if len({p[-1 - i] for p in parts}) > 1), 0)
    return ["/".join(p[start : len(p) - end]) or p[-1] for p in parts]


def evaluate(folder: Path, args: argparse.Namespace) -> Evaluation:
    """Compute all measures that can be had of one results' folder; writes evaluation.json, and the report page where there is one."""
    with open_as_asked(folder, args) as frames:
        evaluation = Evaluation(frames.target, frames.source, [frames.numbers[0], frames.numbers[-1]], frames.size, notes=frames.notes)
        evaluation.left_out = sorted(frames.left_out)
        put_or_skip(evaluation, "the comparison with the truth and with the nearest training frame", pixels, frames)
        put_or_skip(evaluation, "flicker", flicker, frames)
        put_or_skip(evaluation, "eye-landmarks, DAI-L1, AED-L1, ARD-L1, correlations", motion, frames, args.face_model)
        for name, measure in (("LPIPS", lpips), ("FID", fid), ("identity-similarity", identity_similarity)):
            put_or_skip(evaluation, name, with_network, measure, frames, args)
        write_evaluation(frames.folder, evaluation)
        write_page(frames, args)
    return evaluation


def with_network(evaluation: Evaluation, measure: Callable[..., None], frames: ResultFrames, args: argparse.Namespace) -> None:
    measure(evaluation, frames, choose_device(args.gpu_ids), args.download)


def write_page(frames: ResultFrames, args: argparse.Namespace) -> None:
    """Make the report page anew, with the evaluation, if the results are complete."""
    results = Results(frames.folder)
    if (facts := results.read()) is None:
        return
    from models.checkpoints import read_run_options
    from util.report.result_page import write_report

    trained = Run.open(facts["dataset_name"], facts["run"], args.checkpoints_dir)
    try:
        options = read_run_options(trained)
    except UserError:
        options = {}  # trained elsewhere
    say(f"report: {write_report(results, trained, options, args.datasets_dir)}")


if __name__ == "__main__":
    run(main)
