"""Check FlowNet2's CUDA operators on this GPU against plain PyTorch, and time both and the whole network.

python scripts/bench/flow_ops.py --output flow_ops.json
PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 python scripts/bench/flow_ops.py --sanitize   # small sizes only

Builds the operators if need be. Equality: result and gradients against plain PyTorch in float64 on the same inputs, as
||difference|| / ||reference||; a kernel may be as far off as its type rounds, or twice as far as plain PyTorch of its type is.
Ends with 1 when one is further off. Times are medians of CUDA events; the device's own time comes from replayed CUDA graphs.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import torch
import torch.nn.functional as F
from torch import Tensor

from models.flownet2_pytorch import FlowNet2, flownet2, networks
from models.ops import channelnorm, correlation, resample2d
from models.ops._native import FLOW_OPS, kernels_fault
from util.cli import UserError, run, say
from util.image_io import write_bytes

ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
ORIGINAL_MS_PER_PAIR = 6.1  # FlowNet2 of the original system, 256 x 256, one H100
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
Case = tuple[str, Callable[..., Tensor], list[Tensor]]  # description, function (inputs, impl=), inputs


def exact_flow(*shape: int, reach: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random flow of about `reach` pixels in odd sixteenths: its sums with pixel positions round in no type and never hit a pixel."""
    return (((reach * torch.randn(shape)).clamp(-60, 60) * 8).round() / 8 + 1 / 16).to(dtype)


def small_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Odd sizes, batch 1, flows that leave the frame, both layouts, slices, zero vectors."""
    for layout_name, layout in LAYOUTS.items():

        def random(*shape: int, layout: torch.memory_format = layout) -> Tensor:
            return torch.randn(shape).to(dtype).contiguous(memory_format=layout)

        for shape, reach, step in (
            ((1, 8, 7, 9), 4, 2),
            ((2, 5, 5, 13), 3, 1),
            ((1, 20, 3, 37), 20, 2),
            ((1, 70, 3, 5), 7, 3),
            ((1, 4, 2, 40), 24, 1),
            ((1, 3, 4, 1), 20, 1),
        ):
            function = functools.partial(correlation, max_displacement=reach, stride2=step)
            yield f"correlation {shape} {reach}/{step} {layout_name}", function, [random(*shape), random(*shape)]
        for shape in ((1, 3, 7, 9), (3, 5, 13, 11), (2, 1, 1, 5), (1, 2, 1, 1)):
            for reach in (0.7, 40.0):
                flow = exact_flow(shape[0], 2, *shape[2:], reach=reach)
                yield f"resample2d {shape} {reach} px {layout_name}", resample2d, [random(*shape), flow]
            yield f"resample2d slice of {shape}, flow of its type, {layout_name}", _resample_slice, [random(*shape), flow.to(dtype)]
            x = random(*shape)
            x[:, :, 0, 0] = 0
            yield f"channelnorm {shape} {layout_name}", channelnorm, [x]
    yield "correlation of slices", _correlate_slices, [torch.randn(2, 9, 8, 8).to(dtype), torch.randn(2, 9, 8, 8).to(dtype)]


def _resample_slice(image: Tensor, flow: Tensor, impl: str) -> Tensor:
    return resample2d(image[:, -1:], flow, impl)


def _correlate_slices(a: Tensor, b: Tensor, impl: str) -> Tensor:
    return correlation(a[:, 1:], b[:, :-1], 4, 2, impl)


def flownet2_cases(dtype: torch.dtype, batch: int, size: int) -> Iterator[Case]:
    """The operators as FlowNet2 calls them on `batch` pairs of size x size."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype)

    features = (batch, 256, size // 8, size // 8)
    yield "correlation", correlation, [random(*features).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    yield "resample2d", resample2d, [random(batch, 3, size, size), exact_flow(batch, 2, size, size, reach=8.0)]
    yield "channelnorm", channelnorm, [random(batch, 3, size, size)]


def results(function: Callable[..., Tensor], inputs: list[Tensor], impl: str) -> list[Tensor]:
    """The result and the gradients of all inputs, for a fixed gradient of the result."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves, impl=impl)
    weights = torch.linspace(-30, 30, out.numel(), device=out.device).sin().view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, weights)]


def distance(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||; 0 where both are zero, never below the truth for values that are not numbers."""
    error = (got.double() - want.double()).norm().item()
    if error == 0:
        return 0.0
    return error / max(want.double().norm().item(), 1e-30) if error == error else float("inf")


def check(cases: Iterator[Case], dtype: torch.dtype, compare_on: torch.device) -> list[dict[str, Any]]:
    """One row per case: how far the kernel and plain PyTorch are from float64, worst of result and gradients."""
    rows = []
    for name, function, inputs in cases:
        on_gpu = [x.cuda() for x in inputs]
        kernel = results(function, on_gpu, "cuda")
        plain = results(function, [x.to(compare_on) for x in inputs], "ref")
        exact = results(function, [x.to(compare_on, torch.float64) for x in inputs], "ref")
        row: dict[str, Any] = {"case": name, "dtype": str(dtype).removeprefix("torch."), "ok": True}
        for part, k, p, e in zip(("result", *(f"gradient {i}" for i in range(len(inputs)))), kernel, plain, exact):
            of_kernel, of_plain = distance(k.to(compare_on), e), distance(p, e)
            ok = of_kernel <= max(ROUNDING[dtype], 2 * of_plain) and k.dtype == p.dtype and k.shape == p.shape
            row[part] = {"kernel": of_kernel, "plain": of_plain}
            row["ok"] = row["ok"] and ok
        rows.append(row)
    return rows


def median_ms(action: Callable[[], object], repeats: int = 30, calls: int = 1) -> float:
    """Median time of a call, by CUDA events around `calls` of them."""
    for _ in range(3):
        action()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            action()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return statistics.median(times)


def graph_of(action: Callable[[], object], calls: int = 1) -> Callable[[], None]:
    """A CUDA graph of `calls` calls, warmed up; it keeps what the last call returned."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            action()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            kept = action()
    graph.kept = kept
    return graph.replay


def time_operators(batch: int, size: int) -> list[dict[str, Any]]:
    """Times of both bodies, forward and backward: as called from Python, and the device's own (CUDA graph)."""
    rows = []
    for dtype in (torch.float32, torch.float16):
        for name, function, inputs in flownet2_cases(dtype, batch, size):
            for impl in ("cuda", "ref"):
                leaves = [x.cuda().requires_grad_() for x in inputs]
                with torch.no_grad():
                    forward = functools.partial(function, *leaves, impl=impl)
                    row = {"operator": name, "dtype": str(dtype).removeprefix("torch."), "batch": batch, "impl": impl}
                    row["called_ms"] = median_ms(forward)
                    row["device_ms"] = median_ms(graph_of(forward, 10)) / 10
                weights = torch.randn_like(forward())

                def both(forward: Callable = forward, leaves: list = leaves, weights: Tensor = weights) -> object:
                    return torch.autograd.grad(forward(), leaves, weights)

                row["device_with_backward_ms"] = median_ms(graph_of(both, 3)) / 3
                rows.append(row)
                torch.cuda.empty_cache()
    return rows


def random_network(weights: Path | None) -> FlowNet2:
    """FlowNet2 with the weights of a file, or random ones that give features of unit size and flows of some pixels."""
    net = FlowNet2().eval().requires_grad_(False)
    if weights:
        from models.checkpoints import load_weights

        load_weights(net, weights)
        return net
    for name, p in net.named_parameters():
        if p.dim() == 4:
            inputs = p.shape[0] * 4 if "deconv" in name or "upsampled" in name else p[0].numel()
            p.normal_(0, (2 / inputs) ** 0.5)
    for part in (net.flownetc, net.flownets_1, net.flownets_2):
        part.predict_flow2.weight.mul_(0.1)
    return net


def smooth_pairs(batch: int, size: int) -> Tensor:
    noise = F.interpolate(torch.rand(batch, 6, 16, 16), size=(size, size), mode="bicubic", align_corners=False)
    return noise.clamp(0, 1).unflatten(1, (3, 2)).cuda()


def time_network(batches: Sequence[int], size: int, with_compile: bool, weights: Path | None) -> Iterator[dict[str, Any]]:
    """Milliseconds per pair of FlowNet2, from the plainest form to the fastest."""
    torch.backends.cudnn.benchmark = True
    net = random_network(weights).cuda()
    pairs = smooth_pairs(max(batches), size)

    def row(what: str, batch: int, action: Callable[[], object]) -> dict[str, Any]:
        torch.cuda.reset_peak_memory_stats()
        ms = median_ms(action, repeats=20) / batch
        peak = torch.cuda.max_memory_allocated() / 2**30
        return {"network": what, "batch": batch, "ms_per_pair": ms, "times_faster": ORIGINAL_MS_PER_PAIR / ms, "peak_gib": peak}

    with torch.no_grad():
        names = ((networks, "correlation"), (flownet2, "resample2d"), (flownet2, "channelnorm"))
        kept = [getattr(module, name) for module, name in names]
        for (module, name), operator in zip(names, kept):
            setattr(module, name, functools.partial(operator, impl="ref"))
        yield row("fp32, plain PyTorch operators", 1, lambda: net(pairs[:1]))
        for (module, name), operator in zip(names, kept):
            setattr(module, name, operator)
        yield row("fp32", 1, lambda: net(pairs[:1]))
        exact = net(pairs[: min(batches)])

        net.half().to(memory_format=torch.channels_last)
        pairs = pairs.half()
        near = net(pairs[: min(batches)]).float()
        yield {
            "network": "fp16 against fp32, pixels",
            "mean_flow": exact.norm(dim=1).mean().item(),
            "mean_difference": (near - exact).norm(dim=1).mean().item(),
            "greatest_difference": (near - exact).norm(dim=1).max().item(),
        }
        for batch in batches:
            yield row("fp16 channels-last", batch, lambda: net(pairs[:batch]))  # noqa: B023
            yield row("fp16 channels-last, CUDA graph", batch, graph_of(lambda: net(pairs[:batch])))  # noqa: B023
        if with_compile:
            batch = max(batches)
            start = time.perf_counter()
            compiled = torch.compile(net, dynamic=False)
            compiled(pairs)
            compile_s = time.perf_counter() - start
            yield {**row("fp16 channels-last, compiled", batch, lambda: compiled(pairs)), "compile_s": compile_s}
            yield row("fp16 channels-last, compiled, CUDA graph", batch, graph_of(lambda: compiled(pairs)))


def main(argv: Sequence[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write all numbers to this JSON file")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64], help="pairs at a time (default: 1 4 16 64)")
    parser.add_argument("--size", type=int, default=256, help="side of the images, a multiple of 64 (default: 256)")
    parser.add_argument("--weights", type=Path, help="FlowNet2 checkpoint (default: random weights)")
    parser.add_argument("--no_compile", action="store_true", help="leave out torch.compile (about a minute)")
    parser.add_argument("--sanitize", action="store_true", help="small sizes only, no timing: for compute-sanitizer")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise UserError("there is no CUDA GPU here; run this on a machine that has one")
    torch.manual_seed(0)
    arch = "{}.{}".format(*torch.cuda.get_device_capability())
    start = time.perf_counter()
    if cause := kernels_fault(torch.cuda.current_device()):
        raise UserError(cause)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "library": str(FLOW_OPS.path(arch)),
        "load_s": time.perf_counter() - start,  # the build included, when there was one
    }
    say(f"{report['device']}, PyTorch {report['torch']}: operators there after {report['load_s']:.1f} s ({report['library']})")

    def add(part: str, row: dict[str, Any]) -> None:
        report.setdefault(part, []).append(row)
        values = (f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items() if not isinstance(v, dict))
        say("  " + ", ".join(values))
        if args.output:
            write_bytes(args.output, (json.dumps(report, indent=1) + "\n").encode())

    failed = 0
    for dtype in ROUNDING:
        rows = check(small_cases(dtype), dtype, torch.device("cpu"))
        if not args.sanitize:
            rows += check(flownet2_cases(dtype, 2, args.size), dtype, torch.device("cuda"))
        report.setdefault("equality", []).extend(rows)
        parts = [part for row in rows for part in row.values() if isinstance(part, dict)]
        worst = {who: max(part[who] for part in parts) for who in ("kernel", "plain")}
        bad = [row for row in rows if not row["ok"]]
        failed += len(bad)
        name = str(dtype).removeprefix("torch.")
        say(
            f"{name}: {len(rows)} cases, {len(bad)} wrong; furthest from float64: kernels {worst['kernel']:.1e}, plain {worst['plain']:.1e}"
        )
        for row in bad:
            add("wrong", row)
            say(f"    {json.dumps({k: v for k, v in row.items() if isinstance(v, dict)})}")
    torch.cuda.synchronize()
    if not args.sanitize:
        say("operators, milliseconds:")
        for batch in (1, max(args.batch)):
            for row in time_operators(batch, args.size):
                add("operators", row)
        say(f"FlowNet2, {args.size} x {args.size} (times_faster: than the original's {ORIGINAL_MS_PER_PAIR} ms per pair):")
        for row in time_network(args.batch, args.size, not args.no_compile, args.weights):
            add("network", row)
    if args.output:
        write_bytes(args.output, (json.dumps(report, indent=1) + "\n").encode())
    return 1 if failed else None


if __name__ == "__main__":
    run(main)
