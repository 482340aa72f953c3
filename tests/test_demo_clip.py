"""The built-in demo clip, and with it the whole tracking: its true motion must come back out of the real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from preprocessing.driving.coverage import coverage
from preprocessing.driving.people import find_frames, read_person
from preprocessing.face_models.registry import load_face_model
from scripts.demo_clip.contours import LOWER_LIDS, LOWER_LIP, UPPER_LIDS, UPPER_LIP
from scripts.demo_clip.images import fill
from scripts.demo_clip.motion import Motion, make_motion, make_voice
from scripts.demo_clip.scene import DemoScene, head_rotation
from util.image_io import read_image
from util.layout import Dataset, read_camera, read_table
from util.video.reading import probe, read_frames

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def still(rotation_deg=(0.0, 0.0, 0.0), **expression: float) -> Motion:
    """One frame of the portrait with a pose and an expression."""
    zero = np.zeros((1, 2))
    weights = {name: np.array([weight]) for name, weight in expression.items()}
    return Motion(30, np.array([rotation_deg]), zero, np.ones(1), weights, zero, zero, zero, [])


@pytest.fixture(scope="module")
def scene() -> DemoScene:
    return DemoScene(256)


def command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True, timeout=300)


# --- motion ---------------------------------------------------------------------------------------------------------


def test_motion_follows_from_its_seed():
    first, again, other = make_motion(120, seed=3), make_motion(120, seed=3), make_motion(120, seed=4)
    np.testing.assert_array_equal(first.rotation_deg, again.rotation_deg)
    assert first.syllables == again.syllables
    assert np.abs(first.rotation_deg - other.rotation_deg).max() > 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_motion_is_that_of_a_person(seed):
    m = make_motion(600, seed=seed)
    assert (np.abs(m.rotation_deg) <= [8, 14, 5]).all()
    assert (np.ptp(m.rotation_deg, axis=0) > [8, 14, 4]).all()
    step_deg = np.abs(np.diff(m.rotation_deg, axis=0)).max()
    assert step_deg < 4  # 120 degrees a second: a head does not jump
    assert all((w >= 0).all() and (w <= 1).all() for w in m.expression.values())
    starts = np.array([s[0] for s in m.syllables])
    rate_hz = 1 / np.median(np.diff(starts))
    assert 3 <= rate_hz <= 6
    pauses_s = np.array([b[0] - a[1] for a, b in zip(m.syllables, m.syllables[1:])])
    assert (pauses_s > 0.3).sum() >= 4
    # some 26 blinks a minute are usual in conversation (Bentivoglio et al. 1997); each is short and closes the eye
    shut = m.expression["eyeBlink_L"] > 0.5
    begins, ends = np.flatnonzero(np.diff(shut.astype(int)) == 1), np.flatnonzero(np.diff(shut.astype(int)) == -1)
    assert 5 <= len(begins) <= 16
    assert np.all((ends - begins) / 30 <= 0.25)
    assert m.expression["eyeBlink_L"].max() == 1


def test_eyes_turn_against_the_head():
    m = make_motion(600, seed=0)
    assert np.corrcoef(m.rotation_deg[:, 1], m.gaze_deg[:, 0])[0, 1] < -0.5
    assert np.corrcoef(m.rotation_deg[:, 0], m.gaze_deg[:, 1])[0, 1] < -0.5


def test_voice_sounds_when_the_mouth_moves():
    m = make_motion(300, seed=0)
    voice = make_voice(m, 24000)
    assert voice.dtype == np.float32 and voice.shape == (240000,) and np.abs(voice).max() <= 1
    loudness = np.sqrt((voice.reshape(300, 800) ** 2).mean(1))
    times = np.arange(300) / 30
    spoken = np.array([any(s[0] <= t < s[1] for s in m.syllables) for t in times])
    assert loudness[spoken].mean() > 10 * loudness[~spoken].mean()


# --- picture --------------------------------------------------------------------------------------------------------


def test_fill_keeps_what_is_known_and_goes_on_smoothly():
    image = np.dstack([np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))] * 3)
    known = np.ones((64, 64), np.float32)
    known[24:40, 24:40] = 0
    filled = fill(np.where(known[..., None] > 0, image, 9).astype(np.float32), known)
    np.testing.assert_array_equal(filled[known > 0], image[known > 0])
    assert np.abs(filled - image).max() < 0.12


@pytest.mark.parametrize(
    ("pose", "moves"),  # of the tip of the nose, which is nearest to the camera
    [((10, 0, 0), (0, -1)), ((0, 10, 0), (1, 0)), ((0, 0, 10), None)],
)
def test_signs_of_pitch_yaw_and_roll(scene, pose, moves):
    rotation = head_rotation(np.array(pose, float))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.isclose(np.degrees(Rotation.from_matrix(rotation).magnitude()), 10)
    points = scene.render(still(pose), 0).points - scene.render(still(), 0).points
    if moves:
        across = points[4, :2] - points[[33, 263], :2].mean(0)  # the nose against the eyes
        assert across @ moves > 3
    else:  # clockwise: the subject's left eye, on the right of the picture, goes down
        assert points[263, 1] > 3 > -3 > points[33, 1] - points[4, 1]


def test_unmoved_head_is_the_photograph(scene):
    """Hair, brows, nose and suit as photographed; only the mouth and what relaxes with it differ."""
    image = scene.render(still(), 0).image.astype(float) / 255
    import cv2

    photo = cv2.resize(scene.portrait.photo, (256, 256), interpolation=cv2.INTER_AREA)
    error = np.abs(image - photo).mean(-1)
    assert error[:85].mean() < 0.012  # hair and forehead, background
    assert error[190:].mean() < 0.012  # suit
    assert error.mean() < 0.02


def test_drawing_is_repeatable(scene):
    motion = make_motion(30, seed=5)
    np.testing.assert_array_equal(scene.render(motion, 17).image, scene.render(motion, 17).image)


def test_blink_closes_the_eyes(scene):
    for upper, lower in zip(UPPER_LIDS, LOWER_LIDS):
        middle = len(upper) // 2
        opened = scene.render(still(), 0).points
        closed = scene.render(still(eyeBlink=1.0), 0).points
        assert opened[lower[middle], 1] - opened[upper[middle], 1] > 4
        assert np.abs(closed[list(lower), 1] - closed[list(upper), 1]).max() < 0.8
        # the upper lid does most of the way
        assert closed[upper[middle], 1] - opened[upper[middle], 1] > 3 * abs(closed[lower[middle], 1] - opened[lower[middle], 1])


@pytest.mark.parametrize("expression", [{}, {"mouthPress": 0.5}, {"mouthSmile": 0.5}, {"mouthRollLower": 0.5}])
def test_lips_never_pass_through_each_other(scene, expression):
    points = scene.render(still(**expression), 0).points
    gap = points[list(LOWER_LIP), 1] - points[list(UPPER_LIP), 1]
    assert gap.min() > -0.8


def test_jaw_opens_the_mouth_and_nothing_else(scene):
    moved = scene.render(still(jawOpen=0.5), 0).points - scene.render(still(), 0).points
    assert moved[14, 1] > 8 and moved[152, 1] > 5  # lower lip, chin
    assert np.abs(moved[[33, 263, 168, 10, 4], :2]).max() < 0.5


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "x.avi"), "x.avi"),
        (("--output", "x.mp4", "--frames", "0"), "--frames 0"),
        (("--output", "x.mp4", "--size", "63"), "--size 63"),
        (("--output", "x.mp4", "--seed", "-1"), "--seed -1"),
        (("--output", "x.mp4", "--truth", "x.txt"), "x.txt"),
    ],
)
def test_bad_options_are_refused_in_one_line(words, message):
    result = command("scripts/make_demo_video.py", *words)
    assert result.returncode == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_small_clip_with_json(tmp_path):
    video, truth = tmp_path / "sub" / "small.mp4", tmp_path / "truth.json"
    result = command("scripts/make_demo_video.py", "--output", video, "--frames", 9, "--size", 128, "--truth", truth)
    assert result.returncode == 0, result.stderr
    info = probe(video)
    assert (info.width, info.height, info.fps, info.has_audio) == (128, 128, 30, True)
    frames = list(read_frames(video))
    assert len(frames) == 9
    values = json.loads(truth.read_text())
    assert np.shape(values["head_rotation"]) == (9, 3, 3) and np.shape(values["points"]) == (9, 468, 3)
    assert sorted(p.name for p in video.parent.iterdir()) == ["small.mp4"]


@pytest.mark.slow
def test_commands_recover_the_true_motion(tmp_path):
    """The bench: detect -> landmarks -> reconstruct on the clip, compared by the files that they write.

    Head rotation: the angle between true and fitted rotation of each frame, after one constant rotation (the mean of
    true^T @ fitted over all frames: the model's idea of "straight ahead") is taken out. Jaw: how far the crease below the
    lower lip (point 18) is from the base of the nose (point 2) in the fitted 3D face, against the true jawOpen. Blinks:
    fitted eyeBlink against the true one.
    """
    dataset = Dataset.open("bench", tmp_path)
    video = dataset.original_videos / "demo.mp4"
    common = ("--dataset_name", "bench", "--datasets_dir", tmp_path)
    for words in (
        ("scripts/make_demo_video.py", "--output", video),
        ("preprocessing/detect.py", *common, "--split", "test"),
        ("preprocessing/detect_landmarks70.py", *common),
        ("preprocessing/reconstruct.py", *common, "--face_model", "mesh478", "--renderer", "cpu"),
    ):
        result = command(*words)
        assert result.returncode == 0, result.stderr
    sequence = dataset.sequence("test", "demo")
    frames = sequence.frames("misc")
    assert frames == list(range(360))  # no frame lost

    truth = np.load(video.with_suffix(".npz"))
    fitted = np.stack([read_camera(sequence.path("misc", i))[1] for i in frames]) @ np.diag([1, -1, -1])
    true = truth["head_rotation"].astype(float)
    constant = Rotation.from_matrix(true.transpose(0, 2, 1) @ fitted).mean().as_matrix()
    error_deg = np.degrees(Rotation.from_matrix((true @ constant).transpose(0, 2, 1) @ fitted).magnitude())
    assert np.degrees(Rotation.from_matrix(constant).magnitude()) < 5
    assert error_deg.mean() < 2

    model = load_face_model("mesh478")
    expression = np.stack([read_table(sequence.path("exp_coeffs", i)).ravel() for i in frames])
    identity = read_table(dataset.id_coeffs_path("test", "demo")).ravel()
    points = model.landmarks(identity, expression)
    jaw = np.linalg.norm(points[:, 18] - points[:, 2], axis=1)
    blinks = [expression[:, model.expression_names.index(f"eyeBlink_{side}")] for side in "RL"]
    figures = {
        "jaw": np.corrcoef(jaw, truth["jaw_open"])[0, 1],
        "right blink": np.corrcoef(blinks[0], truth["blink_right"])[0, 1],
        "left blink": np.corrcoef(blinks[1], truth["blink_left"])[0, 1],
    }
    print(f"rotation {error_deg.mean():.2f} degrees mean, {error_deg.max():.2f} at most", figures)
    assert min(figures.values()) > 0.95, figures

    # what is said of it: it talks, blinks, smiles a little and turns within 20 degrees, for 12 seconds, in sharp pictures
    known = find_frames(dataset, "demo", "test", "")
    shown = coverage(model, read_person(dataset, known, model), known.usable, lambda i: read_image(sequence.path("images", frames[i])))
    verdicts = {item.what: item.verdict for item in shown}
    assert {verdicts[what] for what in ("open mouth", "shut eyes", "sharpness")} == {"well"}, shown
    assert {verdicts[what] for what in ("length", "turning left and right", "nodding", "smile", "tilting")} == {"little"}, shown
