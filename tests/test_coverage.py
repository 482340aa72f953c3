"""preprocessing/driving/coverage.py and util/report/coverage.py: known curves give known verdicts, and a reader learns what to film."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from preprocessing.driving.coverage import BEYOND_MARGIN, OPENS_MOUTH, coverage, expressions_beyond, sharpness
from preprocessing.driving.heads import Person
from preprocessing.driving.motion import from_angles
from preprocessing.driving.openings import openings
from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.registry import load_face_model
from util.geometry import FRONTAL, Cameras
from util.report.coverage import Shown, advice, block, from_record, lines, to_record

FRAMES, FPS, SIZE = 1200, Fraction(30), 256
T = np.arange(FRAMES) / FRAMES
WAVE = 0.5 - 0.5 * np.cos(2 * np.pi * 12 * T)  # 0 to 1, twelve times


@pytest.fixture(scope="module")
def model():
    return load_face_model("mesh478")


def make_person(model, yaw=0.0, pitch=0.0, roll=0.0, lips=0.0, **weights):
    """Forty seconds of a head 110 pixels wide. Angles in degrees, lips: gap in cm, weights by shape, each a number or a curve [N]."""
    names = list(model.expression_names)
    identity = np.zeros(len(model.identity_basis))
    expression = np.zeros((FRAMES, len(names)))
    for name, curve in weights.items():
        for k in (k for k, n in enumerate(names) if n in (name, f"{name}_L", f"{name}_R")):
            expression[:, k] = curve
    wanted = np.broadcast_to(np.asarray(lips, float), FRAMES)
    expression = openings(model, identity)[2].reach(expression, wanted, model.expression_bounds.astype(float))
    angles = [np.broadcast_to(np.asarray(a, float), FRAMES) for a in (yaw, pitch, roll)]
    cameras = Cameras(np.full(FRAMES, 8.0), FRONTAL @ from_angles(*angles), np.tile([128.0, 120.0, 0.0], (FRAMES, 1)))
    landmarks = from_dense(cameras.project(model.landmarks(identity, expression))).astype(np.float64)
    return Person(identity, expression, cameras, landmarks, SIZE, FPS, np.arange(FRAMES) > 0)


@pytest.fixture(scope="module")
def picture():
    """Noise of all sizes, as sharp as good pictures are."""
    rng = np.random.default_rng(0)
    noise = sum(cv2.resize(rng.normal(size=(n, n, 3)), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for n in (8, 16, 32, 64, 100))
    return np.clip(128 + 20 * noise, 0, 255).astype(np.uint8)


def judged(model, person, picture, usable=None, scale=1.0):
    shown = coverage(model, person, np.ones(FRAMES, bool) if usable is None else usable, lambda i: picture, scale)
    return {item.what: item for item in shown}


def test_a_head_that_does_everything_and_one_that_does_nothing(model, picture):
    blink = (np.arange(FRAMES) % 150 < 5).astype(float)
    look = np.sin(2 * np.pi * 5 * T)
    sides = {"eyeLookOut_L": np.maximum(look, 0), "eyeLookIn_R": np.maximum(look, 0)}
    sides |= {"eyeLookIn_L": np.maximum(-look, 0), "eyeLookOut_R": np.maximum(-look, 0)}
    sides |= {"eyeLookUp": 0.6 * WAVE * (T > 0.5), "eyeLookDown": 0.6 * WAVE * (T <= 0.5)}
    face = {"mouthSmile": 0.8 * WAVE, "browInnerUp": 0.8 * WAVE, "browOuterUp": 0.8 * WAVE, "browDown": 0.8 * (1 - WAVE)}
    turns = {"yaw": 20 * np.sin(9 * T), "pitch": 12 * np.sin(15 * T), "roll": 12 * np.sin(11 * T)}
    all_ = judged(model, make_person(model, **turns, **face, **sides, lips=2 * WAVE, eyeBlink=blink), picture, scale=2.0)
    assert {item.what: item.verdict for item in all_.values()} == dict.fromkeys(all_, "well") and len(all_) == 10
    assert (
        all_["turning left and right"].seen == "-20° to 20°"
        and all_["length"].seen == "40 s to learn from"
        and all_["shut eyes"].seen == "8 times"
    )
    assert "open mouth" in all_ and "up to 2.0 cm" in all_["open mouth"].seen
    assert len(lines("Ann", list(all_.values()))) == 1 and advice(list(all_.values())) == []

    none = judged(model, make_person(model), picture)
    bad = {what for what, item in none.items() if item.verdict == "not"}
    assert bad == set(none) - {"length", "sharpness"}
    said = lines("Bob", list(none.values()))
    assert len(said) == 3 and said[0] == "Bob: good: length, sharpness"
    assert said[1].startswith("Bob: lacking: open mouth, turning left and right (0° to 0°), nodding (0° to 0°), shut eyes, smile")
    assert said[2].startswith("Bob: for a better likeness film: say A E I O U, mouth wide open; look slowly left and right for ten seconds")
    assert all(line.count(";") <= 4 for line in said)  # five pieces of advice at most


@pytest.mark.parametrize(
    "what, well, little, none",
    [
        ("turning left and right", {"yaw": 16}, {"yaw": 8}, {"yaw": 5}),
        ("nodding", {"pitch": 11}, {"pitch": 6}, {"pitch": 3}),
        ("tilting", {"roll": 11}, {"roll": 6}, {"roll": 3}),
        ("open mouth", {"lips": 1.7}, {"lips": 1.0}, {"lips": 0.5}),
        ("smile", {"mouthSmile": 0.6}, {"mouthSmile": 0.35}, {"mouthSmile": 0.15}),
    ],
)
def test_how_much_is_enough(model, picture, what, well, little, none):
    for verdict, curves in (("well", well), ("little", little), ("not", none)):
        around = {"lips": WAVE, "mouthSmile": WAVE}
        curves = {k: v * around.get(k, 2 * WAVE - 1) for k, v in curves.items()}
        assert judged(model, make_person(model, **curves), picture)[what].verdict == verdict


def test_parts_of_an_item_are_judged_apart(model, picture):
    """Brows that are raised and never lowered; lips that never meet; a mouth that opens once; eyes that look up and down alone."""
    raised = judged(model, make_person(model, browInnerUp=0.9 * WAVE, browOuterUp=0.9 * WAVE), picture)["brows"]
    assert (raised.verdict, raised.film) == ("little", "frown")
    parted = judged(model, make_person(model, lips=0.8 + WAVE), picture)["open mouth"]
    assert parted.verdict == "little" and "never shut" in parted.seen and "shut lips" in parted.film
    rare = judged(model, make_person(model, lips=2.0 * (T < 0.05)), picture)["open mouth"]
    assert rare.verdict == "little" and rare.seen.startswith("5 % of the time")
    once = judged(model, make_person(model, eyeBlink=(np.abs(np.arange(FRAMES) - 600) < 3).astype(float)), picture)["shut eyes"]
    assert (once.verdict, once.seen) == ("little", "once")
    down = judged(model, make_person(model, eyeLookUp=0.7 * WAVE * (T > 0.5), eyeLookDown=0.7 * WAVE * (T <= 0.5)), picture)["gaze"]
    assert down.verdict == "little"


def test_single_frames_and_bad_ones_do_not_count(model, picture):
    glitch = np.isin(np.arange(FRAMES), (100, 500, 900))
    wild = make_person(model, yaw=60.0 * glitch, lips=2.0 * glitch, mouthSmile=1.0 * glitch)
    found = judged(model, wild, picture)
    assert {found[w].verdict for w in ("turning left and right", "open mouth", "smile")} == {"not"}
    bad = (T > 0.5) & (T < 0.8)  # a third of the frames shows somebody else
    other = make_person(model, yaw=40.0 * bad, lips=2.0 * bad * WAVE)
    found = judged(model, other, picture, ~bad)
    assert found["turning left and right"].seen == "0° to 0°" and found["open mouth"].verdict == "not"
    assert found["length"].seen == "28 s to learn from"
    short = {(s, judged(model, other, picture, np.arange(FRAMES) < 30 * s)["length"].verdict) for s in (20, 19, 7, 6)}
    assert short == {(20, "well"), (19, "little"), (7, "little"), (6, "not")}
    assert coverage(model, wild, np.zeros(FRAMES, bool), lambda i: picture) == []


def test_gaze_is_left_out_where_pupils_are_not_known(model, picture):
    person = make_person(model)
    person.landmarks[:, 68:] = np.nan
    assert "gaze" not in judged(model, person, picture)


def test_sharpness_is_that_of_the_face_whatever_its_size_and_light(model, picture):
    person = make_person(model)
    points = person.landmarks[0]
    own = sharpness(picture, points)
    blurs = [sharpness(cv2.GaussianBlur(picture, (0, 0), sigma), points) for sigma in (1, 2, 4)]
    assert own > 1.2 * blurs[0] > 1.4 * blurs[1] > 1.6 * blurs[2]
    dark = (picture * 0.4).astype(np.uint8)
    assert sharpness(dark, points) == pytest.approx(own, rel=0.1)
    double = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)  # the same detail in more pixels
    assert sharpness(double, 2 * points) == pytest.approx(own, rel=0.15)
    turn = cv2.getRotationMatrix2D((127.5, 127.5), 20, 1)
    turned = cv2.warpAffine(picture, turn, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    assert sharpness(turned, points @ turn[:, :2].T + turn[:, 2]) == pytest.approx(own, rel=0.2)  # resampled once more

    blurred = judged(model, person, cv2.GaussianBlur(picture, (0, 0), 4))["sharpness"]
    assert blurred.verdict == "not" and blurred.seen.startswith("blurred") and "more light" in blurred.film
    small = judged(model, person, picture, scale=0.4)["sharpness"]
    assert small.verdict == "not" and small.seen.startswith("sharp, face ") and small.film == "from closer"


def test_what_a_driver_does_more_is_said_by_group(model):
    names = list(model.expression_names)
    covered = np.array([np.zeros(len(names)), np.full(len(names), 0.1)])
    wanted = np.zeros((600, len(names)))
    assert expressions_beyond(wanted, covered, names) == []
    wanted[:200, names.index("jawOpen")] = 0.9
    wanted[:200, names.index("mouthSmile_L")] = 0.1 + BEYOND_MARGIN + 0.01
    wanted[:200, names.index("browDown_R")] = 0.1 + BEYOND_MARGIN - 0.01  # too little to be seen
    wanted[:4, names.index("eyeBlink_L")] = 1  # four frames: a mistake of the fit
    assert expressions_beyond(wanted, covered, names) == [OPENS_MOUTH, "smiles more"]
    wanted[:13, names.index("eyeBlink_L")] = 1
    assert expressions_beyond(wanted, covered, names)[-1] == "shuts the eyes further"
    assert expressions_beyond(wanted[:4], covered, names) == []


def test_the_record_comes_back_and_other_forms_are_left_out():
    shown = [Shown("smile", "well", "plain", "smile"), Shown("<b>", "not", "", "x & y")]
    assert from_record(to_record(shown)) == shown
    assert from_record([{"what": "smile"}, {**to_record(shown)[0], "verdict": "great"}, *to_record(shown)]) == shown
    assert block([]) == ""
    text = block([*shown, replace(shown[0], verdict="little", film="smile more")])
    assert "&lt;b&gt;" in text and "<b>" not in text and "To make it better, film: x &amp; y; smile more." in text
    assert text.count("class='shown ") == 3
