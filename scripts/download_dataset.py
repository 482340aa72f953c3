"""Fetch a dataset of the original system into datasets/<D>/, in the layout that train.py takes as it is.

    python scripts/download_dataset.py --dataset head2headDataset                         preprocessed, to datasets/<D>/dataset/
    python scripts/download_dataset.py --dataset head2headDataset --original_videos       videos, to datasets/<D>/original_videos/
    python scripts/download_dataset.py --dataset head2headDataset --mirror DIR_OR_URL     from a copy, for machines without internet
    python scripts/download_dataset.py --dataset faceforensicspp --from DIR               the 1,000 videos of FaceForensics++, preprocessed

head2headDataset and head2headDatasetv2 come from the addresses that the original system published. Whether these still answer could not
be tested. Where they do not, take a copy with --mirror, or make a dataset of your own videos: put them into datasets/<D>/original_videos/
and run preprocessing/detect.py.

A mirror is a folder or an address with the files <D>/dataset.zip and <D>/original_videos.zip, or such a file itself. They may be in parts:
split (dataset.z01, dataset.z02, ..., dataset.zip) or cut (dataset.zip.001, ..., or dataset.zip.partaa, ...).

FaceForensics++ is given out by its authors on request. Fill in the form at https://github.com/ondyari/FaceForensics, and fetch the original
videos with the script that they send: its options are -d original -c c23 -t videos. Give the folder with --from. Its videos are linked, not
copied, into datasets/faceforensicspp/original_videos/, of each the best quality that is there. Then scripts/preprocess.py takes them
through all steps, with --workers or --ray if that is given: hours (docs/results.md); --original_videos leaves it to you.

What is in place already is never touched. An interrupted run is gone on with by the same command.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from data.integrity import training_sequences
from util.cli import DiskFull, UserError, listed, run, say, warn
from util.downloads.archives import BadArchive, unpack
from util.downloads.contents import find_dataset, find_videos, is_occupied, others, place, staging
from util.downloads.faceforensics import find_originals, link_videos
from util.downloads.manifest import DATASETS
from util.downloads.sources import obtain
from util.identities import VIDEO_SUFFIXES
from util.layout import Dataset, root

FACEFORENSICS = (
    "FaceForensics++ is given out by its authors on request: fill in the form at https://github.com/ondyari/FaceForensics, fetch the "
    "original videos with the script that they send (-d original -c c23 -t videos), and give their folder with --from DIR; or give a copy "
    "of the preprocessed dataset with --mirror DIR_OR_URL"
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="head2headDataset", help="which one (default: %(default)s)")
    parser.add_argument("--datasets_dir", type=Path, metavar="DIR", help="folder of all datasets (default: datasets/ of this repository)")
    parser.add_argument("--original_videos", action="store_true", help="the videos instead of the preprocessed dataset")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--mirror", metavar="DIR_OR_URL", help="folder, archive or address to take instead of the official address")
    source.add_argument("--from", dest="source", type=Path, metavar="DIR", help="folder of FaceForensics++'s videos")
    parser.add_argument("--workers", type=int, metavar="N", help="with --from: as of scripts/preprocess.py")
    parser.add_argument("--ray", metavar="ADDRESS", help="with --from: as of scripts/preprocess.py")
    o = parser.parse_args(argv)
    if o.source and o.dataset != "faceforensicspp":
        raise UserError("--from takes FaceForensics++'s videos and goes with --dataset faceforensicspp; for archives there is --mirror")
    if (o.workers or o.ray) and (not o.source or o.original_videos):
        raise UserError("--workers and --ray are of the preprocessing of --from DIR; leave them out")
    return o


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    dataset = Dataset.open(o.dataset, o.datasets_dir)
    if o.source:
        link_videos(find_originals(o.source.expanduser()), dataset.original_videos)
        tell_videos(dataset, o.datasets_dir)
        return 0 if o.original_videos else preprocess(dataset, o)
    target = dataset.original_videos if o.original_videos else dataset.folder
    if is_occupied(target):
        say(f"already there, so nothing is downloaded: {target}")
    elif o.dataset == "faceforensicspp" and not o.mirror:
        raise UserError(FACEFORENSICS)
    else:
        download(dataset, target, o.mirror)
    (tell_videos if o.original_videos else tell_dataset)(dataset, o.datasets_dir)
    return 0


def preprocess(dataset: Dataset, o: argparse.Namespace) -> int:
    """Take the videos through all steps, by the command for that. Returns its exit code."""
    extra = [f"--workers={o.workers}"] * bool(o.workers) + [f"--ray={o.ray}"] * bool(o.ray)
    places = ["--dataset_name", dataset.home.name, "--datasets_dir", str(dataset.home.parent)]
    command = [sys.executable, str(root() / "scripts/preprocess.py"), str(dataset.original_videos), *places, *extra]
    return subprocess.run(command).returncode


def download(dataset: Dataset, target: Path, mirror: str | None) -> None:
    """Fetch, unpack and put in place one of a dataset's two folders. Raises: UserError."""
    folder = dataset.home / f".{target.name}.download"
    with staging(folder, f"waiting for another process that downloads {target}"):
        if not is_occupied(target):  # it has just done it
            bring(dataset, target, mirror, folder)


def bring(dataset: Dataset, target: Path, mirror: str | None, folder: Path) -> None:
    """As download, by way of `folder`."""
    try:
        parts = obtain(DATASETS[dataset.home.name][target.name], folder, mirror)
    except DiskFull:
        raise
    except UserError as e:
        if mirror:
            raise
        own = f"put your own videos into {dataset.original_videos} and run preprocessing/detect.py --dataset_name {dataset.home.name}"
        raise UserError(f"{e}; a copy can be given with --mirror DIR_OR_URL, or {own}") from None
    downloaded = parts[0].parent == folder
    unpacked = folder / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of an interrupted run
    try:
        unpack(parts, unpacked)
    except UserError as e:
        shutil.rmtree(unpacked, ignore_errors=True)
        if not isinstance(e, BadArchive):
            raise
        for part in parts if downloaded else ():
            part.unlink()
        advice = "it was deleted, run again or take a copy with --mirror" if downloaded else "get it again"
        raise UserError(f"{e}; {advice}") from None
    try:
        content = find_dataset(unpacked) if target == dataset.folder else find_videos(unpacked)
    except UserError as e:
        shutil.rmtree(unpacked)
        kept = keep(parts, dataset.home) if downloaded else parts
        raise UserError(f"{kept[-1]} {e}; unpack it yourself and move what is of use to {target}") from None
    if left := others(unpacked, content):
        warn(f"left out of {parts[-1].name}, as it is beside {content.relative_to(unpacked)}: {listed(left)}")
    place(content, target)
    shutil.rmtree(folder)


def keep(parts: list[Path], folder: Path) -> list[Path]:
    """Move a download that is of no use as it is to where the user sees it."""
    places = [folder / part.name for part in parts]
    if any(map(is_occupied, places)):
        return parts
    for part, there in zip(parts, places):
        place(part, there)
    return places


def tell_dataset(dataset: Dataset, datasets_dir: Path | None) -> None:
    """Print who is in a dataset, and the command that trains. Raises: UserError when it is no dataset of this layout."""
    names = dataset.identities()
    if not names:
        raise UserError(
            f"{dataset.folder} is not a dataset of this layout, {{train,test}}/images/<sequence>/<frame>.png; move it away and run again"
        )
    shown, trainable = [], []
    for name in names:
        count = 0
        if dataset.sequences("train", name):
            try:
                count = sum(len(frames) for _, frames in training_sequences(dataset, name))
                trainable.append(name)
            except UserError as e:
                warn(f"{name} cannot be trained on: {e}")
        shown.append(f"{name} ({count} training and {sum(len(s.frames()) for s in dataset.sequences('test', name))} test frames)")
    say(f"{len(names)} identities in {dataset.folder}: {listed(shown)}")
    if trainable:
        tell_next(f"bash scripts/train/train_on_target.sh {shlex.quote(trainable[0])} {dataset.home.name}", datasets_dir)


def tell_videos(dataset: Dataset, datasets_dir: Path | None) -> None:
    """Print what videos there are, and the command that preprocesses them. Raises: UserError when there are none."""
    videos = [p for p in dataset.original_videos.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
    if not videos:
        raise UserError(f"{dataset.original_videos} holds no videos; move it away and run again")
    say(f"{len(videos)} videos in {dataset.original_videos}: {listed(sorted(p.name for p in videos))}")
    for folder in sorted({p.parent for p in videos}):
        shown = os.path.relpath(folder)
        shown = shlex.quote(str(folder) if shown.startswith("..") else shown)
        tell_next(f"python scripts/preprocess.py {shown} --dataset_name {dataset.home.name}", datasets_dir)


def tell_next(command: str, datasets_dir: Path | None) -> None:
    say(f"next: {command}" + (f" --datasets_dir {shlex.quote(str(datasets_dir))}" if datasets_dir else ""))


if __name__ == "__main__":
    run(main)
