"""Normalisation fused with activation, residual and padding: the Triton kernels against plain PyTorch.

Without a GPU the kernels are interpreted on the CPU, by Triton itself, in a process of their own (it reads that wish once).
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from models.ops.norm import norm_act_pad, reflection_pad
from util.layout import root

# shape, slope, residual (None, or its padding), padding
CASES = [
    ((2, 5, 9, 7), 1.0, None, 0),
    ((1, 3, 8, 8), 0.0, None, 1),
    ((2, 70, 11, 6), 0.2, None, 0),
    ((2, 16, 8, 13), 1.0, 1, 1),
    ((1, 64, 33, 40), 1.0, 0, 1),
    ((1, 8, 9, 8), 0.0, None, 3),
    ((1, 4, 4, 4), 1.0, 1, 0),
]


def compare(device, shape, slope, residual_pad, pad, dtype, rtol, atol):
    torch.manual_seed(0)
    b, c, h, w = shape
    x = torch.randn(shape, device=device) * 3 + 50 * torch.randn(1, c, 1, 1, device=device)  # means far from zero
    residual = None if residual_pad is None else torch.randn(b, c, h + 2 * residual_pad, w + 2 * residual_pad, device=device)
    grad = torch.randn(b, c, h + 2 * pad, w + 2 * pad, device=device)
    results = []
    for impl, kind in (("ref", torch.float64), ("triton", dtype)):
        inputs = [t.to(dtype).to(kind).requires_grad_() if t is not None else None for t in (x, residual)]
        y = norm_act_pad(inputs[0], slope=slope, residual=inputs[1], residual_pad=residual_pad or 0, pad=pad, impl=impl)
        wanted = [t for t in inputs if t is not None]
        results.append([y.detach(), *torch.autograd.grad(y, wanted, grad.to(dtype).to(kind))])
        assert impl == "ref" or (y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last))
    # where a value is the mean to within rounding, either side of the activation's bend is right
    certain = torch.nn.functional.instance_norm(x.to(dtype).double(), eps=1e-5).abs() > 1e-3 if slope != 1 else torch.ones_like(x).bool()
    for i, (want, got) in enumerate(zip(*results)):
        if i == 1:
            want, got = want[certain], got[certain]
        torch.testing.assert_close(got.double(), want, rtol=rtol, atol=atol)
    if pad:
        padded = [reflection_pad(x.to(dtype).requires_grad_(), pad, impl) for impl in ("ref", "triton")]
        assert torch.equal(*padded)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs them")
def test_interpreted_kernels():
    code = f"import sys; sys.path[:0] = [{str(root())!r}, {str(root() / 'tests')!r}]; import test_norm; test_norm.compare_all('cpu')"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def compare_all(device):
    for case in CASES:
        compare(device, *case, torch.float32, 1e-3, 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    "case", [*CASES, ((8, 64, 256, 256), 0.0, None, 3), ((3, 512, 32, 32), 1.0, 1, 1), ((16, 128, 65, 65), 0.2, None, 0)]
)
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(torch.float32, 1e-3, 1e-4), (torch.bfloat16, 2e-2, 3e-2), (torch.float16, 4e-3, 4e-3)]
)
def test_kernels_on_the_gpu(case, dtype, rtol, atol):
    compare("cuda", *case, dtype, rtol, atol)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("layouts", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gradient_in_every_layout(images, layouts):
    """PyTorch's own instance_norm gets one of these wrong."""
    x, grad = (torch.randn(images, 16, 8, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    (want,) = torch.autograd.grad((x - mean) / (variance + 1e-5).sqrt(), x, grad)
    formats = [torch.channels_last if last else torch.contiguous_format for last in layouts]
    x, grad = (t.detach().float().contiguous(memory_format=f) for t, f in zip((x, grad), formats))
    (got,) = torch.autograd.grad(norm_act_pad(x.requires_grad_(), impl="ref"), x, grad)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_what_cannot_run_is_said():
    with pytest.raises(ValueError, match="impl is 'auto'"):
        norm_act_pad(torch.zeros(1, 1, 8, 8), impl="cuda")
    with pytest.raises(RuntimeError, match="too small for a padding of 3"):
        norm_act_pad(torch.zeros(1, 1, 7, 8), pad=3, impl="triton")
    with pytest.raises(RuntimeError, match="not torch.float64"):
        norm_act_pad(torch.zeros(1, 1, 8, 8, dtype=torch.float64), impl="triton")
