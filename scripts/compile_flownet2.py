"""Build FlowNet2's CUDA operators ahead of time. Without this they are built when a GPU first needs them.

python scripts/compile_flownet2.py                   for the GPUs of this machine
python scripts/compile_flownet2.py --arch 9.0 12.0   for GPUs of these compute capabilities; no GPU is needed
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from util.cli import UserError, run, say
from util.extensions import ExtensionError


def main(argv: Sequence[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", metavar="X.Y", help="compute capabilities (default: of this machine's GPUs)")
    parser.add_argument("--force", action="store_true", help="build again what is there already")
    args = parser.parse_args(argv)

    import torch

    from models.ops._native import FLOW_OPS, kernels_fault

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() and not torch.version.hip else ()
    here = {i: "{}.{}".format(*torch.cuda.get_device_capability(i)) for i in gpus}
    archs = list(dict.fromkeys(args.arch or here.values()))
    if not archs:
        raise UserError("there is no CUDA GPU here to build for; name one's compute capability, such as --arch 9.0 (H100) or 8.9 (RTX 40)")
    for arch in archs:
        try:
            built = FLOW_OPS.build(arch, force=args.force)
            FLOW_OPS.load(arch)
        except ExtensionError as e:
            raise UserError(str(e)) from None
        if built.compiler:
            how = f"built in {built.seconds:.1f} s by nvcc {built.compiler.version} ({built.compiler.path}) with {built.compiler.host}"
        else:
            how = "was built before"
        say(f"compute capability {arch}: {how}\n  {built.path}")
    for i, arch in here.items():
        if arch in archs:
            if cause := kernels_fault(i):
                raise UserError(cause)
            say(f"cuda:{i}, {torch.cuda.get_device_name(i)}: the operators load")
    return None


if __name__ == "__main__":
    run(main)
