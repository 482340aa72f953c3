"""preprocessing/driving, motion.py, motion_files.py, edits.py: ARKit files, templates, edits, and the names and signs they use."""

import json
from fractions import Fraction

import numpy as np
import pytest

from preprocessing.driving.edits import check_edits, edit_cameras, edit_expression, parse_edits
from preprocessing.driving.motion import Motion, from_angles, head_rotation, shapes_called, to_angles, turning_shift
from preprocessing.driving.motion_files import read_arkit, read_template, save_template
from preprocessing.face_models.registry import load_face_model
from util.cli import UserError
from util.geometry import FRONTAL, Cameras

# The 52 shapes as ARKit names them (developer.apple.com, ARFaceAnchor.BlendShapeLocation), in an app's spelling and order.
SIDED = "EyeBlink EyeLookDown EyeLookIn EyeLookOut EyeLookUp EyeSquint EyeWide MouthSmile MouthFrown MouthDimple MouthStretch".split()
SIDED += "MouthPress MouthLowerDown MouthUpperUp BrowDown BrowOuterUp CheekSquint NoseSneer".split()
SINGLE = "JawForward JawRight JawLeft JawOpen MouthClose MouthFunnel MouthPucker MouthRight MouthLeft MouthRollLower".split()
SINGLE += "MouthRollUpper MouthShrugLower MouthShrugUpper BrowInnerUp CheekPuff TongueOut".split()
ARKIT = [f"{n}{side}" for n in SIDED for side in ("Left", "Right")] + SINGLE
ANGLES = ["HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll", "RightEyeYaw", "RightEyePitch", "RightEyeRoll"]


@pytest.fixture(scope="module")
def names():
    return load_face_model("mesh478").expression_names


def write_csv(path, frames, rate=60, columns=None, start_s=61199.5, **curves):
    """A take as Live Link Face writes it, of `frames` frames at `rate`; curves are functions of the time in seconds."""
    columns = columns or [*ARKIT, *ANGLES]
    lines = [",".join(["Timecode", "BlendshapeCount", *columns])]
    for k in range(frames):
        whole, frame = divmod(round(start_s * rate) + k, rate)
        stamp = f"{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{frame:02d}.000"
        lines.append(",".join([stamp, "61", *(f"{curves[c](k / rate) if c in curves else 0:.6f}" for c in columns)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_shape_of_arkit_but_the_tongue_has_its_place(names):
    assert len(ARKIT) == 52
    for name in ARKIT:
        found = [names[i] for i in shapes_called(name, names)]
        plain = name[0].lower() + name[1:]
        if name in ("BrowInnerUp", "CheekPuff"):
            assert found == [f"{plain}_L", f"{plain}_R"]
        elif name == "TongueOut":
            assert found == []
        elif name.endswith(("Left", "Right")) and name not in SINGLE:
            assert found == [plain.replace("Left", "_L").replace("Right", "_R")]
        else:
            assert found == [plain]
    assert {i for name in ARKIT for i in shapes_called(name, names)} == set(range(53))  # and every named shape is reached


def test_names_are_found_in_any_spelling(names):
    one = [names.index("mouthSmile_L")]
    for spelling in ("mouthSmile_L", "mouthSmileLeft", "MouthSmileLeft", "mouthsmile_left", "MOUTHSMILE_L"):
        assert shapes_called(spelling, names) == one
    assert shapes_called("eyeBlink", names) == [names.index("eyeBlink_L"), names.index("eyeBlink_R")]
    assert shapes_called("mouth", names) == shapes_called("", names) == []


def test_angles_have_the_documented_signs():
    ahead, up = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    assert (from_angles(20, 0, 0) @ ahead)[0] > 0.3  # x is the subject's left
    assert (from_angles(0, 20, 0) @ ahead)[1] > 0.3
    assert (from_angles(0, 0, 20) @ up)[0] < -0.3  # the crown to the picture's left: counter-clockwise
    angles = np.array([[10, -20, 30], [-70, 60, -45], [0, 0, 0.0]]).T
    np.testing.assert_allclose(to_angles(from_angles(*angles)), angles, atol=1e-9)
    one = from_angles(10, 0, 0) @ from_angles(0, -20, 0) @ from_angles(0, 0, 30)
    np.testing.assert_allclose(from_angles(*angles)[0], one, atol=1e-12)


def test_a_take_is_read_in_time(tmp_path, names):
    path = write_csv(
        tmp_path / "take.csv",
        180,
        JawOpen=lambda t: 0.3 + 0.2 * np.sin(2 * t),
        EyeBlinkRight=lambda t: t / 3,
        BrowInnerUp=lambda t: 0.5,
        HeadYaw=lambda t: np.deg2rad(30) * np.sin(t),
        HeadPitch=lambda t: np.deg2rad(-10),
    )
    motion = read_arkit(path, names, Fraction(30000, 1001))
    t = np.arange(len(motion)) * 1001 / 30000
    assert motion.fps == Fraction(30000, 1001) and len(motion) == 90  # 179 / 60 s
    np.testing.assert_allclose(motion.expression[:, names.index("jawOpen")], 0.3 + 0.2 * np.sin(2 * t), atol=1e-3)
    np.testing.assert_allclose(motion.expression[:, names.index("eyeBlink_R")], t / 3, atol=1e-3)
    assert (motion.expression[:, names.index("eyeBlink_L")] == 0).all()
    assert (motion.expression[:, [names.index("browInnerUp_L"), names.index("browInnerUp_R")]] == 0.5).all()
    yaw, pitch, roll = to_angles(motion.rotation)
    np.testing.assert_allclose(yaw, 30 * np.sin(t), atol=0.02)
    np.testing.assert_allclose(pitch, -10, atol=1e-3)
    np.testing.assert_allclose(roll, 0, atol=1e-3)
    assert motion.lids is None and motion.placement is None and np.abs(motion.shift.mean(0)).max() < 1e-9


@pytest.mark.parametrize("rate", [24, 25, 30, 60])
def test_the_frame_rate_of_a_timecode_is_found(tmp_path, names, rate):
    path = write_csv(tmp_path / "take.csv", 2 * rate + 1, rate, JawOpen=lambda t: t / 4)
    motion = read_arkit(path, names, Fraction(50))
    assert len(motion) == 101
    np.testing.assert_allclose(motion.expression[:, names.index("jawOpen")], np.arange(101) / 200, atol=1e-4)


def test_midnight_lost_frames_degrees_and_other_columns(tmp_path, names):
    columns = ["eyeBlink_L", *ARKIT[2:], "HeadRoll", "Comment"]
    path = write_csv(tmp_path / "take.csv", 121, columns=columns, start_s=86399, eyeBlink_L=lambda t: t / 2, HeadRoll=lambda t: 15 * t)
    lines = path.read_text().splitlines()
    lines[40:43] = [line.split(",")[0] + ",0" + "," * len(columns) for line in lines[40:43]]  # the face was lost
    lines[60] = lines[59]
    path.write_text("\r\n".join(lines) + "\r\n")
    motion = read_arkit(path, names, Fraction(60))
    assert len(motion) == 121
    np.testing.assert_allclose(motion.expression[:, names.index("eyeBlink_L")], np.arange(121) / 120, atol=2e-3)
    np.testing.assert_allclose(to_angles(motion.rotation)[2], np.arange(121) / 4, atol=0.1)  # 30 is no angle in radians


def test_seconds_instead_of_a_timecode(tmp_path, names):
    text = write_csv(tmp_path / "take.csv", 61, JawOpen=lambda t: t).read_text().splitlines()
    text = ["Seconds," + text[0].split(",", 1)[1]] + [f"{5 + k / 60:.5f}," + line.split(",", 1)[1] for k, line in enumerate(text[1:])]
    (tmp_path / "take.csv").write_text("\n".join(text))
    motion = read_arkit(tmp_path / "take.csv", names, Fraction(25))
    np.testing.assert_allclose(motion.expression[:, names.index("jawOpen")], np.arange(26) / 25, atol=1e-4)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda text: "", "not a CSV file"),
        (lambda text: "a,b,c\n1,2,3\n", "names only 0 ARKit blendshapes"),
        (lambda text: text.splitlines()[0], "holds 0 frames"),
        (lambda text: text.replace("Timecode", "Moment"), "no column Timecode or seconds"),
        (lambda text: text.replace("0.000000", "zero", 1), "other than numbers: 'zero' in line 2, column EyeBlinkLeft"),
        (lambda text: text.replace("16:59:59", "16h59"), "column Timecode: '16h59:30.000' in line 2 is no timecode"),
    ],
)
def test_what_is_no_take_is_refused_in_words(tmp_path, names, change, words):
    path = write_csv(tmp_path / "take.csv", 20)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=words):
        read_arkit(path, names, Fraction(30))
    with pytest.raises(UserError, match="no file"):
        read_arkit(tmp_path / "other.csv", names, Fraction(30))


def make_motion(names, frames=20, seed=0):
    rng = np.random.default_rng(seed)
    return Motion(
        Fraction(30000, 1001),
        from_angles(*rng.normal(size=(3, frames)) * 10),
        1 + 0.01 * rng.normal(size=frames),
        rng.normal(size=(frames, 2)) * 0.2,
        rng.uniform(0, 1, (frames, len(names))),
        rng.normal(size=(frames, 2, 3)) * 0.02,
        rng.uniform(0, 1.2, (frames, 2)),
        rng.uniform(0, 2, frames),
    )


def test_a_template_comes_back(tmp_path, names):
    motion = make_motion(names)
    save_template(tmp_path / "m.json", motion, names, "mesh478 2")
    again = read_template(tmp_path / "m.json", names)
    assert again.fps == motion.fps and again.placement is None
    for key in ("rotation", "zoom", "shift", "expression", "pupils", "lids", "lips"):
        np.testing.assert_allclose(getattr(again, key), getattr(motion, key), atol=1e-4)
    fields = json.loads((tmp_path / "m.json").read_text())
    assert not any("identity" in key or "image" in key for key in fields)
    # for a face model that knows other shapes, in another order
    other = read_template(tmp_path / "m.json", ("jawOpen", "earWiggle"))
    np.testing.assert_allclose(other.expression[:, 0], motion.expression[:, names.index("jawOpen")], atol=1e-4)
    assert (other.expression[:, 1] == 0).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.pop("rotation"),
        lambda f: f.update(format="something"),
        lambda f: f.update(fps="0"),
        lambda f: f["zoom"].pop(),
        lambda f: f["zoom"].__setitem__(0, float("nan")),
        lambda f: f.update(expression="no"),
    ],
)
def test_a_damaged_template_is_refused(tmp_path, names, change):
    path = tmp_path / "m.json"
    save_template(path, make_motion(names), names, "mesh478 2")
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match="not a motion template"):
        read_template(path, names)


def test_edits_add_or_set(names):
    edits = parse_edits("jawOpen=+0.2, mouthSmile_L=0.3,eyeBlink=-0.1,yaw=10,pitch=+5")
    assert [(e.name, e.value, e.relative) for e in edits] == [
        ("jawOpen", 0.2, True),
        ("mouthSmile_L", 0.3, False),
        ("eyeBlink", -0.1, True),
        ("yaw", 10, False),
        ("pitch", 5, True),
    ]
    check_edits(edits, names)
    bounds = load_face_model("mesh478").expression_bounds
    before = make_motion(names).expression
    after = edit_expression(edits, before, names, bounds)
    jaw, smile, blink = (names.index(n) for n in ("jawOpen", "mouthSmile_L", "eyeBlink_R"))
    np.testing.assert_allclose(after[:, jaw], np.minimum(before[:, jaw] + 0.2, 1.2))
    assert np.allclose(after[:, smile], 0.3)
    np.testing.assert_allclose(after[:, blink], np.maximum(before[:, blink] - 0.1, 0))
    same = np.setdiff1d(np.arange(len(names)), [jaw, smile, names.index("eyeBlink_L"), blink])
    assert (after[:, same] == before[:, same]).all()


def test_edited_angles_turn_the_head_about_its_pivot(names):
    rotation = make_motion(names).rotation
    cameras = Cameras(np.full(20, 10.0), FRONTAL @ rotation, np.tile([128.0, 120, 0], (20, 1)))
    turned = edit_cameras(parse_edits("yaw=10,pitch=+5"), cameras)
    before, after = to_angles(rotation), to_angles(head_rotation(turned))
    np.testing.assert_allclose(after[0], 10)
    np.testing.assert_allclose(after[1], before[1] + 5)
    np.testing.assert_allclose(after[2], before[2])
    pivot = np.array([[0, -4.0, 0]])
    np.testing.assert_allclose(turned.project(pivot)[..., :2], cameras.project(pivot)[..., :2], atol=1e-9)
    assert edit_cameras(parse_edits("jawOpen=1"), cameras) is cameras
    np.testing.assert_allclose(turning_shift(np.eye(3)[None]), 0)


@pytest.mark.parametrize(
    "text, words", [("jawOpen", "is not name=number"), ("jawOpen=wide", "name=number"), ("nose=1", "no expression 'nose'")]
)
def test_wrong_edits_are_refused(names, text, words):
    with pytest.raises(UserError, match=words):
        check_edits(parse_edits(text), names)
