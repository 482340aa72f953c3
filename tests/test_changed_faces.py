"""Changed expressions and true poses in training frames (data/augmentation), and persons' colours (data/appearance.py)."""

import io
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
from data.augmentation.mesh_motion import Fit, _extend, change_mesh, head_directions, moved_cameras
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
POSE = HeadMotion(np.array([[1.02, -0.05, 0.02], [0.05, 1.02, -0.01]]), np.array([0.1, 0.08]))
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
    return Fit(expression_of(mesh, count, **weights), cameras)


def change(mesh, fit, expression, motion, count=SIZE // 2, fade=None):
    fade = np.ones((len(expression), GRID, GRID), np.float32) if fade is None else fade
    return change_mesh(mesh, fit, expression, motion, fade, count)


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
    sources = change(mesh, fit, fit.expression, STAY, fade=fade).sources[0]
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


def test_frames_without_fade_are_drawn_and_have_no_sources(mesh, model):
    """As the frames before a clip, of which the conditioning alone is seen; the others are as they are without them."""
    fit = fit_with(mesh, model, 3, jawOpen=0.1)
    expression = np.linspace(0, 1, 3)[:, None] * expression_of(mesh, jawOpen=0.6)
    fade = np.ones((3, GRID, GRID), np.float32)
    every, last = (change(mesh, fit, expression, POSE, fade=part) for part in (fade, fade[2:]))
    np.testing.assert_array_equal(every.nmfcs, last.nmfcs)
    np.testing.assert_array_equal(every.moved, last.moved)
    np.testing.assert_array_equal(every.sources[2:], last.sources)


def test_a_face_outside_of_the_picture_has_no_sources(mesh, model):
    fit = fit_with(mesh, model)
    away = HeadMotion(np.array([[1.0, 0, 3], [0, 1, 0]]), np.zeros(2))
    changed = change(mesh, fit, fit.expression, away)
    assert not changed.nmfcs.any() and not changed.sources.any()


# ---- pictures ----


def paint_and_move(mesh, model, expression, motion, table, fit=None, mask=None, background=None):
    """A face painted with `texture` before grey, moved by `move_heads`: the picture as filmed, as moved, and as it ought to be, with the
    triangles seen in it, -1 for none."""
    fit = fit or fit_with(mesh, model)
    filmed, ids = drawn_mesh(mesh, fit, fit.expression, STAY)
    image = np.where((ids >= 0)[..., None], texture(places_seen(mesh, model, filmed, ids)), np.uint8(90))
    nmfc, changed = mesh.paint(ids), change(mesh, fit, expression, motion)
    mask = np.full((1, SIZE, SIZE), 255, np.uint8) if mask is None else mask[None]
    shapes = head_shapes(nmfc[None], mesh.landmarks(fit.expression, fit.cameras)[..., :2], mask)
    background = np.zeros((SIZE, SIZE, 4), np.uint8) if background is None else background
    motion_part = {
        "frames": head_fields(motion, shapes, SIZE) * shapes.fade[..., None] + np.float32(1e-6),  # what does not move is left out
        "masks": mask,
        "background": background,
        "sources": changed.sources,
        "filmed": nmfc[None],
    }
    batch = {"image": image[None], "nmfc": np.stack([changed.nmfcs[0]] * 3), "colours": table.colours}
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
    """Known geometry: a face painted by its places, moved, is the changed mesh painted by its places, mostly to a grey level.

    But for its edge, where it is stretched."""
    filmed, moved, truth, ids = paint_and_move(mesh, model, expression_of(mesh, **weights), motion, true_table())
    face = away_from_edges(ids >= 0, 4)
    error, before = (np.abs(x.astype(int) - truth).max(-1)[face] for x in (moved, filmed))
    assert face.sum() > 2000 and np.median(error) <= 1 and np.percentile(error, 90) <= 4 and np.percentile(error, 98) <= 16
    assert np.percentile(before, 90) > 10
    far = cv2.dilate((ids >= 0).astype(np.uint8), np.ones((25, 25), np.uint8)) == 0
    np.testing.assert_array_equal(moved[far], 90)


@pytest.mark.parametrize(("weights", "motion"), [({"jawOpen": 0.6}, STAY), ({"jawOpen": 0.6, "mouthFunnel": 0.3}, POSE)])
def test_an_opened_mouth_shows_the_persons_colours_and_the_lips_do_not(mesh, model, weights, motion):
    table = true_table()
    table.colours[cell_of(mesh.mouth.colours[mesh.mouth.parts > 0].astype(np.int32))] = MARK
    _, moved, truth, ids = paint_and_move(mesh, model, expression_of(mesh, **weights), motion, table)
    inside = (ids >= 0) & (mesh.mouth.parts[ids] > 0)
    assert inside.sum() > 60
    within = away_from_edges(inside, 1)
    np.testing.assert_allclose(moved[within].astype(int), np.tile(MARK, (within.sum(), 1)), atol=40)
    assert (np.abs(moved[within].astype(int) - MARK).max(-1) <= 2).mean() > 0.8
    around = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9), np.uint8)) - cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8))
    lips = (around > 0) & (ids >= 0)
    assert lips.sum() > 60 and np.percentile(np.abs(moved[lips].astype(int) - truth[lips]).max(-1), 95) <= 20


@pytest.mark.parametrize("motion", [POSE, HeadMotion(POSE.affine, -POSE.turn)])
def test_skin_that_was_filmed_is_not_painted_however_coarse_the_mesh(mesh, model, motion):
    table = true_table()
    table.colours[:] = MARK
    _, moved, truth, ids = paint_and_move(mesh, model, expression_of(mesh, browInnerUp_L=0.7, mouthSmile_R=0.5), motion, table)
    face = away_from_edges((ids >= 0) & (mesh.mouth.parts[ids] == 0))
    assert face.sum() > 2000 and (np.abs(moved.astype(int) - truth).max(-1)[face] > 30).mean() < 0.003


def test_where_the_mesh_tears_the_picture_is_stretched():
    """Two plates, the left one before the right one and moved by 6 pixels, with edges seen from the side: but at mouth and eyes."""
    count, size = 64, 128
    cells = np.arange(count)
    there = (cells > 11) & (cells < 52)
    filmed = np.zeros((count, count, 3), np.float32)
    filmed[np.ix_(there, there)] = (0, 0, 1)
    filmed[..., 0][np.ix_(there, there & (cells < 32))] = -6
    filmed[12, 12:52, 1], filmed[51, 12:52, 1] = (np.random.default_rng(0).uniform(-4, 4, 40) for _ in range(2))
    exact = np.zeros((count, count), np.uint8)
    exact[28:36, 24:40] = 1
    found = np.dstack(_extend(filmed, np.ones((GRID, GRID), np.float32), exact, np.zeros_like(exact), size))
    weight, middle = found[..., 2], np.ix_(abs(cells - 32) < 14, abs(abs(cells - 32) - 12) < 3)
    np.testing.assert_array_equal(found[exact > 0], filmed[exact > 0])
    np.testing.assert_allclose(found[middle], filmed[middle], atol=1e-4)
    assert (weight[filmed[..., 2] > 0] == 1).all() and 0 < weight[32, 53] < 1 and weight[32, -1] == 0
    free = np.where((weight > 0) & (cv2.dilate(exact, np.ones((15, 15), np.uint8)) == 0), 0, np.nan)[..., None] + found[..., :2]
    assert max(np.nanmax(np.abs(np.diff(free, axis=axis))) for axis in range(2)) < 2.1  # pixels; 6 and 8 before


@pytest.mark.parametrize("turn", [(0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2)])
def test_nothing_is_painted_but_mouth_and_eyes(mesh, model, turn):
    table, fit, motion = true_table(), fit_with(mesh, model, yaw=0.6), HeadMotion(np.eye(2, 3), np.array(turn))
    table.colours[:] = MARK
    _, moved, _, _ = paint_and_move(mesh, model, fit.expression, motion, table, fit)
    cameras = moved_cameras(fit.cameras, motion, mesh.landmarks(fit.expression, fit.cameras).mean((0, 1)), SIZE)
    parts = mesh.landmarks(fit.expression, cameras)[0, 36:68, :2]
    painted = np.argwhere(np.abs(moved.astype(int) - MARK).max(-1) < 60)[:, ::-1]
    assert not len(painted) or np.linalg.norm(painted[:, None] - parts, axis=-1).min(1).max() < 8


def test_lips_that_part_a_little_show_the_mouths_inside(mesh, model):
    """Not lips drawn out: what lies a centimetre behind them has another place on the head."""
    table, weights = true_table(), {"mouthLowerDown_L": 0.6, "mouthLowerDown_R": 0.6, "mouthUpperUp_L": 0.3, "mouthUpperUp_R": 0.3}
    table.colours[:] = MARK
    _, moved, _, ids = paint_and_move(mesh, model, expression_of(mesh, **weights), STAY, table)
    inside = (ids >= 0) & (mesh.mouth.parts[ids] > 0)
    assert 10 < inside.sum() < 60 and (np.abs(moved[inside].astype(int) - MARK).max(-1) < 60).mean() > 0.6


def test_a_mouth_that_was_open_is_seen_as_filmed(mesh, model):
    """Colours of the table are for what was not seen alone: a mouth that stays as wide open has the film's own."""
    table, fit = true_table(), fit_with(mesh, model, jawOpen=0.6)
    table.colours[:] = MARK
    _, moved, truth, ids = paint_and_move(mesh, model, fit.expression, STAY, table, fit)
    face = away_from_edges(ids >= 0)
    np.testing.assert_array_equal(moved[face], truth[face])


def test_a_mouth_that_was_open_keeps_its_inside_when_the_head_turns(mesh, model):
    """Not the model's: it moves along with the lips, and nothing of it is painted."""
    table, fit, motion = true_table(), fit_with(mesh, model, jawOpen=0.6), HeadMotion(np.eye(2, 3), np.array([0.15, -0.15]))
    table.colours[:] = MARK
    _, moved, _, ids = paint_and_move(mesh, model, fit.expression, motion, table, fit)
    inside = (ids >= 0) & (mesh.mouth.parts[ids] > 0)
    assert inside.sum() > 60 and np.abs(moved[inside].astype(int) - MARK).max(-1).min() > 60


def test_look_up_draws_persons_as_their_tables_do():
    rng = np.random.default_rng(0)
    tables = [Appearance(rng.integers(0, 256, (CELLS**3, 3), np.uint8)) for _ in range(2)]
    nmfcs = rng.integers(0, 256, (2, 3, 5, 7, 3), np.uint8)
    drawn = look_up(torch.from_numpy(np.stack([t.colours for t in tables])), torch.from_numpy(nmfcs))
    np.testing.assert_array_equal(drawn, np.stack([t.image(x) for t, x in zip(tables, nmfcs)]))


# ---- persons' colours ----


def random_table():
    colours = np.random.default_rng(0).integers(1, 256, (CELLS**3, 3), np.uint8)
    colours[0] = 0
    return Appearance(colours)


def test_a_table_draws_an_nmfc_image():
    table = random_table()
    nmfc = np.array([[[0, 0, 0], [3, 3, 3], [4, 0, 0], [255, 255, 255]], [[200, 101, 37], [203, 103, 39], [3, 4, 0], [0, 0, 4]]], np.uint8)
    picture = table.image(nmfc)
    expected = [[0, 0, 64 * 64, 64**3 - 1], [50 * 64 * 64 + 25 * 64 + 9] * 2 + [64, 1]]
    np.testing.assert_array_equal(picture, table.colours[np.array(expected)])
    assert picture.dtype == np.uint8 and not picture[0, 0].any()


@pytest.mark.parametrize("backdrop", [None, np.random.default_rng(1).integers(0, 256, (12, 12, 3), np.uint8)])
def test_an_appearance_is_read_as_it_was_written(tmp_path, backdrop):
    """Earlier runs have none but the colours."""
    written, path = Appearance(random_table().colours, backdrop), tmp_path / "Ann.npz"
    path.write_bytes(written.to_bytes())
    for read in (Appearance.read(path), Appearance.from_bytes(written.to_bytes(), "x")):
        np.testing.assert_array_equal(read.colours, written.colours)
        np.testing.assert_array_equal(read.backdrop, backdrop)
    assert str(np.load(path)["format"]) == ("head2head colours 1" if backdrop is None else "head2head appearance 2")


def test_the_backdrop_is_what_is_around_the_head_on_average(mesh, model):
    images, nmfcs = filmed_by(random_table(), mesh, model)
    images[0, ~nmfcs[0].any(-1)] = 240  # white in the others
    backdrop, around = measure_appearance(images, nmfcs, None).backdrop, ~nmfcs.any(-1)
    np.testing.assert_array_equal(backdrop[around.all(0)], 250)
    np.testing.assert_array_equal(backdrop[around[0] & ~around[1] & ~around[2]], 240)
    always = ~around.any(0)
    np.testing.assert_allclose(backdrop[always], images[:, always].mean(0), atol=0.51)
    small = Appearance(random_table().colours, backdrop).backdrop_of_size(SIZE // 2, SIZE // 2)
    assert small.shape == (SIZE // 2, SIZE // 2, 3) and abs(small.mean() - backdrop.mean()) < 1


def test_a_damaged_table_is_refused():
    """Cut, or a byte flipped anywhere; a few bytes of the file's heads say nothing."""
    table = true_table()
    table.colours[::3] = 7  # so that it can be compressed
    whole, other = table.to_bytes(), io.BytesIO()
    np.savez_compressed(other, format="something else", colours=table.colours)
    for content in (whole[: len(whole) // 2], b"", b"hello", other.getvalue()):
        with pytest.raises(UserError, match=r"Ann\.npz is damaged or of another version"):
            Appearance.from_bytes(content, "Ann.npz")
    refused, places = 0, (*range(0, 400, 7), *range(400, len(whole), len(whole) // 40))
    for place in places:
        try:
            found = Appearance.from_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :], "Ann.npz")
            np.testing.assert_array_equal(found.colours, table.colours)
        except UserError:
            refused += 1
    assert refused > 0.7 * len(places)


def test_other_arrays_are_refused_and_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"lost\.npz is missing: the generator needs the colours"):
        Appearance.read(tmp_path / "lost.npz")
    for colours in (np.zeros((CELLS**3, 4), np.uint8), np.zeros((CELLS**3, 3)), np.zeros((8, 3), np.uint8)):
        with pytest.raises(ValueError, match="the colours are"):
            Appearance(colours)
    for backdrop in (np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))):
        with pytest.raises(ValueError, match="the backdrop is"):
            Appearance(random_table().colours, backdrop)


def filmed_by(table, mesh, model, yaws=(-0.3, 0.0, 0.3)):
    """Frames of a person with these colours before white: images and NMFC images."""
    nmfcs = []
    for yaw in yaws:
        fit = fit_with(mesh, model, yaw=yaw)
        nmfcs.append(mesh.paint(drawn_mesh(mesh, fit, fit.expression, STAY)[1]))
    images = [np.where(nmfc.any(-1, keepdims=True), table.image(nmfc), np.uint8(255)) for nmfc in nmfcs]
    return np.stack(images), np.stack(nmfcs)


def test_colours_that_were_seen_are_recovered(mesh, model):
    table = random_table()
    images, nmfcs = filmed_by(table, mesh, model)
    found = measure_appearance(images, nmfcs, None)
    cells, count = np.unique(cell_of(nmfcs.astype(np.int32)), return_counts=True)
    often = cells[(count >= 4) & (cells > 0)]
    assert len(often) > 200
    np.testing.assert_array_equal(found.colours[often], table.colours[often])
    assert not found.colours[0].any() and not found.image(np.zeros((4, 4, 3), np.uint8)).any()  # though it is white behind the head
    noisy = np.clip(images + np.random.default_rng(1).normal(0, 9, images.shape), 0, 255)
    many = cells[(count >= 60) & (cells > 0)]
    np.testing.assert_allclose(
        measure_appearance(noisy.astype(np.uint8), nmfcs, None).colours[many].astype(int), table.colours[many], atol=14
    )


def test_what_was_never_seen_is_as_on_the_other_side_of_the_head(mesh, model):
    """Only the image's left half is filmed; the face's colours are even."""
    colours = random_table().colours.reshape(CELLS, CELLS, CELLS, 3).copy()
    colours[CELLS // 2 :] = colours[: CELLS // 2][::-1]
    table = Appearance(colours.reshape(-1, 3))
    images, nmfcs = filmed_by(table, mesh, model, (0.0, 0.05, -0.05))
    half = np.where((nmfcs[..., :1] < 128), nmfcs, np.uint8(0))
    found = measure_appearance(images, half, None)
    cells, count = np.unique(cell_of(half.astype(np.int32)), return_counts=True)
    seen = cells[(count >= 4) & (cells > 0)]
    mirrored = (CELLS - 1 - seen // CELLS**2) * CELLS**2 + seen % CELLS**2
    assert len(seen) > 100
    np.testing.assert_array_equal(found.colours[mirrored], table.colours[seen])
    assert found.colours[1:].any(-1).all()  # every cell has a colour


def mouth_of_three():
    """Wall, gums and teeth, near and far: triangles of a model whose first is skin."""
    colours = np.array([[120, 120, 220], [100, 80, 150], [110, 80, 160], [120, 80, 170], [130, 80, 150]], np.uint8)
    return MouthParts(colours, np.array([0, 1, 2, 3, 3], np.uint8), np.float32([0, 1, 1, 1, 5]))


@pytest.mark.parametrize("light", [90, 200])
def test_a_mouth_that_was_never_open_is_coloured_by_its_parts_in_the_persons_light(light):
    mouth = mouth_of_three()
    nmfc = np.full((1, 16, 16, 3), (120, 120, 220), np.uint8)
    image = np.full((1, 16, 16, 3), light, np.uint8)
    wall, gums, teeth, far = (c.astype(float) for c in measure_appearance(image, nmfc, mouth).image(mouth.colours)[1:])
    assert teeth.mean() > gums.mean() > wall.mean() > 10 and far.mean() < 0.7 * teeth.mean()
    assert 0.6 * light < teeth.mean() < light and np.ptp(teeth) < 0.2 * light and gums[0] > 1.5 * gums[1]  # white, and red
    skin = measure_appearance(image, nmfc, mouth).image(nmfc)
    np.testing.assert_array_equal(skin, image)


def test_a_mouth_that_was_seen_has_its_own_colours_without_the_lips_shadow():
    mouth = mouth_of_three()
    nmfc, image = np.full((1, 32, 32, 3), (120, 120, 220), np.uint8), np.full((1, 32, 32, 3), 180, np.uint8)
    nmfc[:, 8:24, 8:24], image[:, 8:24, 8:24] = mouth.colours[3], 40  # teeth, dark at their edge
    image[:, 9:23, 9:23] = (250, 230, 210)
    found = measure_appearance(image, nmfc, mouth)
    np.testing.assert_array_equal(found.image(mouth.colours[3:4]), [[250, 230, 210]])
    np.testing.assert_array_equal(found.image(mouth.colours[:1]), [[180, 180, 180]])


def test_frames_without_a_face_give_no_colours():
    assert not measure_appearance(np.full((2, 8, 8, 3), 200, np.uint8), np.zeros((2, 8, 8, 3), np.uint8), None).colours.any()


# ---- datasets ----


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("fitted")
    make_fitted(root, "Ann")
    return root


def whole_person(name):
    return Persons(np.full((16, 32, 32), 255, np.uint8), np.zeros((64, 64, 4), np.uint8))


def open_videos(root, size=64, **options):
    data = Dataset.open("fake", root)
    options = {"augment": False, "move_heads": 1.0, "change_expressions": 1.0, "appearance": True, "persons": whole_person} | options
    return VideoDataset(data, ["Ann"], size, **{"meshes": HeadMeshes(data), **options})


def train_frames(data):
    return [(s, n) for s in data.sequences("train", "Ann") for n in s.frames()]


def test_the_mesh_of_an_identity_is_drawn_as_its_nmfc_images_were(root):
    data = Dataset.open("fake", root)
    mesh, fit = HeadMeshes(data)("Ann"), read_fit(data, "Ann", train_frames(data))
    assert mesh.size == 64 and len(fit.expression) == 16 and mesh.bounds.shape == (len(mesh.names), 2)
    for (sequence, number), vertices in zip(train_frames(data), mesh.vertices(fit.expression, fit.cameras)):
        np.testing.assert_array_equal(mesh.paint(mesh.draw_ids(vertices)), read_image(sequence.path("nmfcs", number)))
    points = np.stack([np.loadtxt(s.path("landmarks70", n)) for s, n in train_frames(data)])
    np.testing.assert_allclose(mesh.landmarks(fit.expression, fit.cameras)[..., :2], points, atol=1e-3)
    assert (
        mesh.landmarks(fit.expression, fit.cameras)[:, 30, 2] < mesh.landmarks(fit.expression, fit.cameras)[:, 0, 2]
    ).all()  # the nose is near


def test_there_is_no_mesh_without_a_record_or_with_another_model(tmp_path, root, monkeypatch, capsys):
    assert HeadMeshes(make_dataset(tmp_path, "Old", record=False))("Old") is None
    monkeypatch.setattr(util.cli, "_warned", set())
    assert not capsys.readouterr().err
    data = make_fitted(tmp_path, "Ann")
    for model, words in (
        ({"name": "mesh478", "version": "1"}, "version 1 of the face model mesh478"),
        ({"name": "x", "version": "1"}, "unknown"),
    ):
        data.write_record(replace(data.read_record("Ann"), face_model=model))
        assert HeadMeshes(data)("Ann") is None and HeadMeshes(data)("Ann") is None
        said = capsys.readouterr().err
        assert said.count("training without changed expressions") == 1 and words in said
    data.write_record(Dataset.open("fake", root).read_record("Ann"))
    data.id_coeffs_path("train", "Ann").unlink()
    assert HeadMeshes(data)("Ann") is None and "id_coeffs" in capsys.readouterr().err
    assert read_fit(data, "Ann", train_frames(data)) is None


def test_clips_bring_what_changed_faces_need(root):
    videos = open_videos(root)
    clip = videos[ClipIndex(1, 3, 4, 11)]
    motion = {k: (v.dtype, tuple(v.shape)) for k, v in clip["motion"].items()}
    assert motion == {
        "frames": (torch.float32, (4, GRID, GRID, 2)),
        "masks": (torch.uint8, (4, 32, 32)),
        "background": (torch.uint8, (64, 64, 4)),
        "sources": (torch.float32, (4, 32, 32, 4)),
        "filmed": (torch.uint8, (4, 64, 64, 3)),
    }
    assert clip["colours"].dtype == torch.uint8 and clip["colours"].shape == (CELLS**3, 3) and clip["colours"].any()
    frames = [videos.sequences[1].path("nmfcs", n) for n in range(11, 15)]
    np.testing.assert_array_equal(clip["motion"]["filmed"], np.stack([read_image(f) for f in frames]))
    again = open_videos(root)[ClipIndex(1, 3, 4, 11)]
    assert all(torch.equal(clip[k], again[k]) for k in ("nmfc", "gaze", "landmarks"))
    assert torch.equal(clip["motion"]["sources"], again["motion"]["sources"])
    still = open_videos(root, move_heads=1e-9)[ClipIndex(1, 3, 4, 11)]
    assert {k: (v.dtype, tuple(v.shape)) for k, v in still["motion"].items()} == motion  # both in one batch
    assert not still["motion"]["frames"].any() and not still["motion"]["sources"].any()
    without = open_videos(root, meshes=None)[ClipIndex(1, 3, 4, 11)]
    assert set(without["motion"]) == {"frames", "nmfcs", "masks", "background"} and "colours" in without
    undrawn = open_videos(root, appearance=False)[ClipIndex(1, 3, 4, 11)]  # the generator does not see them, heads that move need them
    assert torch.equal(undrawn["colours"], clip["colours"]) and "backdrop" not in undrawn
    batches = ClipStream(open_videos(root, appearance=False), torch.device("cpu"), roi_px=16, seed=0).batches(0, 4, 2)
    assert not {"colours", "appearance", "motion"} & set(next(batches))


@pytest.mark.parametrize("size", [64, 48, 96])
def test_expression_and_pose_change_in_picture_conditioning_and_landmarks_alike(root, size):
    """Pictures are painted by their NMFC images: the moved ones are as well, whatever the size that is trained on."""
    videos = open_videos(root, size)
    batches = ClipStream(videos, torch.device("cpu"), roi_px=16, seed=0).batches(0, 4, 2)
    backdrop = videos.appearance("Ann").backdrop_of_size(size, size)
    checked = 0
    for _ in range(3):
        batch = next(batches)
        nmfc, image, drawn = batch["nmfc"][:, 2:].numpy(), batch["image"].numpy(), batch["appearance"]
        assert drawn.dtype == torch.uint8 and drawn.shape == batch["nmfc"].shape and "motion" not in batch and "colours" not in batch
        for k, i in np.ndindex(2, 4):
            face = away_from_edges(nmfc[k, i].any(-1), 1 + size // 32)
            error = np.abs(image[k, i].astype(int) - texture(nmfc[k, i] / 255)).max(-1)[face]
            assert np.median(error) <= 8 and np.percentile(error, 90) < 35  # flat triangles, bicubically sampled
            seen = drawn[k, i + 2].numpy()
            around = ~nmfc[k, i].any(-1)
            np.testing.assert_array_equal(seen[around], backdrop[around])
            assert np.median(np.abs(seen.astype(int) - texture(nmfc[k, i] / 255)).max(-1)[face]) <= 8
            checked += face.sum() > 200
    batches.close()
    assert checked >= 12


def test_without_changed_expressions_the_pose_alone_changes(root):
    index = ClipIndex(0, 2, 4, 7)
    posed, changed = (open_videos(root, change_expressions=share)[index] for share in (0.0, 1.0))
    assert torch.equal(posed["motion"]["frames"], changed["motion"]["frames"]) and not torch.equal(posed["nmfc"], changed["nmfc"])
    away = (posed["landmarks"] - changed["landmarks"]).abs().numpy()
    assert away[:, 27:31].max() < 0.3 and away[:, 48:68].max() > 0.6  # ridge of the nose; mouth


def test_heads_turn_to_where_they_were_not_filmed_alone(root, monkeypatch):
    """Where the video shows the head itself, turned frames would contradict it."""
    turned = []

    def record(mesh, fit, expression, motion, *rest):
        turned.append((head_directions(fit.cameras).mean(0), motion.turn))
        return change_mesh(mesh, fit, expression, motion, *rest)

    monkeypatch.setattr("data.clips.change_mesh", record)
    data = open_videos(root)
    filmed = head_directions(read_fit(Dataset.open("fake", root), "Ann", train_frames(Dataset.open("fake", root))).cameras)
    for seed in range(60):
        assert data[ClipIndex(seed % 2, 2, 4, seed)]["motion"]["frames"].any()  # moved, if not turned
    own, turns = (np.array(x) for x in zip(*turned))
    nearest = np.linalg.norm(filmed - (own + turns)[:, None], axis=-1).min(1)
    still = ~turns.any(1)
    assert 0.1 < still.mean() < 0.9 and np.degrees(nearest[~still]).min() >= 3


@pytest.mark.parametrize("meshes", [True, False])
def test_a_clip_whose_frames_show_no_face_stays_as_it_is(tmp_path, meshes):
    """As when the face leaves the picture: though a face may be where the drawn mesh comes to be."""
    data = make_fitted(tmp_path, "Ann")
    for number in range(3, 8):
        write_image(data.train_sequence("Ann", 0).path("nmfcs", number), np.zeros((64, 64, 3), np.uint8))
    index, options = ClipIndex(0, 3, 4, 1), {} if meshes else {"meshes": None}
    moved, still = (open_videos(tmp_path, move_heads=share, **options)[index] for share in (1.0, 0.0))
    assert moved["nmfc"][:2].any() and not moved["nmfc"][2:].any()
    assert all(torch.equal(moved[k], still[k]) for k in ("image", "nmfc", "gaze", "landmarks"))
    shown = open_videos(tmp_path, **options)[ClipIndex(0, 0, 4, 1)]  # a clip that begins with a face is moved
    assert not torch.equal(shown["landmarks"], open_videos(tmp_path, move_heads=0.0)[ClipIndex(0, 0, 4, 1)]["landmarks"])


def test_colours_are_kept_and_measured_again_when_a_frame_changes(tmp_path, monkeypatch):
    data = make_fitted(tmp_path, "Ann")
    mouth = HeadMeshes(data)("Ann").mouth
    first, _ = find_appearance(data, "Ann", train_frames(data), mouth)
    stored = data.appearance_path("Ann").read_bytes()
    with monkeypatch.context() as m:
        m.setattr("data.heads.measure_appearance", lambda *a: pytest.fail("measured again"))
        np.testing.assert_array_equal(find_appearance(data, "Ann", train_frames(data), mouth)[0].colours, first.colours)
    assert data.appearance_path("Ann").read_bytes() == stored
    sequence, number = train_frames(data)[5]
    write_image(sequence.path("images", number), 255 - read_image(sequence.path("images", number)))
    assert (find_appearance(data, "Ann", train_frames(data), mouth)[0].colours != first.colours).any()
    assert data.appearance_path("Ann").read_bytes() != stored
    data.appearance_path("Ann").write_bytes(stored[:200])
    assert find_appearance(data, "Ann", train_frames(data), None)[0].colours.any()  # a damaged file is measured anew, too


def test_bad_frames_colour_nobody(tmp_path):
    data = make_fitted(tmp_path, "Ann")
    before, _ = find_appearance(data, "Ann", train_frames(data), None)
    sequence, number = train_frames(data)[3]
    data.write_record(data.read_record("Ann").with_bad_frames("landmarks70", [number], ["covered"]))
    without, _ = find_appearance(data, "Ann", train_frames(data), None)
    write_image(sequence.path("images", number), np.full((64, 64, 3), 0, np.uint8))
    np.testing.assert_array_equal(find_appearance(data, "Ann", train_frames(data), None)[0].colours, without.colours)
    assert before.colours.shape == without.colours.shape


def test_frames_of_two_face_models_are_refused(tmp_path):
    data = make_fitted(tmp_path, "Ann")
    sequence, number = train_frames(data)[3]
    sequence.path("exp_coeffs", number).write_text("0.5\n0.5\n")
    with pytest.raises(UserError, match=r"has frames of different face models; run preprocessing/reconstruct\.py again"):
        read_fit(data, "Ann", train_frames(data))
