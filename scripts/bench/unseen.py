"""How a trained network does beyond what was filmed: on mouths that open wider, and heads that turn farther, than in its training frames.

    python scripts/bench/unseen.py D [NAME ...] --train="--no_vgg --max_minutes 3" --parallel 4 --output now.json
    python scripts/bench/unseen.py D [NAME ...] --train="..." --recipe new --before now.json --output new.json

For each preprocessed person (both splits together, bad frames left out) and each kind:

mouth       trained on the runs of frames in which the gap between the lips is at most its median, tested on the runs in which it is
            beyond its 85th percentile
pose        trained on the runs in which yaw and pitch are both in the inner half of their ranges, tested on the runs in which one of
            them is outside of the inner 80 %; a range lies between the 1st and the 99th percentile of the frames

restricted  the network trained so
oracle      the same recipe, trained on as many frames, in runs of similar lengths, drawn from all but the tested stretches
nearest     the restricted training frame with the nearest pose and expression, taken as if it were synthesised (scripts/evaluate.py)
way         with --before: (before - now) / (before - oracle before), how much of the way to the oracle a new recipe has gone

No training frame is nearer than 3 frames to a tested one; training runs have 10 frames or more. Persons who do not move enough are told
of and left out. The measures are means over single frames, the same for all; those over time would go across the gaps between stretches.

Writes datasets/<D>_unseen (hard links; with --tested half <D>_unseen_half), and with the real commands the runs
checkpoints/<D>_unseen/<recipe>_<NAME>-<kind>[-oracle], their results, and beside those the messages (.log) and a picture of real,
restricted and oracle frames: results/<D>_unseen/<recipe>_<NAME>-<kind>.png. The same command goes on from what is finished.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from options.train_options import parse as parse_training
from scripts.bench.frame_choice import (
    EXTENTS,
    FOLDERS,
    SHOWN,
    Choice,
    Extent,
    Subject,
    Unsuitable,
    add_folder_options,
    folder_option,
    frames_of,
    plain,
    preparation,
    run_commands,
    sheet,
)
from util.cli import UserError, run, say
from util.identities import find_identity, identities_with_frames
from util.image_io import read_image, write_bytes, write_image
from util.layout import Dataset, Run
from util.results.evaluation import read_evaluation, shown
from util.results.folder import Results
from util.sampling import spread

MEASURES = ("APD-L2", "MAPD-L2", "mouth-APD-L2", "SSIM", "eye-landmarks")
WAY = ("MAPD-L2", "mouth-APD-L2")  # measures of which the share of the way to the oracle is told
NETWORKS = ("restricted", "oracle")
TESTED = {"all": 1, "half": 2}  # of the stretches beyond, every first or every second one


@dataclass(frozen=True)
class Case:
    """A person and a kind, with the frames chosen and the identities of the new dataset that were made of them."""

    name: str
    kind: str
    extent: Extent
    choice: Choice
    measured: np.ndarray  # int [N]: numbers of the tested frames in the new dataset

    def identity(self, network: str) -> str:
        return f"{self.name}-{self.kind}" + ("-oracle" if network == "oracle" else "")

    @property
    def sizes(self) -> np.ndarray:
        """How far the person goes in each tested frame (Extent.size)."""
        return self.extent.size[frames_of(self.choice.tested)]

    def facts(self) -> dict[str, Any]:
        """JSON-able: the numbers of frames, the bounds, how far each network's training frames go, and the frames chosen."""
        counts = {"train": len(frames_of(self.choice.restricted)), "test": len(self.measured)}
        seen = {network: float(self.extent.size[frames_of(getattr(self.choice, network))].max()) for network in NETWORKS}
        chosen = {part: [list(s) for s in getattr(self.choice, part)] for part in ("tested", *NETWORKS)}
        sizes = {"farthest_trained": seen, "least_tested": float(self.sizes.min()), "farthest_tested": float(self.sizes.max())}
        return {"frames": counts, "bounds": self.extent.facts, **sizes, "chosen": chosen}


def main(argv: Sequence[str] | None = None) -> None:
    o = parse(argv)
    dataset, before = Dataset.open(o.dataset, o.datasets_dir), read_before(o.before) if o.before else {}
    names = [find_identity(dataset, name) for name in o.names] or identities_with_frames(dataset, None)
    for name in names:
        identities_with_frames(dataset, name)
    derived = Dataset.open(derived_name(o), o.datasets_dir)
    persons: dict[str, dict[str, Any]] = {}
    cases: list[Case] = []
    for name in names:
        subject = Subject.read(dataset, name)
        for kind in o.kinds:
            try:
                case = prepare(subject, kind, derived, TESTED[o.tested])
            except Unsuitable as e:
                say(f"{name}, {kind}: unsuitable, {e}")
                persons.setdefault(name, {})[kind] = {"unsuitable": str(e)}
                continue
            cases.append(case)
            persons.setdefault(name, {})[kind] = facts = case.facts()
            say(describe(case))
            former = before.get(name, {}).get(kind, {})
            if former.get("chosen", facts["chosen"]) != facts["chosen"]:
                raise UserError(f"{o.before} is of other frames of {name} ({kind}) than those chosen now; measure the earlier recipe again")
    if not o.only_prepare:
        work = [(case, network) for case in cases for network in NETWORKS]
        with ThreadPoolExecutor(o.parallel) as pool:
            done = list(pool.map(lambda job: train_and_test(o, job[0].identity(job[1])), work))
        if not all(done):
            raise UserError(
                f"{done.count(False)} of {len(done)} networks failed, see above; mend that and run again: what is finished is kept. "
                "Other options of train.py need another --recipe"
            )
        for case in cases:
            own = persons[case.name][case.kind]
            own |= measures(o, case)
            own["way"] = way(before.get(case.name, {}).get(case.kind, {}), own)
            say("\n".join(table(f"{case.name}, {case.kind}", own)))
            say(f"picture: {write_sheet(o, case)}")
    if o.output:
        figures = {"dataset": o.dataset, "recipe": o.recipe, "train": o.train, "tested": o.tested, "persons": persons}
        write_bytes(o.output, (json.dumps(figures, indent=1) + "\n").encode())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("dataset", metavar="D", help="a preprocessed dataset")
    parser.add_argument("names", metavar="NAME", nargs="*", help="persons (default: all)")
    parser.add_argument("--kinds", nargs="+", choices=tuple(EXTENTS), default=list(EXTENTS), help="(default: all)")
    parser.add_argument(
        "--tested",
        choices=tuple(TESTED),
        default="all",
        help="all stretches beyond (default), or half: every other, and the oracle may see the rest",
    )
    parser.add_argument("--train", default="", metavar="ARGS", help='options of train.py, as one text: --train="--no_vgg --max_minutes 3"')
    parser.add_argument("--recipe", default="now", metavar="R", help="name of the trainings with these options (default: now)")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="trainings at once, which share the cores (default: 1)")
    parser.add_argument("--before", type=Path, metavar="JSON", help="the --output of an earlier recipe, to tell the share of the way")
    parser.add_argument("--output", type=Path, metavar="JSON", help="write all figures to this file")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only_prepare", action="store_true", help="choose the frames and write the dataset, nothing else")
    only.add_argument("--skip_training", action="store_true", help="evaluate the networks that are there")
    add_folder_options(parser)
    o = parser.parse_args(argv)
    if o.parallel < 1:
        raise UserError(f"--parallel {o.parallel} must be at least 1")
    parse_training([*shlex.split(o.train), "--dataset_name", o.dataset])  # mistakes are told now
    if not o.recipe or "/" in o.recipe or "\\" in o.recipe:
        raise UserError(f"--recipe '{o.recipe}' is no usable name; give a plain name without slashes")
    return o


def prepare(subject: Subject, kind: str, derived: Dataset, every: int) -> Case:
    """Choose the frames and write the two identities. every: as of `choose`. Raises: Unsuitable."""
    extent, choice = subject.choose(kind, every)
    case = Case(subject.name, kind, extent, choice, np.zeros(0, int))
    for network in NETWORKS:
        measured = subject.write(derived, case.identity(network), getattr(choice, network), choice.tested)
        case = Case(subject.name, kind, extent, choice, measured)
    return case


def describe(case: Case) -> str:
    facts, unit = case.facts(), "cm" if case.kind == "mouth" else "of half the range"
    seen, counts = facts["farthest_trained"], facts["frames"]
    return (
        f"{case.name}, {case.kind}: {counts['train']} frames to train on, up to {seen['restricted']:.2f} {unit} (the oracle's up to "
        f"{seen['oracle']:.2f}); {counts['test']} to test, {facts['least_tested']:.2f} to {facts['farthest_tested']:.2f}"
    )


# ---- the real commands ----


def train_and_test(o: argparse.Namespace, identity: str) -> bool:
    """Prepare, train, test and evaluate one identity, each in a process of its own. Returns: whether none failed."""
    datasets, checkpoints, results = (folder_option(o, what) for what in FOLDERS)
    person = ["--dataset_name", derived_name(o), "--target_id", identity, *datasets]
    of_run = [*person, "--name", f"{o.recipe}_{identity}", *checkpoints]
    training = [
        ["scripts/prepare_training.py", *preparation(parse_training([*shlex.split(o.train), *of_run])), *person],  # not counted as minutes
        ["train.py", *shlex.split(o.train), *of_run],
    ]
    testing = [
        ["test.py", *of_run, *results, "--no_report"],
        ["scripts/evaluate.py", str(results_of(o, identity).folder), *datasets, *checkpoints],
    ]
    log = sheet_path(o, identity).with_suffix(".log")
    say(f"{identity}: {'tested' if o.skip_training else 'trained and tested'}; messages: {log}")
    return run_commands(identity, [*(() if o.skip_training else training), *testing], log, o.parallel)


def derived_name(o: argparse.Namespace) -> str:
    return f"{o.dataset}_unseen" + ("_half" if o.tested == "half" else "")


def run_of(o: argparse.Namespace, identity: str) -> Run:
    return Run.open(derived_name(o), f"{o.recipe}_{identity}", o.checkpoints_dir, o.results_dir)


def results_of(o: argparse.Namespace, identity: str) -> Results:
    return Results(run_of(o, identity).test_folder(identity))


def sheet_path(o: argparse.Namespace, identity: str) -> Path:
    folder = run_of(o, identity).results
    return folder.with_name(f"{folder.name}.png")


# ---- figures ----


def measures(o: argparse.Namespace, case: Case) -> dict[str, dict[str, float | None]]:
    """The measures of both networks and of the restricted one's nearest training frames; None where one could not be had."""
    found: dict[str, dict[str, float | None]] = {}
    for network in NETWORKS:
        evaluation = read_evaluation(results_of(o, case.identity(network)).folder)
        found[network] = {name: plain(evaluation.values.get(name)) for name in MEASURES}
        if network == "restricted":
            found["nearest"] = {name: plain(evaluation.nearest.get(name)) for name in MEASURES}
    return found


def way(before: dict[str, Any], now: dict[str, Any]) -> dict[str, float]:
    """Of each measure of WAY, the share of the way from the restricted network's value before to its oracle's that is gone now.

    Only of measures that are known and that the oracle was better in. before, now: of a person and a kind, with the networks' measures.
    """
    shares = {}
    for name in WAY:
        start, end = (before.get(network, {}).get(name) for network in NETWORKS)
        here = now["restricted"][name]
        if None not in (start, end, here) and start > end:
            shares[name] = (start - here) / (start - end)
    return shares


def table(title: str, figures: dict[str, Any]) -> list[str]:
    """The measures of a person and a kind, a line each."""
    lines = [f"{title:28s} {'restricted':>10s} {'oracle':>10s} {'nearest':>10s} {'way':>6s}"]
    for name in MEASURES:
        values = [figures[column][name] for column in (*NETWORKS, "nearest")]
        cells = " ".join(f"{shown(math.nan if v is None else v):>10s}" for v in values)
        share = figures["way"].get(name)
        lines.append(f"{name:28s} {cells} {'-' if share is None else format(share, '.2f'):>6s}")
    return lines


def read_before(path: Path) -> dict[str, Any]:
    """`persons` of an earlier --output. Raises: UserError."""
    try:
        return json.loads(path.read_text())["persons"]
    except FileNotFoundError:
        raise UserError(f"there is no {path}; --before takes the --output of an earlier call") from None
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path} is not the --output of this command ({e}); measure the earlier recipe again") from None


# ---- pictures ----


def write_sheet(o: argparse.Namespace, case: Case) -> Path:
    """A picture to look at: SHOWN tested frames from the least to the farthest beyond; real, restricted and oracle below one another."""
    order = np.argsort(case.sizes, kind="stable")
    chosen = order[spread(len(order), SHOWN)]
    numbers = case.measured[chosen]
    folders = {network: results_of(o, case.identity(network)) for network in NETWORKS}
    rows = {"real": [read_image(folders["restricted"].path("real", n)) for n in numbers]}
    rows |= {network: [read_image(results.path("fake", n)) for n in numbers] for network, results in folders.items()}
    path = sheet_path(o, case.identity("restricted"))
    write_image(path, sheet(rows, [f"{case.sizes[i]:.2f}" for i in chosen]))
    return path


if __name__ == "__main__":
    run(main)
