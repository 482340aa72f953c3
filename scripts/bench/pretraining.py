"""Whether pre-training on other people pays for a short video: a person learnt from few frames, from scratch and from pre-trained networks.

    python scripts/bench/pretraining.py D TARGET --pretrain="--no_vgg --max_minutes 4" --train="--no_vgg --max_minutes 1.5" \\
        --parallel 2 --output pretraining.json

1. trains one run on all other persons of D (or --others), of whom every usable frame of both splits is taken: nothing of theirs is tested;
2. then, for each number of --frames, trains TARGET on as many of its first usable training frames, once from scratch and once with
   --load_pretrain, by the same options of train.py; with an even --parallel the two share the machine alike;
3. tests all of them on TARGET's own test frames, the same for all, and compares; nearest is the training frame, of those few, with the
   nearest pose and expression, taken as if it were synthesised (scripts/evaluate.py).

The real commands do it. Writes the datasets <D>_pretraining-<TARGET> and <D>_short (hard links; persons <TARGET>-50, ...), the runs
checkpoints/<D>_pretraining-<TARGET>/<recipe> and checkpoints/<D>_short/<recipe>_<TARGET>-50-{scratch,pretrained}, and beside their
results the messages (.log) and a picture of real, scratch and pre-trained frames: results/<D>_short/<recipe>_<TARGET>-50.png.
The same command goes on from what is finished; other options of train.py need another --recipe.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from data.integrity import MIN_RUN
from options.train_options import ARCHITECTURE
from options.train_options import parse as parse_training
from scripts.bench.frame_choice import (
    FOLDERS,
    SHOWN,
    Stretch,
    Subject,
    add_folder_options,
    folder_option,
    frames_of,
    pieces,
    plain,
    preparation,
    run_commands,
    sheet,
    stretches,
)
from util.cli import UserError, run, say
from util.identities import find_identity, identities_with_frames
from util.image_io import read_image, write_bytes, write_image
from util.layout import Dataset, Run
from util.results.evaluation import read_evaluation, shown
from util.results.folder import Results
from util.sampling import spread

MEASURES = ("APD-L2", "MAPD-L2", "mouth-APD-L2", "SSIM", "eye-landmarks", "jitter-ratio")
STARTS = ("scratch", "pre-trained")

T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """A length: the target's identity of so many training frames."""

    identity: str
    trained: int  # frames
    measured: np.ndarray  # int [N]: numbers of the test frames that measures count, in the new dataset


def main(argv: Sequence[str] | None = None) -> None:
    o = parse(argv)
    dataset = Dataset.open(o.dataset, o.datasets_dir)
    target = find_identity(dataset, o.target)
    names = identities_with_frames(dataset, target)
    others = [find_identity(dataset, name) for name in o.others] if o.others else [name for name in names if name != target]
    for name in others:
        identities_with_frames(dataset, name)
    if target in others or not others:
        raise UserError(f"pre-training needs persons of {o.dataset} other than {target}; name them with --others")
    subject = Subject.read(dataset, target)
    cases = [write_short(subject, Dataset.open(short_name(o), o.datasets_dir), count) for count in o.frames]
    say(f"{target}: {len(cases[0].measured)} test frames; trained on {', '.join(str(case.trained) for case in cases)}")
    if not o.skip_training:
        for_all(o, "preparations", lambda case: prepare(o, case), cases)
        if not o.skip_pretraining:
            write_others(dataset, Dataset.open(pretraining_name(o, target), o.datasets_dir), others)
            for_all(o, "pre-trainings", lambda name: pretrain(o, name), [target])
    if o.only_pretraining:
        return
    work = [(case, start) for case in cases for start in STARTS]
    for_all(o, "networks", lambda job: train_and_test(o, target, *job), work)
    figures: dict[str, Any] = {"pre-training": progress(pretraining_run(o, target)), "lengths": {}}
    for case in cases:
        own = measures(o, case)
        figures["lengths"][case.trained] = own
        say("\n".join(table(f"{target}, {case.trained} frames", own)))
        say(f"picture: {write_sheet(o, case)}")
    if o.output:
        facts = {name: getattr(o, name) for name in ("dataset", "recipe", "pretrain", "train", "parallel")}
        write_bytes(o.output, (json.dumps({**facts, "target": target, "others": others, **figures}, indent=1) + "\n").encode())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("dataset", metavar="D", help="a preprocessed dataset")
    parser.add_argument("target", metavar="TARGET", help="the person who is trained from few frames")
    parser.add_argument("--others", nargs="+", metavar="NAME", help="persons to pre-train on (default: all but TARGET)")
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[50, 150, 350], metavar="N", help="numbers of training frames (default: 50 150 350)"
    )
    parser.add_argument("--pretrain", default="", metavar="ARGS", help='options of train.py for the others: --pretrain="--max_minutes 4"')
    parser.add_argument("--train", default="", metavar="ARGS", help="options of train.py for TARGET, from scratch and pre-trained alike")
    parser.add_argument("--recipe", default="now", metavar="R", help="name of the trainings with these options (default: now)")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="trainings of TARGET at once (default: 1)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="write all figures to this file")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only_pretraining", action="store_true", help="write the datasets and pre-train, nothing else")
    only.add_argument("--skip_pretraining", action="store_true", help="start from the pre-trained networks that are there")
    only.add_argument("--skip_training", action="store_true", help="evaluate the networks that are there")
    add_folder_options(parser)
    o = parser.parse_args(argv)
    if o.parallel < 1:
        raise UserError(f"--parallel {o.parallel} must be at least 1")
    if min(o.frames) < MIN_RUN:
        raise UserError(f"--frames {min(o.frames)} must be at least {MIN_RUN}")
    o.frames = sorted(set(o.frames))
    if not o.recipe or "/" in o.recipe or "\\" in o.recipe:
        raise UserError(f"--recipe '{o.recipe}' is no usable name; give a plain name without slashes")
    before, after = (parse_training([*shlex.split(args), "--dataset_name", o.dataset]) for args in (o.pretrain, o.train))
    differing = [f"{k}: {getattr(before, k)} and {getattr(after, k)}" for k in ARCHITECTURE if getattr(before, k) != getattr(after, k)]
    if differing:
        raise UserError(f"--pretrain and --train ask for different networks ({'; '.join(differing)}); give both the same")
    return o


def for_all(o: argparse.Namespace, what: str, do: Callable[[T], bool], items: Sequence[T]) -> None:
    """Call do(item) for all items, --parallel at once. Raises: UserError when some fail, after all are through."""
    with ThreadPoolExecutor(o.parallel) as pool:
        done = list(pool.map(do, items))
    if not all(done):
        raise UserError(
            f"{done.count(False)} of {len(done)} {what} failed, see above; mend that and run again: what is finished is kept. "
            "Other options of train.py need another --recipe"
        )


# ---- the datasets ----


def first_frames(subject: Subject, count: int) -> list[Stretch]:
    """The person's first `count` usable training frames, in runs as detect.py cuts them; no run between bad frames is shorter than MIN_RUN.

    Raises: UserError when there are fewer.
    """
    chosen, missing = [], count
    for first, end in long_runs(subject, ("train",)):
        if missing:
            end = min(end, first + missing)
            chosen.append((first, end))
            missing -= end - first
    if missing:
        raise UserError(f"{subject.name} has {count - missing} usable training frames only; ask for no more by --frames")
    return cut(chosen)


def long_runs(subject: Subject, splits: Sequence[str]) -> list[Stretch]:
    """The runs of MIN_RUN usable frames or more in these splits."""
    wanted = np.array([s.split in splits for s, _ in subject.frames.frames]) & subject.frames.usable
    return [(a, b) for a, b in stretches(wanted, subject.joined) if b - a >= MIN_RUN]


def cut(runs: Sequence[Stretch]) -> list[Stretch]:
    return [piece for each in runs for piece in pieces(each)]


def write_short(subject: Subject, derived: Dataset, count: int) -> Case:
    """Write the identity <name>-<count>: the first `count` training frames, and all usable test frames.

    Raises: UserError when there are too few frames to train on, or none to test.
    """
    is_test = np.array([s.split == "test" for s, _ in subject.frames.frames])
    tested = stretches(is_test & subject.frames.usable, subject.joined)
    if not tested:
        raise UserError(f"{subject.name} has no usable test frames; run preprocessing/detect.py again with --test_seq_ratio above 0")
    trained, identity = first_frames(subject, count), f"{subject.name}-{count}"
    return Case(identity, len(frames_of(trained)), subject.write(derived, identity, trained, tested))


def write_others(dataset: Dataset, derived: Dataset, names: Sequence[str]) -> None:
    """Write a dataset of these persons alone, all usable frames of both splits to train on.

    Raises: UserError when the dataset has other persons from an earlier call: train.py would learn from them too.
    """
    odd = sorted(set(derived.identities()) - set(names))
    if odd:
        raise UserError(f"{derived.home} holds {', '.join(odd)} too, of an earlier call with other --others; delete that folder")
    for name in names:
        subject = Subject.read(dataset, name)
        runs = cut(long_runs(subject, ("train", "test")))
        if not runs:
            raise UserError(f"no {MIN_RUN} usable frames of {name} follow one another; leave {name} out by --others")
        subject.write(derived, name, runs, [])
        say(f"{name}: {len(frames_of(runs))} frames to pre-train on")


# ---- the real commands ----


def prepare(o: argparse.Namespace, case: Case) -> bool:
    """Compute what both trainings of a length need, which no limit of minutes is to count. Returns: whether it worked."""
    person = ["--dataset_name", short_name(o), "--target_id", case.identity, *folder_option(o, "datasets")]
    command = ["scripts/prepare_training.py", *preparation(parse_training([*shlex.split(o.train), *person])), *person]
    return run_commands(f"preparation of {case.identity}", [command], beside(results_run(o, case.identity), "-preparation.log"), o.parallel)


def pretrain(o: argparse.Namespace, target: str) -> bool:
    """Pre-train on the others. Returns: whether it worked."""
    several = ["--dataset_name", pretraining_name(o, target), *folder_option(o, "datasets")]
    arguments, log = shlex.split(o.pretrain), beside(pretraining_run(o, target), ".log")
    commands = [
        ["scripts/prepare_training.py", *preparation(parse_training([*arguments, *several]), workers=None), *several],
        ["train.py", *arguments, *several, "--name", o.recipe, *folder_option(o, "checkpoints")],
    ]
    say(f"pre-training; messages: {log}")
    return run_commands("pre-training", commands, log, parallel=1)


def train_and_test(o: argparse.Namespace, target: str, case: Case, start: str) -> bool:
    """Train, test and evaluate one network. start: of STARTS. Returns: whether none failed."""
    datasets, checkpoints, results = (folder_option(o, what) for what in FOLDERS)
    files = run_of(o, case.identity, start)
    of_run = ["--dataset_name", short_name(o), "--target_id", case.identity, *datasets, "--name", files.checkpoints.name, *checkpoints]
    pretrained = ["--load_pretrain", str(pretraining_run(o, target).checkpoints)] if start == "pre-trained" else []
    training = [["train.py", *shlex.split(o.train), *of_run, *pretrained]]
    testing = [
        ["test.py", *of_run, *results, "--no_report"],
        ["scripts/evaluate.py", str(files.test_folder(case.identity)), *datasets, *checkpoints],
    ]
    log = beside(files, ".log")
    say(f"{files.checkpoints.name}: {'tested' if o.skip_training else 'trained and tested'}; messages: {log}")
    return run_commands(files.checkpoints.name, [*(() if o.skip_training else training), *testing], log, o.parallel)


def pretraining_name(o: argparse.Namespace, target: str) -> str:
    return f"{o.dataset}_pretraining-{target}"


def short_name(o: argparse.Namespace) -> str:
    return f"{o.dataset}_short"


def pretraining_run(o: argparse.Namespace, target: str) -> Run:
    return Run.open(pretraining_name(o, target), o.recipe, o.checkpoints_dir, o.results_dir)


def results_run(o: argparse.Namespace, identity: str) -> Run:
    """No run: what the two of a length have in common."""
    return Run.open(short_name(o), f"{o.recipe}_{identity}", o.checkpoints_dir, o.results_dir)


def run_of(o: argparse.Namespace, identity: str, start: str) -> Run:
    return Run.open(short_name(o), f"{o.recipe}_{identity}-{start.replace('-', '')}", o.checkpoints_dir, o.results_dir)


def beside(files: Run, ending: str) -> Path:
    """A file beside a run's folder of results."""
    return files.results.with_name(files.results.name + ending)


# ---- figures and pictures ----


def measures(o: argparse.Namespace, case: Case) -> dict[str, dict[str, Any]]:
    """The measures of both networks and of the nearest training frames, None where one could not be had; the numbers of frames."""
    found: dict[str, dict[str, Any]] = {"frames": {"train": case.trained, "test": len(case.measured)}}
    for start in STARTS:
        files = run_of(o, case.identity, start)
        evaluation = read_evaluation(files.test_folder(case.identity))
        found[start] = {name: plain(evaluation.values.get(name)) for name in MEASURES} | progress(files)
        found["nearest"] = {name: plain(evaluation.nearest.get(name)) for name in MEASURES}
    return found


def progress(files: Run) -> dict[str, float]:
    """How many frames a run was trained on, each counted as often as it was, and for how many minutes."""
    from models.checkpoints import read_tensors  # PyTorch takes seconds to import

    done = read_tensors(files.state_path, lazily=True)["progress"]
    return {"frames trained": done["frames"], "minutes": round(done["seconds"] / 60, 2)}


def table(title: str, figures: dict[str, Any]) -> list[str]:
    """The measures of a length, a line each."""
    columns = (*STARTS, "nearest")
    lines = [f"{title:28s} " + " ".join(f"{column:>11s}" for column in columns)]
    for name in (*MEASURES, "frames trained"):
        values = [figures[column].get(name) for column in columns]
        cells = ["-" if v is None else str(v) if isinstance(v, int) else shown(v) for v in values]
        lines.append(f"{name:28s} " + " ".join(f"{cell:>11s}" for cell in cells))
    return lines


def write_sheet(o: argparse.Namespace, case: Case) -> Path:
    """A picture to look at: SHOWN test frames, real, from scratch and pre-trained below one another."""
    chosen = spread(len(case.measured), SHOWN)
    folders = {start: Results(run_of(o, case.identity, start).test_folder(case.identity)) for start in STARTS}
    rows = {"real": [read_image(folders[STARTS[0]].path("real", n)) for n in case.measured[chosen]]}
    rows |= {start: [read_image(results.path("fake", n)) for n in case.measured[chosen]] for start, results in folders.items()}
    path = beside(results_run(o, case.identity), ".png")
    write_image(path, sheet(rows, [f"test frame {i + 1}" for i in chosen]))
    return path


if __name__ == "__main__":
    run(main)
