"""data/augmentation/head_geometry.py: depth and perspective are found in frames of heads whose truth is known."""

import cv2
import numpy as np
import pytest

from data.augmentation.head_geometry import USUAL_HEAD, View, measure_head, on_grid

SIZE = 128


def turning_ball(yaw: np.ndarray, depth: float, radius: float = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NMFC images of a ball that turns, landmarks, and masks whose outline goes with a point of that depth, 0..1, behind the nose."""
    along = (np.arange(SIZE) + 0.5 - 64) / radius
    x, y = np.meshgrid(along, along)
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    sine, cosine = np.sin(yaw)[:, None, None], np.cos(yaw)[:, None, None]
    ball = np.stack([cosine * x - sine * z, np.broadcast_to(-y, (len(yaw), *y.shape)), sine * x + cosine * z], -1)
    nmfcs = np.where((z > 0)[..., None], np.round(127.5 + 127.5 * ball), 0).astype(np.uint8)
    eyes = np.where(np.arange(70) < 42, -0.4, 0.4)
    landmarks = np.stack([64 + radius * eyes, np.full(70, 64.0)], -1)
    middles = 64 + radius * np.sin(yaw) * (2 * depth - 1)
    inside = 40 - np.abs(np.arange(SIZE) + 0.5 - middles[:, None]) + 0.5
    masks = np.repeat((255 * inside.clip(0, 1))[:, None], SIZE, 1).round().astype(np.uint8)
    return nmfcs, np.stack([landmarks] * len(yaw)), masks


def rotations(yaw: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Of a head, right, up and towards the camera to right, down and away: [N, 3, 3]."""
    found = [cv2.Rodrigues(np.array([p, 0, 0]))[0] @ cv2.Rodrigues(np.array([0, y, 0]))[0] for y, p in zip(yaw, pitch)]
    return np.diag([1.0, -1, -1]) @ np.array(found)


@pytest.mark.parametrize("depth", [0.6, 0.75, 0.9])
def test_the_outlines_depth_is_found_by_how_it_moves_when_the_head_turns(depth):
    frames = turning_ball(np.radians(np.linspace(-15, 15, 40)), depth)
    assert abs(measure_head(*frames).outline - depth) < 0.02


def test_without_turns_or_outline_the_head_is_a_usual_one():
    nmfcs, landmarks, masks = turning_ball(np.zeros(10), 0.6)
    shown = nmfcs[0, ..., 2][nmfcs[0].any(-1)] / 255
    assert np.percentile(shown, 5) < measure_head(nmfcs, landmarks, masks).outline < shown.mean()
    for nothing in (measure_head(nmfcs, landmarks, np.full_like(masks, 255)), measure_head(np.zeros_like(nmfcs), landmarks, masks)):
        assert nothing.outline == 0.5 and nothing.perspective == 0.5
        np.testing.assert_array_equal(nothing.box, USUAL_HEAD.box)


def test_a_view_tells_pose_size_and_distance():
    yaw = np.radians([-20.0, 0, 20])
    nmfcs, _, _ = turning_ball(yaw, 0.6)
    views = [View.of(*x, SIZE, np.ones(3)) for x in zip(*on_grid(nmfcs))]
    for view, angle in zip(views, yaw):
        assert abs(view.width - 60) < 0.5
        np.testing.assert_allclose(view.see(np.array([0.5, 0.5, 0.5])), [64, 64], atol=0.7)
        assert abs(view.nearer @ [0.5, 0.5, 1] - view.nearer @ [0.5, 0.5, 0.5] - 30 * np.cos(angle)) < 0.3  # the tip of the nose


def test_the_models_box_is_found_by_the_fits_cameras():
    """Blue spans twice the depth that it seems to: the model is twice as deep as wide."""
    yaw = np.radians(np.linspace(-15, 15, 20))
    nmfcs, landmarks, masks = turning_ball(yaw, 0.6)
    shown = nmfcs.any(-1)
    nmfcs[..., 2][shown] = np.round(127.5 + (nmfcs[..., 2][shown] - 127.5) / 2)
    head = measure_head(nmfcs, landmarks, masks, cameras=30 * rotations(yaw, np.zeros(20)))
    assert abs(head.box[0] - 1) < 1e-9 and abs(head.box[1] - 1) < 0.03 and abs(head.box[2] - 2) < 0.2


@pytest.mark.parametrize("perspective", [0.2, 0.5, 0.9])
def test_perspective_is_found_by_the_outlines_width(perspective):
    """A ball turns, nods and comes nearer; its outline above the eyes goes with a place a little before the ball's middle."""
    rng, count = np.random.default_rng(0), 150
    radii, yaw, pitch = 36 * rng.uniform(0.85, 1.15, count), *np.radians(rng.uniform(-12, 12, (2, count)))
    turns = rotations(yaw, pitch)
    x, y = np.meshgrid(*[np.arange(SIZE) + 0.5 - 64] * 2)
    nmfcs, masks, landmarks = [], [], []
    for r, turn in zip(radii, turns):
        z = np.sqrt(np.clip(1 - (x**2 + y**2) / r**2, 0, 1))
        ball = np.stack([x / r, y / r, -z], -1) @ turn  # what is seen, turned back
        nmfcs.append(np.where((z > 0)[..., None], np.round(127.5 + 127.5 * ball), 0).astype(np.uint8))
        landmarks.append(np.stack([64 + r * np.where(np.arange(70) < 42, -0.4, 0.4), np.full(70, 64.0)], -1))
        right, _, away = r * turn @ [0, 0.24, 0.2]
        near = -away - r * z[z > 0].mean()
        half = 1.2 * r / (1 - perspective * near / SIZE)
        inside = half - np.abs(x - right) + 0.5
        masks.append((255 * inside.clip(0, 1)).round().astype(np.uint8))
    cameras = radii[:, None, None] * turns
    head = measure_head(np.stack(nmfcs), np.stack(landmarks), np.stack(masks), cameras=cameras)
    assert abs(head.outline - 0.6) < 0.03
    assert abs(head.perspective - perspective) < 0.12
