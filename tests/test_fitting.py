"""preprocessing/fitting/video.py: known faces come back, motion keeps its size, bad frames do no harm."""

import numpy as np
import pytest

from preprocessing.face_models import ict
from preprocessing.face_models.dense_points import DENSE_INDICES, from_dense
from preprocessing.face_models.registry import default_files_dir, load_face_model
from preprocessing.fitting.video import fit_video
from util.face.landmarks import INNER, eye_openings, interocular_distance, mouth_opening
from util.geometry import FRONTAL, Cameras, angle_between_deg, rotation_matrix, rotation_vector


@pytest.fixture(scope="module", params=["mesh478", "ict"])
def model(request):
    if request.param == "ict" and not ict.is_converted(default_files_dir()):
        pytest.skip("ict is not here (scripts/download_files.py fetches it)")
    return load_face_model(request.param)


@pytest.fixture(scope="module")
def mesh():
    return load_face_model("mesh478")


def make_video(model, frames=120, noise_px=0.15, seed=0):
    """Landmarks [N, 478, 2] of a talking, blinking, turning head 100 px wide, and what they were made from."""
    rng, t = np.random.default_rng(seed), np.arange(frames)
    identity = np.zeros(len(model.identity_basis))
    identity[:15] = rng.normal(size=15) * 0.7
    expression = np.zeros((frames, len(model.expression_names)))

    def put(curve, *names):
        for name in names:
            expression[:, model.expression_names.index(name)] = curve

    put(0.35 * (1 - np.cos(2 * np.pi * t / 8)) * (t % 60 < 40), "jawOpen")  # about four syllables a second
    put(np.maximum(0, 1 - np.abs((t % 50) - 25) / 3), "eyeBlink_L", "eyeBlink_R")  # five frames long
    put(0.4 + 0.4 * np.sin(t / 17), "mouthSmile_L", "mouthSmile_R")
    put(np.where(t % 70 < 35, 0.5, 0.0), "eyeLookOut_L", "eyeLookIn_R")
    put(0.3 * (t > 80), "browInnerUp_L", "browInnerUp_R")
    turn = np.deg2rad(np.stack([6 * np.sin(t / 15), 18 * np.sin(t / 23), 4 * np.sin(t / 31)], 1))
    cameras = Cameras(
        11 + 0.3 * np.sin(t / 40),
        rotation_matrix(turn) @ FRONTAL,
        np.stack([128 + 10 * np.sin(t / 20), 120 + 4 * np.cos(t / 9), np.zeros(frames)], 1),
    )
    seen = cameras.project(model.landmarks(identity, expression))
    seen[..., :2] += rng.normal(size=(frames, 478, 2)) * noise_px
    return seen, identity, expression, cameras


def error(model, fit, seen):
    a, b = from_dense(fit.project(model))[:, :68], from_dense(seen)[:, :68]
    return (np.linalg.norm(a - b, axis=-1)[:, INNER].mean(1) / interocular_distance(b)).mean()


@pytest.fixture(scope="module")
def fitted(model):
    video = make_video(model)
    return model, video, fit_video(model, video[0])


def test_the_points_are_met(fitted):
    model, (seen, *_), fit = fitted
    assert error(model, fit, seen) < 0.005
    assert fit.project(model).shape == (120, 478, 3)


def test_pose_comes_back(fitted):
    _, (_, _, _, cameras), fit = fitted
    # what is straight ahead and how large a face is are the identity's to say, too: one constant is free
    offset = rotation_matrix(rotation_vector(np.swapaxes(cameras.rotation, 1, 2) @ fit.cameras.rotation).mean(0))
    assert np.rad2deg(np.linalg.norm(rotation_vector(offset))) < 4
    assert angle_between_deg(cameras.rotation @ offset, fit.cameras.rotation).mean() < 1
    ratio = fit.cameras.scale / cameras.scale
    assert abs(ratio.mean() - 1) < 0.08 and ratio.std() < 0.01
    np.testing.assert_allclose(fit.cameras.rotation @ np.swapaxes(fit.cameras.rotation, 1, 2), np.eye(3)[None].repeat(120, 0), atol=1e-9)
    assert (fit.cameras.translation[:, 2] == 0).all()


@pytest.mark.parametrize("name", ["jawOpen", "eyeBlink_L", "eyeBlink_R", "eyeLookOut_L", "mouthSmile_L"])
def test_expression_comes_back(fitted, name):
    model, (_, _, expression, _), fit = fitted
    k = model.expression_names.index(name)
    assert np.corrcoef(fit.expression[:, k], expression[:, k])[0, 1] > 0.95


def test_fast_motion_keeps_its_size(fitted):
    model, (seen, *_), fit = fitted
    a, b = from_dense(seen), from_dense(fit.project(model))
    for measure in (lambda p: eye_openings(p)[:, 0], lambda p: eye_openings(p)[:, 1], mouth_opening):
        slope = np.polyfit(measure(a), measure(b), 1)[0]
        assert 0.93 < slope < 1.07
        assert abs(np.ptp(measure(b)) / np.ptp(measure(a)) - 1) < 0.1


def test_bounds_are_kept(fitted):
    model, _, fit = fitted
    low, high = model.expression_bounds.T
    assert (fit.expression >= low - 1e-9).all() and (fit.expression <= high + 1e-9).all()
    assert (fit.expression == 0).mean() > 0.1  # they bind


def test_noise_is_smoothed_away(mesh):
    still, *_ = make_video(mesh, frames=1, noise_px=0)
    seen = np.repeat(still, 80, 0)
    noise = np.random.default_rng(3).normal(size=(80, 1, 2))  # the worst kind: all points of a frame agree
    seen[..., :2] += 0.4 * noise
    fit = fit_video(mesh, seen)
    raw, smooth = np.diff(0.4 * noise[:, 0], 2, axis=0).std(), np.diff(fit.cameras.translation[:, :2], 2, axis=0).std()
    assert smooth < 0.3 * raw


def test_lost_frames_are_bridged(mesh):
    seen, *_ = make_video(mesh)
    whole = fit_video(mesh, seen)
    seen = seen.copy()
    seen[30:34] = np.nan
    seen[0] = np.nan
    fit = fit_video(mesh, seen)
    assert np.isfinite(fit.expression).all() and np.isfinite(fit.cameras.scale).all()
    assert angle_between_deg(fit.cameras.rotation, whole.cameras.rotation).max() < 3
    assert np.linalg.norm(fit.cameras.translation - whole.cameras.translation, axis=1).max() < 4


def test_a_frame_with_another_face_does_not_pull(mesh):
    seen, *_ = make_video(mesh)
    whole = fit_video(mesh, seen)
    seen = seen.copy()
    seen[60] = seen[60] * 0.5 + 90
    seen[90:92] += 50
    fit = fit_video(mesh, seen)
    assert np.linalg.norm(fit.cameras.translation - whole.cameras.translation, axis=1).max() < 2
    assert angle_between_deg(fit.cameras.rotation, whole.cameras.rotation).max() < 2


def test_single_points_gone_astray_do_not_pull(mesh):
    seen, *_ = make_video(mesh, frames=60)
    whole = fit_video(mesh, seen)
    seen = seen.copy()
    seen[:, [50, 101, 280, 330]] += 60  # four cheek points, far off in every frame
    fit = fit_video(mesh, seen)
    assert angle_between_deg(fit.cameras.rotation, whole.cameras.rotation).mean() < 2.5
    inner = np.linalg.norm(from_dense(fit.project(mesh)) - from_dense(whole.project(mesh)), axis=-1)
    assert inner.mean() < 1  # of a face 100 px wide


def test_nothing_is_smoothed_across_a_cut(mesh):
    seen, *_ = make_video(mesh, frames=40, noise_px=0)
    cut = np.concatenate([seen, seen + np.float32([3, 0, 0])])  # a small jump, which looks like jitter
    joined = np.arange(80) % 40 > 0
    apart = fit_video(mesh, cut, joined=joined)
    step = apart.cameras.translation[40:, 0] - apart.cameras.translation[:40, 0]
    np.testing.assert_allclose(step, 3, atol=0.15)


def test_68_landmarks_will_do(model):
    seen, *_ = make_video(model)
    fit = fit_video(model, from_dense(seen)[:, :68], DENSE_INDICES[:68])
    assert error(model, fit, seen) < 0.01


def test_a_known_identity_is_kept_and_one_frame_will_do(mesh):
    seen, *_ = make_video(mesh, frames=60)
    known = fit_video(mesh, seen).identity
    fit = fit_video(mesh, seen[7:8], identity=known)
    np.testing.assert_array_equal(fit.identity, known)
    assert len(fit.cameras) == 1 and error(mesh, fit, seen[7:8]) < 0.006
    assert len(fit_video(mesh, seen[:2]).cameras) == 2


def test_the_same_at_any_size_and_place(mesh):
    seen, *_ = make_video(mesh, frames=30)
    small, large = fit_video(mesh, seen), fit_video(mesh, seen * 5 + 1000)
    np.testing.assert_allclose(small.expression, large.expression, atol=2e-3)
    np.testing.assert_allclose(small.cameras.scale * 5, large.cameras.scale, rtol=1e-3)


def test_landmarks_that_cannot_be_fitted_are_refused(mesh):
    with pytest.raises(ValueError, match="no frame"):
        fit_video(mesh, np.full((4, 478, 2), np.nan))
    with pytest.raises(ValueError, match="one place"):
        fit_video(mesh, np.full((4, 478, 2), 7.0))
    with pytest.raises(ValueError, match="shape"):
        fit_video(mesh, np.zeros((4, 70, 2)))
