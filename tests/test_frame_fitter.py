"""preprocessing/fitting/frame.py: the causal fit agrees with the whole video's, does not lag, and survives lost frames and jumps."""

import numpy as np
import pytest
from test_fitting import error, make_video

from preprocessing.face_models.dense_points import DENSE_INDICES, from_dense
from preprocessing.face_models.registry import load_face_model
from preprocessing.fitting.frame import FORGET_S, FrameFitter
from preprocessing.fitting.video import Fit, fit_video
from util.geometry import Cameras, angle_between_deg

DT = 1 / 30


def follow(fitter, landmarks, dt_s=DT):
    """Fits of all frames as one Fit, and which of them were tracked."""
    steps = [fitter.step(points, dt_s) for points in landmarks]
    cameras = Cameras(*(np.stack([getattr(s.camera, name) for s in steps]) for name in ("scale", "rotation", "translation")))
    return Fit(None, np.stack([s.expression for s in steps]), cameras), np.array([s.tracked for s in steps])


@pytest.fixture(scope="module")
def model():
    return load_face_model("mesh478")


@pytest.fixture(scope="module")
def video(model):
    seen = make_video(model)[0]
    return seen, fit_video(model, seen)


@pytest.fixture(scope="module")
def causal(model, video):
    seen, whole = video
    fit, tracked = follow(FrameFitter(model, whole.identity), seen)
    assert tracked.all()
    return Fit(whole.identity, fit.expression, fit.cameras)


def jitter(model, fit):
    inner = from_dense(fit.project(model))[:, 17:68]
    return np.median(np.linalg.norm(np.diff(inner, 2, axis=0), axis=-1))


def test_it_agrees_with_the_whole_video(model, video, causal):
    seen, whole = video
    assert angle_between_deg(causal.cameras.rotation, whole.cameras.rotation).mean() < 0.6
    assert np.abs(causal.cameras.scale / whole.cameras.scale - 1).mean() < 0.005
    for name in ("jawOpen", "eyeBlink_L", "eyeLookOut_L", "mouthSmile_L"):
        k = model.expression_names.index(name)
        assert np.corrcoef(causal.expression[:, k], whole.expression[:, k])[0, 1] > 0.97, name
    assert error(model, causal, seen) < 0.006
    assert jitter(model, causal) < 1.3 * jitter(model, whole)


def test_it_does_not_lag(model, video, causal):
    _, whole = video
    for a, b in (
        (causal.cameras.rotation[:, 0, 2], whole.cameras.rotation[:, 0, 2]),
        (causal.expression[:, model.expression_names.index("jawOpen")], whole.expression[:, model.expression_names.index("jawOpen")]),
    ):
        apart = [np.sum((a[2 + s : len(a) - 2 + s] - b[2:-2]) ** 2) for s in (-1, 0, 1)]
        assert np.argmin(apart) == 1


def test_bounds_are_kept(model, causal):
    low, high = model.expression_bounds.T
    assert (causal.expression >= low - 1e-9).all() and (causal.expression <= high + 1e-9).all()


def test_only_the_past_counts(model, video, causal):
    seen, whole = video
    fit, _ = follow(FrameFitter(model, whole.identity), seen[:40])
    np.testing.assert_array_equal(fit.expression, causal.expression[:40])
    np.testing.assert_array_equal(fit.cameras.rotation, causal.cameras.rotation[:40])


def test_noise_is_smoothed(model):
    still = make_video(model, frames=1, noise_px=0)[0]
    seen = np.repeat(still, 80, 0)
    noise = np.random.default_rng(3).normal(size=(80, 1, 2))  # all points of a frame agree
    seen[..., :2] += 0.4 * noise
    fit, _ = follow(FrameFitter(model, fit_video(model, still).identity), seen)
    raw, smooth = np.diff(0.4 * noise[:, 0], 2, axis=0).std(), np.diff(fit.cameras.translation[:, :2], 2, axis=0).std()
    assert smooth < 0.75 * raw  # the whole-video fit, which sees both sides, comes to less than 0.3


def test_lost_frames_hold_and_the_face_is_taken_up_again(model, video, causal):
    seen, whole = video
    fitter = FrameFitter(model, whole.identity)
    lost = [None if t in (30, 31) else np.full_like(x, np.nan) if t == 60 else x for t, x in enumerate(seen)]
    fit, tracked = follow(fitter, lost)
    assert np.flatnonzero(~tracked).tolist() == [30, 31, 60]
    np.testing.assert_array_equal(fit.expression[30], fit.expression[29])
    np.testing.assert_array_equal(fit.cameras.rotation[31], fit.cameras.rotation[29])
    assert angle_between_deg(fit.cameras.rotation[32:60], causal.cameras.rotation[32:60]).max() < 2
    assert angle_between_deg(fit.cameras.rotation[70:], causal.cameras.rotation[70:]).mean() < 0.2


def test_a_jump_drags_nothing(model, video, causal):
    seen, whole = video
    for shift in (30, 300):
        moved = seen.copy()
        moved[60:] += np.float32([shift, 0, 0])
        fit, _ = follow(FrameFitter(model, whole.identity), moved)
        apart = fit.cameras.translation[60:, 0] - causal.cameras.translation[60:, 0] - shift
        assert np.abs(apart).max() < 1.5
        assert angle_between_deg(fit.cameras.rotation[60:], causal.cameras.rotation[60:]).max() < 4


def test_after_a_long_gap_it_starts_again(model, video):
    seen, whole = video
    fitter = FrameFitter(model, whole.identity)
    follow(fitter, seen[:20])
    late = fitter.step(seen[90], FORGET_S + DT)
    fresh = FrameFitter(model, whole.identity).step(seen[90])
    np.testing.assert_array_equal(late.expression, fresh.expression)
    fitter.reset()
    np.testing.assert_array_equal(fitter.step(seen[90]).camera.rotation, fresh.camera.rotation)


def test_uneven_steps_in_time(model, video, causal):
    seen, whole = video
    kept = np.flatnonzero(np.random.default_rng(0).random(len(seen)) < 0.7)
    fitter = FrameFitter(model, whole.identity)
    rotation = np.stack([fitter.step(seen[t], DT * n).camera.rotation for t, n in zip(kept, np.diff(kept, prepend=-1))])
    assert angle_between_deg(rotation, causal.cameras.rotation[kept]).mean() < 0.5


def test_68_landmarks_will_do(model, video):
    seen, whole = video
    fitter = FrameFitter(model, whole.identity, DENSE_INDICES[:68])
    fit, _ = follow(fitter, from_dense(seen)[:30, :68])
    assert error(model, Fit(whole.identity, fit.expression, fit.cameras), seen[:30]) < 0.012


def test_landmarks_that_cannot_be_fitted_are_refused(model, video):
    _, whole = video
    fitter = FrameFitter(model, whole.identity)
    with pytest.raises(ValueError, match="first frame"):
        fitter.step(None)
    with pytest.raises(ValueError, match="shape"):
        fitter.step(np.zeros((70, 2)))
    with pytest.raises(ValueError, match="one place"):
        fitter.step(np.full((478, 2), 7.0))
