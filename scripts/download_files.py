"""Fetch the face model `ict` (ICT-FaceKit, USC, MIT licence) and convert it to preprocessing/files/ict_face_model.npz.

    python scripts/download_files.py                        from its official address (GitHub)
    python scripts/download_files.py --mirror DIR_OR_URL    from a folder, an archive, or another address

A mirror may offer any zip or tar archive of that commit, or a folder its unpacked tree. Without this file everything
works with the embedded face model mesh478, whose NMFC shows the face only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from preprocessing.face_models import ict
from preprocessing.face_models.registry import default_files_dir
from util.cli import UserError, run, say
from util.downloads import fetch


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", metavar="DIR_OR_URL", help="folder, archive or address to take instead of the official address")
    parser.add_argument("--files_dir", type=Path, default=default_files_dir(), help="where the converted file goes (default: %(default)s)")
    return parser.parse_args(argv)


def obtain(mirror: str | None, files_dir: Path) -> Path:
    """The archive or tree to convert, downloaded into `files_dir` if it is not local.

    Raises: UserError.
    """
    if mirror and "://" not in mirror:
        return ict.find_source(Path(mirror).expanduser())
    url = mirror or ict.URL
    if url.endswith(ict.ENDINGS):
        name = ict.ARCHIVE + next(e for e in ict.ENDINGS if url.endswith(e))
        return fetch(url, files_dir / name)
    refusals = []
    for ending in ict.ENDINGS[:3]:  # an address of a folder: try the archive's usual names
        try:
            return fetch(f"{url.rstrip('/')}/{ict.ARCHIVE}{ending}", files_dir / (ict.ARCHIVE + ending))
        except UserError as e:
            refusals.append(str(e))
    raise UserError(refusals[0])


def main(argv: Sequence[str] | None = None) -> int | None:
    args = parse(argv)
    target = ict.model_path(args.files_dir)
    if ict.is_converted(args.files_dir):
        say(f"already complete: {target}")
        return 0
    try:
        source = obtain(args.mirror, args.files_dir)
    except UserError as e:
        hint = "" if args.mirror else "; a copy can be given with --mirror DIR_OR_URL, and --face_model mesh478 needs no download"
        raise UserError(f"{e}{hint}") from None
    try:
        ict.convert(source, args.files_dir)
    except UserError:
        if source.is_file() and source.parent == args.files_dir:
            source.unlink()  # our own download is bad: the next run must not take it for good
        raise
    if source.is_file() and source.parent == args.files_dir:
        source.unlink()
    say(f"face model ict: {target} ({target.stat().st_size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    run(main)
