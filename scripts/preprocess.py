"""All preprocessing steps for many videos: faces and crops, landmarks, 3D reconstruction with the NMFC images.

    python scripts/preprocess.py --dataset_name D                                 the videos in datasets/D/original_videos
    python scripts/preprocess.py videos/ 'more/**/*.mp4' list.txt --dataset_name D
    python scripts/preprocess.py videos/ --dataset_name D --ray auto              on a Ray cluster

VIDEOS are files, folders, patterns (in quotes, ** for all folders below) and text files with one of these a line. Each video becomes one
identity; NAME_2 to NAME_99 beside NAME are its further parts. Does what preprocessing/detect.py, detect_landmarks70.py and reconstruct.py
do, one identity in each process. What is complete is kept, so the command may be stopped and run again. A video that fails is told at
the end and stops none of the others; one whose process dies is tried again.

On a cluster (pip install -r requirements-ray.txt; ray start --head, then ray start --address=... on the other machines) every
machine needs the same packages, and the videos and the dataset's folder on storage that all of them see under the same path. The code
and the face model are sent to them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in reconstruct.py

from tqdm import tqdm

from options.dataset_options import add_dataset_options, open_dataset
from preprocessing.face_models.registry import FACE_MODELS, model_files
from preprocessing.steps.consent import add_consent_option, find_consent, keep_consent
from preprocessing.steps.options import add_crop_options, crop_settings
from preprocessing.steps.reconstruction import choose_model
from preprocessing.steps.video import Outcome, StepSettings, Tools, attempt, complete_identities, preprocess_video
from preprocessing.tracking.dlib_landmarks import DLIB_FILE
from util.cli import DiskFull, UserError, printable, progress, run, say, warn
from util.layout import Dataset, root
from util.video.search import search_videos
from util.workers import Died, choose_workers, map_on_workers

WORKER_BYTES = 1.2e9  # of memory: 0.4 to 0.75 GB were seen (scripts/bench/preprocess.py), then crops, and pictures of 4K take more
LOST_MACHINE_S = 120.0  # until network storage frees the locks of a machine that is lost
MAX_NAMED = 20  # failed videos named at the end
Todo = tuple[str, list[Path]]  # identity, its video files


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("videos", nargs="*", metavar="VIDEOS", help="files, folders, patterns, lists (default: datasets/<D>/original_videos)")
    add_dataset_options(p, "name of the dataset; its folder is made if missing", None)
    p.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine, each with one video at a time; 1: this process alone (default: one a core, as far as memory goes)",
    )
    p.add_argument("--ray", metavar="ADDRESS", help="use a running Ray cluster: auto for the one of this machine, or host:port")
    p.add_argument(
        "--face_model",
        choices=("auto", *FACE_MODELS),
        default="auto",
        help="auto: the dataset's, else ict if scripts/download_files.py fetched it, else mesh478 (default: auto)",
    )
    p.add_argument("--renderer", choices=("auto", "vulkan", "cpu"), default="auto", help="as of reconstruct.py (default: auto)")
    p.add_argument("--landmarks", choices=("mediapipe", "dlib"), help="as of detect_landmarks70.py (default: mediapipe)")
    p.add_argument("--dlib_file", type=Path, default=Path(DLIB_FILE), metavar="FILE", help=f"dlib's landmark model (default: {DLIB_FILE})")
    add_crop_options(p)
    add_consent_option(p)
    o = p.parse_args(argv)
    if o.workers is not None and o.workers < 1:
        raise UserError(f"--workers {o.workers}: give a number from 1")
    if o.workers is not None and o.ray:
        raise UserError("--workers and --ray exclude one another: Ray uses all cores of its cluster")
    return o


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    crops = crop_settings(o)
    dataset = Dataset(open_dataset(o).home.absolute())
    videos = search_videos(o.videos or [dataset.original_videos], dataset)
    kind = choose_model(dataset, sorted({*dataset.identities(), *videos}), list(videos), o.face_model)
    settings = StepSettings(
        crops,
        kind,
        o.face_model != "auto",
        o.renderer,
        o.landmarks,
        o.dlib_file.absolute(),
        o.mtcnn_batch_size,
        o.gpu_id,
        find_consent(dataset, videos, o.consent),
        o.consent is not None,
        LOST_MACHINE_S if o.ray else 0.0,
    )
    complete = complete_identities(dataset, videos, settings)
    for name in complete:
        keep_consent(dataset, name, settings.consent, settings.consent_given)
    todo = [(name, paths) for name, paths in videos.items() if name not in complete]
    if not todo:
        say(f"all {len(videos)} videos are complete already ({sum(complete.values())} frames)")
        return 0
    if len(todo) == 1 and not o.ray and o.workers in (None, 1):  # with the messages and the progress of each step
        preprocess_video(dataset, *todo[0], settings, Tools(settings))
        return 0
    return report(len(videos), len(complete), todo, outcomes(o, dataset, settings, todo))


def outcomes(o: argparse.Namespace, dataset: Dataset, settings: StepSettings, todo: list[Todo]) -> Iterator[tuple[Todo, Outcome | Died]]:
    """What becomes of each identity, as it is finished."""
    work = partial(attempt, dataset, settings)
    if o.ray:
        from util.ray_tasks import map_on_ray

        code = [root() / "util", root() / "preprocessing", *model_files(settings.face_model)]
        seen = list({p.parent: p for _, paths in todo for p in paths}.values()) + [settings.dlib_file] * (settings.landmarks == "dlib")
        return map_on_ray(work, todo, o.ray, code=code, base=root(), folder=dataset.home, seen=seen, memory=WORKER_BYTES)
    if o.workers == 1:
        return ((item, work(item)) for item in todo)
    workers = min(len(todo), o.workers or choose_workers(len(todo), WORKER_BYTES))
    say(f"{len(todo)} videos on {workers} processes")
    return map_on_workers(work, todo, workers)


def report(count: int, complete: int, todo: list[Todo], outcomes: Iterator[tuple[Todo, Outcome | Died]]) -> int:
    """Show how it goes and what came out. Raises: UserError when something failed."""
    failed: dict[str, str] = {}
    full, frames, made, start = "", 0, 0, time.monotonic()
    with closing(outcomes), progress(desc="videos", total=len(todo), unit="video") as bar:
        for (name, _), outcome in outcomes:
            if isinstance(outcome, Died):
                if not outcome.final:
                    warn(f"{name}: {outcome.reason}")
                    continue
                outcome = Outcome(error=outcome.reason)
            tell(name, outcome)
            if outcome.disk_full:
                full = outcome.error
                break
            if outcome.error:
                failed[name] = outcome.error
            made += outcome.made
            complete += not (outcome.made or outcome.error)
            frames += outcome.frames * outcome.made
            bar.update()
    seconds = time.monotonic() - start
    left = count - made - complete - len(failed)
    say(f"{made} made, {complete} complete already, {len(failed)} failed" + (f", {left} not done" if left else ""))
    if made:
        say(f"{frames} frames in {seconds:.0f} s: {frames / seconds:.1f} frames/s, {3600 * made / seconds:.0f} videos/hour")
    if full:
        raise DiskFull(full)
    if failed:
        reasons = [f"{name}: {reason}" for name, reason in failed.items()]
        more = [f"and {len(failed) - MAX_NAMED} more, see above"] * (len(failed) > MAX_NAMED)
        raise UserError("\n  ".join([f"{len(failed)} of {count} videos failed, the others are complete:", *reasons[:MAX_NAMED], *more]))
    return 0


def tell(name: str, outcome: Outcome) -> None:
    """Print what was said of an identity, all at once: several are worked on at a time."""
    lines = [("warning: " if is_warning else "", message) for message, is_warning in outcome.messages]
    lines += [("error: ", outcome.error)] * bool(outcome.error)
    for is_plain, own in groupby(lines, key=lambda line: not line[0]):
        texts = [kind + (text if text.startswith(f"{name}: ") else f"{name}: {text}") for kind, text in own]
        tqdm.write(printable("\n".join(texts)), file=sys.stdout if is_plain else sys.stderr)
    sys.stdout.flush()


if __name__ == "__main__":
    run(main)
