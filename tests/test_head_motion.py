"""data/head_motion.py: the head moves in frame, NMFC image, landmarks and flow alike; body and background stay."""

import cv2
import numpy as np
import pytest

from data.head_motion import DEPTH_SHIFT, TRANSLATION, HeadMotion, HeadMover, random_head_motion
from util.landmarks import EYES

SIZE = 128
STAY = np.array([[1.0, 0, 0], [0, 1, 0]])


def face(x: float = 64, y: float = 56, radius: float = 26) -> np.ndarray:
    """NMFC image of a ball: blue is depth, nearest in the middle."""
    along = np.arange(SIZE) + 0.5
    dx, dy = (along - x)[None] / radius, (along - y)[:, None] / radius
    inside = dx**2 + dy**2 < 1
    depth = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))
    image = np.stack([128 + 100 * dx + 0 * dy, 128 + 100 * dy + 0 * dx, 100 + 155 * depth], -1)
    return np.where(inside[..., None], image, 0).astype(np.uint8)


def points70(chin_y: float = 82, eyes_y: float = 50) -> np.ndarray:
    """Landmarks of which only chin and eyes matter."""
    points = np.full((70, 2), 64.0)
    points[8, 1], points[EYES, 1] = chin_y, eyes_y
    return points


def make_mover(motion: HeadMotion, nmfcs: list[np.ndarray], person: np.ndarray | None = None, background: np.ndarray | None = None):
    """Of frames that show nothing but the person, unless a mask is given."""
    person = np.full((SIZE, SIZE), 255, np.uint8) if person is None else person
    background = np.zeros((SIZE, SIZE, 3), np.uint8) if background is None else background
    count = len(nmfcs)
    return HeadMover(motion, np.stack(nmfcs), np.stack([points70()] * count), np.stack([person] * count), background)


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


def test_a_shift_moves_the_head_and_nothing_far_from_it():
    mover = make_mover(HeadMotion(STAY + [[0, 0, 0.04], [0, 0, -0.03]], np.zeros(2)), [face()])
    shift = np.array([0.04, -0.03]) * SIZE
    inside = np.array([[64.0, 56], [50, 50], [75, 66]])
    np.testing.assert_allclose(mover.points(0, inside), inside + shift, atol=0.05)
    moved = mover.nmfc(0, face())
    np.testing.assert_allclose(np.argwhere(moved.any(-1)).mean(0)[::-1] + 0.5, [64, 56] + shift, atol=0.6)
    still = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    picture = mover.image(0, still)
    np.testing.assert_array_equal(picture[:12, :12], still[:12, :12])
    np.testing.assert_array_equal(picture[-5:], still[-5:])


@pytest.mark.parametrize("seed", range(6))
def test_landmarks_follow_the_picture(seed):
    points = np.array([[52.0, 50], [76, 50], [64, 60], [64, 72]])
    mover = make_mover(random_head_motion(np.random.default_rng(seed)), [face()])
    picture = mover.image(0, spots(points))
    for point in mover.points(0, points):
        np.testing.assert_allclose(spot_near(picture, point), point, atol=0.5)


def test_what_is_near_moves_past_what_is_far():
    mover = make_mover(HeadMotion(STAY, np.array([0.05, 0])), [face()])
    middle, left, right = mover.points(0, np.array([[64.0, 56], [41, 56], [87, 56]])) - [[64.0, 56], [41, 56], [87, 56]]
    assert middle[0] > 0.5 and left[0] < 0 and right[0] < 0
    assert abs(middle[1]) < 1e-5


def test_the_nmfc_image_keeps_its_colours():
    mover = make_mover(random_head_motion(np.random.default_rng(3)), [face()])
    moved = mover.nmfc(0, face()).reshape(-1, 3)
    assert {tuple(c) for c in moved} <= {tuple(c) for c in face().reshape(-1, 3)}


@pytest.mark.parametrize("seed", range(4))
def test_flow_leads_from_a_moved_frame_to_the_other(seed):
    """The head goes 3 pixels to the right between the frames; so does what is on it."""
    first, second = np.array([[55.0, 50], [70, 64]]), np.array([[58.0, 50], [73, 64]])
    mover = make_mover(random_head_motion(np.random.default_rng(seed)), [face(64), face(67)])
    flow = np.zeros((2, SIZE // 2, SIZE // 2), np.float16)
    flow[0] = np.where(cv2.resize(face(67), (SIZE // 2, SIZE // 2)).any(-1), -3, 0)
    moved = mover.flow(1, 0, flow)
    assert moved.shape == flow.shape
    for before, after in zip(mover.points(0, first), mover.points(1, second)):
        column, row = (after / 2).astype(int)
        np.testing.assert_allclose(after + moved[:, row, column], before, atol=0.4)


def test_a_frame_without_a_face_stays_as_it_is():
    picture = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    mover = make_mover(random_head_motion(np.random.default_rng(0)), [np.zeros_like(picture)])
    np.testing.assert_array_equal(mover.image(0, picture), picture)


def test_motions_reach_their_limits_and_no_further():
    drawn = [random_head_motion(np.random.default_rng(i)) for i in range(300)]
    shifts, depths = np.array([m.affine[:, 2] for m in drawn]), np.array([m.depth_shift for m in drawn])
    for values, limit in ((shifts, TRANSLATION), (depths, DEPTH_SHIFT)):
        assert (np.abs(values) <= limit).all() and values.min() < -0.95 * limit and values.max() > 0.95 * limit
