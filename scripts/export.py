"""Write a trained generator as a file for other programs: ONNX, or OpenVINO's own format.

    python scripts/export.py checkpoints/D/head2head_T --format onnx
    python scripts/export.py checkpoints/D/head2head_T --format openvino --output somewhere/else

The folder (default: export/<format>/ in the run's) gets the generator, generator.json with its inputs and outputs, and a README.md.
Images go in and come out as uint8 RGB; the scaling and the person's colours are inside. The file is compared with PyTorch first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from models.checkpoints import generator_remedy, read_run_options
from models.export import FORMATS, export_generator
from options.base_options import check_epoch, check_side
from util.cli import UserError, run, say
from util.face.appearance import Appearance
from util.layout import Run, check_name


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run: checkpoints/D/head2head_T")
    parser.add_argument("--format", choices=FORMATS, required=True, help="of the file")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write (default: RUN/export/FORMAT)")
    parser.add_argument("--target_id", metavar="T", help="the person to draw, where the run has several")
    parser.add_argument("--loadSize", type=int, metavar="PX", help="side of the images (default: as trained)")
    parser.add_argument("--which_epoch", default="latest", metavar="E", help="checkpoint: latest or an epoch (default: latest)")
    o = parser.parse_args(argv)
    check_name("--target_id", o.target_id)
    check_epoch(o.which_epoch)
    files = Run(o.run, o.run)
    options = read_run_options(files)
    if not files.network_path("G", o.which_epoch).is_file():
        remedy = generator_remedy(files, o.which_epoch) or "give the folder of a trained run, checkpoints/<D>/<run>"
        raise UserError(f"there is no checkpoint {files.network_path('G', o.which_epoch)}; {remedy}")
    size = options["loadSize"] if o.loadSize is None else o.loadSize
    check_side(size, 2 ** options["n_downsample_G"])
    options["loadSize"] = size
    person = appearance = None
    if options["appearance"]:
        person = files.profile_path(o.target_id).stem
        appearance = Appearance.read(files.appearance_path(person))
    output = o.output or files.export_folder(o.format)
    facts = export_generator(files, options, o.format, output, which_epoch=o.which_epoch, appearance=appearance, person=person)
    difference = facts["difference_from_pytorch"]
    say(f"{output / facts['file']}: differs from PyTorch by {difference['mean']} grey levels in the mean, {difference['largest']} at most")


if __name__ == "__main__":
    run(main)
