"""FlowNet2: the published keys, and the network against a second writing of it, straight from its description."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from models.checkpoints import load_weights
from models.flownet2_pytorch import FlowNet2
from models.flownet2_pytorch.networks import FlowNetFusion
from util.cli import UserError

MANIFEST = Path(__file__).resolve().parents[2] / "shared/spec/checkpoint_manifest.json"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = FlowNet2().eval().requires_grad_(False)
    for name, p in net.named_parameters():
        if p.dim() == 4:  # features of about unit size at every depth, so that an error anywhere is seen in the result
            fan_in = p.shape[0] * 4 if "deconv" in name or "upsampled" in name else p[0].numel()
            p.normal_(0, (2 / fan_in) ** 0.5)
        else:
            p.normal_(0, 0.1)
    for name in ("flownetc", "flownets_1", "flownets_2"):
        getattr(net, name).predict_flow2.weight.mul_(0.1)  # flows of a few pixels
    return net


@pytest.fixture
def pairs():
    """Smooth images: [2, 3, 2, 64, 64] in 0..1."""
    noise = torch.rand(2, 6, 12, 12, generator=torch.Generator().manual_seed(1))
    return F.interpolate(noise, size=(64, 64), mode="bicubic", align_corners=False).clamp(0, 1).unflatten(1, (3, 2))


def test_keys_shapes_and_order_are_the_published_ones(net):
    if not MANIFEST.is_file():
        pytest.skip("the list of the published checkpoint's keys (../shared) is not here")
    assert [(k, list(v.shape)) for k, v in net.state_dict().items()] == list(json.loads(MANIFEST.read_text())["flownet2"].items())


def test_number_of_parameters(net):
    assert sum(p.numel() for p in net.parameters()) == 162_518_834


def flow_by_the_description(weights, pairs):
    """FlowNet2 written a second time, in float64, from its published description and the names of its weights."""
    w = {k: v.double() for k, v in weights.items()}
    pairs = pairs.double()

    def layer(x, name, stride=1, slope=0.1):
        key = f"{name}.0" if f"{name}.0.weight" in w else name
        kernel = w[f"{key}.weight"]
        if "deconv" in name or "upsampled" in name:
            x = F.conv_transpose2d(x, kernel, w.get(f"{key}.bias"), stride=2, padding=1)
        else:
            x = F.conv2d(x, kernel, w[f"{key}.bias"], stride=stride, padding=(kernel.shape[-1] - 1) // 2)
        plain = any(part in name for part in ("predict_flow", "upsampled", "inter_conv"))
        return x if plain else torch.where(x > 0, x, slope * x)

    def warp(image, flow):
        h, wd = image.shape[2:]
        y, x = torch.meshgrid(torch.arange(h), torch.arange(wd), indexing="ij")
        grid = torch.stack([2 * (x + flow[:, 0]) / (wd - 1) - 1, 2 * (y + flow[:, 1]) / (h - 1) - 1], -1)
        return F.grid_sample(image, grid, padding_mode="border", align_corners=True)

    def norm(x):
        return (x**2).sum(1, keepdim=True) ** 0.5

    def decode(net, skips, levels, x, inter=False):
        for level in range(*levels):
            source = layer(x, f"{net}.inter_conv{level + 1}") if inter and level + 1 < levels[0] + 1 else x
            up = layer(layer(source, f"{net}.predict_flow{level + 1}"), f"{net}.upsampled_flow{level + 1}_to_{level}")
            x = torch.cat([skips[level], layer(x, f"{net}.deconv{level}"), up], 1)
        return layer(layer(x, f"{net}.inter_conv{levels[1] + 1}") if inter else x, f"{net}.predict_flow{levels[1] + 1}")

    def encode(net, x, skips, first):
        for level in range(first, 7):
            x = layer(layer(x, f"{net}.conv{level}", 2), f"{net}.conv{level}_1")
            skips[level] = x
        return x

    def flownetc(a, b):
        features = []
        for x in (a, b):
            x = layer(layer(x, "flownetc.conv1", 2), "flownetc.conv2", 2)
            features.append((x, layer(x, "flownetc.conv3", 2)))
        (skip, a), (_, b) = features
        h, wd = a.shape[2:]
        padded = F.pad(b, (20, 20, 20, 20))
        costs = [
            (a * padded[:, :, 20 + dy : 20 + dy + h, 20 + dx : 20 + dx + wd]).mean(1)
            for dy in range(-20, 21, 2)
            for dx in range(-20, 21, 2)
        ]
        costs = torch.stack(costs, 1)
        x = torch.cat([layer(a, "flownetc.conv_redir"), torch.where(costs > 0, costs, 0.1 * costs)], 1)
        skips = {2: skip, 3: layer(x, "flownetc.conv3_1")}
        return decode("flownetc", skips, (5, 1, -1), encode("flownetc", skips[3], skips, 4))

    def flownets(net, x):
        x = layer(layer(x, f"{net}.conv1", 2), f"{net}.conv2", 2)
        skips = {2: x}
        return decode(net, skips, (5, 1, -1), encode(net, x, skips, 3))

    def flownetsd(x):
        skips = {}
        x = layer(x, "flownets_d.conv0")
        return decode("flownets_d", skips, (5, 1, -1), encode("flownets_d", x, skips, 1), inter=True)

    def fusion(x):
        skips = {0: layer(x, "flownetfusion.conv0")}
        skips[1] = layer(layer(skips[0], "flownetfusion.conv1", 2), "flownetfusion.conv1_1")
        x = layer(layer(skips[1], "flownetfusion.conv2", 2), "flownetfusion.conv2_1")
        return decode("flownetfusion", skips, (1, -1, -1), x, inter=True)

    pairs = pairs - pairs.flatten(2).mean(2)[:, :, None, None, None]
    a, b = pairs.unbind(2)
    flow = F.interpolate(20 * flownetc(a, b), scale_factor=4, mode="bilinear")
    for net, mode in (("flownets_1", "bilinear"), ("flownets_2", "nearest")):
        warped = warp(b, flow)
        flow = F.interpolate(20 * flownets(net, torch.cat([a, b, warped, flow / 20, norm(a - warped)], 1)), scale_factor=4, mode=mode)
    small = F.interpolate(flownetsd(torch.cat([a, b], 1)) / 20, scale_factor=4, mode="nearest")
    return fusion(torch.cat([a, small, flow, norm(small), norm(flow), norm(a - warp(b, small)), norm(a - warp(b, flow))], 1))


def test_the_network_is_as_described(net, pairs):
    got = net(pairs)
    want = flow_by_the_description(net.state_dict(), pairs)
    assert got.shape == (2, 2, 64, 64)
    assert want.std() > 0.1
    torch.testing.assert_close(got.double(), want, atol=1e-4 * want.abs().max().item(), rtol=0)
    assert torch.equal(net(pairs), got)


def test_pairs_of_a_batch_do_not_mix(net, pairs):
    torch.testing.assert_close(net(pairs)[1:], net(pairs[1:]), atol=1e-5, rtol=1e-4)


def test_other_sizes_are_resized_there_and_back(net, pairs):
    wide = F.interpolate(pairs.flatten(1, 2), size=(70, 150), mode="bilinear").unflatten(1, (3, 2))
    got = net(wide)
    assert got.shape == (2, 2, 70, 150)
    inner = net(F.interpolate(wide.flatten(1, 2), size=(64, 128), mode="bilinear").unflatten(1, (3, 2)))
    scale = torch.tensor([150 / 128, 70 / 64]).view(2, 1, 1)
    torch.testing.assert_close(got, F.interpolate(inner, size=(70, 150), mode="bilinear") * scale)
    assert net(pairs[..., :40, :33]).shape == (2, 2, 40, 33)


def test_rgb_max_is_the_value_of_white(net, pairs):
    net.rgb_max = 255.0
    try:
        of_bytes = net(pairs * 255)
    finally:
        net.rgb_max = 1.0
    torch.testing.assert_close(of_bytes, net(pairs), atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_near(net, pairs):
    want = net(pairs)
    state = {k: v.bfloat16() for k, v in net.state_dict().items()}
    with torch.device("meta"):
        half = FlowNet2().eval()
    half.load_state_dict(state, assign=True)
    with torch.no_grad():
        got = half(pairs.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() < 0.1 * want.norm()


def test_gradients_reach_every_weight():
    """Of the fusion, through its own decoder; the other networks share it."""
    torch.manual_seed(0)
    fusion = FlowNetFusion()
    fusion(torch.randn(1, 11, 16, 16)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in fusion.parameters())


def test_checkpoint_files_load_strictly(tmp_path):
    fusion = FlowNetFusion()
    path = tmp_path / "FlowNet2_checkpoint.pth.tar"
    state = {k: torch.randn(v.shape) for k, v in fusion.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, path)  # the published files' form
    load_weights(fusion, path)
    assert all(torch.equal(v, state[k]) for k, v in fusion.state_dict().items())
    del state["conv0.0.bias"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(UserError, match=r"conv0\.0\.bias"):
        load_weights(fusion, path)
