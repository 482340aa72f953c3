"""Changed expressions and true poses in training frames (data/augmentation), and persons' colours (data/appearance.py)."""

import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from fake_dataset import make_dataset, make_fitted, texture

import util.cli
from data.appearance import measure_appearance
from data.augmentation.expressions import _CHANGES, _PERIOD, _UNEVEN, random_expressions
from data.augmentation.head_motion import HeadMotion, head_fields, look_up, move_heads, random_head_motion
from data.augmentation.head_shapes import head_shapes
from data.augmentation.mesh_motion import Fit, change_mesh, moved_cameras
from data.clip_stream import ClipStream
from data.clips import ClipIndex, VideoDataset
from data.heads import find_appearance, read_fit
from preprocessing.driving.head_mesh import HeadMesh, HeadMeshes
from preprocessing.face_models import mesh478
from preprocessing.render.cpu import CpuRenderer
from util.caches.persons import Persons
from util.cli import UserError
from util.face.appearance import CELLS, Appearance, MouthParts, cell_of
from util.geometry import FRONTAL, Cameras, rotation_matrix
from util.image_io import read_image, write_image
from util.layout import Dataset

SIZE, GRID = 96, 64
STAY = HeadMotion(np.eye(2, 3), np.zeros(2))
MARK = np.array([255, 0, 255], np.uint8)  # no skin has this colour


# ---- expressions ----

SIDES = [f"{shape}{side}" for shape, *_ in _CHANGES for side in ("", "_L", "_R")]


def draw(seed, names=SIDES, bounds=(-9.0, 9.0), frames=40, base=0.0):
    """Changed expressions [N, K] of a face that stays."""
    return random_expressions(
        np.random.default_rng(seed), names, np.tile(bounds, (len(names), 1)), np.full((frames, len(names)), base, np.float32)
    )


def test_the_face_models_have_the_shapes_that_change():
    names = set(mesh478.load().expression_names)
    assert all(shape in names or {f"{shape}_L", f"{shape}_R"} <= names for shape, *_ in _CHANGES)


def test_expressions_stay_within_the_models_bounds_but_for_what_was_found():
    drawn = np.stack([draw(seed, bounds=(0.0, 0.3), base=0.1) for seed in range(50)])
    assert drawn.min() == 0 and abs(drawn.max() - 0.3) < 1e-6
    beyond = np.stack([draw(seed, bounds=(0.0, 0.3), base=0.5) for seed in range(50)])
    assert beyond.min() == 0 and beyond.max() == 0.5  # what the fit found is kept, and not exceeded


def test_expressions_depend_on_the_seed_alone():
    np.testing.assert_array_equal(draw(3), draw(3))
    assert np.abs(draw(3) - draw(4)).max() > 0.05
    base = np.zeros((40, len(SIDES)), np.float32)
    random_expressions(np.random.default_rng(0), SIDES, np.tile((-9.0, 9), (len(SIDES), 1)), base)
    assert not base.any()  # what was found is not written over


def test_expressions_change_by_no_more_than_a_face_does_from_frame_to_frame():
    fastest = max(max(abs(low), abs(high)) for _, _, low, high in _CHANGES) * (1 + _UNEVEN) * np.pi / _PERIOD[0]
    steps = np.abs(np.diff(np.stack([draw(seed) for seed in range(300)]), axis=1))
    assert 0.5 * fastest < steps.max() <= fastest < 0.35
    twice = np.abs(np.diff(np.stack([draw(seed) for seed in range(300)]), 2, axis=1))
    assert twice.max() < 0.25  # no corners either


def test_shapes_change_as_often_and_as_far_as_the_table_says():
    drawn = np.stack([draw(seed, frames=60)[:, ::3] for seed in range(600)])  # [draws, frames, shapes without side]
    changed = (drawn != 0).any(1)
    for k, (_, share, low, high) in enumerate(_CHANGES):
        assert abs(changed[:, k].mean() - share) < 4 * np.sqrt(share * (1 - share) / 600)
        assert low - 1e-9 <= drawn[..., k].min() and drawn[..., k].max() <= high + 1e-9
        assert drawn[..., k].max() > 0.75 * high and drawn[..., k].min() <= 0.6 * low


def test_shapes_that_a_model_lacks_are_left_out():
    np.testing.assert_array_equal(draw(5, ["smooth_00x", "jawOpen"])[:, 1], draw(5)[:, SIDES.index("jawOpen")])
    assert not draw(5, ["smooth_00x", "eyeLookIn_L"]).any()


def test_left_and_right_change_together_a_little_unevenly():
    left, right = (np.stack([draw(seed)[:, SIDES.index(f"mouthSmile_{side}")] for seed in range(100)]) for side in "LR")
    moving = np.abs(left) > 0.05
    ratio = left[moving] / right[moving]
    assert (1 - _UNEVEN) / (1 + _UNEVEN) <= ratio.min() < 0.85 and 1.18 < ratio.max() <= (1 + _UNEVEN) / (1 - _UNEVEN)
    np.testing.assert_allclose(np.corrcoef(left[moving.all(1)][0], right[moving.all(1)][0])[0, 1], 1)


# ---- meshes ----


@pytest.fixture(scope="module")
def model():
    return mesh478.load()


@pytest.fixture(scope="module")
def mesh(model):
    return mesh_of(model, SIZE)


def mesh_of(model, size):
    colours = model.nmfc_colours()
    own = replace(model, identity_basis=np.zeros_like(model.identity_basis[:1]))
    return HeadMesh(own, CpuRenderer(model.triangles, colours, (size, size)), MouthParts(colours, *model.mouth_inside()))


def expression_of(mesh, count=1, **weights):
    """float64 [count, K]."""
    expression = np.zeros((count, len(mesh.names)))
    for name, weight in weights.items():
        expression[:, mesh.names.index(name)] = weight
    return expression


def fit_with(mesh, model, count=1, yaw=0.1, **weights):
    """A face in the middle of the picture, turned a little."""
    rotation = FRONTAL @ rotation_matrix(np.array([0.05, yaw, 0.02]))
    translation = SIZE / 2 * np.array([1.0, 1, 0]) - 4 * rotation @ ((model.mean.min(0) + model.mean.max(0)) / 2) * [1, 1, 0]
    cameras = Cameras(np.full(count, 4.0), np.stack([rotation] * count), np.stack([translation] * count))
    return Fit(np.zeros(1), expression_of(mesh, count, **weights), cameras)


def change(mesh, fit, expression, motion, count=SIZE // 2):
    return change_mesh(mesh, fit, expression, motion, np.ones((len(expression), GRID, GRID), np.float32), count)


def drawn_mesh(mesh, fit, expression, motion):
    """Vertices [V, 3] of the first frame and the triangles seen [H, H], drawn with the moved cameras."""
    centre = mesh.landmarks(fit.expression, fit.cameras).mean((0, 1))
    vertices = mesh.vertices(expression, moved_cameras(fit.cameras, motion, centre, mesh.size))[0]
    return vertices, mesh.draw_ids(vertices)


def places_seen(mesh, model, vertices, ids):
    """The place on the mean face, 0..1, that each pixel shows: float64 [H, H, 3]."""
    y, x = np.mgrid[: mesh.size, : mesh.size] + 0.5
    a, b, c = (vertices[mesh.triangles[ids, k], :2].astype(float) for k in range(3))
    u, v, p = b - a, c - a, np.stack([x, y], -1) - a
    area = u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
    area = np.where(np.abs(area) < 1e-9, 1e-9, area)
    second = np.clip((p[..., 0] * v[..., 1] - p[..., 1] * v[..., 0]) / area, 0, 1)
    third = np.clip((u[..., 0] * p[..., 1] - u[..., 1] * p[..., 0]) / area, 0, 1 - second)
    low, high = model.mean.min(0), model.mean.max(0)
    corners = ((model.mean - low) / (high - low))[mesh.triangles[ids]]
    return np.einsum("hwk,hwkc->hwc", np.stack([1 - second - third, second, third], -1), corners)


def away_from_edges(where, by=2):
    return cv2.erode(where.astype(np.uint8), np.ones((2 * by + 1,) * 2, np.uint8)) > 0


@pytest.mark.parametrize("seed", range(5))
def test_moved_cameras_see_the_head_as_the_motion_moves_it(model, seed):
    """Turned about the centre, then scaled, rolled and shifted in the picture: x, y and depth, to rounding."""
    motion, rng = random_head_motion(np.random.default_rng(seed)), np.random.default_rng(100 + seed)
    cameras = Cameras(rng.uniform(3, 5, 2), FRONTAL @ rotation_matrix(rng.normal(0, 0.2, (2, 3))), rng.uniform(0, SIZE, (2, 3)))
    points, centre = model.mean.astype(np.float64), rng.uniform(0, SIZE, 3)
    turned = (cameras.project(points) - centre) @ rotation_matrix(np.array([motion.turn[1], -motion.turn[0], 0])).T
    scale = np.sqrt(np.linalg.det(motion.affine[:, :2]))
    expected = np.concatenate([turned[..., :2] @ motion.affine[:, :2].T + motion.affine[:, 2] * SIZE, scale * turned[..., 2:]], -1) + centre
    moved = moved_cameras(cameras, motion, centre, SIZE)
    np.testing.assert_allclose(moved.project(points), expected, atol=1e-9)
    np.testing.assert_allclose(moved.rotation @ np.swapaxes(moved.rotation, 1, 2), np.stack([np.eye(3)] * 2), atol=1e-12)


def test_what_is_near_turns_towards_the_motion(model):
    """The tip of the nose goes to the right and down in the picture, the ears do not."""
    centre = np.array([48.0, 48, -30])
    cameras = Cameras(np.array([4.0]), FRONTAL[None], np.array([[48.0, 48, 0]]))
    moved = moved_cameras(cameras, HeadMotion(np.eye(2, 3), np.array([0.1, 0.05])), centre, SIZE)
    nose, ear = (moved.project(p) - cameras.project(p) for p in (model.mean[4:5], model.mean[234:235]))
    assert nose[0, 0, 0] > 1 and nose[0, 0, 1] > 0.5 and ear[0, 0, 0] < 0


def test_without_a_change_nothing_moves(mesh, model):
    fit = fit_with(mesh, model, 2, jawOpen=0.2)
    changed = change(mesh, fit, fit.expression, STAY)
    filmed = mesh.vertices(fit.expression, fit.cameras)
    for n, vertices in enumerate(filmed):
        np.testing.assert_array_equal(changed.nmfcs[n], mesh.paint(mesh.draw_ids(vertices)))
    np.testing.assert_allclose(changed.moved, 0, atol=1e-12)
    np.testing.assert_allclose(changed.sources[..., :2] * SIZE, 0, atol=1e-3)
    shown = changed.nmfcs[:, 1::2, 1::2].any(-1)
    assert (changed.sources[..., 2][shown] == 1).all() and shown.mean() > 0.2
    assert changed.sources[:, 0, 0, 2].max() == 0  # in the picture's corner


def test_a_shifted_face_comes_from_where_it_was(mesh, model):
    """By 5 pixels to the right and 3 up, and what is a little beyond its edge as well."""
    fit, shift = fit_with(mesh, model), np.array([5, -3])
    motion = HeadMotion(np.column_stack([np.eye(2), shift / SIZE]), np.zeros(2))
    changed, still = change(mesh, fit, fit.expression, motion), change(mesh, fit, fit.expression, STAY)
    assert (changed.nmfcs[0] == np.roll(still.nmfcs[0], shift[::-1], (0, 1))).all(-1).mean() > 0.995  # but for rounding at edges
    np.testing.assert_allclose(changed.moved, np.tile(shift / SIZE, (1, 70, 1)), atol=1e-6)
    weight = changed.sources[0, ..., 2]
    np.testing.assert_allclose(changed.sources[0][weight > 0, :2] * SIZE, np.tile(-shift, ((weight > 0).sum(), 1)), atol=1e-3)
    beyond = (weight > 0) & (weight < 1)
    assert 50 < beyond.sum() < 600 and not changed.nmfcs[0, 1::2, 1::2][weight == 0].any()


def test_beyond_the_face_as_much_goes_along_as_follows_the_head(mesh, model):
    """Where what is shown does not follow the head, as a body, nothing does, though the face model reaches there."""
    fit, fade = fit_with(mesh, model), np.ones((1, GRID, GRID), np.float32)
    fade[:, GRID // 2 :] = 0
    sources = change_mesh(mesh, fit, fit.expression, STAY, fade, SIZE // 2).sources[0]
    shown = mesh.paint(drawn_mesh(mesh, fit, fit.expression, STAY)[1])[1::2, 1::2].any(-1)
    assert (sources[:23, :, 2][shown[:23]] == 1).all() and sources[26:, :, 2].max() == 0 and shown[26:].any()


def test_an_opening_jaw_takes_lip_and_chin_down_and_leaves_the_brows(mesh, model):
    fit = fit_with(mesh, model)
    changed = change(mesh, fit, expression_of(mesh, jawOpen=0.6), STAY)
    down = changed.moved[0, :, 1] * SIZE
    assert down[57] > 5 and down[66] > 5 and down[8] > 5 and abs(down[51]) < 1 and np.abs(down[17:27]).max() < 0.1
    lip = fit.cameras.project(model.mean)[0, 17, :2] + changed.moved[0, 57] * SIZE  # dense point 17 is landmark 57, below the lower lip
    back = cv2.remap(changed.sources[0, ..., :2], (lip / 2 - 0.5).astype(np.float32)[None, None], None, cv2.INTER_LINEAR)[0, 0] * SIZE
    np.testing.assert_allclose(back, -changed.moved[0, 57] * SIZE, atol=0.7)


def test_a_face_outside_of_the_picture_has_no_sources(mesh, model):
    fit = fit_with(mesh, model)
    away = HeadMotion(np.array([[1.0, 0, 3], [0, 1, 0]]), np.zeros(2))
    changed = change(mesh, fit, fit.expression, away)
    assert not changed.nmfcs.any() and not changed.sources.any()


# ---- pictures ----

POSE = HeadMotion(np.array([[1.02, -0.05, 0.02], [0.05, 1.02, -0.01]]), np.array([0.1, 0.08]))


def paint_and_move(mesh, model, expression, motion, table, fit=None, mask=None, background=None):
    """A face painted with `texture` before grey, moved by `move_heads`: the picture as filmed, as moved, and as it ought to be, with the
    triangles seen in it, -1 for none."""
    fit = fit or fit_with(mesh, model)
    filmed, ids = drawn_mesh(mesh, fit, fit.expression, STAY)
    image = np.where((ids >= 0)[..., None], texture(places_seen(mesh, model, filmed, ids)), np.uint8(90))
    nmfc, changed = mesh.paint(ids), change(mesh, fit, expression, motion)
    mask = np.full((1, SIZE, SIZE), 255, np.uint8) if mask is None else mask[None]
    shapes = head_shapes(nmfc[None], mesh.landmarks(fit.expression, fit.cameras)[..., :2], mask, 0.5)
    background = np.zeros((SIZE, SIZE, 4), np.uint8) if background is None else background
    motion_part = {
        "frames": head_fields(motion, shapes, SIZE) * shapes.fade[..., None] + np.float32(1e-6),  # what does not move is left out
        "masks": mask,
        "background": background,
        "sources": changed.sources,
        "filmed": nmfc[None],
        "colours": table.colours,
    }
    batch = {"image": image[None], "nmfc": np.stack([changed.nmfcs[0]] * 3)}
    batch = {k: torch.from_numpy(v)[None] for k, v in batch.items()} | {
        "motion": {k: torch.from_numpy(np.ascontiguousarray(v))[None] for k, v in motion_part.items()}
    }
    moved = move_heads(batch)
    assert torch.equal(moved["nmfc"], batch["nmfc"]) and "motion" not in moved
    vertices, ids = drawn_mesh(mesh, fit, expression, motion)
    return image, moved["image"][0, 0].numpy(), texture(places_seen(mesh, model, vertices, ids)), ids


def true_table():
    """The colours of `texture`."""
    middles = (np.arange(CELLS) * 4 + 1.5) / 255
    return Appearance(texture(np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), -1)).reshape(-1, 3))


@pytest.mark.parametrize(
    ("weights", "motion"),
    [
        ({}, POSE),
        ({"jawOpen": 0.6}, STAY),
        ({"mouthSmile_L": 0.7, "mouthSmile_R": 0.6, "browInnerUp_L": 0.7, "eyeBlink_R": 0.8, "mouthPucker": 0.3}, STAY),
        ({"jawOpen": 0.5, "mouthSmile_L": 0.5, "mouthFunnel": 0.4}, POSE),
        ({"jawOpen": 0.4}, HeadMotion(np.array([[0.96, 0.1, -0.04], [-0.1, 0.96, 0.03]]), np.array([-0.2, -0.1]))),
    ],
)
def test_the_moved_picture_is_that_of_the_changed_mesh(mesh, model, weights, motion):
    """Known geometry: a face painted by its places, moved, is the changed mesh painted by its places; half of all pixels to a grey level."""
    filmed, moved, truth, ids = paint_and_move(mesh, model, expression_of(mesh, **weights), motion, true_table())
    face = away_from_edges(ids >= 0)
    error, before = (np.abs(x.astype(int) - truth).max(-1)[face] for x in (moved, filmed))
    assert face.sum() > 2000 and np.median(error) <= 1 and np.percentile(error, 90) <= 4 and np.percentile(error, 98) <= 16
    assert np.percentile(before, 90) > 10
    far = cv2.dilate((ids >= 0).astype(np.uint8), np.ones((25, 25), np.uint8)) == 0
    np.testing.assert_array_equal(moved[far], 90)
