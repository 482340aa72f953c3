"""Fetch weights that others trained: FlowNet2's into models/flownet2_pytorch/, persons' networks into checkpoints/<D>/head2head_<T>/.

    python scripts/download_checkpoints.py --mirror DIR_OR_URL

No address of them is known to work, so they are taken from a copy: a folder or an address that holds

    FlowNet2_checkpoint.pth_faceflow.tar    FlowNet2 tuned on faces (preferred)
    FlowNet2_checkpoint.pth.tar             FlowNet2
    checkpoints.zip                         persons: [checkpoints/][<D>/]head2head_<T>/, whole or in parts (split or cut)

or one of these files itself. In a folder they may also lie deeper, persons as folders. Neither is needed: without FlowNet2 training takes
its optical flow from OpenCV (--flow dis), and train.py trains persons.

Every file is read as plain weights before it gets its name; one that is damaged or holds code is refused. What is in place is never
touched.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import torch

from models.checkpoints import load_weights, read_tensors, read_weights
from models.flownet2_pytorch import FlowNet2
from util.cli import UserError, run, say, writing
from util.downloads import Absent
from util.downloads.archives import BadArchive, unpack
from util.downloads.contents import find_file, find_runs, is_occupied, place, staging
from util.downloads.manifest import DATASETS, FLOWNET2, PERSONS
from util.downloads.sources import get_file, is_url, obtain
from util.downloads.space import amount, check_space
from util.identities import for_each
from util.layout import Dataset, Run, flownet2_checkpoint, root


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--mirror", metavar="DIR_OR_URL", help="folder, file or address to take them from")
    parser.add_argument(
        "--dataset",
        choices=sorted(DATASETS),
        default="head2headDataset",
        help="dataset of persons whose folders do not say it (default: %(default)s)",
    )
    parser.add_argument("--checkpoints_dir", type=Path, metavar="DIR", help="folder of all runs (default: checkpoints/ of this repository)")
    parser.add_argument("--flownet2_dir", type=Path, metavar="DIR", help="where FlowNet2's weights go (default: models/flownet2_pytorch)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    o = parse(argv)
    if not o.mirror:
        raise UserError(
            "no address of published checkpoints is known to work: give a copy with --mirror DIR_OR_URL, or do without (train.py trains "
            "persons, and takes optical flow from OpenCV with --flow dis)"
        )
    folder = (o.checkpoints_dir or root() / "checkpoints") / ".checkpoints.download"
    with staging(folder, "waiting for another process that downloads checkpoints"):
        trees = gather(o.mirror.rstrip("/") or "/", folder, o.flownet2_dir)
        try:
            found = find(trees, o)
            new = {str(target): source for target, source in found.items() if not is_occupied(target)}
            for target in sorted(target for target in found if str(target) not in new):
                say(f"already there, so it stays: {target}")
            if not found:
                raise UserError(
                    f"{o.mirror} holds none of {', '.join(e.name for e in (*FLOWNET2.values(), PERSONS))}, nor folders head2head_<T>/ with "
                    "a generator (*_net_G.pth) in them; check --mirror"
                )
            for_each(sorted(new), lambda target: put(new[target], Path(target), folder), "downloads")
        finally:
            shutil.rmtree(folder)
    for target in map(Path, sorted(new)):
        if target.name.startswith("head2head_"):
            person = shlex.quote(target.name.removeprefix("head2head_"))
            say(f"next: bash scripts/test/test_self_reenactment_on_target.sh {person} {target.parent.name}")


def gather(mirror: str, folder: Path, flownet2_dir: Path | None) -> list[Path]:
    """Folders to look for checkpoints in: a local mirror, and `folder` with what was downloaded and unpacked. Raises: UserError."""
    names = [entry.name for entry in FLOWNET2.values()]
    split = urlsplit(mirror)
    above, _, last = split.path.rpartition("/")
    if is_url(mirror) and last in names:
        get_file(split._replace(path=above).geturl(), last, folder)
        return [folder]
    if not is_url(mirror) and (path := Path(mirror).expanduser()).name in names and path.is_file():
        check_space(folder, path.stat().st_size)
        with writing(folder / path.name):
            shutil.copyfile(path, folder / path.name)
        return [folder]
    if is_url(mirror):
        for face, entry in FLOWNET2.items():
            if not flownet2_checkpoint(face, flownet2_dir).exists():
                attempt(partial(get_file, mirror, entry.name, folder))
    parts = attempt(partial(obtain, PERSONS, folder, mirror))
    if parts:
        shutil.rmtree(folder / "unpacked", ignore_errors=True)  # of an interrupted run
        try:
            unpack(parts, folder / "unpacked")
        except BadArchive as e:
            for part in parts:
                if part.parent == folder:
                    part.unlink()
            raise UserError(f"{e}; get it again") from None
    local = [] if is_url(mirror) or Path(mirror).expanduser().is_file() else [Path(mirror).expanduser()]
    return [*local, folder]


def attempt(get: Callable[[], list[Path] | Path]) -> list[Path] | Path | None:
    """What `get` gives, or None when the mirror does not have it."""
    try:
        return get()
    except Absent:
        return None


def find(trees: list[Path], o: argparse.Namespace) -> dict[Path, Path]:
    """Place -> file or folder that belongs there, of all checkpoints in these folders."""
    found: dict[Path, Path] = {}
    for tree in trees:
        for face, entry in FLOWNET2.items():
            if file := find_file(tree, entry.name):
                found.setdefault(flownet2_checkpoint(face, o.flownet2_dir), file)
        for source in find_runs(tree):
            above = source.relative_to(tree).parts[-2:-1]
            dataset = o.dataset if not above or above[0] in ("checkpoints", "unpacked") else above[0]
            Dataset.open(dataset)  # can it be a dataset's name?
            found.setdefault(Run.open(dataset, source.name, o.checkpoints_dir).checkpoints, source)
    return found


def put(source: Path, target: Path, folder: Path) -> None:
    """Check a checkpoint and put it in its place, by way of `folder`. Raises: UserError."""
    size = sum(p.stat().st_size for p in (source.rglob("*") if source.is_dir() else [source]) if p.is_file())
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.suffix in (".pth", ".pt"):
                (read_weights if path.suffix == ".pth" else read_tensors)(path)
    else:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing is loaded: the names and shapes are what counts
            load_weights(FlowNet2(), source, "fetch it again")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    ready = target.with_name(f".{target.name}.download")
    remove(ready)
    try:
        if folder not in source.parents:
            check_space(target, size)
        with writing(target):
            if folder in source.parents:
                shutil.move(source, ready)
            else:
                for path in [p for p in source.rglob("*") if p.is_file()] or [source]:
                    copy = ready / path.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        place(ready, target)
    finally:
        remove(ready)
    say(f"{target}: checked, {amount(size)}")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
