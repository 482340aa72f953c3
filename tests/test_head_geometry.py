"""data/augmentation/head_geometry.py: the outline's depth is found in frames of heads whose truth is known."""

import numpy as np
import pytest

from data.augmentation.head_geometry import USUAL_OUTLINE, View, on_grid, outline_depth

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


@pytest.mark.parametrize("depth", [0.6, 0.75, 0.9])
def test_the_outlines_depth_is_found_by_how_it_moves_when_the_head_turns(depth):
    frames = turning_ball(np.radians(np.linspace(-15, 15, 40)), depth)
    assert abs(outline_depth(*frames) - depth) < 0.02


def test_without_turns_or_outline_the_head_is_a_usual_one():
    nmfcs, landmarks, masks = turning_ball(np.zeros(10), 0.6)
    shown = nmfcs[0, ..., 2][nmfcs[0].any(-1)] / 255
    assert np.percentile(shown, 5) < outline_depth(nmfcs, landmarks, masks) < shown.mean()
    for nothing in (outline_depth(nmfcs, landmarks, np.full_like(masks, 255)), outline_depth(np.zeros_like(nmfcs), landmarks, masks)):
        assert nothing == USUAL_OUTLINE == 0.5


def test_a_view_tells_where_the_camera_sees_a_place_on_the_head():
    yaw = np.radians([-20.0, 0, 20])
    nmfcs, _, _ = turning_ball(yaw, 0.6)
    for small, face, angle in zip(*on_grid(nmfcs), yaw):
        view = View.of(small, face, SIZE)
        for place in ([0, 0, 0], [0, 0, 1], [1, 0, 0], [0, -1, 0]):  # middle, tip of the nose, ear, chin
            x, y, z = 30 * np.array(place, float)
            seen = view.across @ (0.5 + 0.5 * np.array(place)) + view.start
            np.testing.assert_allclose(seen, [64 + np.cos(angle) * x + np.sin(angle) * z, 64 - y], atol=0.8)
