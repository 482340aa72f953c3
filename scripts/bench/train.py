"""How fast a training step is, and where its time goes: the literal recipe and the default one, in one run.

python scripts/bench/train.py --output train.json             # both, on this machine's GPU
python scripts/bench/train.py --literal --no_default          # the published recipe alone
python scripts/bench/train.py --no_literal --variant ngf=24,n_blocks=6,prev_output=false,ndf=32 --batch_sizes 4 8

literal: fp32 (TF32 convolutions), one clip of 4 frames a step, kernels launched one by one, FlowNet2 (random weights) on the chunk's pairs
at steps 1, 3 and 9 in the loop. default: what train.py does: bf16, several clips, recorded CUDA graphs, flow from the cache. Both with all
default losses, VGG19 with random weights included, on random pictures in the middle of a clip. A variant is the default recipe with
settings changed (train.py --list_settings). Times are medians over steps.
The peak is the rate that an 8192 x 8192 bf16 matrix product reaches on the same GPU in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import torch

from models import temporal
from models.clip import Chunk
from models.flownet2_pytorch import FlowNet2
from models.head2head_model import Head2HeadModel, ModelOptions
from models.losses import VGGLoss
from options.train_options import TrainOptions, parse
from util.caches.flow import STEPS
from util.cli import UserError, run, say
from util.face.roi import scaled_size
from util.image_io import write_bytes


def main(argv: Sequence[str] | None = None) -> int | None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--literal", action=argparse.BooleanOptionalAction, default=True, help="measure the published recipe")
    p.add_argument("--default", action=argparse.BooleanOptionalAction, default=True, help="measure our recipe")
    p.add_argument("--variant", action="append", default=[], metavar="NAME=VALUE,...", help="our recipe with these settings; repeatable")
    p.add_argument("--batch_sizes", type=int, nargs="+", default=[4], metavar="B", help="clips at once, of our recipe (default: 4)")
    p.add_argument("--loadSize", type=int, default=256, metavar="PX", help="side of the images (default: 256)")
    p.add_argument("--steps", type=int, default=20, metavar="N", help="steps that are timed (default: 20)")
    p.add_argument("--no_vgg", action="store_true", help="without the VGG19 loss")
    p.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    o = p.parse_args(argv)
    if not torch.cuda.is_available():
        raise UserError("this bench needs a CUDA GPU")
    device = torch.device("cuda")
    torch.backends.cudnn.benchmark = True
    peak = matrix_rate(device)
    facts: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "bf16_matrix_tflops": peak,
        "size": o.loadSize,
    }
    say(f"{facts['gpu']}, PyTorch {facts['torch']}; bf16 matrix product: {peak:.0f} TFLOP/s")
    vgg = None if o.no_vgg else random_vgg().to(device)
    runs = [("literal", 1)] * o.literal + [(kind, b) for kind in ["default"] * o.default + o.variant for b in o.batch_sizes]
    facts["runs"] = [measure(kind, batch, o, device, vgg, peak) for kind, batch in runs]
    if o.literal and o.default:
        rates = [r["frames_per_s"] for r in facts["runs"]]
        say(f"default : literal = {max(rates[1:]) / rates[0]:.1f}")
    if o.output:
        write_bytes(o.output, (json.dumps(facts, indent=1) + "\n").encode())
    return None


def measure(kind: str, batch: int, o: argparse.Namespace, device: torch.device, vgg: VGGLoss | None, peak: float) -> dict[str, Any]:
    """Time steps of one recipe (kind: literal, default, or a variant); returns its figures and prints them."""
    options, literal = parse_recipe(kind, o.loadSize), kind == "literal"
    model = make_model(options, device, torch.float32 if literal else torch.bfloat16, vgg if options.vgg else None)
    channels = 3 * len(model.conditioning_images)
    flows = STEPS if options.needs_flow else ()
    chunk = random_chunk(batch, options.loadSize, device, model.history_length, options.max_frames_per_gpu, channels, flows)
    frames = batch * (chunk.length)
    flow = FlowNet2().to(device).eval() if literal else None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()

    @torch.no_grad()
    def estimate_flow() -> None:
        images = chunk.real.movedim(-1, 2).float() / 255
        for step in STEPS:
            flow(torch.stack([images[:, -4:].flatten(0, 1), images[:, -4 - step : images.shape[1] - step].flatten(0, 1)], dim=2))

    def step() -> None:
        if flow:
            estimate_flow()
        model.step(chunk)

    @torch.no_grad()
    def generate() -> None:
        conditioning = chunk.conditioning.movedim(-1, 2).float() / 255
        model.generate(model.generator_input(conditioning, chunk.length), chunk.history)

    begun = time.perf_counter()
    for _ in range(3):  # as it is, recorded, replayed
        step()
    torch.cuda.synchronize()
    warm_up_s = time.perf_counter() - begun
    step_ms = timed(step, o.steps)
    memory_gb = torch.cuda.max_memory_reserved() / 1e9
    gradients_ms = timed(lambda: model.compute_gradients(chunk), o.steps)
    parts = {
        "gradients of all networks": gradients_ms,
        "optimisers and moving average": timed(lambda: model.update({*model.networks}), o.steps),
    }
    parts["of it, the generator's pass forward" + (" (not recorded)" if not literal else "")] = timed(generate, o.steps)
    if flow:
        parts["FlowNet2"] = timed(estimate_flow, o.steps)
    tflop = count_tflop(model, chunk)
    result = {
        "recipe": kind,
        "clips": batch,
        "frames_per_step": frames,
        "step_ms": step_ms,
        "frames_per_s": 1000 * frames / step_ms,
        "parts_ms": parts,
        "memory_gb": memory_gb,
        "warm_up_s": warm_up_s,
        "tflop_per_frame": tflop / frames,
        "fraction_of_peak": tflop / step_ms * 1000 / peak,
    }
    say(f"{kind}, {batch} clip(s): {result['frames_per_s']:.1f} frames/s; {step_ms:.1f} ms a step of {frames} frames")
    say(f"    {memory_gb:.1f} GB; first three steps {warm_up_s:.0f} s")
    say(f"    {tflop / frames:.2f} TFLOP a frame without flow, {100 * result['fraction_of_peak']:.0f} % of the peak")
    for name, ms in parts.items():
        say(f"    {ms:8.2f} ms  {name}")
    return result


def parse_recipe(kind: str, size: int) -> TrainOptions:
    named = kind in ("literal", "default")
    settings = [] if named else ["--set", *kind.split(",")]
    return parse(["--dataset_name", "bench", "--preset", kind if named else "default", "--loadSize", str(size), *settings])


def make_model(options: TrainOptions, device: torch.device, dtype: torch.dtype, vgg: VGGLoss | None) -> Head2HeadModel:
    names = ModelOptions.__dataclass_fields__
    chosen = {name: getattr(options, name) for name in names if hasattr(options, name)}
    chosen["roi_px"] = scaled_size(options.loadSize, options.ROI_size)
    return Head2HeadModel(ModelOptions(**chosen), device, dtype, vgg, graphs=options.cuda_graphs)


def random_chunk(
    batch: int,
    size: int,
    device: torch.device,
    history: int = temporal.HISTORY,
    frames: int = 4,
    channels: int = 6,
    flows: Sequence[int] = STEPS,
) -> Chunk:
    """Frames in the middle of a clip, where all losses are computed.

    history: frames before them. channels: of the conditioning images. flows: the steps that there is flow for.
    """
    window = history + frames

    def pictures(count: int, channels: int) -> torch.Tensor:
        return torch.randint(256, (batch, count, size, size, channels), dtype=torch.uint8, device=device)

    return Chunk(
        real=pictures(window, 3),
        conditioning=pictures(frames + 2, channels),
        corners={r: torch.full((batch, frames, 2), size // 3, device=device) for r in ("mouth", "eyes")},
        flows={s: torch.randn(batch, window - s, 2, size // 2, size // 2, device=device).half() for s in flows if s < window},
        history=torch.rand(batch, history, 3, size, size, device=device) * 2 - 1,
    )


def random_vgg() -> VGGLoss:
    from torchvision.models import vgg19

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vgg19.pth"
        torch.save(vgg19(weights=None).state_dict(), file)
        return VGGLoss(file)


def timed(function: Callable[[], Any], steps: int) -> float:
    """Median milliseconds of a call, waiting for the device after each."""
    function()
    times = []
    for _ in range(steps):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


def matrix_rate(device: torch.device) -> float:
    """TFLOP/s of a large bf16 matrix product."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / timed(lambda: a @ b, 10) / 1e9


def count_tflop(model: Head2HeadModel, chunk: Chunk) -> float:
    """Floating-point operations of a step's convolutions, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.differentiate(chunk)
    return counter.get_total_flops() / 1e12


if __name__ == "__main__":
    run(main)
