"""The live engine: a head that follows, keeps to one person, eases where the face is lost, and its threads."""

import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from live_runs import FPS, FRAME, SIZE, START, driver_frames, head_place, make_live_run, nobody, target_place
from synthetic_videos import face_frame

from live.calibration import FIRST_S, Calibration
from live.easing import HOLD_S, TO_REST_S, Easing, blend
from live.engine import HeadEngine, Pose, Settings
from live.pipeline import Closed, Pipeline, Slot
from preprocessing.driving.heads import DrivenFrame
from preprocessing.driving.motion import ANGLES
from preprocessing.face_models.dense_points import from_dense
from util.cli import UserError
from util.geometry import FRONTAL, Cameras, rotation_matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_live_run(tmp_path_factory.mktemp("live"))


@pytest.fixture
def engine(folder):
    with HeadEngine.load(folder, backend="torch", gpu_ids="-1") as engine:
        yield engine


def steps(engine, frames, since=0):
    """Step at FPS; returns the frames that came out."""
    return [engine.step(rgb, (since + i) / FPS) for i, rgb in enumerate(frames)]


def test_the_head_follows_after_a_second(engine):
    came = steps(engine, driver_frames(60, step_px=0.5))
    states = [frame.state for frame in came]
    driving = states.index("driving")
    assert set(states[:driving]) == {"calibrating"} and set(states[driving:]) == {"driving"}
    assert driving == round(FIRST_S * FPS)
    assert all(frame.image.shape == (SIZE, SIZE, 3) and frame.image.dtype == np.uint8 for frame in came)
    assert list(came[-1].stages_ms) == ["track", "fit", "refine", "drive", "condition", "synthesise", "blend"]
    columns = np.array([head_place(frame) for frame in came[driving:]])
    assert np.corrcoef(columns, np.arange(len(columns)))[0, 1] > 0.95
    assert head_place(came[0]) == pytest.approx(head_place(came[driving - 1]))  # at rest until then


def test_a_lost_face_is_held_then_eases_to_rest_and_is_taken_up_again_without_a_jump(engine):
    driven = steps(engine, driver_frames(40, step_px=1.0))
    gone = steps(engine, [nobody()] * 24, since=40)
    back = steps(engine, driver_frames(20, step_px=1.0, start=10), since=64)
    assert {frame.state for frame in gone} == {"lost"} and back[-1].state == "driving"
    columns = [head_place(frame) for frame in (*driven[-1:], *gone, *back)]
    assert np.abs(np.diff(columns)).max() < 3  # pixels
    held = round(HOLD_S * FPS)
    assert columns[held - 1] == pytest.approx(columns[0], abs=0.5)
    resting = head_place(driven[0])
    assert columns[round(1.0 * FPS) + 1] == pytest.approx(resting, abs=0.3) and HOLD_S + TO_REST_S < 1
    assert abs(columns[0] - resting) > 1.5  # it had gone somewhere


def test_another_face_is_never_taken(engine):
    def both(x):  # the driver, and a picture on the wall
        frame = face_frame((640, 240), (x, 120), 1.0)
        frame[:, 400:] = face_frame((240, 240), (120, 120), 0.9)
        return frame

    steps(engine, [both(130)] * 30)
    alone = both(130)
    alone[:, :400] = 128
    assert {frame.state for frame in steps(engine, [alone] * 20, since=30)} == {"lost"}
    wide = cv2.resize(both(130)[:, :260], (400, 240))  # after a while a face may come from anywhere, but it must be the driver's
    stranger = alone.copy()
    stranger[:, :400], stranger[:, 400:] = wide, 128
    assert {frame.state for frame in steps(engine, [stranger] * 5, since=150)} == {"lost"}
    elsewhere = face_frame((640, 240), (480, 120), 1.0)
    assert steps(engine, [elsewhere] * 5, since=300)[-1].state == "driving"


def test_recalibration_takes_whoever_is_there(engine):
    steps(engine, driver_frames(30))
    engine.recalibrate()
    moved = [face_frame(FRAME, (START[0] + 60, START[1]), 0.8)] * 40
    came = steps(engine, moved, since=30)
    assert came[0].state == "calibrating" and came[-1].state == "driving"
    assert head_place(came[-1]) == pytest.approx(head_place(came[0]), abs=1.5)  # that is its usual place now


def test_usual_values_follow_who_moves_the_chair(engine):
    """The head is at another place and size for a while: the driven head comes back to the target's."""
    usual = steps(engine, driver_frames(40))
    moved = steps(engine, [face_frame(FRAME, (START[0] + 30, START[1]), 1.0)] * 20, since=40)
    # the same face for half a minute, told by fewer frames
    later = [engine.step(face_frame(FRAME, (START[0] + 30, START[1]), 1.0), 3.0 + k / 4) for k in range(140)]
    first, away, again = (head_place(came[-1]) for came in (usual, moved, later))
    assert away - first > 2 and again == pytest.approx(first, abs=0.5)
    assert np.abs(np.diff([head_place(frame) for frame in later])).max() <= 1  # and nobody sees it come back


def test_a_mirror(engine):
    steps(engine, driver_frames(30))
    engine.settings = replace(engine.settings, mirror=True)
    came = steps(engine, driver_frames(40, step_px=1.0), since=30)
    assert came[-1].state == "driving" and (came[-1].driver == driver_frames(40, step_px=1.0)[-1][:, ::-1]).all()
    assert head_place(came[-1]) < head_place(came[-20]) - 1


def test_face_mode_takes_the_targets_own_poses(engine):
    engine.settings = Settings(mode="face")
    came = steps(engine, driver_frames(60, step_px=2.0))
    cameras = engine.profile.cameras
    place = came[-1].place
    assert came[-1].driven.camera.translation == pytest.approx(cameras.translation[place])
    assert len({frame.place for frame in came}) == len(cameras)  # all of them, there and back
    assert max(abs(b.place - a.place) for a, b in zip(came, came[1:])) == 1


def test_poses_that_are_given_outright(engine):
    def drawn(**pose):
        return engine._conditioner.step(*engine._drive_pose(Pose(**pose)))

    rest, eyes = drawn()
    opened, _ = drawn(expression={"jawOpen": 0.8})
    changed = (rest != opened).any(-1)
    assert changed[SIZE // 2 :].sum() > 4 * changed[: SIZE // 2].sum()  # the mouth, not the brows
    left, right = (drawn(yaw_deg=yaw)[0] for yaw in (15, -15))
    assert (left != right).any(-1).sum() > 100
    columns = [np.argwhere((drawn(gaze=g)[1] == [255, 0, 0]).all(-1))[:, 1] for g in ((1, 0), (-1, 0), (0, 0))]
    for eye in (lambda x: x < SIZE / 2, lambda x: x >= SIZE / 2):  # one by one: they need not have as many pixels
        right, left, ahead = (x[eye(x)].mean() for x in columns)
        assert right > ahead > left  # in the picture
    assert engine.draw(Pose(expression={"jawOpen": 0.8})).shape == (SIZE, SIZE, 3)
    with pytest.raises(UserError, match="there is no expression 'jawopens'"):
        engine.draw(Pose(expression={"jawopens": 1}))
    assert "jawOpen" in engine.expression_names and not set(ANGLES) & set(engine.expression_names)


def test_frames_of_another_size_and_what_is_no_frame(engine):
    steps(engine, driver_frames(30))
    half = [np.ascontiguousarray(frame[::2, ::2]) for frame in driver_frames(2)]
    assert steps(engine, half, since=30)[-1].state == "driving"
    wrong = [half[0][..., 0], half[0].astype(np.float32), np.zeros((0, 0, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)]
    for frame in (*wrong, np.dstack([half[0], half[0][..., :1]])):
        with pytest.raises(ValueError, match="expected a uint8 frame"):
            engine.step(frame, 2.0)
    assert steps(engine, driver_frames(1), since=40)[-1].state == "driving"  # and nothing is broken


def test_settings_are_checked(engine):
    with pytest.raises(UserError, match="paste-back needs the original video"):
        engine.settings = Settings(paste_back=True)
    with pytest.raises(UserError, match="no mode 'body'"):
        engine.settings = Settings(mode="body")
    assert engine.settings == Settings()


def test_paste_back_into_the_targets_video(folder, tmp_path):
    video = folder.parent / "ann.mp4"
    with HeadEngine.load(folder, backend="torch", gpu_ids="-1", settings=Settings(paste_back=True), video=video) as engine:
        came = steps(engine, driver_frames(40))
        left, top, right, bottom = engine.profile.crop_box
        image, there = came[-1].image, face_frame(FRAME, target_place(came[-1].place), 1.0)
        assert image.shape == there.shape
        outside = np.ones(there.shape[:2], bool)
        outside[max(top, 0) : bottom, max(left, 0) : right] = False
        assert np.abs(image.astype(int) - there)[outside].mean() < 1  # a JPEG's loss
        assert np.abs(image.astype(int) - there)[110:130, 130:150].mean() > 20
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3)))
    with pytest.raises(UserError):
        HeadEngine.load(folder, backend="torch", gpu_ids="-1", video=tmp_path / "a.png")


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="does not hold one target profile"):
        HeadEngine.load(tmp_path / "nothing")


# ---- easing and calibration ----


def driven(x, turn=0.0, scale=10.0):
    camera = Cameras(np.float64(scale), FRONTAL @ rotation_matrix(np.array([0, turn, 0])), np.array([x, 0.0, 0.0]))
    return DrivenFrame(np.array([x / 10]), camera, np.full((70, 2), x))


def test_halfway_between_two_poses():
    half = blend(driven(0, 0.0, 5), driven(10, 0.4, 20), 0.5)
    assert half.expression == pytest.approx([0.5]) and half.camera.scale == pytest.approx(10)
    assert half.camera.rotation == pytest.approx(driven(0, 0.2).camera.rotation)
    assert half.landmarks70 == pytest.approx(np.full((70, 2), 5.0))
    assert blend(driven(0), driven(10), 1.0).camera.translation == pytest.approx([10, 0, 0])


def test_easing_follows_its_source_at_once_and_changes_it_softly():
    easing = Easing()
    assert easing.step(driven(3), "a", 0.0, 1.0).expression == pytest.approx([0.3])
    assert easing.step(driven(5), "a", 0.1, 1.0).expression == pytest.approx([0.5])
    moving = [easing.step(driven(10), "b", 0.2 + t / 20, 1.0).expression[0] for t in range(25)]
    assert moving[0] == pytest.approx(0.5) and moving[10] == pytest.approx(0.75) and moving[-1] == pytest.approx(1.0)
    assert (np.diff(moving) >= 0).all() and np.diff(moving).max() < 0.05
    # the source changes again on the way: from where it is
    easing.step(driven(0), "c", 2.0, 1.0)
    there = easing.step(driven(0), "c", 2.5, 1.0).expression[0]
    assert easing.step(driven(10), "b", 2.5, 1.0).expression[0] == pytest.approx(there)


def test_calibration_begins_again_where_there_is_no_face(engine):
    calibration = Calibration(engine._model, 256)
    assert not any(calibration.begin(np.zeros((478, 3), np.float32), nobody(), i / 20) for i in range(21))
    frame = engine.step(driver_frames(1)[0], 0.0)
    known = [calibration.begin(frame.landmarks, frame.driver, 5 + i / 20) for i in range(30)]
    assert known.index(True) == round(FIRST_S * 20)
    assert calibration.reference.lids.min() > 0 and from_dense(frame.landmarks).shape == (70, 2)


# ---- the pipeline ----


def test_a_place_of_one_where_the_newest_counts(engine):
    slot = Slot(newest=True)
    frames = [engine.begin(driver_frames(1)[0], i / FPS) for i in range(3)]
    frames[0].begins = True
    for frame in frames:
        slot.put(frame)
    assert slot.take() is frames[2] and frames[2].begins and slot.dropped == 2  # a new calibration is not lost with its frame
    slot.close()
    with pytest.raises(Closed):
        slot.take()


def test_all_frames_in_their_order_when_none_may_be_dropped(engine, folder):
    came = []
    with Pipeline(engine, came.append, newest=False) as pipeline:
        for i, rgb in enumerate(driver_frames(40, step_px=0.5)):
            pipeline.put(rgb, i / FPS)
        pipeline.finish()
    assert [frame.number for frame in came] == list(range(1, 41)) and came[-1].state == "driving"
    with HeadEngine.load(folder, backend="torch", gpu_ids="-1") as other:
        assert (steps(other, driver_frames(40, step_px=0.5))[-1].nmfc == came[-1].nmfc).all()  # as without threads


def test_a_slow_output_drops_frames_and_adds_no_delay(engine):
    engine.step(driver_frames(1)[0])
    came = []

    def slowly(frame):
        came.append((frame.number, time.monotonic() - frame.time_s))
        time.sleep(0.2)

    with Pipeline(engine, slowly) as pipeline:
        for rgb in driver_frames(60):
            pipeline.put(rgb)
            time.sleep(0.02)
        pipeline.finish()
        figures = pipeline.statistics
    numbers = [number for number, _ in came]
    assert numbers == sorted(numbers) and len(numbers) < 30 and figures.dropped > 20
    assert numbers[-1] == 61  # the last one is never the one that is dropped
    assert figures.fps > 0 and set(figures.stages) >= {"track", "synthesise"} and "fps" in figures.as_text()


def test_errors_reach_the_caller(engine):
    def fails(_):
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"), Pipeline(engine, fails) as pipeline:
        for rgb in driver_frames(50):
            pipeline.put(rgb)
            time.sleep(0.02)
    assert not [t for t in threading.enumerate() if t.name.startswith("head2head ") and t.name != "head2head backdrop"]


def test_fits_are_refined_by_the_skin_unless_it_is_switched_off(folder):
    """The refined camera differs from that of the landmarks alone, and by little; it is switched on and off while the engine runs."""
    with HeadEngine.load(folder, backend="torch", gpu_ids="-1", settings=Settings(refine=False)) as engine:
        plain = steps(engine, driver_frames(40, step_px=0.5))[-1]
        engine.settings = replace(engine.settings, refine=True)
        refined = steps(engine, driver_frames(10, step_px=0.5, start=40), since=40)[-1]
        engine.settings = replace(engine.settings, refine=False)
        again = steps(engine, driver_frames(10, step_px=0.5, start=50), since=50)[-1]
        landmarks = [engine._fitter._cameras[-1]]
    assert plain.state == refined.state == again.state == "driving"
    assert np.array_equal(again.fit.camera.translation, landmarks[0].translation)
    between = (plain.fit.camera.translation + again.fit.camera.translation) / 2
    assert 0 < np.abs(refined.fit.camera.translation - between).max() < 4
    assert refined.fit.camera.scale == pytest.approx(float(again.fit.camera.scale), rel=0.06)
