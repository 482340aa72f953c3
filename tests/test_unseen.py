"""scripts/bench/unseen.py: which frames are chosen, the datasets made of them, and the figures. Training itself: test_train.py."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from fake_dataset import draw_frame, make_dataset, moving_landmarks

from data.clips import ClipIndex, VideoDataset
from data.driving_sequence import DrivingSequence
from data.integrity import MIN_RUN
from options.train_options import parse as parse_training
from preprocessing.driving.motion import from_angles
from preprocessing.driving.openings import openings
from preprocessing.face_models.registry import load_face_model, model_version
from preprocessing.measures.pictures import nearest
from scripts.bench import unseen
from scripts.bench.frame_choice import (
    CAPTION,
    GAP,
    MAX_RUN,
    PANEL,
    Extent,
    Subject,
    Unsuitable,
    choose,
    draw,
    frames_of,
    preparation,
    stretches,
)
from util.cli import UserError
from util.geometry import FRONTAL
from util.image_io import read_image, write_image
from util.layout import Dataset, Run, write_camera, write_table
from util.results.evaluation import Evaluation, write_evaluation
from util.results.folder import Results
from util.results.frames import open_frames

SIZE, COUNT = 32, 260
PERIOD = 52  # frames from one wide mouth to the next


def jaw(frame):
    """How far the jaw is open: five waves, of which each is higher than the one before."""
    return max(0.0, math.sin(2 * math.pi * frame / PERIOD)) * (0.5 + 0.1 * (frame // PERIOD))


def yaw_deg(frame):
    return 12 * math.sin(2 * math.pi * frame / COUNT) + 2 * math.cos(frame / 9)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Ann speaks and turns her head, but for three frames that do not show her; Bob does neither."""
    root, model = tmp_path_factory.mktemp("datasets"), load_face_model("mesh478")
    for name in ("Ann", "Bob"):
        data = make_dataset(root, name, parts=4, part_length=50, test_frames=60, size=SIZE)
        for split in ("train", "test"):
            write_table(data.id_coeffs_path(split, name), np.zeros((len(model.identity_basis), 1)))
            for s in data.sequences(split, name):
                for frame in s.frames():
                    expression = np.zeros((len(model.expression_names), 1))
                    turn = np.eye(3)
                    if name == "Ann":
                        expression[model.expression_names.index("jawOpen")] = jaw(frame)
                        turn = from_angles(yaw_deg(frame), 0.0, 0.0)
                    write_table(s.path("exp_coeffs", frame), expression)
                    write_camera(s.path("misc", frame), 2.0, FRONTAL @ turn, np.array([16.0, 16, 0]))
        face_model = {"name": "mesh478", "version": model_version("mesh478")}
        bad = [100, 101, 102] if name == "Ann" else []
        data.write_record(replace(data.read_record(name), face_model=face_model).with_bad_frames("landmarks70", bad, ["lost"] * len(bad)))
    return data


@pytest.fixture(scope="module")
def ann(dataset):
    return Subject.read(dataset, "Ann")


# ---- the choice of frames ----


def test_stretches_end_where_frames_do_not_go_on():
    wanted = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1], bool)
    assert stretches(wanted, np.ones(9, bool)) == [(0, 2), (3, 6), (8, 9)]
    joined = np.array([0, 1, 1, 1, 1, 0, 1, 1, 1], bool)  # another shot begins with frame 5
    assert stretches(wanted, joined) == [(0, 2), (3, 5), (5, 6), (8, 9)]
    assert stretches(np.zeros(3, bool), np.ones(3, bool)) == []
    assert frames_of([(0, 2), (5, 7)]).tolist() == [0, 1, 5, 6] and len(frames_of([])) == 0


def ramp(*values_and_counts):
    size = np.concatenate([np.full(n, float(v)) for v, n in values_and_counts])
    return Extent(size, size <= 1, size > 2, {})


def test_choice_on_a_known_curve():
    """Frames near a tested stretch, short runs, bad frames and frames that are neither within nor beyond are not trained on."""
    extent = ramp((1, 130), (3, 20), (1, 12), (2, 40), (1, 10), (2, 30), (3, 6), (2, 30), (3, 4), (1, 9))
    count = len(extent.size)
    usable, joined = np.ones(count, bool), np.r_[False, np.ones(count - 1, bool)]
    usable[60] = False
    choice = choose(extent, usable, joined)
    assert choice.tested == [(130, 150), (242, 248), (278, 282)]
    # 130 - GAP; the 12 behind the first tested stretch are 9 without the gap, too few; the last 9 likewise; 202 to 212 is a run of MIN_RUN
    assert choice.restricted == [(0, 30), (30, 60), (61, 94), (94, 127), (202, 212)]
    assert all(b - a <= MAX_RUN for a, b in choice.restricted)
    oracle, tested = frames_of(choice.oracle), frames_of(choice.tested)
    assert len(oracle) == len(frames_of(choice.restricted)) == len(set(oracle.tolist()))
    assert 60 not in oracle and np.abs(oracle[:, None] - tested).min() == GAP + 1
    assert {1.0, 2.0} == set(extent.size[oracle])
    half = choose(extent, usable, joined, every=2)
    assert half.tested == [(130, 150), (278, 282)]
    assert any(choose(extent, usable, joined, 2, seed).oracle != half.oracle for seed in range(1, 3))
    assert any(3.0 in extent.size[frames_of(choose(extent, usable, joined, 2, seed).oracle)] for seed in range(9))


def test_no_run_goes_over_a_cut():
    extent = ramp((1, 120), (3, 30), (1, 30))
    joined = np.r_[False, np.ones(179, bool)]
    joined[[55, 140]] = False
    choice = choose(extent, np.ones(180, bool), joined)
    assert choice.tested == [(120, 140), (140, 150)]
    for runs in (choice.restricted, choice.oracle):
        assert not any(a < cut < b for a, b in runs for cut in (55, 140))


def test_too_few_frames_are_unsuitable():
    long = lambda *parts: (ramp(*parts), np.ones(sum(n for _, n in parts), bool), np.arange(sum(n for _, n in parts)) > 0)  # noqa: E731
    with pytest.raises(Unsuitable, match="67 frames to train on and 30 to test are too few"):
        choose(*long((1, 70), (3, 30)))
    with pytest.raises(Unsuitable, match="147 frames to train on and 8 to test"):
        choose(*long((1, 150), (3, 8)))


def test_oracle_draws_as_many_frames_in_runs_of_similar_length():
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges = np.cumsum(rng.integers(1, 90, 20))
        free = list(zip(edges[::2].tolist(), edges[1::2].tolist()))
        inside = [(a, b) for a, b in free if b - a >= MIN_RUN]
        lengths = [int(rng.integers(MIN_RUN, min(MAX_RUN, b - a) + 1)) for a, b in inside]
        runs = draw(free, lengths, rng)
        drawn = frames_of(runs)
        assert len(drawn) == sum(lengths) == len(set(drawn.tolist()))
        assert all(any(a <= first and end <= b for a, b in free) for first, end in runs)
        assert min(b - a for a, b in runs) >= MIN_RUN - 1 and max(b - a for a, b in runs) < MAX_RUN + MIN_RUN


def test_mouth_is_measured_by_the_fitted_gap(ann):
    extent, choice = ann.choose("mouth")
    lips = openings(ann.model, np.zeros(len(ann.model.identity_basis)))[2]
    slope = lips.slope[lips.opens]
    np.testing.assert_allclose(extent.size, [lips.rest + slope * jaw(n) for n in range(COUNT)], atol=1e-5)
    good = np.r_[0:100, 103:COUNT]
    assert extent.facts["tested_from_cm"] == pytest.approx(np.percentile(extent.size[good], 85))
    tested = frames_of(choice.tested)
    assert set(tested) == set(np.flatnonzero(extent.size > np.percentile(extent.size[good], 85)))
    assert [first // PERIOD for first, _ in choice.tested] == [1, 2, 3, 4]  # the first wave is too low
    assert (extent.size[frames_of(choice.restricted)] <= np.median(extent.size[good])).all()
    assert not set(range(100, 103)) & {*frames_of(choice.restricted), *frames_of(choice.oracle), *tested}


def test_pose_is_measured_in_its_range(ann):
    extent, choice = ann.choose("pose")
    angles = np.array([yaw_deg(n) for n in range(COUNT)])
    low, high = np.percentile(angles[np.r_[0:100, 103:COUNT]], (1, 99))
    np.testing.assert_allclose(extent.size, np.abs(angles - (low + high) / 2) / ((high - low) / 2), atol=1e-4)
    assert extent.size[frames_of(choice.tested)].min() > 0.8 and extent.size[frames_of(choice.restricted)].max() <= 0.5
    assert extent.facts["yaw_to_deg"] == pytest.approx(high, abs=1e-3) and extent.facts["pitch_to_deg"] == pytest.approx(0, abs=1e-3)


def test_who_hardly_moves_is_unsuitable(dataset):
    bob = Subject.read(dataset, "Bob")
    with pytest.raises(Unsuitable, match="the mouth hardly opens"):
        bob.choose("mouth")
    with pytest.raises(Unsuitable, match=r"the head hardly turns: .* 0\.0 degrees"):
        bob.choose("pose")


# ---- the datasets ----


def test_written_identities_are_accepted_and_hold_the_chosen_frames(ann, tmp_path):
    _, choice = ann.choose("mouth")
    derived = Dataset.open("fake_unseen", tmp_path)
    measured = ann.write(derived, "Ann-mouth", choice.restricted, choice.tested)
    ann.write(derived, "Ann-mouth-oracle", choice.oracle, choice.tested)
    assert derived.identities() == ["Ann-mouth", "Ann-mouth-oracle"]
    for name, runs in (("Ann-mouth", choice.restricted), ("Ann-mouth-oracle", choice.oracle)):
        videos = VideoDataset(derived, [name], SIZE, augment=False)
        assert videos.lengths == [b - a for a, b in runs]
        for i, (first, _) in enumerate(runs):
            clip = videos[ClipIndex(i, 2, 3, 0)]
            for k in range(3):
                np.testing.assert_array_equal(clip["image"][k], draw_frame(moving_landmarks(first + 2 + k, SIZE), SIZE)[0])

    sequence = DrivingSequence.open(derived, "Ann-mouth", None, SIZE)
    tested, record = frames_of(choice.tested), derived.read_record("Ann-mouth")
    assert record.splits == {"train": len(frames_of(choice.restricted)), "test": len(sequence)}
    assert sequence.numbers[0] == record.splits["train"] and len(sequence) == len(tested) + GAP * len(choice.tested)
    left_out = derived.bad_frames("Ann-mouth", "test", sequence.numbers)
    assert len(measured) == len(tested) and sorted([*measured, *left_out]) == sequence.numbers
    for number, place in zip(measured, tested):
        np.testing.assert_array_equal(
            read_image(sequence.sequence.path("images", number)), draw_frame(moving_landmarks(place, SIZE), SIZE)[0]
        )
    # what leads to a stretch is what comes before it
    before = sequence.sequence.path("images", measured[0] - 1).read_bytes()
    assert before == ann.frames.paths("images")[tested[0] - 1].read_bytes()
    # no measure over time goes from one stretch to another: between any two lie frames that do not count
    jumps = [n for n in sequence.numbers[1:] if n in record.shots]
    assert len(jumps) == len(choice.tested) - 1 and set(jumps) <= set(left_out)


def test_a_stretch_at_the_start_repeats_its_first_frame(ann, tmp_path):
    derived = Dataset.open("fake_unseen", tmp_path)
    measured = ann.write(derived, "Ann-x", [(30, 60)], [(1, 5)])
    test = derived.sequence("test", "Ann-x")
    paths = ann.frames.paths("images")
    assert [test.path("images", n).read_bytes() for n in range(30, 34)] == [paths[i].read_bytes() for i in (0, 0, 0, 1)]
    assert measured.tolist() == [33, 34, 35, 36]


def test_another_choice_replaces_the_identity_and_the_same_one_stays(ann, tmp_path):
    derived = Dataset.open("fake_unseen", tmp_path)
    ann.write(derived, "Ann-x", [(0, 20), (30, 60)], [(80, 90)])
    marked = derived.sequence("test", "Ann-x").path("nmfcs", 50)
    marked.unlink()
    assert ann.write(derived, "Ann-x", [(0, 20), (30, 60)], [(80, 90)]).tolist() == list(range(53, 63))
    assert not marked.exists()  # taken for complete, as its record says
    assert ann.write(derived, "Ann-x", [(0, 20)], [(80, 90)]).tolist() == list(range(23, 33))
    assert [s.frames() for s in derived.sequences("train", "Ann-x")] == [list(range(20))]
    assert derived.sequence("test", "Ann-x").frames("nmfcs") == list(range(20, 33))


def test_incomplete_preprocessing_is_told(tmp_path):
    make_dataset(tmp_path, "Cleo", parts=1)
    with pytest.raises(UserError, match="frames of 'Cleo' are not complete; run scripts/preprocess.py"):
        Subject.read(Dataset.open("fake", tmp_path), "Cleo")


# ---- the command ----


def call(dataset, tmp_path, *arguments):
    places = [x for what in ("checkpoints", "results") for x in (f"--{what}_dir", str(tmp_path / what))]
    unseen.main(["fake", "Ann", "Bob", "--kinds", "mouth", "--datasets_dir", str(dataset.home.parent), *places, *arguments])


def pretend(monkeypatch, tmp_path, values):
    """In place of the real commands: synthesised frames, and an evaluation with these mouth-APD-L2 of restricted and oracle."""

    def train_and_test(o, identity):
        data = Dataset.open("fake_unseen", o.datasets_dir)
        folder = Run.open("fake_unseen", f"{o.recipe}_{identity}", tmp_path / "checkpoints", tmp_path / "results").test_folder(identity)
        for n in data.sequence("test", identity).frames():
            for kind in ("real", "fake"):
                write_image(Results(folder).path(kind, n), np.full((SIZE, SIZE, 3), 200 if identity.endswith("oracle") else 100, np.uint8))
        evaluation = Evaluation(identity, None, [0, 1], SIZE)
        evaluation.values |= {"mouth-APD-L2": values[identity.endswith("oracle")], "SSIM": math.nan}
        evaluation.nearest["mouth-APD-L2"] = 30.0
        write_evaluation(folder, evaluation)
        return True

    monkeypatch.setattr(unseen, "train_and_test", train_and_test)


def test_figures_are_collected_and_compared_with_an_earlier_recipe(dataset, tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, tmp_path, (20.0, 15.0))
    call(dataset, tmp_path, "--output", str(tmp_path / "before.json"))
    printed = capsys.readouterr().out
    assert "Bob, mouth: unsuitable, the mouth hardly opens" in printed
    pretend(monkeypatch, tmp_path, (17.0, 14.0))
    call(dataset, tmp_path, "--recipe", "new", "--before", str(tmp_path / "before.json"), "--output", str(tmp_path / "now.json"))
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("mouth-APD-L2")]
    assert line.split() == ["mouth-APD-L2", "17.00", "14.00", "30.00", "0.60"]
    persons = json.loads((tmp_path / "now.json").read_text())["persons"]
    own = persons["Ann"]["mouth"]
    assert "unsuitable" in persons["Bob"]["mouth"]
    assert own["restricted"] == {"APD-L2": None, "MAPD-L2": None, "mouth-APD-L2": 17.0, "SSIM": None, "eye-landmarks": None}
    assert (
        own["oracle"]["mouth-APD-L2"] == 14 and own["nearest"]["mouth-APD-L2"] == 30 and own["way"] == {"mouth-APD-L2": pytest.approx(0.6)}
    )
    assert own["frames"] == {k: len(frames_of(own["chosen"][v])) for k, v in (("train", "restricted"), ("test", "tested"))}
    assert own["frames"]["train"] == len(frames_of(own["chosen"]["oracle"])) and own["farthest_trained"]["restricted"] < own["least_tested"]
    picture = read_image(tmp_path / "results/fake_unseen/new_Ann-mouth.png")
    side, caption = PANEL, CAPTION
    assert picture.shape == (4 * caption + 3 * side, 6 * side, 3)
    assert (picture[-side:] == 200).all() and (picture[-2 * side - caption : -side - caption] == 100).all()
    other = json.loads((tmp_path / "before.json").read_text())
    other["persons"]["Ann"]["mouth"]["chosen"]["tested"].pop()
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"other\.json is of other frames of Ann \(mouth\)"):
        call(dataset, tmp_path, "--before", str(tmp_path / "other.json"))


def test_a_network_that_fails_is_told_and_stops_no_other(dataset, tmp_path, capsys):
    with pytest.raises(UserError, match="2 of 2 networks failed"):
        call(dataset, tmp_path, "--skip_training")
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" failed ")[0] for line in told] == ["warning: test.py of Ann-mouth", "warning: test.py of Ann-mouth-oracle"]
    assert all("there is no checkpoint" in line for line in told)


def test_way_is_told_only_where_there_is_one():
    now = {"restricted": {"MAPD-L2": 9.0, "mouth-APD-L2": None}}
    before = {"restricted": {"MAPD-L2": 10.0, "mouth-APD-L2": 20.0}, "oracle": {"MAPD-L2": 12.0, "mouth-APD-L2": 15.0}}
    assert unseen.way(before, now) == {} and unseen.way({}, now) == {}
    before["oracle"]["MAPD-L2"] = 8.0
    assert unseen.way(before, now) == {"MAPD-L2": 0.5}


def test_evaluation_takes_the_nearest_of_the_restricted_frames_and_counts_tested_ones_alone(ann, tmp_path):
    """The real evaluation on a derived identity: the real frames themselves as if they were synthesised."""
    _, choice = ann.choose("mouth")
    derived = Dataset.open("fake_unseen", tmp_path)
    measured = ann.write(derived, "Ann-mouth", choice.restricted, choice.tested)
    folder = tmp_path / "results"
    test = derived.sequence("test", "Ann-mouth")
    for n in test.frames():
        write_image(Results(folder).path("fake", n), read_image(test.path("images", n)))
    with open_frames(folder, tmp_path, "fake_unseen", "Ann-mouth") as frames:
        assert np.array(frames.numbers)[frames.counted].tolist() == measured.tolist()
        evaluation = Evaluation("Ann-mouth", None, [0, 1], SIZE, values={"APD-L2": 0.0})
        nearest(evaluation, frames, np.zeros((len(frames.numbers), 70, 2)) + SIZE / 2)
    assert evaluation.nearest["APD-L2"] > 0


def test_preparation_is_told_what_the_training_needs():
    preview = preparation(parse_training(["--dataset_name", "D", "--preset", "preview", "--gpu_ids", "-1"]))
    assert " ".join(preview).startswith("--loadSize 128 --gpu_ids -1 --workers 0 --heads --flow none")
    full = preparation(parse_training(["--dataset_name", "D", "--preset", "published", "--flow", "dis", "--move_heads", "0"]))
    assert " ".join(full).startswith("--loadSize 256 --gpu_ids auto --workers 0 --no_heads --flow dis")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parallel", "0"], "--parallel 0 must be at least 1"),
        (["--recipe", "a/b"], "--recipe 'a/b' is no usable name"),
        (["--train=--loadSize 17"], "loadSize"),
        (["--before", "nothere.json"], "there is no nothere.json"),
    ],
)
def test_mistakes_are_told_at_once(dataset, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        call(dataset, tmp_path, "--only_prepare", *arguments)
