"""preprocessing/driving/driver.py: frame by frame comes out what the whole video gives; the causal filter knows only the past."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_retarget import FRAMES, make_person

from preprocessing.driving.driver import Driver, DriverReference, read_motion
from preprocessing.driving.edits import parse_edits
from preprocessing.driving.limits import MOST_PLACE
from preprocessing.driving.openings import openings
from preprocessing.driving.profile import TargetProfile
from preprocessing.driving.retarget import drive, place_head, retarget
from preprocessing.face_models.registry import load_face_model
from util.face.landmarks import mouth_opening


@pytest.fixture(scope="module")
def model():
    return load_face_model("mesh478")


@pytest.fixture(scope="module")
def pair(model):
    source, target = make_person(model, 0, noise_px=0.15), make_person(model, 1, eye_size=0.2, scale=0.8, noise_px=0.15)
    return source, TargetProfile.of(model, target, "Ann")


@pytest.fixture(scope="module")
def narrow(pair):
    """A target who never turned, so that the driver's turns are eased."""
    return replace(pair[1], turns_deg=np.zeros((3, 2)))


def steps(driver, person, poses=None, frames=range(FRAMES)):
    """Driver.step over frames of a person, as what `drive` gives: expression, scale, rotation, translation, landmarks."""
    out = []
    for i in frames:
        fit = SimpleNamespace(expression=person.expression[i], camera=person.cameras[i])
        out.append(driver.step(fit, person.landmarks[i], None if poses is None else int(poses[i])))
    rows = [(f.expression, f.camera.scale, f.camera.rotation, f.camera.translation, f.landmarks70) for f in out]
    return [np.stack(column) for column in zip(*rows)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": False, "translation": False},
        {"translation": False, "exaggerate": 1.3},
        {"limit": False, "edits": parse_edits("jawOpen=+0.2,mouthSmile_L=0.3,yaw=10")},
        {"limit_mouth": True, "limit_pose": False},
    ],
)
def test_frame_by_frame_equals_the_whole_video(model, pair, narrow, options):
    source, target = pair[0], narrow
    reference = DriverReference.of(model, source)
    expression, scale, rotation, translation, landmarks = steps(Driver(model, target, reference, **options), source)
    motion = read_motion(model, source)
    placed = {k: options[k] for k in ("scale", "translation", "limit_pose") if k in options}
    rest = {k: v for k, v in options.items() if k not in placed}
    # as in `drive`, without its moving average, which looks ahead
    cameras = place_head(motion, target, **{k.replace("limit_pose", "limit"): v for k, v in placed.items()})
    whole = retarget(model, openings(model, target.identity), target, motion, cameras, **rest)
    np.testing.assert_allclose(expression, whole.expression, rtol=0, atol=1e-9)
    for a, b in zip((scale, rotation, translation), (whole.cameras.scale, whole.cameras.rotation, whole.cameras.translation)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    np.testing.assert_allclose(landmarks, whole.landmarks, rtol=0, atol=1e-3)  # pixels; the mesh is float32, summed in another order
    np.testing.assert_allclose(expression, drive(model, target, motion, **options).expression, rtol=0, atol=1e-9)


def test_the_targets_own_pose(model, pair):
    source, target = pair
    poses = np.arange(FRAMES)[::-1]
    expression, scale, rotation, translation, landmarks = steps(Driver(model, target, DriverReference.of(model, source)), source, poses)
    whole = drive(model, target, read_motion(model, source), poses)
    np.testing.assert_allclose(expression, whole.expression, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(rotation, target.cameras.rotation[poses])
    np.testing.assert_array_equal(scale, target.cameras.scale[poses])
    np.testing.assert_allclose(landmarks, whole.landmarks, rtol=0, atol=1e-3)


def test_a_reference_of_some_frames_drives_the_rest(model, pair):
    """The first two seconds tell what is usual; mouth and pose of all frames arrive."""
    source, target = pair
    first = slice(0, 60)
    seen = {k: getattr(source, k)[first] for k in ("expression", "cameras", "landmarks", "joined")}
    driver = Driver(model, target, DriverReference.of(model, replace(source, **seen)))
    _, scale, rotation, translation, landmarks = steps(driver, source)
    assert np.corrcoef(mouth_opening(landmarks), mouth_opening(source.landmarks))[0, 1] > 0.95
    np.testing.assert_allclose(rotation, source.cameras.rotation, atol=1e-9)
    assert scale.mean() == pytest.approx(target.scale, rel=0.03)
    assert np.abs(translation[:, :2] / scale[:, None] - target.place).max() <= MOST_PLACE * target.place_spread.max() + 1e-9


def test_the_filter_of_size_and_place_is_causal_and_can_be_reset(model, pair):
    source, target = pair
    shaken = source.cameras.scale * (1 + 0.01 * np.random.default_rng(0).normal(size=FRAMES))
    source = replace(source, cameras=replace(source.cameras, scale=shaken))
    reference = DriverReference.of(model, source)
    plain = steps(Driver(model, target, reference), source)
    driver = Driver(model, target, reference, smooth_s=0.3)
    smooth = steps(driver, source)
    assert smooth[1][0] == plain[1][0]  # the first frame has no past
    jitter = [np.abs(np.diff(x[1], 2)).mean() for x in (plain, smooth)]
    assert jitter[1] < 0.5 * jitter[0]
    np.testing.assert_array_equal(smooth[0], plain[0])  # expression and rotation are left alone
    np.testing.assert_array_equal(smooth[2], plain[2])
    driver.reset()
    half = steps(driver, source, frames=range(60))
    np.testing.assert_array_equal(half[1], smooth[1][:60])  # what comes later changes nothing
    # a step of the input: one time constant later 63 % of it is there, whatever the frame rate
    for fps in (15, 60):
        driver = Driver(model, target, reference, smooth_s=0.2)
        camera = source.cameras[0]
        larger = type(camera)(camera.scale * 1.03, camera.rotation, camera.translation)
        fits = [SimpleNamespace(expression=source.expression[0], camera=c) for c in (camera, *[larger] * round(0.2 * fps))]
        scales = [driver.step(f, source.landmarks[0], dt_s=1 / fps).camera.scale for f in fits]
        assert (scales[-1] / scales[0] - 1) / 0.03 == pytest.approx(1 - np.exp(-1), abs=1e-6)


def test_eyes_go_where_they_are_seen_beside_the_mesh(model, pair):
    """What a detector shifts an eye by beyond what is usual arrives on the target, in its own size, and nothing else of it moves."""
    source, target = pair
    reference = DriverReference.of(model, source)
    before = drive(model, target, read_motion(model, source, reference))
    shift, eye = np.array([2.0, -1.5]), [*range(36, 42), 68]  # pixels; the right eye and its pupil
    moved = source.landmarks.copy()
    moved[10, eye] += shift
    after = drive(model, target, read_motion(model, replace(source, landmarks=moved), reference))
    away = after.landmarks - before.landmarks
    size = before.cameras.scale[10] / source.cameras.scale[10]
    np.testing.assert_allclose(away[10, [36, 39, 68]].mean(0), size * shift, atol=0.25)
    away[10, eye] = 0
    np.testing.assert_allclose(away, 0, atol=1e-3)
