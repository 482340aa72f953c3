"""What a generator costs: operations, weights, and the time of a frame on this machine's processor.

python scripts/bench/generator.py                                             # lean generators of several widths, and the published one
python scripts/bench/generator.py --variant ngf=24,n_blocks=6 --variant ngf=24,n_blocks=4,prev_output=true --size 256 512

A variant is settings of train.py that define the generator, beside those of LEAN. Its weights are random, which costs the same. Each back
end that is installed draws them, from images to image as the Synthesizer has it do. In every round each draws each variant in turn, so
that what else the machine does meets all of them. Medians over the rounds: the time of a frame, and in brackets the processor's time for
it, all threads together, which other programs hardly change. bf16 is fast on processors with instructions for it (AVX512-BF16, AMX), and
very slow in PyTorch, and not there in OpenVINO, on others. With a CUDA GPU: the recorded graph and PyTorch, both there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.backends.choice import Conditions, is_installed, make_backend
from models.backends.network import Backend, FrameNetwork, Inputs
from models.checkpoints import PUBLISHED_OPTIONS
from models.networks import Generator, build_generator
from models.networks.generator import PREVIOUS_FRAMES, input_channels
from options.presets import parse_setting
from util.cli import UserError, run, say
from util.device import BACKENDS
from util.face.appearance import CELLS, Appearance
from util.image_io import write_bytes

LEAN = {"prev_output": False, "conditioning_frames": 1, "appearance": True}  # where a variant says nothing else
VARIANTS = (
    *(f"ngf={ngf},n_blocks={n_blocks}" for ngf in (16, 24, 32) for n_blocks in (4, 6, 9)),
    "ngf=24,n_blocks=6,prev_output=true",
    "ngf=24,n_blocks=6,conditioning_frames=3",
)
PUBLISHED = "prev_output=true,conditioning_frames=3,appearance=false"


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--variant", action="append", metavar="NAME=VALUE,...", help="a generator; repeatable (default: a list of them)")
    p.add_argument("--size", type=int, nargs="+", default=[256], metavar="PX", help="sides of the images (default: 256)")
    p.add_argument("--rounds", type=int, default=7, metavar="N", help="times that each is drawn (default: 7)")
    p.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"], help="of the arithmetic (default: fp32)")
    p.add_argument("--backend", nargs="+", choices=BACKENDS[1:], metavar="B", help="back ends (default: all that run here)")
    p.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of each engine (default: as PyTorch chooses)")
    p.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    o = p.parse_args(argv)
    torch.set_num_threads(o.threads)
    variants = {text: read_variant(text) for text in o.variant or (*VARIANTS, PUBLISHED)}
    figures = [figure for size in o.size for figure in measure(variants, size, o)]
    if o.output:
        write_bytes(o.output, (json.dumps(figures, indent=1) + "\n").encode())


def read_variant(text: str) -> dict[str, Any]:
    """The options of a generator from NAME=VALUE,... Raises: UserError for a setting that there is not, or that no generator has."""
    options = {**PUBLISHED_OPTIONS, **LEAN}
    for word in text.split(","):
        name, _, value = word.partition("=")
        options[name] = parse_setting(name, value, f"--variant {name}=")
        if name not in PUBLISHED_OPTIONS:
            raise UserError(f"--variant {text}: {name} is no setting of the generator ({', '.join(PUBLISHED_OPTIONS)})")
    return options


def measure(variants: dict[str, dict[str, Any]], size: int, o: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all variants at one size; returns their figures and prints them as a table."""
    figures, engines, images = [], {}, {}
    for text, options in variants.items():
        torch.manual_seed(0)
        generator = build_generator(options).eval()
        facts = {"variant": text, "size": size, "gflop": count_gflop(options, size), "parameters": count_parameters(generator)}
        figures.append(facts)
        engines[text] = make_backends(generator, options, size, o)
        images[text] = [x for x in Inputs.of(options).example(size, size) if x.dtype == np.uint8]
    times: dict[tuple[str, str], list[tuple[float, float]]] = {(text, name): [] for text, made in engines.items() for name in made}
    for k in range(o.rounds + 1):
        for text, name in times:
            begun, begun_cpu = time.perf_counter(), time.process_time()
            engines[text][name](images[text], None)
            if k:  # the first frame is slower
                times[text, name].append((1000 * (time.perf_counter() - begun), 1000 * (time.process_time() - begun_cpu)))
    names = list(next(iter(engines.values())))
    say(f"{size}x{size}, {o.threads} thread(s); ms a frame, medians of {o.rounds}")
    say(f"{'variant':58s} GFLOP  M weights  " + "  ".join(f"{name:>17s}" for name in names))
    for facts in figures:
        medians = {name: [statistics.median(x) for x in zip(*times[facts["variant"], name])] for name in names}
        facts["ms"], facts["processor_ms"] = ({name: x[k] for name, x in medians.items()} for k in (0, 1))
        shown = "  ".join(f"{ms:8.1f} ({cpu:6.1f})" for ms, cpu in medians.values())
        say(f"{facts['variant']:58s} {facts['gflop']:5.1f}  {facts['parameters'] / 1e6:9.2f}  {shown}")
    return figures


def count_gflop(options: dict[str, Any], size: int) -> float:
    """Floating-point operations of a frame's convolutions, in units of 1e9."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        generator = build_generator(options)
        generator(torch.empty(1, input_channels(options), size, size), torch.empty(1, 3 * PREVIOUS_FRAMES, size, size))
    return counter.get_total_flops() / 1e9


def count_parameters(generator: Generator) -> int:
    return sum(p.numel() for p in generator.parameters())


def make_backends(generator: Generator, options: dict[str, Any], size: int, o: argparse.Namespace) -> dict[str, Backend]:
    """What draws a frame, by its name."""
    colours = Appearance(np.random.default_rng(0).integers(0, 256, (CELLS**3, 3), np.uint8)) if options["appearance"] else None
    network = FrameNetwork(generator, Inputs.of(options), colours).eval()
    gpu = torch.cuda.is_available()
    kinds = o.backend or (["cuda", "torch"] if gpu else [kind for kind in ("torch", "openvino", "onnx") if is_installed(kind)])
    made = {}
    for kind in kinds:
        device = torch.device("cuda" if gpu and kind in ("cuda", "torch") else "cpu")
        for precision in ("fp32",) if kind == "onnx" else o.precision:
            backend = make_backend(kind, Conditions(network, device, precision, o.threads), size, size)
            made[backend.name] = backend
    return made


if __name__ == "__main__":
    run(main)
