"""data/augmentation: the head moves in frame, NMFC image, landmarks and flow alike; body and background stay."""

import numpy as np
import pytest
import torch

from data.augmentation.head_motion import (
    TRANSLATION,
    TURN_DEG,
    HeadMotion,
    head_fields,
    move_heads,
    move_points,
    no_motion,
    random_head_motion,
)
from data.augmentation.head_shapes import head_shapes
from util.face.landmarks import EYES

SIZE = 128
STAY = np.array([[1.0, 0, 0], [0, 1, 0]])


def shift_by(x: float, y: float) -> HeadMotion:
    """In pixels."""
    return HeadMotion(STAY + [[0, 0, x / SIZE], [0, 0, y / SIZE]], np.zeros(2))


def face(x: float = 64, y: float = 56, radius: float = 26) -> np.ndarray:
    """NMFC image of a ball: green is height, blue is depth, nearest in the middle."""
    along = np.arange(SIZE) + 0.5
    dx, dy = (along - x)[None] / radius, (along - y)[:, None] / radius
    inside = dx**2 + dy**2 < 1
    depth = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))
    image = np.stack([128 + 100 * dx + 0 * dy, 128 - 100 * dy + 0 * dx, 100 + 155 * depth], -1)
    return np.where(inside[..., None], image, 0).astype(np.uint8)


def turning_ball(yaw: np.ndarray, radius: float = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NMFC images of a ball that turns, landmarks, and masks that are full."""
    along = (np.arange(SIZE) + 0.5 - 64) / radius
    x, y = np.meshgrid(along, along)
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    sine, cosine = np.sin(yaw)[:, None, None], np.cos(yaw)[:, None, None]
    ball = np.stack([cosine * x - sine * z, np.broadcast_to(-y, (len(yaw), *y.shape)), sine * x + cosine * z], -1)
    nmfcs = np.where((z > 0)[..., None], np.round(127.5 + 127.5 * ball), 0).astype(np.uint8)
    landmarks = np.stack([64 + radius * np.where(np.arange(70) < 42, -0.4, 0.4), np.full(70, 64.0)], -1)
    return nmfcs, np.stack([landmarks] * len(yaw)), np.full(nmfcs.shape[:3], 255, np.uint8)


def points70() -> np.ndarray:
    """Landmarks of which only chin and eyes matter."""
    points = np.full((70, 2), 64.0)
    points[8, 1], points[EYES, 1] = 82, 50
    return points


def clip(motion, images, nmfcs, flows=None, mask=None, background=None):
    """A batch of one clip; the mask says that all is the person, unless another is given."""
    context = [nmfcs[0], nmfcs[0], *nmfcs]
    mask = np.full((SIZE, SIZE), 255, np.uint8) if mask is None else mask
    shapes = head_shapes(np.stack(context), *(np.stack([x] * len(context)) for x in (points70(), mask)))
    heads = frames = no_motion(len(context))
    if motion:
        heads = head_fields(motion, shapes, SIZE)
        frames = heads * shapes.fade[..., None]
    background = np.zeros((SIZE, SIZE, 4), np.uint8) if background is None else background
    parts = {"frames": frames[2:], "nmfcs": heads, "masks": np.stack([mask] * len(nmfcs)), "background": background}
    batch = {"image": np.stack(images), "nmfc": np.stack(context), "motion": parts}
    if flows:
        batch["flows"] = flows

    def first(x):
        return {k: first(v) for k, v in x.items()} if isinstance(x, dict) else torch.from_numpy(x)[None]

    return first(batch), heads[2:]


def spots(points: np.ndarray) -> np.ndarray:
    """A smooth bright spot at every point, uint8 [SIZE, SIZE, 3]."""
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    image = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in points)
    return np.repeat((255 * np.clip(image, 0, 1)).astype(np.uint8)[..., None], 3, 2)


def spot_near(image: np.ndarray, point: np.ndarray, reach: int = 6) -> np.ndarray:
    """Centre of the brightness around a point."""
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    weight = image[..., 0] * ((x - point[0]) ** 2 + (y - point[1]) ** 2 < reach**2).astype(float)
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)


def test_a_shift_moves_mesh_and_landmarks_by_as_much():
    batch, heads = clip(shift_by(5, -4), [noise(0)], [face()])
    inside = np.array([[64.0, 56], [50, 50], [75, 66]])
    np.testing.assert_allclose(move_points(heads[0], inside, SIZE), inside + [5, -4], atol=0.01)
    moved = move_heads(batch)["nmfc"][0, 2].numpy()
    np.testing.assert_allclose(np.argwhere(moved.any(-1)).mean(0)[::-1] + 0.5, [69, 52], atol=0.5)
    assert {tuple(c) for c in moved.reshape(-1, 3)} <= {tuple(c) for c in face().reshape(-1, 3)}  # colours stay pure


@pytest.mark.parametrize("seed", range(6))
def test_the_picture_follows_the_landmarks(seed):
    points = np.array([[52.0, 50], [76, 50], [64, 60], [64, 72]])
    batch, heads = clip(random_head_motion(np.random.default_rng(seed)), [spots(points)], [face()])
    picture = move_heads(batch)["image"][0, 0].numpy()
    for point in move_points(heads[0], points, SIZE):
        np.testing.assert_allclose(spot_near(picture, point), point, atol=0.5)


def test_the_body_stays():
    body = np.array([[64.0, 112], [30, 118], [100, 118]])
    batch, _ = clip(shift_by(6, 0), [spots(body)], [face()])
    picture = move_heads(batch)["image"][0, 0].numpy()
    for point in body:
        np.testing.assert_allclose(spot_near(picture, point), point, atol=0.05)


def test_shoulders_stay_while_throat_and_hair_follow():
    """Shoulders that rise to the chin's level beside it stay; what no background parts from the head, as long hair, follows."""
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    head = (np.hypot(x - 64, y - 56) < 30) | ((abs(x - 64) < 20) & (y > 56))
    points = np.array([[64.0, 88], [38, 90], [90, 90]])
    for body, moves in ((head | (y > 84), False), (head | (abs(x - 64) < 40) & (y > 20), True)):
        batch, _ = clip(shift_by(6, 0), [spots(points)], [face()], mask=255 * body.astype(np.uint8))
        picture = move_heads(batch)["image"][0, 0].numpy()
        assert spot_near(picture, [68, 88], 8)[0] > 64 + 3
        for point in points[1:]:
            shift = spot_near(picture, point, 8) - point
            assert shift[0] > 1.5 if moves else np.abs(shift).max() < 0.05


def test_a_picture_full_of_person_has_no_shoulders():
    """Whatever lies in memory: nothing is hidden, not at the picture's edges either."""
    full, landmarks = np.full((1, SIZE, SIZE), 255, np.uint8), points70()[None]
    first = head_shapes(face()[None], landmarks, full)
    for value in (0, 255):
        junk = [np.full(n, value, np.uint8) for n in (64 * 64, 68 * 68, 96 * 256, 128 * 256) for _ in range(8)]
        del junk
        np.testing.assert_array_equal(head_shapes(face()[None], landmarks, full).fade, first.fade)
    assert first.fade[0, 44, 16] > 0 and first.fade[0, 44, 48] > 0  # beside the throat


def test_the_background_stays_and_closes_behind_the_head():
    """A white person, 80 pixels wide, before noise moves by 6 pixels: noise as filmed far from it, the known background where it was."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[20:, 40:88] = 255
    background = np.dstack([np.full((SIZE, SIZE, 3), 100, np.uint8), np.full((SIZE, SIZE), 255, np.uint8)])
    filmed = np.where(mask[..., None] > 0, 255, noise(0)).astype(np.uint8)
    batch, _ = clip(shift_by(6, 0), [filmed], [face()], mask=mask, background=background)
    picture = move_heads(batch)["image"][0, 0].numpy()
    np.testing.assert_array_equal(picture[:, :25], filmed[:, :25])
    assert (picture[50:60, 48:92] > 250).all()  # the person, further right
    np.testing.assert_allclose(picture[56, 40:42].astype(int), 100, atol=8)  # where the person was


def test_an_unknown_background_bends_with_the_person():
    """A white person before grey, of which nothing is known; what is guessed, black, is not shown."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[20:, 40:88] = 255
    filmed = np.where(mask[..., None] > 0, 255, np.full((SIZE, SIZE, 3), 100)).astype(np.uint8)
    batch, _ = clip(shift_by(6, 0), [filmed], [face()], mask=mask, background=np.zeros((SIZE, SIZE, 4), np.uint8))
    picture = move_heads(batch)["image"][0, 0].numpy()
    assert (picture[50:60, 48:92] > 250).all() and picture.min() > 70  # a little dark beside bright, as bicubic sampling is
    np.testing.assert_allclose(picture[56, 40:42].astype(int), 100, atol=8)


def test_what_is_near_moves_past_what_is_far():
    shapes = head_shapes(face()[None], points70()[None], np.full((1, SIZE, SIZE), 255, np.uint8))
    heads = head_fields(HeadMotion(STAY, np.array([0.1, 0])), shapes, SIZE)
    places = np.array([[64.0, 56], [41, 56], [87, 56]])
    middle, left, right = move_points(heads[0], places, SIZE) - places
    assert middle[0] > left[0] + 1 and middle[0] > right[0] + 1 and left[0] < 0 and right[0] < 0
    assert abs(middle[1]) < 1e-5


def test_depth_is_the_models_own():
    """As deep as 0.8 of the frame from the farthest to the nearest vertex, however the head is turned; from the landmarks on."""
    nmfcs, landmarks, masks = turning_ball(np.radians([0.0, 25]))
    shapes = head_shapes(nmfcs, landmarks, masks)
    for nearer, nmfc in zip(shapes.nearer, nmfcs):
        depth = nmfc[1::2, 1::2, 2][26:38, 24:40] / 255
        at_landmarks = [nmfc[int(y), int(x), 2] / 255 for x, y in landmarks[0]]
        np.testing.assert_allclose(nearer[26:38, 24:40], 0.8 * SIZE * (depth - np.mean(at_landmarks)), atol=2.5)


def test_hair_lies_behind_the_face_but_not_as_far_as_its_edge():
    nmfcs, landmarks, masks = turning_ball(np.zeros(1))
    shapes, depth = head_shapes(nmfcs, landmarks, masks), nmfcs[0, ..., 2] / 255
    at_landmarks = np.mean([depth[int(y), int(x)] for x, y in landmarks[0]])
    edge, mean = np.percentile(depth[depth > 0], 5), depth[depth > 0].mean()
    hair = shapes.nearer[0, 32, [0, 8, 55, 63]] / (0.8 * SIZE) + at_landmarks
    np.testing.assert_allclose(hair, edge + 0.6 * (mean - edge), atol=0.02)


@pytest.mark.parametrize("shown", [np.s_[63:66, 63:66], np.s_[20:100, 63:66], np.s_[63:66, 20:100]])
def test_a_sliver_of_a_face_moves_by_no_more_than_makes_sense(shown):
    """A face at the picture's edge or from the side, of which a few points are seen: its depth is not known."""
    nmfc = np.zeros_like(face())
    nmfc[shown] = face()[shown]
    shapes = head_shapes(nmfc[None], points70()[None], np.full((1, SIZE, SIZE), 255, np.uint8))
    for seed in range(20):
        heads = head_fields(random_head_motion(np.random.default_rng(seed)), shapes, SIZE)
        assert np.isfinite(heads).all() and np.abs(heads).max() < SIZE / 2


@pytest.mark.parametrize("seed", range(4))
def test_flow_leads_from_a_moved_frame_to_the_other(seed):
    """The head goes 3 pixels to the right between the frames; so does what is on it."""
    first, second = np.array([[55.0, 50], [70, 64]]), np.array([[58.0, 50], [73, 64]])
    flow = np.zeros((1, 2, SIZE // 2, SIZE // 2), np.float16)
    flow[0, 0] = np.where(face(67)[1::2, 1::2].any(-1), -3, 0)
    flows = {1: flow, 3: flow[:0]}
    batch, heads = clip(random_head_motion(np.random.default_rng(seed)), [noise(0), noise(1)], [face(64), face(67)], flows)
    moved = move_heads(batch)["flows"]
    assert moved[1].shape == (1, 1, 2, SIZE // 2, SIZE // 2) and moved[1].dtype == torch.float16 and moved[3].shape[1] == 0
    for before, after in zip(move_points(heads[0], first, SIZE), move_points(heads[1], second, SIZE)):
        column, row = (after / 2).astype(int)
        np.testing.assert_allclose(after + moved[1][0, 0, :, row, column].numpy(), before, atol=0.5)


@pytest.mark.parametrize("motion", [None, random_head_motion(np.random.default_rng(0))])
def test_a_clip_without_motion_or_face_stays_exactly_as_it_is(motion):
    nmfc = np.zeros((SIZE, SIZE, 3), np.uint8) if motion else face()
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[30:, 30:90] = 255
    flows = {1: np.random.default_rng(0).normal(size=(1, 2, 64, 64)).astype(np.float16)}
    batch, _ = clip(motion, [noise(0), noise(1)], [nmfc, nmfc], flows, mask)
    moved = move_heads(batch)
    assert "motion" not in moved
    for kind in ("image", "nmfc"):
        assert torch.equal(moved[kind], batch[kind])
    assert torch.equal(moved["flows"][1], batch["flows"][1])


def test_motions_reach_their_limits_and_no_further():
    drawn = [random_head_motion(np.random.default_rng(i)) for i in range(300)]
    shifts, turns = np.array([m.affine[:, 2] for m in drawn]), np.array([m.turn for m in drawn])
    for values, limit in ((shifts, TRANSLATION), (turns, np.radians(TURN_DEG))):
        assert (np.abs(values) <= limit).all() and values.min() < -0.95 * limit and values.max() > 0.95 * limit
