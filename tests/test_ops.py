"""correlation, resample2d, channelnorm: against loops, gradients, and the CUDA kernels against plain PyTorch.

The kernels run on the GPU where there is one, and everywhere else, translated for the CPU (cuda_on_cpu/), thread by thread.
"""

import ctypes
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.ops import _native, channelnorm, correlation, resample2d
from models.ops.correlation import _forward as correlation_op

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = [sys.modules[f"models.ops.{name}"] for name in ("correlation", "resample2d", "channelnorm")]
# relative error allowed between two ways to compute: the rounding of the result, for the 16-bit types
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def correlation_by_loops(a, b, max_displacement, stride2):
    size, channels, h, w = a.shape
    r = max_displacement // stride2
    n = 2 * r + 1
    out = np.zeros((size, n * n, h, w))
    for k, i, j, y, x in np.ndindex(size, n, n, h, w):
        yb, xb = y + stride2 * (i - r), x + stride2 * (j - r)
        if 0 <= yb < h and 0 <= xb < w:
            out[k, i * n + j, y, x] = sum(a[k, c, y, x] * b[k, c, yb, xb] for c in range(channels)) / channels
    return out


def resample_by_loops(image, flow):
    size, channels, h, w = image.shape
    out = np.zeros(image.shape)
    for k, c, y, x in np.ndindex(size, channels, h, w):
        xs, ys = min(max(x + flow[k, 0, y, x], 0), w - 1), min(max(y + flow[k, 1, y, x], 0), h - 1)
        x0, y0 = math.floor(xs), math.floor(ys)
        x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
        top = image[k, c, y0, x0] * (x0 + 1 - xs) + image[k, c, y0, x1] * (xs - x0)
        bottom = image[k, c, y1, x0] * (x0 + 1 - xs) + image[k, c, y1, x1] * (xs - x0)
        out[k, c, y, x] = top * (y0 + 1 - ys) + bottom * (ys - y0)
    return out


@pytest.mark.parametrize(
    ("shape", "max_displacement", "stride2"), [((2, 3, 5, 7), 4, 2), ((1, 2, 3, 4), 5, 3), ((1, 4, 6, 5), 2, 1), ((1, 1, 1, 1), 0, 1)]
)
def test_correlation_is_what_the_loops_say(shape, max_displacement, stride2):
    a, b = torch.randn(2, *shape, dtype=torch.float64)
    want = correlation_by_loops(a.numpy(), b.numpy(), max_displacement, stride2)
    np.testing.assert_allclose(correlation(a, b, max_displacement, stride2).numpy(), want, atol=1e-12)


def test_correlation_of_flownet2_finds_a_displacement():
    a = torch.randn(1, 16, 24, 24)
    b = torch.roll(a, (4, -6), dims=(2, 3))  # what is at (x, y) in a is at (x - 6, y + 4) in b
    out = correlation(a, b)
    assert out.shape == (1, 441, 24, 24)
    best = out[0, :, 8:16, 8:16].flatten(1).mean(1).argmax().item()
    assert (best // 21 - 10, best % 21 - 10) == (4 // 2, -6 // 2)  # vertical displacement is the outer one


@pytest.mark.parametrize("reach", [0.0, 0.8, 30.0])
def test_resample2d_is_what_the_loops_say(reach):
    image, flow = torch.randn(2, 3, 5, 7, dtype=torch.float64), reach * torch.randn(2, 2, 5, 7, dtype=torch.float64)
    np.testing.assert_allclose(resample2d(image, flow).numpy(), resample_by_loops(image.numpy(), flow.numpy()), atol=1e-12)


def test_resample2d_takes_any_flow_type_and_keeps_the_image_type():
    image = torch.rand(1, 3, 4, 6)
    flow = torch.full((1, 2, 4, 6), 0.5)
    want = resample2d(image, flow)
    torch.testing.assert_close(resample2d(image, flow.half()), want)
    got = resample2d(image.bfloat16(), flow)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, atol=0.01, rtol=0)


def test_resample2d_of_a_broken_flow_is_nan_only_there():
    flow = torch.zeros(1, 2, 3, 4)
    flow[0, 0, 1, 2], flow[0, 1, 0, 0] = math.nan, math.inf
    out = resample2d(torch.rand(1, 2, 3, 4), flow)
    assert out.isnan().sum() == 2 and out[:, :, 1, 2].isnan().all()


def test_channelnorm_is_the_length_and_has_no_gradient_at_zero():
    x = torch.randn(2, 5, 3, 7)
    x[0, :, 1, 1] = 0
    x.requires_grad_()
    out = channelnorm(x)
    assert out.shape == (2, 1, 3, 7)
    np.testing.assert_allclose(out.detach().numpy()[:, 0], np.sqrt((x.detach().numpy() ** 2).sum(1)), rtol=1e-6)
    out.sum().backward()
    assert (x.grad[0, :, 1, 1] == 0).all() and x.grad.isfinite().all()


def test_gradients():
    a, b = (torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, 4, 2), (a, b))
    # flows well away from whole numbers, where the warp has a kink; some leave the frame
    flow = (torch.randint(-6, 6, (2, 2, 4, 5)) + 0.2 + 0.6 * torch.rand(2, 2, 4, 5)).double().requires_grad_()
    assert torch.autograd.gradcheck(resample2d, (a, flow))
    assert torch.autograd.gradcheck(channelnorm, (a,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_only_rounds_the_result(dtype):
    a, b = torch.randn(2, 1, 64, 5, 7).to(dtype)
    flow = 3 * torch.randn(1, 2, 5, 7)
    for function in (lambda a, b: correlation(a, b, 4, 2), lambda a, b: resample2d(a, flow), lambda a, b: channelnorm(a)):
        got = function(a, b)
        assert got.dtype == dtype
        assert torch.equal(got, function(a.float(), b.float()).to(dtype))


def test_bad_arguments_are_named():
    x = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match="one shape, type and device"):
        correlation(x, x.double())
    with pytest.raises(ValueError, match="stride2 >= 1"):
        correlation(x, x, stride2=0)
    with pytest.raises(ValueError, match=r"not \[1, 3, 4, 4\] on cpu and \[1, 3, 4, 4\]"):
        resample2d(x, x)
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        channelnorm(x[0])
    for call in (lambda i: correlation(x, x, impl=i), lambda i: resample2d(x, x[:, :2], impl=i), lambda i: channelnorm(x, impl=i)):
        with pytest.raises(ValueError, match="'auto', 'cuda' or 'ref', not 'fast'"):
            call("fast")
        with pytest.raises(RuntimeError, match="cannot run: the tensors lie on cpu"):
            call("cuda")


def test_operators_are_registered_with_pytorch():
    """Their shapes, types and layouts without running them, as torch.compile asks for them."""
    a = torch.empty(2, 8, 6, 5, dtype=torch.float16, device="meta")
    ops = torch.ops.head2head
    assert ops.correlation(a, a, 10, 2).shape == (2, 441, 6, 5)
    last = ops.correlation(a.contiguous(memory_format=torch.channels_last), a, 10, 2)
    assert last.is_contiguous(memory_format=torch.channels_last) and last.dtype == torch.float16
    assert [g.shape for g in ops.correlation_backward(last, a, a, 10, 2)] == [a.shape, a.shape]
    assert ops.resample2d(a, a[:, :2].float()).shape == a.shape
    assert ops.channelnorm(a).shape == (2, 1, 6, 5)


# ------------------------------------------------------------------------------------------------------- the CUDA kernels


@pytest.fixture(scope="module")
def library_on_cpu(tmp_path_factory):
    """csrc/ compiled for the CPU: the same kernels, their launches turned into calls."""
    if shutil.which("g++") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs g++ on Linux")
    folder = tmp_path_factory.mktemp("kernels")
    for header in ("cuda_fp16.h", "cuda_bf16.h"):
        (folder / header).write_text('#include "cuda_runtime.h"\n')
    (folder / "common.cuh").write_bytes((ROOT / "models/ops/csrc/common.cuh").read_bytes())
    sources = []
    for source in sorted((ROOT / "models/ops/csrc").glob("*.cu")):
        text, launches = re.subn(
            r"(\w+<[^<>;]*>)<<<(.+?), (\w+), 0, stream>>>\((.*?)\);",
            r"on_cpu::launch(\2, \3, [=] { \1(\4); });",
            source.read_text(),
            flags=re.S,
        )
        assert launches >= 2
        sources.append(folder / f"{source.stem}.cpp")
        sources[-1].write_text(text)
    library = folder / "kernels.so"
    include = [f"-I{ROOT / 'tests/cuda_on_cpu'}", f"-I{folder}"]
    subprocess.run(["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w", *include, "-o", library, *sources], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(params=["on the GPU", "on the CPU"])
def device(request, monkeypatch):
    """Where the kernels run; impl='cuda' takes them there."""
    if request.param == "on the GPU":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU")
        return torch.device("cuda", 0)
    library = request.getfixturevalue("library_on_cpu")

    def launch(function, x, *arguments):
        call = getattr(library, function)
        call.restype = ctypes.c_char_p
        error = call(ctypes.c_int64(0), None, ctypes.c_int64(_native._TYPES[x.dtype]), *map(_native._as_c, arguments))
        assert error is None, error

    for module in OPERATORS:
        monkeypatch.setattr(module, "launch", launch)
        monkeypatch.setattr(module, "take_kernels", lambda operator, impl, x: impl == "cuda")
        for op in (module._forward, module._backward):
            op.register_kernel("cpu")(op._init_fn)
    return torch.device("cpu")


def assert_same(function, inputs, device):
    """The kernel and plain PyTorch agree, the result and all gradients, by ||difference|| / ||reference||."""
    dtype = inputs[0].dtype
    results = {}
    for impl in ("cuda", "ref"):
        leaves = [x.detach().to(device, copy=True).requires_grad_() for x in inputs]
        out = function(*leaves, impl=impl)
        weights = torch.linspace(-1, 1, out.numel()).sin().view(out.shape).to(out)
        results[impl] = [out.detach(), *torch.autograd.grad(out, leaves, weights)]
    for got, want in zip(results["cuda"], results["ref"]):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert got.isfinite().all()
        assert (got.double() - want.double()).norm() <= TOLERANCE[dtype] * want.double().norm() + 1e-30


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "max_displacement", "stride2"),
    [
        ((1, 8, 7, 9), 4, 2),
        ((2, 5, 5, 13), 3, 1),  # no multiple of four channels
        ((1, 20, 3, 37), 20, 2),  # several tiles along x, as FlowNetC uses it
        ((1, 70, 3, 5), 7, 3),  # more than one tile of channels
        ((1, 4, 2, 40), 24, 1),  # more displacements than a tile has
        ((1, 3, 4, 1), 20, 1),
        ((1, 17, 3, 2), 0, 4),
    ],
)
def test_correlation_kernel_agrees(device, dtype, layout, shape, max_displacement, stride2):
    a, b = (torch.randn(shape).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    assert_same(lambda a, b, impl: correlation(a, b, max_displacement, stride2, impl), (a, b), device)


def test_correlation_kernel_takes_slices(device):
    x = torch.randn(2, 9, 8, 8)
    assert_same(lambda a, b, impl: correlation(a[:, 1:], b[:, :-1], 4, 2, impl), (x, x.flip(0)), device)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 3, 7, 9), (3, 5, 13, 11), (2, 1, 1, 5), (1, 2, 1, 1)])
@pytest.mark.parametrize("reach", [0.0, 0.7, 100.0])  # pixels; none, within, far out of the frame
def test_resample2d_kernel_agrees(device, dtype, layout, shape, reach):
    image = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    flow = reach * torch.randn(shape[0], 2, *shape[2:])
    assert_same(resample2d, (image, flow), device)
    assert_same(lambda image, flow, impl: resample2d(image[:, :1], flow, impl), (image, flow.to(dtype)), device)


def test_resample2d_kernel_on_a_broken_flow(device):
    flow = torch.zeros(1, 2, 3, 4)
    flow[0, 0, 1, 2], flow[0, 1, 0, 0], flow[0, 0, 2, 3] = math.nan, math.inf, -math.inf
    image = torch.rand(1, 2, 3, 4)
    got, want = (resample2d(image.to(device), flow.to(device), impl) for impl in ("cuda", "ref"))
    torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_channelnorm_kernel_agrees(device, dtype, layout):
    for shape in ((1, 3, 7, 9), (3, 2, 5, 1)):
        x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
        x[0, :, 2] = 0
        assert_same(channelnorm, (x,), device)
        assert_same(lambda x, impl: channelnorm(x[:, 1:, ::2], impl), (x,), device)


def test_kernels_pass_pytorchs_own_checks(device):
    """Schema, shapes, autograd and torch.compile's tracing of each operator, by PyTorch's checker."""
    a, b = (torch.randn(2, 8, 5, 6, device=device, requires_grad=True) for _ in range(2))
    last = a.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    flow = torch.randn(2, 2, 5, 6, device=device, requires_grad=True)
    torch.library.opcheck(correlation_op, (a, b, 2, 1))
    torch.library.opcheck(correlation_op, (last, b, 2, 1))
    torch.library.opcheck(OPERATORS[1]._forward, (a, flow))
    torch.library.opcheck(OPERATORS[1]._forward, (a.detach(), flow))
    torch.library.opcheck(OPERATORS[2]._forward, (a,))


def test_auto_takes_the_kernels_on_a_gpu_also_when_compiled(capfd):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    assert _native.kernels_fault(0) is None
    _native._told.clear()
    a = torch.randn(1, 8, 6, 6, device="cuda", requires_grad=True)
    eager = correlation(a, a * 2)
    compiled = torch.compile(lambda a: correlation(a, a * 2), fullgraph=True)(a)
    assert torch.equal(eager, compiled)
    grads = [torch.autograd.grad(out.square().sum(), a)[0] for out in (eager, compiled)]
    torch.testing.assert_close(*grads)
    assert capfd.readouterr().out.count("CUDA kernels") == 1


def test_the_networks_import_no_compiler():
    """torch._dynamo takes seconds to import; the mark that its decorator sets is set without it."""
    code = "import sys, models.networks, models.synthesis, models.ops; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[1]).returncode == 0

    def marked():
        """As PyTorch marks it."""

    torch.compiler.assume_constant_result(marked)
    assert vars(marked).items() <= vars(_native.kernels_fault).items() and vars(marked).items() <= vars(_native._kernels_work).items()
