"""Optical flow on known motion, and its cache on disk."""

import cv2
import numpy as np
import pytest
import torch

from models.flow import FLOW_METHODS, create_flow, trusted
from models.ops import resample2d
from util import flow_cache
from util.cli import UserError
from util.flow_cache import STEPS, compute_flows, ensure_flows, flow_key, read_flows
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
    flow = create_flow("dis").estimate(target, source)
    assert flow.shape == (2, 96, 128) and flow.dtype == np.float32
    error = np.linalg.norm(flow - known_flow(MOTIONS[motion], 96, 128), axis=0)[10:-10, 10:-10]
    assert error.mean() < 0.15 and np.percentile(error, 95) < 0.5


def test_flow_of_tensors_and_its_confidence():
    source = texture(64, 64)
    target = move(source, MOTIONS["shift"])
    target[20:36, 20:36] = 255 - target[20:36, 20:36]  # something that is not in the source
    images = [torch.from_numpy(np.stack([i, i])).permute(0, 3, 1, 2).float() / 127.5 - 1 for i in (target, source)]
    flow_px, confidence = create_flow("dis")(*images)
    assert flow_px.shape == (2, 2, 64, 64) and confidence.shape == (2, 1, 64, 64)
    assert set(confidence.unique().tolist()) == {0.0, 1.0}
    assert confidence[:, :, 44:56, 8:56].mean() > 0.95 and confidence[:, :, 22:34, 22:34].mean() < 0.3
    warped = resample2d(images[1], flow_px)
    assert torch.equal(confidence, trusted(images[0], warped))


def test_trust_is_a_squared_distance_over_the_channels():
    a = torch.zeros(1, 3, 1, 2)
    b = torch.tensor([0.081, 0.082]).view(1, 1, 1, 2).expand(1, 3, 1, 2)  # 3 * 0.081^2 < 0.02 < 3 * 0.082^2
    assert trusted(a, b).flatten().tolist() == [1, 0]


def test_methods_by_name():
    assert create_flow("dis").name == "dis" and "flownet2" in FLOW_METHODS
    with pytest.raises(UserError, match="use --flow dis"):
        create_flow("flownet2")
    with pytest.raises(UserError, match="unknown"):
        create_flow("magic")


# -- cache -----------------------------------------------------------------------------------------------------------------


def shift_estimate(target, source):
    """Stands for a method: the difference of the frames' constant values, in x."""
    flow = np.zeros((2, *target.shape[:2]), np.float32)
    flow[0] = int(target[0, 0, 0]) - int(source[0, 0, 0])
    return flow


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
    flows = compute_flows(frames, create_flow("dis").estimate)
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


def test_flow_is_made_anew_when_what_it_was_made_from_changes(sequence):
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
def test_damaged_cache_is_made_anew(sequence, damage):
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
    ensure_flows([sequence], "dis", 32, lambda: create_flow("dis").estimate)
    flow = read_flows(sequence, "dis", 32)[1]
    assert flow.shape == (1, 2, 16, 16)
    assert flow[0, 0, 4:-4, 4:-4].astype(float).mean() == pytest.approx(-2, abs=0.1)  # 4 pixels of 64 are 2 of 32


def test_interrupted_computation_leaves_no_file(sequence):
    def fail(target, source):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        ensure_flows([sequence], "test", 16, lambda: fail)
    assert not sequence.flow_path("test", 16).exists()
    assert flow_cache.read_flows(sequence, "test", 16) is None
