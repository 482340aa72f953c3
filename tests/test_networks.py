"""Networks against an independent restatement of the published architecture; checkpoint files."""

import json
import pickle
import resource
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from models.checkpoints import (
    PUBLISHED_OPTIONS,
    load_weights,
    read_iteration,
    read_run_options,
    read_tensors,
    save_weights,
    write_run_options,
    write_tensors,
)
from models.networks import Generator, MultiscaleDiscriminator, build_generator
from scripts.bench import generator as bench
from util.cli import UserError
from util.layout import Run, root

MANIFEST = root().parent / "shared" / "spec" / "checkpoint_manifest.json"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small_generator(**kw):
    return Generator(**{"input_nc": 18, "output_nc": 3, "prev_output_nc": 6, "ngf": 4, "n_downsampling": 2, "n_blocks": 3, **kw})


def randomise(module):
    """Weights of a size that makes every layer matter, and norm statistics that would show if they were used."""
    for p in module.parameters():
        torch.nn.init.normal_(p, 0, 0.3)
    for b in module.buffers():
        b.fill_(7) if b.dtype.is_floating_point else b.fill_(3)
    return module


def norm(x):
    """Instance norm written out."""
    mean = x.mean((2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean((2, 3), keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def reference_generator(w, A, P, n_downsampling, encoder_blocks, decoder_blocks):
    """The generator, from a state dict and the description of the published architecture alone."""

    def conv(x, key, pad, **kw):
        x = F.pad(x, (pad,) * 4, "reflect") if pad else x
        return F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], **kw)

    def block(x, key):
        y = norm(conv(x, f"{key}.conv_block.1", 1)).clamp(min=0)
        return x + norm(conv(y, f"{key}.conv_block.5", 1))

    def encoder(x, key):
        x = norm(conv(x, f"{key}.1", 3)).clamp(min=0)
        for i in range(n_downsampling):
            x = norm(conv(x, f"{key}.{4 + 3 * i}", 0, stride=2, padding=1)).clamp(min=0)
        for i in range(encoder_blocks):
            x = block(x, f"{key}.{4 + 3 * n_downsampling + i}")
        return x

    x = encoder(A, "model_down_seg")
    if P is not None:
        x = x + encoder(P, "model_down_img")
    for i in range(decoder_blocks):
        x = block(x, f"model_res_img.{i}")
    for i in range(n_downsampling):
        key = f"model_up_img.{3 * i}"
        x = F.conv_transpose2d(x, w[f"{key}.weight"], w[f"{key}.bias"], stride=2, padding=1, output_padding=1)
        x = norm(x).clamp(min=0)
    return torch.tanh(conv(x, "model_final_img.1", 3))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("no_prev_output", [False, True])
def test_generator_computes_the_published_function(mode, no_prev_output):
    g = randomise(small_generator(no_prev_output=no_prev_output, n_blocks=5))
    g.train(mode == "train")
    A, P = torch.rand(2, 18, 24, 32), torch.rand(2, 6, 24, 32) * 2 - 1
    want = reference_generator(g.state_dict(), A, None if no_prev_output else P, 2, 3, 2)
    with torch.no_grad():
        got = g(A, P)
    assert got.shape == (2, 3, 24, 32)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    assert all((b == (7 if b.is_floating_point() else 3)).all() for b in g.buffers())  # the stored statistics stay as they are


def test_channels_that_a_generator_sees():
    def channels(**options):
        return build_generator({**PUBLISHED_OPTIONS, "ngf": 4, **options}).model_down_seg[1].in_channels

    assert channels() == 18 and channels(eye_gaze=False) == 9 and channels(conditioning_frames=1) == 6
    assert channels(appearance=True) == 21 and channels(appearance=True, conditioning_frames=2, eye_gaze=False) == 9


def test_a_generator_of_half_resolution():
    """Blocks of 2x2 pixels are its channels, and each pixel lies in its place."""
    g = build_generator({**PUBLISHED_OPTIONS, "ngf": 4, "n_blocks": 2, "half": True, "prev_output": False}).eval()
    with torch.no_grad():
        assert g(torch.rand(1, 18, 64, 48)).shape == (1, 3, 64, 48)
    assert g.model_down_seg[2].weight.shape == (8, 72, 3, 3)
    last = g.model_final_img[1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(12) / 20)  # channels 4 c to 4 c + 3: colour c of the four pixels of a block
        image = g(torch.rand(1, 18, 64, 48))
    assert image[0, 1, :2, :2].atanh().flatten().tolist() == pytest.approx([4 / 20, 5 / 20, 6 / 20, 7 / 20])
    with pytest.raises(ValueError, match="one halving"):
        build_generator({**PUBLISHED_OPTIONS, "half": True, "n_downsample_G": 0})


def reference_discriminator(w, x, num_D, n_layers):
    """All features per scale, finest first, from a state dict."""
    out = []
    for scale in range(num_D - 1, -1, -1):
        if out:
            ones = F.avg_pool2d(torch.ones_like(x), 3, 2, 1, count_include_pad=True)
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=True) / ones  # the padding does not count
        y, features = x, []
        for j in range(n_layers + 2):
            key = f"scale{scale}_layer{j}.0"
            y = F.conv2d(y, w[f"{key}.weight"], w[f"{key}.bias"], stride=2 if j < n_layers else 1, padding=2)
            if j <= n_layers:
                y = norm(y) if j else y
                y = torch.where(y > 0, y, 0.2 * y)
            features.append(y)
        out.append(features)
    return out


@pytest.mark.parametrize(("num_D", "n_layers", "size"), [(2, 3, 72), (3, 2, 50), (1, 3, 33)])
def test_discriminator_computes_the_published_function(num_D, n_layers, size):
    d = randomise(MultiscaleDiscriminator(9, ndf=4, n_layers=n_layers, num_D=num_D))
    x = torch.randn(2, 9, size, size + 5)
    want = reference_discriminator(d.state_dict(), x, num_D, n_layers)
    with torch.no_grad():
        got = d(x)
    assert [len(s) for s in got] == [n_layers + 2] * num_D
    for g_scale, w_scale in zip(got, want):
        for g, w in zip(g_scale, w_scale):
            torch.testing.assert_close(g, w, atol=1e-4, rtol=1e-4)
    assert got[0][0].shape[-1] > got[-1][0].shape[-1] or num_D == 1  # finest first
    assert all(s[-1].shape[1] == 1 for s in got)


def test_discriminator_base_width():
    def widths(**kw):
        state = MultiscaleDiscriminator(9, **kw).state_dict()
        return [[state[f"scale{s}_layer{j}.0.weight"].shape[0] for j in range(5)] for s in range(kw["num_D"])]

    # scale num_D - 1 has the full resolution: min(64, ndf * 2^(num_D - 1 - i))
    assert widths(ndf=64, num_D=2) == [[64, 128, 256, 512, 1]] * 2
    assert widths(ndf=16, num_D=3) == [[64, 128, 256, 512, 1], [32, 64, 128, 256, 1], [16, 32, 64, 128, 1]]


def published_networks():
    with torch.device("meta"):
        return {
            "generator": Generator(18, 3, 6),
            "discriminator_image": MultiscaleDiscriminator(9),
            "discriminator_temporal": MultiscaleDiscriminator(13),
        }


def test_size_and_cost_of_the_published_generator():
    g = published_networks()["generator"]
    assert sum(p.numel() for p in g.parameters()) == 70_806_531
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        g(torch.empty(1, 18, 256, 256), torch.empty(1, 6, 256, 256))
    assert counter.get_total_flops() == pytest.approx(168e9, rel=0.005)


def test_initial_weights():
    weights = torch.cat([p.detach().flatten() for p in small_generator(ngf=16).parameters() if p.dim() == 4])
    assert weights.mean().abs() < 1e-3 and weights.std() == pytest.approx(0.02, rel=0.02)


@pytest.mark.skipif(not MANIFEST.is_file(), reason="the list of the published checkpoints' tensors (../shared) is not here")
def test_state_dicts_are_those_of_the_published_checkpoints():
    manifest = json.loads(MANIFEST.read_text())
    for name, network in published_networks().items():
        assert {k: list(v.shape) for k, v in network.state_dict().items()} == manifest[name], name


def test_state_dict_names():
    """The published names, from the rule behind them (the whole list is compared when it is there)."""
    norm_of = {"running_mean": 1, "running_var": 1, "num_batches_tracked": 0}

    def conv(key, *shape):
        return {f"{key}.weight": list(shape), f"{key}.bias": [shape[1] if "up" in key else shape[0]]}

    def with_norm(key, width):
        return {f"{key}.{k}": [width] * d for k, d in norm_of.items()}

    def block(key, width):
        names = {}
        for twice in ("resnetblock_sequential", "conv_block"):
            for c in (1, 5):
                names |= conv(f"{key}.{twice}.{c}", width, width, 3, 3) | with_norm(f"{key}.{twice}.{c + 1}", width)
        return names

    want = {}
    for key, channels in (("model_down_seg", 18), ("model_down_img", 6)):
        want |= conv(f"{key}.1", 4, channels, 7, 7) | with_norm(f"{key}.2", 4)
        want |= conv(f"{key}.4", 8, 4, 3, 3) | with_norm(f"{key}.5", 8)
        want |= conv(f"{key}.7", 16, 8, 3, 3) | with_norm(f"{key}.8", 16)
        want |= block(f"{key}.10", 16) | block(f"{key}.11", 16)
    want |= block("model_res_img.0", 16)
    want |= conv("model_up_img.0", 16, 8, 3, 3) | with_norm("model_up_img.1", 8)
    want |= conv("model_up_img.3", 8, 4, 3, 3) | with_norm("model_up_img.4", 4)
    want |= conv("model_final_img.1", 3, 4, 7, 7)
    g = small_generator()
    assert {k: list(v.shape) for k, v in g.state_dict().items()} == want
    alone = small_generator(no_prev_output=True).state_dict()
    assert set(alone) == {k for k in want if not k.startswith("model_down_img")}


def test_generator_refuses_sizes_that_do_not_come_back():
    with pytest.raises(ValueError, match="multiple of 4"):
        small_generator()(torch.rand(1, 18, 30, 32), torch.rand(1, 6, 30, 32))


# -- checkpoint files ------------------------------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path):
    a, b = randomise(small_generator()), small_generator()
    a.to(memory_format=torch.channels_last)
    save_weights(a, tmp_path / "deep" / "latest_net_G.pth")
    load_weights(b, tmp_path / "deep" / "latest_net_G.pth")
    for (key, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        assert torch.equal(x, y), key
    stored = torch.load(tmp_path / "deep" / "latest_net_G.pth", weights_only=True)
    assert all(v.is_contiguous() and v.device.type == "cpu" for v in stored.values())
    one, two = (stored[f"model_res_img.0.{n}.1.weight"] for n in ("conv_block", "resnetblock_sequential"))
    assert one.data_ptr() == two.data_ptr()  # stored once, under both names
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "latest_net_G.pth"]


def test_checkpoint_of_old_pytorch_loads(tmp_path):
    a, b = randomise(small_generator()), small_generator()
    torch.save(a.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_weights(b, tmp_path / "old.pth")
    assert torch.equal(a.model_final_img[1].weight, b.model_final_img[1].weight)


def test_weights_under_the_key_state_dict(tmp_path):
    a, b = randomise(small_generator()), small_generator()
    torch.save({"state_dict": a.state_dict(), "epoch": 3}, tmp_path / "net.pth.tar")
    load_weights(b, tmp_path / "net.pth.tar")
    assert torch.equal(a.model_final_img[1].weight, b.model_final_img[1].weight)


def test_wrong_checkpoints_are_refused_with_their_keys(tmp_path):
    state = small_generator().state_dict()
    path = tmp_path / "net.pth"
    g = small_generator()
    before = {k: v.clone() for k, v in g.state_dict().items()}

    def message(changed):
        torch.save(changed, path)
        with pytest.raises(UserError) as e:
            load_weights(g, path)
        return str(e.value)

    some = "model_res_img.0.conv_block.5.bias"
    assert f"missing: 1 keys ({some})" in message({k: v for k, v in state.items() if k != some})
    assert "wrong shape: 1 keys (model_final_img.1.bias [4] instead of [3])" in message({**state, "model_final_img.1.bias": torch.zeros(4)})
    assert "unknown: 1 keys (extra.weight)" in message({**state, "extra.weight": torch.zeros(1)})
    assert "missing" in message({}) and "more)" in message({})
    assert "no network weights" in message([1, 2])
    assert all(torch.equal(before[k], v) for k, v in g.state_dict().items())


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def test_files_that_are_no_checkpoints_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    g = small_generator()
    save_weights(g, "whole.pth")
    whole = Path("whole.pth").read_bytes()
    Path("cut.pth").write_bytes(whole[: len(whole) // 2])
    Path("text.pth").write_text("hello")
    Path("empty.pth").write_bytes(b"")
    Path("evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save(Evil(), "evil2.pth")
    Path("folder.pth").mkdir()
    for name in ("cut", "text", "empty", "evil", "evil2", "folder", "absent"):
        with pytest.raises(UserError, match=name):
            load_weights(g, f"{name}.pth")
    assert not Path("evil-was-here").exists()


def test_messages_of_files_that_are_no_checkpoints(tmp_path, monkeypatch, recwarn):
    """One sentence each, true, with a remedy, and nothing of PyTorch's advice; also a single bit in the values is noticed."""
    monkeypatch.chdir(tmp_path)
    g = small_generator()
    save_weights(g, "whole.pth")
    whole = Path("whole.pth").read_bytes()
    torch.save(g.state_dict(), "old.pth", _use_new_zipfile_serialization=False)
    torch.save(Evil(), "evil_old.pth", _use_new_zipfile_serialization=False)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    contents = {
        b"": "is empty; fetch",
        bytes(flipped): "is cut off or damaged; fetch or make it again",
        whole[:-9]: "is cut off or damaged",
        whole[:200]: "is cut off or damaged",
        Path("old.pth").read_bytes()[:3000]: "is cut off or damaged",
        bytes(5000): "holds something else than a checkpoint",
        b"checkpoints\nare here\n": "holds something else than a checkpoint",
        bytes(range(256)): "holds something else than a checkpoint",
        Path("evil_old.pth").read_bytes(): "contains code",
        b"cposix\nsystem\n(S'true'\ntR.": r"contains code \(posix.system\) and is not loaded.*plain state dict",
    }
    for protocol in (2, 4):
        contents[pickle.dumps(Evil(), protocol)] = r"contains code \(\w+\.(getattr|touch)\)|contains code \(pathlib\.(_local\.)?Path"
    for module in (g, torch.nn.Linear(2, 2)):
        torch.save(module, "module.pth")
        contents[Path("module.pth").read_bytes()] = r"contains code \((models.networks|torch.nn)"
    for content, words in contents.items():
        Path("net.pth").write_bytes(content)
        with pytest.raises(UserError, match=words) as e:
            load_weights(g, "net.pth")
        assert str(e.value).startswith("net.pth ") and "\n" not in str(e.value)
        assert not any(word in str(e.value) for word in ("weights_only", "Re-running", "miniz", "PytorchStream"))
    assert not recwarn.list and not Path("evil-was-here").exists()


@pytest.mark.parametrize("rename", [lambda k: f"module.{k}", lambda k: f"_orig_mod.module.{k}", lambda k: k.replace(".", "._orig_mod.", 1)])
def test_names_that_wrappers_give_are_taken(tmp_path, rename):
    a, b = randomise(small_generator()), small_generator()
    torch.save({rename(k): v for k, v in a.state_dict().items()}, tmp_path / "net.pth")
    load_weights(b, tmp_path / "net.pth")
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_names_that_a_module_has_itself_stay(tmp_path):
    wrapped = torch.nn.Sequential(OrderedDict(module=torch.nn.Linear(2, 2)))
    torch.save({f"module.{k}": torch.ones_like(v) for k, v in wrapped.state_dict().items()}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="missing: 2 keys"):  # weight and bias: not this module's
        load_weights(torch.nn.Sequential(OrderedDict(inner=torch.nn.Linear(2, 2))), tmp_path / "net.pth")
    torch.save(wrapped.state_dict(), tmp_path / "net.pth")
    load_weights(wrapped, tmp_path / "net.pth")


def test_a_file_that_grows_too_large_keeps_the_one_before(tmp_path):
    """PyTorch hides the system's error behind one of its own; the message is the system's."""
    path = tmp_path / "net.pth"
    write_tensors(path, {"a": torch.zeros(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*net.pth: a file may not become that large there"):
            write_tensors(path, {"a": torch.zeros(100000), "b": torch.zeros(3)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_tensors(path)["a"].shape == (10,) and list(tmp_path.iterdir()) == [path]


# -- what a run was trained with -------------------------------------------------------------------------------------------


def test_run_options(tmp_path):
    run = Run.open("D", "head2head_T", tmp_path)
    with pytest.raises(UserError, match="no trained run"):
        read_run_options(run)
    run.checkpoints.mkdir(parents=True)
    assert read_run_options(run) == PUBLISHED_OPTIONS
    run.options_path.write_text(
        "------------ Options -------------\nngf: 32\nno_eye_gaze: True\nno_prev_output: False\nlr: 0.0002\n--- End ---\n"
    )
    assert read_run_options(run) == {**PUBLISHED_OPTIONS, "ngf": 32, "eye_gaze": False}
    write_run_options(run, {"ngf": 8, "n_blocks": 2, "seed": 5, "eye_gaze": False, "prev_output": False})
    options = read_run_options(run)
    assert options["seed"] == 5 and options["loadSize"] == 256
    g = build_generator(options)
    assert g.model_down_seg[1].weight.shape == (8, 9, 7, 7) and g.model_down_img is None and len(g.model_res_img) == 1


@pytest.mark.parametrize("content", [b"", b"hello", b'{"ngf": 4, "lo', b"[1]", bytes(range(256)), bytes(99)])
def test_damaged_run_options_are_not_taken_for_the_published_ones(tmp_path, capsys, content):
    run = Run(tmp_path, tmp_path)
    run.options_path.write_bytes(content)
    with pytest.raises(UserError, match=r"opt.txt is damaged, and no latest_state.pt here holds a copy; put a whole one there"):
        read_run_options(run)
    write_tensors(run.state_path, {"options": {"ngf": 4}})
    assert read_run_options(run) == {**PUBLISHED_OPTIONS, "ngf": 4}
    assert "opt.txt is damaged: the run's options are taken from latest_state.pt" in capsys.readouterr().err


def test_iteration_file(tmp_path):
    run = Run.open("D", "head2head_T", tmp_path)
    assert read_iteration(run) is None
    run.checkpoints.mkdir(parents=True)
    for text, epochs in (("7\n120\n", 6), ("7,120", 6), ("x", None), ("", None)):
        run.iteration_path.write_text(text)
        assert read_iteration(run) == epochs


# -- the bench of generators -----------------------------------------------------------------------------------------------


def test_bench_of_generators(tmp_path, capsys):
    words = ["--size", "32", "--rounds", "1", "--threads", "1", "--output", str(tmp_path / "figures.json")]
    bench.main(["--variant", "ngf=4,n_blocks=1", "--variant", "ngf=4,n_blocks=1,prev_output=true", *words])
    lean, other = json.loads((tmp_path / "figures.json").read_text())
    assert lean["parameters"] == sum(p.numel() for p in build_generator(bench.read_variant("ngf=4,n_blocks=1")).parameters())
    assert 0 < lean["gflop"] < other["gflop"] and lean["ms"]["torch fp32"] > 0
    assert "ngf=4,n_blocks=1,prev_output=true" in capsys.readouterr().out
    with pytest.raises(UserError, match="ndf is no setting of the generator"):
        bench.read_variant("ndf=4")
    with pytest.raises(UserError, match="--variant ngf=wide must be a whole number"):
        bench.read_variant("ngf=wide")
