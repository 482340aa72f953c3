"""Optical flow on known motion, and its cache on disk."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_dataset import make_dataset

import train
from models.flow import DISFlow, FlowChoice, FlowNet2Flow, choose_flow, trusted
from models.flownet2_pytorch import FlowNet2
from models.ops import resample2d
from util.caches import flow as flow_cache
from util.caches.flow import STEPS, compute_flows, ensure_flows, flow_key, read_flows
from util.cli import UserError
from util.image_io import write_image
from util.layout import Dataset


def texture(height, width, seed=0):
    """A picture with structure at several scales, uint8 RGB."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.uniform(0, 1, (height // d, width // d, 3)), (width, height), interpolation=cv2.INTER_CUBIC) for d in (4, 12)]
    return (np.clip(sum(layers) / 2, 0, 1) * 255).astype(np.uint8)


def move(image, affine):
    """The picture in which a point p of `image` has moved to affine @ (p, 1)."""
    return cv2.warpAffine(image, affine, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def known_flow(affine, height, width):
    """target(p) ~ source(p + flow(p)) for target = move(source, affine); float [2, H, W] pixels."""
    inverse = cv2.invertAffineTransform(affine)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    at = np.einsum("ij,jhw->ihw", inverse, np.stack([x, y, np.ones_like(x)]))
    return at - np.stack([x, y])


MOTIONS = {
    "shift": np.array([[1, 0, 3.5], [0, 1, -2.0]]),
    "turn": cv2.getRotationMatrix2D((64, 48), 3, 1.02),
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_dis_recovers_known_motion(motion):
    source = texture(96, 128)
    target = move(source, MOTIONS[motion])
    (flow,) = DISFlow().estimate([(target, source)])
    assert flow.shape == (2, 96, 128) and flow.dtype == np.float32
    error = np.linalg.norm(flow - known_flow(MOTIONS[motion], 96, 128), axis=0)[10:-10, 10:-10]
    assert error.mean() < 0.15 and np.percentile(error, 95) < 0.5


def test_flow_of_tensors_and_its_confidence():
    source = texture(64, 64)
    target = move(source, MOTIONS["shift"])
    target[20:36, 20:36] = 255 - target[20:36, 20:36]  # something that is not in the source
    images = [torch.from_numpy(np.stack([i, i])).permute(0, 3, 1, 2).float() / 127.5 - 1 for i in (target, source)]
    flow_px, confidence = DISFlow()(*images)
    assert flow_px.shape == (2, 2, 64, 64) and confidence.shape == (2, 1, 64, 64)
    assert set(confidence.unique().tolist()) == {0.0, 1.0}
    assert confidence[:, :, 44:56, 8:56].mean() > 0.95 and confidence[:, :, 22:34, 22:34].mean() < 0.3
    warped = resample2d(images[1], flow_px)
    assert torch.equal(confidence, trusted(images[0], warped))


def test_trust_is_a_squared_distance_over_the_channels():
    a = torch.zeros(1, 3, 1, 2)
    b = torch.tensor([0.081, 0.082]).view(1, 1, 1, 2).expand(1, 3, 1, 2)  # 3 * 0.081^2 < 0.02 < 3 * 0.082^2
    assert trusted(a, b).flatten().tolist() == [1, 0]


def test_dis_keeps_the_order_of_its_pairs():
    source = texture(48, 48)
    moves = [np.array([[1, 0, float(dx)], [0, 1, 0]]) for dx in (-4, -2, 0, 2, 4)]
    flows = DISFlow().estimate((move(source, m), source) for m in moves)
    assert [f[0, 12:-12, 12:-12].mean() for f in flows] == pytest.approx([4, 2, 0, -2, -4], abs=0.3)


# -- FlowNet2 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder with both published names: random weights in half precision that give flows of some pixels, and others."""
    folder = tmp_path_factory.mktemp("flownet2")
    torch.manual_seed(0)
    with torch.device("meta"):
        net = FlowNet2()
    weights = {}
    for name, p in net.state_dict().items():
        fan_in = p.shape[0] * 4 if "deconv" in name or "upsampled" in name else p[0].numel()
        values = torch.empty(p.shape, dtype=torch.float16)
        weights[name] = values.normal_(0, (2 / fan_in) ** 0.5) if p.dim() == 4 else values.zero_()
    for name in ("flownetc", "flownets_1", "flownets_2"):
        weights[f"{name}.predict_flow2.weight"] *= 0.1
    for file, bias in (("FlowNet2_checkpoint.pth.tar", 2.0), ("FlowNet2_checkpoint.pth_faceflow.tar", -1.0)):
        weights["flownetfusion.predict_flow0.bias"] = torch.tensor([bias, 0.0])  # the two differ by a shift in x
        torch.save({"epoch": 1, "state_dict": weights}, folder / file)
    return folder


@pytest.fixture(scope="session")
def flownet2(checkpoints):
    torch.set_num_threads(2)
    return choose_flow("flownet2", folder=checkpoints).create()


@pytest.fixture(scope="session")
def pairs():
    """Three pairs of 96 x 130, no multiples of 64."""
    images = [texture(96, 130, seed) for seed in range(3)]
    return [(move(i, MOTIONS["shift"]), i) for i in images]


def test_flownet2_is_called_as_it_was_trained(flownet2, checkpoints, pairs):
    """Target first, RGB in 0..1, flow scaled to the images' own pixels."""
    target, source = pairs[0]
    (flow,) = flownet2.estimate([(target, source)])
    assert flow.shape == (2, 96, 130) and flow.dtype == np.float32 and flow.std() > 0.05
    net = FlowNet2().eval().requires_grad_(False)
    net.load_state_dict(torch.load(checkpoints / "FlowNet2_checkpoint.pth_faceflow.tar", weights_only=True)["state_dict"])
    images = torch.stack([torch.from_numpy(i).permute(2, 0, 1).float() / 255 for i in (target, source)], 1)[None]
    small = F.interpolate(images.flatten(1, 2), size=(64, 128), mode="bilinear").unflatten(1, (3, 2))
    want = F.interpolate(net(small), size=(96, 130), mode="bilinear")[0] * torch.tensor([130 / 128, 96 / 64]).view(2, 1, 1)
    np.testing.assert_allclose(flow, want.numpy(), atol=2e-3)


def test_flownet2_in_batches_equals_one_by_one(flownet2, pairs, monkeypatch):
    together = list(flownet2.estimate(iter(pairs)))
    monkeypatch.setattr("models.flow._PIXELS_AT_ONCE", {"cpu": 1})
    monkeypatch.setattr("models.flow._PAIRS_READ", 2)
    apart = list(flownet2.estimate(iter(pairs)))
    assert len(together) == len(apart) == 3
    np.testing.assert_allclose(together, apart, atol=1e-3)
    assert np.abs(together[0] - together[1]).max() > 0.1  # different pairs, different flows


def test_flownet2_of_tensors_and_its_confidence(flownet2, pairs):
    target, source = (torch.from_numpy(np.stack(i)).permute(0, 3, 1, 2).float() / 127.5 - 1 for i in zip(*pairs[:2]))
    flow_px, confidence = flownet2(target, source)
    np.testing.assert_allclose(flow_px.numpy(), list(flownet2.estimate(pairs[:2])), atol=1e-3)
    assert torch.equal(confidence, trusted(target, resample2d(source, flow_px)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_flownet2_in_half_precision_on_the_gpu(flownet2, checkpoints, pairs):
    on_gpu = choose_flow("flownet2", folder=checkpoints).create("cuda")
    np.testing.assert_allclose(list(on_gpu.estimate(pairs)), list(flownet2.estimate(pairs)), atol=0.1)


def test_flownet2_that_leaves_half_precision_goes_on_in_float32(flownet2, pairs, monkeypatch, capsys):
    want = list(flownet2.estimate(pairs[:1]))
    calls = []

    def use(dtype):  # stands for the GPU, whose half precision overflows
        calls.append(dtype)
        monkeypatch.setattr(flownet2, "_dtype", dtype)

    network = flownet2._network
    monkeypatch.setattr(flownet2, "_use", use)
    monkeypatch.setattr(flownet2, "_dtype", torch.float16)
    overflow = lambda x: network(x.float()) * (float("inf") if x.dtype is torch.float16 else 1)  # noqa: E731
    monkeypatch.setattr(flownet2, "_network", overflow)
    np.testing.assert_allclose(list(flownet2.estimate(pairs[:1])), want, atol=2e-3)
    assert calls == [torch.float32] and "half precision" in capsys.readouterr().err


# -- the choice ------------------------------------------------------------------------------------------------------------


def test_which_method_is_taken(checkpoints, tmp_path, capsys):
    plain, face = (checkpoints / f"FlowNet2_checkpoint.pth{x}.tar" for x in ("", "_faceflow"))
    assert choose_flow(folder=checkpoints) == choose_flow("flownet2", folder=checkpoints) == FlowChoice("flownet2_face", face)
    assert choose_flow(faceflow=False, folder=checkpoints) == FlowChoice("flownet2", plain)
    assert choose_flow("dis", folder=checkpoints) == FlowChoice("dis")
    assert capsys.readouterr().out == ""
    assert choose_flow(folder=tmp_path) == FlowChoice("dis")
    assert "DIS" in capsys.readouterr().out and not choose_flow("dis", folder=tmp_path).made_from
    # only the plain one is there
    os.link(plain, tmp_path / plain.name)
    assert choose_flow(folder=tmp_path).name == "flownet2"
    assert "plain FlowNet2" in capsys.readouterr().out
    # a file elsewhere
    assert choose_flow(checkpoint=face, folder=tmp_path) == FlowChoice("flownet2", face)
    # a run goes on with what it began with, if that can be had
    assert choose_flow(before="dis", folder=checkpoints).name == "dis"
    assert choose_flow(before="flownet2", folder=checkpoints).name == "flownet2"
    assert choose_flow(before="flownet2_face", folder=tmp_path).name == "flownet2"


def test_errors_of_the_choice(tmp_path):
    with pytest.raises(UserError, match="_faceflow.tar or .*checkpoint.pth.tar"):
        choose_flow("flownet2", folder=tmp_path)
    with pytest.raises(UserError, match="no file"):
        choose_flow(checkpoint=tmp_path / "none.tar")
    with pytest.raises(UserError, match="unknown"):
        choose_flow("magic")
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.tar")
    with pytest.raises(UserError, match="does not fit FlowNet2; missing: "):
        choose_flow("flownet2", checkpoint=tmp_path / "other.tar").create()
    (tmp_path / "damaged.tar").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        FlowNet2Flow(tmp_path / "damaged.tar", torch.device("cpu"))


# -- cache -----------------------------------------------------------------------------------------------------------------


def shift_estimate(pairs):
    """Stands for a method: the difference of the frames' constant values, in x."""
    for target, source in pairs:
        flow = np.zeros((2, *target.shape[:2]), np.float32)
        flow[0] = int(target[0, 0, 0]) - int(source[0, 0, 0])
        yield flow


def write_frames(sequence, values, size=16, first=100):
    for i, value in enumerate(values):
        write_image(sequence.path("images", first + i), np.full((size, size, 3), value, np.uint8))


@pytest.fixture
def sequence(tmp_path):
    sequence = Dataset.open("D", tmp_path).train_sequence("Ann", 0)
    write_frames(sequence, [i * i for i in range(12)])
    return sequence


def test_entry_i_leads_from_frame_i_to_frame_i_plus_step():
    frames = [np.full((8, 8, 3), i * i, np.uint8) for i in range(12)]
    flows = compute_flows(frames, shift_estimate)
    for s in STEPS:
        assert flows[s].shape == (12 - s, 2, 4, 4) and flows[s].dtype == np.float16
        assert flows[s][:, 0, 0, 0].tolist() == [(i + s) ** 2 - i**2 for i in range(12 - s)]


def test_flow_warps_the_earlier_frame_onto_the_later(tmp_path):
    first = texture(64, 64)
    frames = [move(first, np.array([[1, 0, 1.5 * t], [0, 1, -1.0 * t]])) for t in range(4)]
    flows = compute_flows(frames, DISFlow().estimate)
    assert flows[1][1, :, 8:-8, 8:-8].astype(float).mean((1, 2)) == pytest.approx([-1.5, 1.0], abs=0.05)
    assert flows[3][0, :, 8:-8, 8:-8].astype(float).mean((1, 2)) == pytest.approx([-4.5, 3.0], abs=0.1)
    assert flows[9].shape == (0, 2, 32, 32)


def test_flow_is_computed_once(sequence):
    made = []

    def make():
        made.append(1)
        return shift_estimate

    assert read_flows(sequence, "test", 16) is None
    assert ensure_flows([sequence], "test", 16, make) == 1
    stored = sequence.flow_path("test", 16).read_bytes()
    flows = read_flows(sequence, "test", 16)
    assert flows[9][:, 0, 0, 0].tolist() == [(i + 9) ** 2 - i**2 for i in range(3)]
    assert ensure_flows([sequence], "test", 16, make) == 0
    assert len(made) == 1 and sequence.flow_path("test", 16).read_bytes() == stored


def test_flow_is_computed_again_when_its_inputs_change(sequence):
    ensure_flows([sequence], "test", 16, lambda: shift_estimate)
    key = flow_key(sequence, "test", 16)
    write_frames(sequence, [7], first=103)  # one frame replaced
    assert flow_key(sequence, "test", 16) != key
    assert ensure_flows([sequence], "test", 16, lambda: shift_estimate) == 1
    assert read_flows(sequence, "test", 16)[1][3, 0, 0, 0] == 16 - 7
    sequence.path("images", 111).unlink()  # one frame fewer
    assert ensure_flows([sequence], "test", 16, lambda: shift_estimate) == 1
    assert len(read_flows(sequence, "test", 16)[1]) == 10
    assert ensure_flows([sequence], "other", 16, lambda: shift_estimate) == 1  # another method has its own file
    assert read_flows(sequence, "test", 16) is not None


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"no archive"])
def test_damaged_cache_is_computed_again(sequence, damage):
    ensure_flows([sequence], "test", 16, lambda: shift_estimate)
    path = sequence.flow_path("test", 16)
    path.write_bytes(damage(path.read_bytes()))
    assert read_flows(sequence, "test", 16) is None
    assert ensure_flows([sequence], "test", 16, lambda: shift_estimate) == 1
    assert read_flows(sequence, "test", 16)[1].shape == (11, 2, 8, 8)


def test_flow_at_another_size_is_in_its_pixels(sequence, tmp_path):
    source = texture(64, 64)
    for i in range(2):
        write_image(sequence.path("images", 100 + i), move(source, np.array([[1, 0, 4.0 * i], [0, 1, 0]])))
    for frame in range(102, 112):
        sequence.path("images", frame).unlink()
    ensure_flows([sequence], "dis", 32, lambda: DISFlow().estimate)
    flow = read_flows(sequence, "dis", 32)[1]
    assert flow.shape == (1, 2, 16, 16)
    assert flow[0, 0, 4:-4, 4:-4].astype(float).mean() == pytest.approx(-2, abs=0.1)  # 4 pixels of 64 are 2 of 32


def test_interrupted_computation_leaves_no_file(sequence):
    def fail(pairs):
        yield next(shift_estimate(pairs))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        ensure_flows([sequence], "test", 16, lambda: fail)
    assert not sequence.flow_path("test", 16).exists()
    assert flow_cache.read_flows(sequence, "test", 16) is None


def test_flow_of_another_checkpoint_is_not_reused(sequence):
    for digest, computed in (("a", 1), ("a", 0), ("b", 1), ("", 1)):
        assert ensure_flows([sequence], "flownet2", 16, lambda: shift_estimate, digest) == computed
    assert flow_key(sequence, "flownet2", 16, "a") != flow_key(sequence, "flownet2", 16, "b")


def test_training_takes_the_checkpoint_that_is_there(tmp_path, checkpoints, monkeypatch, capsys):
    """train.py by its command line: which flow it caches and records, and how runs go on when a checkpoint comes or goes."""
    make_dataset(tmp_path, "Ann", parts=1, part_length=4, test_frames=0, size=64)
    sequence = Dataset.open("fake", tmp_path).train_sequence("Ann", 0)
    tiny = "--preset published --loadSize 64 --ngf 4 --n_downsample_G 2 --n_blocks 1 --ndf 4 --n_layers_D 2 --gpu_ids -1 --no_vgg"
    tiny += " --niter 1 --niter_decay 0"
    tiny += " --batch_size 1 --n_frames_total 4 --no_tensorboard --n_scales_temporal 1"
    tiny += " --dataset_name fake --target_id Ann --move_heads 0 --epoch_frames 0"
    places = ["--datasets_dir", str(tmp_path), "--checkpoints_dir", str(tmp_path / "runs")]
    monkeypatch.setattr("models.flow.flownet2_checkpoint", lambda face, _: here / f"FlowNet2_checkpoint.pth{'_faceflow' * face}.tar")

    def command(name, *extra):
        train.main([*tiny.split(), *places, "--name", name, *extra])
        return json.loads((tmp_path / "runs/fake" / name / "opt.txt").read_text())["flow"]

    here = tmp_path  # nothing is here
    assert command("early") == "dis"
    with pytest.raises(UserError, match="no FlowNet2 checkpoint"):
        command("early", "--flow", "flownet2")
    here = checkpoints
    assert command("face") == "flownet2_face"
    face = read_flows(sequence, "flownet2_face", 64)
    assert command("plain", "--no_faceflow") == "flownet2"
    plain = read_flows(sequence, "flownet2", 64)
    shift = plain[1].astype(np.float32) - face[1].astype(np.float32)
    assert plain[1].shape == (3, 2, 32, 32) and shift.mean((0, 2, 3)) == pytest.approx([3, 0], abs=0.05)
    # runs go on as they began
    capsys.readouterr()
    assert command("early") == "dis" and "trained to its end already" in capsys.readouterr().out
    assert command("face", "--continue_train", "--niter", "2") == "flownet2_face"
    with pytest.raises(UserError, match="--flow was flownet2_face, is flownet2"):
        command("face", "--no_faceflow", "--niter", "2")
