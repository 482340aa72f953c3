"""preprocessing/face_models/lsfm.py on files in LSFM's format, made of ICT's face (tests/fake_lsfm.py), whose landmarks are known."""

import numpy as np
import pytest
from fake_lsfm import UNIT, make, write

from preprocessing.face_models import ict, lsfm
from preprocessing.face_models.dense_points import DENSE_INDICES, LIDS, LIPS, OVAL
from preprocessing.face_models.registry import default_files_dir, load_face_model, model_version, resolve_kind
from preprocessing.fitting.video import fit_video
from util.cli import UserError
from util.geometry import FRONTAL, Cameras, rotation_matrix

INNER = np.setdiff1d(np.arange(468), OVAL)
CYCLIC = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])  # the file's x is our y, and so on


@pytest.fixture(scope="module")
def fake():
    if not ict.is_converted(default_files_dir()):
        pytest.skip("the files are made from ict (scripts/download_files.py fetches it)")
    return make()


@pytest.fixture(scope="module")
def model(fake, tmp_path_factory):
    """As the published file is, as far as is known."""
    return load_face_model("lsfm", write(tmp_path_factory.mktemp("lsfm"), fake, shift=(2.0, -1.0, 3.0)).parent)


def check_embedding(model, fake):
    """The places found are the true ones, and move as the true ones do: upper and lower lip, lids and brows are told apart."""

    def at(vertices):
        return model.at_landmarks(vertices)[:468]

    distance = np.linalg.norm(at(fake.mean) - fake.landmarks, axis=1)
    assert np.median(distance[INNER]) < 0.2 and np.percentile(distance[INNER], 95) < 0.45  # cm
    assert distance[list(LIPS)].mean() < 0.25 and distance[list(LIDS)].mean() < 0.25
    for name, moves in fake.moves.items():
        truth = fake.landmark_moves[name]
        error = np.linalg.norm(at(moves) - truth, axis=1)[INNER]
        assert error.mean() < 0.02 * np.linalg.norm(truth, axis=1).max(), name
    lips = at(fake.moves["jawOpen"])[:, 1]
    assert lips[[14, 87, 317]].max() < -2 and lips[[13, 82, 312]].min() > -0.3  # the lower lip falls, the upper stays


def test_embedding_unit_and_axes(model, fake):
    check_embedding(model, fake)
    assert model.landmark_weights[:468].min() == 1 and not model.landmark_weights[468:].any()
    assert (model.landmark_barycentric >= 0).all() and np.allclose(model.landmark_barycentric.sum(1), 1, atol=1e-5)
    # our axes and centimetres: the same shape but for a few per cent of size and a shift
    scale, shift = fit_scale(fake.mean, model.mean)
    assert scale == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(model.mean, scale * fake.mean + shift, atol=1e-3)


def fit_scale(a, b):
    x, y = a - a.mean(0), b - b.mean(0)
    scale = (x * y).sum() / (x * x).sum()
    return scale, b.mean(0) - scale * a.mean(0)


@pytest.mark.parametrize(
    "layout",
    [
        {"turn": CYCLIC, "unit": 0.01, "base": 0, "transposed": True},
        {"turn": rotation_matrix(np.array([0.2, 0.05, 0])), "planar": True, "unit": 10},
    ],
    ids=["other axes, metres, transposed", "tilted, millimetres, coordinates apart"],
)
def test_other_layouts_of_the_file(fake, model, tmp_path, layout):
    other = load_face_model("lsfm", write(tmp_path, fake, **layout).parent)
    check_embedding(other, fake)
    tilt = layout["turn"] if "planar" in layout else np.eye(3)  # stays, so that the file's axes do
    scale, shift = fit_scale(fake.mean @ tilt.T, other.mean)
    np.testing.assert_allclose(other.mean, scale * fake.mean @ tilt.T + shift, atol=1e-3)
    assert other.version != model.version
    for name in ("jawOpen", "mouthSmile_L"):
        a, b = (m.expression_basis[m.expression_names.index(name)] for m in (model, other))
        assert similarity(a @ tilt.T, b) > 0.98


def similarity(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_expressions_have_arkits_names(model, fake):
    assert model.expression_names[0] in load_face_model("mesh478").expression_names and len(model.expression_names) == 53 + 30
    for name, least in (("jawOpen", 0.98), ("mouthSmile_L", 0.95), ("eyeBlink_R", 0.8), ("browInnerUp_L", 0.7)):
        shape = model.expression_basis[model.expression_names.index(name)]
        assert similarity(shape, fake.moves[name]) > least, name
        assert 0.6 < np.linalg.norm(shape) / np.linalg.norm(fake.moves[name]) < 1.2, name


def test_sizes_of_modes(model, fake, tmp_path):
    """Proportions are the file's; modes of one size, which say nothing, are taken to fall off."""

    def sizes(basis):
        return np.sqrt(np.square(basis).sum(2).mean(1))

    mine, theirs = sizes(model.identity_basis), sizes(fake.identity)
    np.testing.assert_allclose(mine / mine[0], theirs / theirs[0], rtol=1e-3)
    assert np.linalg.norm(mine) == pytest.approx(lsfm.IDENTITY_CM, rel=1e-3)
    flat = fake.identity / theirs[:, None, None]
    scaled = sizes(lsfm._scaled(flat.astype(np.float32), np.eye(3), 0.45))
    assert (np.diff(scaled) < 0).all() and np.linalg.norm(scaled) == pytest.approx(0.45, rel=1e-3)


def test_fit_finds_the_motion_of_known_heads(model):
    """Frames drawn from the model itself come back: cameras, and where all points are."""
    rng = np.random.default_rng(0)
    count = 40
    identity = rng.normal(0, 0.7, len(model.identity_basis))
    e = np.zeros((count, len(model.expression_names)))
    e[:, model.expression_names.index("jawOpen")] = 0.4 + 0.4 * np.sin(np.arange(count) / 4)
    turn = rotation_matrix(np.stack([0.1 * np.cos(np.arange(count) / 7), 0.4 * np.sin(np.arange(count) / 9), np.zeros(count)], 1))
    cameras = Cameras(np.full(count, 9.0), FRONTAL @ turn, np.tile([128.0, 128.0, 0.0], (count, 1)))
    seen = cameras.project(model.landmarks(identity, e))
    fit = fit_video(model, seen[..., :2])
    error = np.linalg.norm(fit.project(model)[:, INNER, :2] - seen[:, INNER, :2], axis=-1)
    assert error.mean() < 0.01 * 9 * 9  # of the inter-ocular distance, about 9 cm
    turned = np.swapaxes(cameras.rotation, 1, 2) @ fit.cameras.rotation
    assert np.rad2deg(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1))).mean() < 2
    jaw = fit.expression[:, model.expression_names.index("jawOpen")]
    assert np.corrcoef(jaw, e[:, model.expression_names.index("jawOpen")])[0, 1] > 0.97


def test_given_landmarks_replace_the_search(fake, tmp_path, monkeypatch):
    turn = rotation_matrix(np.array([1.1, -0.7, 2.0]))
    path = write(tmp_path, fake, turn=turn)
    lsfm.landmarks_path(tmp_path).write_text(" ".join(map(str, fake.at_vertices[DENSE_INDICES[:68]])))
    monkeypatch.setattr(lsfm, "_starts", None)  # not needed
    check_embedding(load_face_model("lsfm", path.parent), fake)
    lsfm.landmarks_path(tmp_path).write_text("1 2 3")
    with pytest.raises(UserError, match="68 numbers"):
        load_face_model("lsfm", path.parent)


def test_what_is_no_face_is_refused(tmp_path):
    from scipy.spatial import ConvexHull

    points = np.random.default_rng(0).standard_normal((2000, 3))
    points *= [1, 1.3, 1] / np.linalg.norm(points, axis=1, keepdims=True)
    hull = ConvexHull(points).simplices
    inwards = np.linalg.det(points[hull]) < 0
    hull[inwards] = hull[inwards][:, ::-1]
    with pytest.raises(UserError, match="68 landmarks.*lsfm_landmarks68.txt"):
        lsfm.register(lsfm.Surface(points, hull), None, str(tmp_path / "all_all_all.mat"))


SMALL = {
    "mean": np.arange(900.0)[:, None],
    "faces": np.array([[1, 2, 3], [2, 3, 4]]),
    "id_basis": np.ones((900, 4)),
    "exp_basis": np.ones((900, 2)),
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"exp_basis": None}, "no field exp_basis, only faces, id_basis, mean"),
        ({"mean": np.arange(901.0)}, "are no mesh"),
        ({"faces": np.array([[0, 1, 300], [0, 1, 2]])}, "up to 300 of 300"),
        ({"id_basis": np.ones((899, 4))}, r"id_basis is \[899, 4\] where \[900, modes\]"),
        ({"mean": np.full(900, np.nan)}, "no numbers"),
        ({"exp_basis": "text"}, "exp_basis|no numbers"),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    from scipy.io import savemat

    savemat(lsfm.model_path(tmp_path), {"fmod": {k: v for k, v in (SMALL | change).items() if v is not None}})
    with pytest.raises(UserError, match=message):
        load_face_model("lsfm", tmp_path)


def test_missing_and_damaged_files(tmp_path):
    from scipy.io import savemat

    with pytest.raises(UserError, match="is not there; put its owners' file at .*all_all_all.mat"):
        resolve_kind("lsfm", tmp_path)
    path = lsfm.model_path(tmp_path)
    path.write_bytes(b"no matlab" * 100)
    with pytest.raises(UserError, match="not the LSFM file"):
        load_face_model("lsfm", tmp_path)
    savemat(path, {"other": 1})
    with pytest.raises(UserError, match="no struct fmod"):
        load_face_model("lsfm", tmp_path)
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(UserError, match="7.3|not the LSFM file"):
        load_face_model("lsfm", tmp_path)


def test_version_is_the_files(fake, tmp_path):
    path = write(tmp_path, fake)
    first = model_version("lsfm", tmp_path)
    assert first == model_version("lsfm", tmp_path) and first.endswith(f"-{lsfm.READING}")
    write(tmp_path, fake, unit=2 * UNIT)
    assert model_version("lsfm", tmp_path) != first and resolve_kind("lsfm", path.parent) == "lsfm"
    assert resolve_kind("auto", tmp_path) == "mesh478"  # it is taken only when asked for
