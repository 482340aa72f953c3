"""preprocessing/face_models/morphable.py and mesh478.py: geometry of the models, what their shapes do, and what is seen of them.

The same demands go to `ict` where scripts/download_files.py has fetched it.
"""

import numpy as np
import pytest

from preprocessing.face_models import ict, mesh478
from preprocessing.face_models.dense_points import DENSE_INDICES, LIDS, LIPS
from preprocessing.face_models.morphable import BATCH
from preprocessing.face_models.registry import default_files_dir, load_face_model, model_version, resolve_kind
from preprocessing.render import create_renderer
from util.cli import UserError
from util.geometry import FRONTAL, Cameras, rotation_matrix

UPPER, LOWER = (161, 160, 159, 158, 157), (163, 144, 145, 153, 154)  # the right eye's lids
OUTER_CORNERS, IRISES = (33, 263), (468, 473)


@pytest.fixture(scope="module", params=["mesh478", "ict"])
def model(request):
    if request.param == "ict" and not ict.is_converted(default_files_dir()):
        pytest.skip("ict is not here (scripts/download_files.py fetches it)")
    return load_face_model(request.param)


def expression(model, **weights):
    """Weights by name; a name without side stands for both."""
    e = np.zeros(len(model.expression_names), np.float32)
    for name, weight in weights.items():
        sides = [name] if name in model.expression_names else [f"{name}_L", f"{name}_R"]
        e[[model.expression_names.index(n) for n in sides]] = weight
    return e


def points(model, **weights):
    return model.landmarks(np.zeros(len(model.identity_basis)), expression(model, **weights))


def camera(yaw_deg=0.0, size=256):
    turn = rotation_matrix(np.deg2rad([0.0, yaw_deg, 0.0])) @ FRONTAL
    return Cameras(np.array([size / 30]), turn[None], np.array([[size / 2, size / 2, 0.0]]))


def drawn_ids(model, e, yaw_deg=0.0):
    renderer = create_renderer("cpu", model.triangles, model.nmfc_colours(), (256, 256))
    return renderer.draw_ids(model.in_image(np.zeros(len(model.identity_basis)), e[None], camera(yaw_deg))[0])


def test_arrays_agree(model):
    v, k = len(model.mean), len(model.expression_names)
    assert model.mean.dtype == np.float32 and model.triangles.dtype == np.int32 and model.depth_bias.shape == (v,)
    assert model.expression_basis.shape == (k, v, 3) and model.identity_basis.shape[1:] == (v, 3)
    assert len(set(model.expression_names)) == k
    assert sorted(model.landmark_ids) == list(range(478))
    assert model.landmark_triangles.shape == (478, 3) and model.landmark_triangles.max() < v
    assert (model.landmark_barycentric >= 0).all()
    np.testing.assert_allclose(model.landmark_barycentric.sum(1), 1, atol=1e-5)
    assert model.version == model_version(model.name)


def test_one_and_many_shapes_agree(model):
    rng = np.random.default_rng(0)
    identity, e = rng.normal(size=len(model.identity_basis)), rng.random((3, len(model.expression_names)))
    many = model.shape(identity, e)
    assert many.shape == (3, len(model.mean), 3) and many.dtype == np.float32
    by_hand = model.mean + np.tensordot(identity, model.identity_basis, 1) + np.tensordot(e[1], model.expression_basis, 1)
    np.testing.assert_allclose(many[1], by_hand, atol=1e-4)
    np.testing.assert_allclose(model.shape(identity, e[1]), many[1], atol=1e-4)
    np.testing.assert_allclose(model.landmarks(identity, e), model.at_landmarks(many), atol=1e-4)
    np.testing.assert_allclose(model.landmarks70(identity, e), model.landmarks(identity, e)[:, DENSE_INDICES], atol=1e-5)


def test_vertices_frame_by_frame_are_those_of_all_frames(model):
    count = BATCH + 3
    weights = np.random.default_rng(0).uniform(0, 1, (count, len(model.expression_names)))
    turn = rotation_matrix(np.linspace([0, -0.5, 0], [0, 0.5, 0], count))
    cameras = Cameras(np.linspace(8, 12, count), turn @ FRONTAL, np.zeros((count, 3)))
    identity = np.ones(len(model.identity_basis))
    found = list(model.in_images(identity, weights, cameras))
    np.testing.assert_allclose(found, model.in_image(identity, weights, cameras), atol=1e-3)


def test_vertices_in_the_image_are_the_projected_ones_with_the_depth_bias(model):
    rng = np.random.default_rng(3)
    weights, identity = rng.random((2, len(model.expression_names))), rng.normal(size=len(model.identity_basis))
    cameras = Cameras(np.array([8.0, 11]), rotation_matrix(rng.normal(0, 0.4, (2, 3))), np.array([[100.0, 90, 0], [-3, 5, 0]]))
    expected = cameras.project(model.shape(identity, weights).astype(np.float64))
    expected[..., 2] += cameras.scale[:, None] * model.depth_bias
    np.testing.assert_allclose(model.in_image(identity, weights, cameras), expected, atol=1e-3)


def test_a_model_without_unused_vertices_draws_the_same(model):
    triangles = model.triangles[5 : len(model.triangles) : 3]
    part = model.without_unused(triangles)
    weights, identity = np.full(len(model.expression_names), 0.2), np.ones(len(model.identity_basis))
    assert part.mean.shape[0] == len(np.unique(triangles)) and part.triangles.shape == triangles.shape
    whole, own = (m.in_image(identity, weights[None], camera(10))[0] for m in (model, part))
    assert np.array_equal(whole[triangles], own[part.triangles])


def test_axes_and_size_of_a_head_in_centimetres(model):
    rest = points(model)
    assert rest[33, 0] < -3 < 3 < rest[263, 0]  # the subject's right eye has negative x
    assert 8 < np.linalg.norm(rest[33] - rest[263]) < 10
    assert rest[10, 1] > rest[168, 1] > rest[1, 1] > rest[13, 1] > rest[152, 1]  # forehead, nose root, tip, lips, chin
    assert rest[4, 2] == rest[:, 2].max()  # the nose's tip is foremost
    np.testing.assert_allclose(rest[33] * [-1, 1, 1], rest[263], atol=0.15)  # symmetric
    landmarks = rest[DENSE_INDICES]
    assert (np.diff(landmarks[:9, 1]) < 0).all() and (np.diff(landmarks[8:17, 1]) > 0).all()  # the jaw line goes down and up


def test_jaw_opens_the_mouth_and_moves_nothing_above(model):
    rest, moved = points(model), points(model, jawOpen=1)
    assert rest[13, 1] - rest[14, 1] < 0.35
    assert 2 < moved[13, 1] - moved[14, 1] < 5
    assert moved[152, 1] < rest[152, 1] - 1.5  # the chin
    assert np.abs((moved - rest)[[33, 263, 168, 6, 10, 107, 336]]).max() < 0.05


def test_blink_closes_only_its_eye(model):
    rest, moved = points(model), points(model, eyeBlink_R=1)
    before, after = (p[list(UPPER), 1].mean() - p[list(LOWER), 1].mean() for p in (rest, moved))
    assert before > 0.6 and -0.1 < after < 0.15
    assert np.abs((moved - rest)[[386, 374, 14, 1]]).max() < 0.02


@pytest.mark.parametrize(
    ("names", "axis", "sign"),
    [
        (("eyeLookOut_L", "eyeLookIn_R"), 0, 1),
        (("eyeLookIn_L", "eyeLookOut_R"), 0, -1),
        (("eyeLookUp_L", "eyeLookUp_R"), 1, 1),
        (("eyeLookDown_L", "eyeLookDown_R"), 1, -1),
    ],
)
def test_gaze_moves_both_irises_together(model, names, axis, sign):
    move = points(model, **dict.fromkeys(names, 1)) - points(model)
    assert (sign * move[list(IRISES), axis] > 0.5).all() and (sign * move[list(IRISES), axis] < 1.2).all()
    assert np.abs(move[list(OUTER_CORNERS)]).max() < 0.4


@pytest.mark.parametrize(
    ("name", "point", "axis", "sign"),
    [
        ("mouthSmile_L", 291, 0, 1),
        ("mouthSmile_L", 291, 1, 1),
        ("browInnerUp", 107, 1, 1),
        ("browOuterUp_R", 70, 1, 1),
        ("browDown_L", 285, 1, -1),
        ("mouthUpperUp_L", 37 + 230, 1, 1),
        ("mouthLowerDown_R", 84, 1, -1),
        ("mouthLeft", 13, 0, 1),
        ("jawRight", 152, 0, -1),
        ("mouthPucker", 291, 0, -1),
        ("cheekPuff_L", 425, 2, 1),
    ],
)
def test_named_shapes_go_where_their_names_say(model, name, point, axis, sign):
    assert sign * (points(model, **{name: 1}) - points(model))[point, axis] > 0.15


def test_colours_are_the_mean_position_of_each_triangle(model):
    colours = model.nmfc_colours()
    assert colours.dtype == np.uint8 and colours.shape == model.triangles.shape
    middle = model.mean[model.triangles].mean(1)
    low, high = model.mean.min(0), model.mean.max(0)
    np.testing.assert_allclose(colours, (middle - low) / (high - low) * 255, atol=0.51)
    # a triangle on the chin is lower (green) and on the subject's left side more to the right (red)
    chin, brow = (colours[np.abs(middle - model.landmarks(*rest(model))[p]).sum(1).argmin()].astype(int) for p in (152, 9))
    assert brow[1] > chin[1] + 80
    right, left = (colours[np.abs(middle - model.landmarks(*rest(model))[p]).sum(1).argmin()].astype(int) for p in (234, 454))
    assert left[0] > right[0] + 100


def rest(model):
    return np.zeros(len(model.identity_basis)), np.zeros(len(model.expression_names))


def inside_of(model):
    """Triangles of mouth interior and of eyes: two bool [F]."""
    if model.name == "mesh478":
        source = np.arange(len(model.mean))
        return (source[model.triangles] >= 488).any(1), ((source[model.triangles] >= 478) & (source[model.triangles] < 488)).any(1)
    with np.load(ict.model_path(default_files_dir())) as data:
        ids = data["vertex_ids"][model.triangles].min(1)
    return ((ids >= 11248) & (ids < 13294)) | ((ids >= 14062) & (ids < 21451)), (ids >= 21451)


def seen(model, part, e, yaw_deg=0.0):
    ids = drawn_ids(model, e, yaw_deg)
    return int(part[ids[ids >= 0]].sum())


def test_mouth_and_eyes_are_seen_when_open_and_hidden_when_shut(model):
    mouth, eyes = inside_of(model)
    assert seen(model, mouth, expression(model, jawOpen=0.7)) > 150
    shut = expression(model, mouthClose=0.05) if model.name == "ict" else expression(model)
    assert seen(model, mouth, shut) < 40
    assert seen(model, eyes, expression(model)) > 120
    assert seen(model, eyes, expression(model, eyeBlink=1)) < 0.25 * seen(model, eyes, expression(model))


@pytest.mark.parametrize("yaw_deg", [0, 35, -35])
def test_nothing_of_the_mouth_is_seen_beside_the_lips(model, yaw_deg):
    import cv2

    e = expression(model, jawOpen=1.1, mouthLowerDown=0.6, mouthStretch=0.5)
    ids = drawn_ids(model, e, yaw_deg)
    mouth = inside_of(model)[0]
    view = camera(yaw_deg).project(model.landmarks(np.zeros(len(model.identity_basis)), e))[0]
    lips = np.zeros((256, 256), np.uint8)
    cv2.fillConvexPoly(lips, cv2.convexHull(view[list(LIPS), :2].astype(np.float32)).round().astype(np.int32), 1)
    assert not (mouth[np.maximum(ids, 0)] & (ids >= 0) & (cv2.dilate(lips, np.ones((3, 3))) == 0)).any()


def test_surface_faces_outwards():
    model = load_face_model("mesh478")
    skin = model.triangles[(model.triangles < 468).all(1)]
    a, b, c = (model.mean[skin[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).mean() > 0.99
    edges = np.concatenate([skin[:, [0, 1]], skin[:, [1, 2]], skin[:, [2, 0]]])
    assert len(np.unique(edges, axis=0)) == len(edges)  # oriented alike: no edge is run twice in one direction
    assert len(skin) == 852


def test_smooth_modes_are_orthogonal_and_ordered():
    model = load_face_model("mesh478")
    modes, frequency = mesh478.laplacian_modes(model.triangles, 468, 30)
    np.testing.assert_allclose(modes @ modes.T / 468, np.eye(30), atol=1e-8)
    assert (np.diff(frequency) >= 0).all() and frequency[0] > 0.01
    # smooth: neighbours agree far better in the first than in the last
    faces = model.triangles[(model.triangles < 468).all(1)]
    jump = np.abs(modes[:, faces[:, 0]] - modes[:, faces[:, 1]]).mean(1)
    assert jump[0] < 0.5 * jump[-1]


def test_lid_and_lip_points_are_whole_loops():
    assert len(set(LIDS)) == 32 and len(set(LIPS)) == 40


def test_models_that_cannot_be_had_are_named_with_the_fix(tmp_path):
    assert resolve_kind("auto", tmp_path) == "mesh478"
    assert load_face_model("auto", tmp_path).name == "mesh478"
    with pytest.raises(UserError, match=r"download_files\.py"):
        load_face_model("ict", tmp_path)
    with pytest.raises(UserError, match=r"all_all_all\.mat"):
        load_face_model("lsfm", tmp_path)
    with pytest.raises(UserError, match="bfm is unknown"):
        load_face_model("bfm", tmp_path)


def test_the_model_of_a_person_is_theirs_and_copies_no_expressions(model):
    rng = np.random.default_rng(3)
    identity = rng.normal(size=len(model.identity_basis))
    weights = rng.uniform(0, 0.6, (3, len(model.expression_names)))
    persons = [model.of_person(identity), model.of_person(-identity)]
    person, nobody = persons[0], np.zeros(1)
    np.testing.assert_allclose(person.shape(nobody, weights), model.shape(identity, weights), atol=1e-4)
    np.testing.assert_allclose(person.landmarks(nobody, weights), model.landmarks(identity, weights), atol=1e-4)
    np.testing.assert_allclose(person.landmarks70(nobody, weights), model.landmarks70(identity, weights), atol=1e-4)
    drawn = model.without_unused(model.triangles[:50])
    np.testing.assert_allclose(drawn.of_person(identity).shape(nobody, weights), drawn.shape(identity, weights), atol=1e-4)
    for one, other in zip(*((p.identity_basis, p.expression_basis, *p._contiguous_landmark_model) for p in persons)):
        assert np.shares_memory(one, other) == (len(one) == len(model.expression_names))
