"""preprocessing/reenact.py by its real command: files of a pair, resuming, refusals, files that drive; on real clips where they are."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fake_run import load_command, make_run
from test_motion import write_csv
from test_retarget import make_person

from preprocessing import reenact
from preprocessing.driving.driver import read_motion
from preprocessing.driving.filters import steady_motion
from preprocessing.driving.heads import Person
from preprocessing.driving.landmarks import mesh_landmarks
from preprocessing.driving.motion import head_rotation, to_angles
from preprocessing.driving.people import find_frames, identity_motion, read_person
from preprocessing.driving.profile import TargetProfile
from preprocessing.driving.retarget import drive
from preprocessing.face_models.registry import load_face_model
from preprocessing.render import create_renderer
from util.cli import UserError
from util.face.landmarks import eye_openings, mouth_opening
from util.geometry import angle_between_deg
from util.image_io import read_image, write_image
from util.layout import Dataset, Record, read_table, write_camera, write_table

ROOT = Path(__file__).resolve().parents[1]
CLIPS = ROOT.parent / "shared" / "clips"
TRAIN, FRAMES = 80, 120
SIZE = 256


@pytest.fixture(scope="module")
def model():
    return load_face_model("mesh478")


def write_identity(dataset, model, name, person: Person, fps=Fraction(30), record=True):
    """An identity as reconstruct.py leaves it: 80 frames in train, 40 in test. Frames are noise, so that none repeats another."""
    rng = np.random.default_rng(0)
    plan = [(dataset.train_sequence(name, i), range(40 * i, 40 * i + 40)) for i in range(2)]
    plan.append((dataset.sequence("test", name), range(TRAIN, FRAMES)))
    for sequence, frames in plan:
        for f in frames:
            noise = rng.integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8)
            write_image(sequence.path("images", f), np.kron(noise, np.ones((8, 8, 1), np.uint8)))
            write_table(sequence.path("landmarks70", f), person.landmarks[f], precision=3)
            write_table(sequence.path("exp_coeffs", f), person.expression[f][:, None])
            c = person.cameras
            write_camera(sequence.path("misc", f), c.scale[f], c.rotation[f], c.translation[f])
    for split in ("train", "test"):
        write_table(dataset.id_coeffs_path(split, name), person.identity[:, None])
    if record:
        steps = {"detect": {"of": name}, "landmarks70": {}, "reconstruct": {"of": name}}
        face_model = {"name": model.name, "version": model.version}
        dataset.write_record(Record(name, fps, splits={"train": TRAIN, "test": FRAMES - TRAIN}, face_model=face_model, steps=steps))


@pytest.fixture
def place(tmp_path, model):
    """A dataset of Ann and Bob."""
    dataset = Dataset.open("small", tmp_path)
    people = {"Ann": make_person(model, 1, eye_size=0.2, scale=0.9), "Bob": make_person(model, 0)}
    for name, person in people.items():
        write_identity(dataset, model, name, person, Fraction(25) if name == "Ann" else Fraction(30))
    return dataset, people


def run(dataset, *words):
    """The command in this process."""
    return reenact.main(
        ["--dataset_name", dataset.home.name, "--datasets_dir", str(dataset.home.parent), "--renderer", "cpu", *map(str, words)]
    )


def part(person, frames):
    return replace(
        person,
        expression=person.expression[frames],
        cameras=person.cameras[frames],
        landmarks=person.landmarks[frames],
        joined=np.arange(FRAMES)[frames] > frames.start,
    )


def expected(model, people, **options):
    """Ann's head driven by Bob's test frames, by the functions."""
    source, target = part(people["Bob"], slice(TRAIN, FRAMES)), part(people["Ann"], slice(0, TRAIN))
    profile = TargetProfile.of(model, target)
    return drive(model, profile, steady_motion(read_motion(model, source), source.joined, model.expression_bounds), **options)


@pytest.mark.parametrize("mode", ["head", "face"])
def test_the_pair_is_drawn_as_the_functions_say(place, model, mode):
    dataset, people = place
    assert run(dataset, "--source_id", "Bob", "--target_id", "Ann", *(["--keep_target_pose"] if mode == "face" else [])) == 0
    pair, sequence = dataset.read_pair("Ann", "Bob"), dataset.pair("Ann", "Bob")
    assert pair.complete and pair.mode == mode and pair.fps == 30 and pair.frames == [TRAIN, FRAMES - 1]
    assert pair.driver == {"kind": "identity", "split": "test"} and pair.target_split == "train"
    assert pair.target_frames[:7] == [0, 1, 2, 2, 3, 4, 5]  # at 25 frames a second
    driven = expected(model, people, poses=np.array(pair.target_frames) if mode == "face" else None)
    if mode == "face":
        np.testing.assert_array_equal(driven.cameras.scale, people["Ann"].cameras.scale[pair.target_frames])
    drawer = create_renderer("cpu", model.triangles, model.nmfc_colours(), (SIZE, SIZE))
    for kind in ("source_images", "source_nmfcs", "source_landmarks70"):
        assert sequence.frames(kind) == list(range(TRAIN, FRAMES))
    for f in (TRAIN, 100, FRAMES - 1):
        i = slice(f - TRAIN, f - TRAIN + 1)
        drawn = drawer.draw(model.in_image(people["Ann"].identity, driven.expression[i], driven.cameras[i])[0])
        assert (read_image(sequence.path("source_nmfcs", f)) == drawn).all(-1).mean() > 0.995  # coefficients are rounded in files
        np.testing.assert_allclose(read_table(sequence.path("source_landmarks70", f)), driven.landmarks[f - TRAIN], atol=0.02)
        bob = dataset.sequence("test", "Bob").path("images", f)
        assert sequence.path("source_images", f).read_bytes() == bob.read_bytes()


def test_the_motion_is_in_the_files(place, model):
    """Without the functions' help: what a reader of the files sees is Bob's motion on Ann."""
    dataset, people = place
    run(dataset, "--source_id", "Bob", "--target_id", "Ann")
    sequence = dataset.pair("Ann", "Bob")
    made = np.stack([read_table(sequence.path("source_landmarks70", f)) for f in range(TRAIN, FRAMES)])
    bob = people["Bob"].landmarks[TRAIN:]
    for measure in (
        mouth_opening,
        lambda x: eye_openings(x)[:, 0],
        lambda x: eye_openings(x)[:, 1],
        lambda x: np.ptp(x[:, :17, 0], axis=1),
    ):
        assert np.corrcoef(measure(made), measure(bob))[0, 1] > 0.95
    places = [x[:, [0, 16]].mean((0, 1)) for x in (made, people["Ann"].landmarks[:TRAIN])]  # beside the ears, where a turn moves little
    assert np.abs(places[0] - places[1]).max() < 20  # where Ann's head is


def test_running_again_and_changing_the_mind(place, capsys):
    dataset, _ = place
    words = ["--source_id", "Bob", "--target_id", "Ann"]
    run(dataset, *words)
    sequence = dataset.pair("Ann", "Bob")
    path = sequence.path("source_nmfcs", 90)
    stamp = path.stat().st_mtime_ns
    run(dataset, *words)
    assert "already complete" in capsys.readouterr().out and path.stat().st_mtime_ns == stamp
    run(dataset, *words, "--exaggerate", "1.5")
    assert "already" not in capsys.readouterr().out
    plain = read_image(path)
    run(dataset, *words, "--edit", "jawOpen=1")
    assert (read_image(path) != plain).any()
    run(dataset, *words, "--no_eye_gaze")
    assert sequence.frames("source_landmarks70") == [] and len(sequence.frames("source_nmfcs")) == FRAMES - TRAIN
    run(dataset, *words)
    path.unlink()  # a file is lost
    run(dataset, *words)
    assert path.is_file()
    record = dataset.read_record("Bob")  # Bob is reconstructed again
    dataset.write_record(record.with_step("reconstruct", {"of": "other"}))
    capsys.readouterr()
    run(dataset, *words)
    assert "already" not in capsys.readouterr().out


def test_an_interrupted_pair_is_not_taken_for_whole(place, tmp_path, monkeypatch):
    dataset, _ = place
    real, calls = reenact.write_image, []

    def interrupt(path, image):
        calls.append(path)
        if len(calls) == 20:
            raise KeyboardInterrupt
        real(path, image)

    monkeypatch.setattr(reenact, "write_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, "--source_id", "Bob", "--target_id", "Ann")
    assert not dataset.read_pair("Ann", "Bob").complete and dataset.pair("Ann", "Bob").frames("source_nmfcs")
    from data.driving_sequence import DrivingSequence

    with pytest.raises(UserError, match=r"no complete conditioning images .*reenact\.py"):
        DrivingSequence.open(dataset, "Ann", "Bob", SIZE)
    monkeypatch.undo()
    run(dataset, "--source_id", "Bob", "--target_id", "Ann")
    assert len(list(DrivingSequence.open(dataset, "Ann", "Bob", SIZE))) == FRAMES - TRAIN


def test_options_of_placement_and_split(place, model):
    dataset, people = place
    run(
        dataset,
        "--source_id",
        "Bob",
        "--target_id",
        "Ann",
        "--no_scale_or_translation_adaptation",
        "--split_s",
        "train",
        "--split_t",
        "test",
        "--no_limit_pose",
    )
    pair = dataset.read_pair("Ann", "Bob")
    assert pair.frames == [0, TRAIN - 1] and pair.target_split == "test" and set(pair.target_frames) <= set(range(TRAIN, FRAMES))
    made = np.stack([read_table(dataset.pair("Ann", "Bob").path("source_landmarks70", f)) for f in range(TRAIN)])
    centre = made[:, 36:48].mean(1) - people["Bob"].landmarks[:TRAIN, 36:48].mean(1)
    assert np.abs(centre).max() < 12 and np.ptp(centre, axis=0).max() < 10  # where Bob's are, in each frame


def test_a_file_drives(place, tmp_path, model, capsys):
    dataset, people = place
    curves = {"JawOpen": lambda t: 0.3 - 0.3 * np.cos(6 * t), "HeadYaw": lambda t: 0.3 * np.sin(3 * t), "EyeLookOutLeft": lambda t: t % 1}
    take = write_csv(tmp_path / "my take.csv", 121, **curves)
    template = tmp_path / "motion.json"
    run(dataset, "--drive", take, "--target_id", "Ann", "--save_template", template)
    pair, sequence = dataset.read_pair("Ann", "my take"), dataset.pair("Ann", "my take")
    assert pair.driver["kind"] == "arkit" and pair.driver["file"] == str(take) and pair.fps == 25 and pair.frames == [0, 50]
    assert sequence.frames("source_nmfcs") == list(range(51)) and not sequence.folder("source_images").exists()
    made = np.stack([read_table(sequence.path("source_landmarks70", f)) for f in range(51)])
    t = np.arange(51) / 25
    turned = (made[:, 30, 0] - made[:, [36, 45], 0].mean(1)) / np.linalg.norm(made[:, 36] - made[:, 45], axis=1)
    assert np.corrcoef(turned, np.sin(3 * t))[0, 1] > 0.98  # to the subject's left is to the picture's right
    assert np.corrcoef(mouth_opening(made), -np.cos(6 * t))[0, 1] > 0.95
    left = (made[:, 69] - made[:, [42, 45]].mean(1))[:, 0]
    assert np.corrcoef(left, t % 1)[0, 1] > 0.8

    run(dataset, "--drive", template, "--target_id", "Ann")
    again = np.stack([read_table(dataset.pair("Ann", "motion").path("source_landmarks70", f)) for f in range(51)])
    np.testing.assert_allclose(again, made, atol=0.1)
    assert dataset.read_pair("Ann", "motion").driver["kind"] == "template"
    # a motion may be saved alone
    run(dataset, "--source_id", "Bob", "--save_template", tmp_path / "bob.json")
    run(dataset, "--drive", tmp_path / "bob.json", "--target_id", "Ann")
    run(dataset, "--source_id", "Bob", "--target_id", "Ann")
    for f in range(FRAMES - TRAIN):
        a = read_table(dataset.pair("Ann", "bob").path("source_landmarks70", f))
        np.testing.assert_allclose(a, read_table(dataset.pair("Ann", "Bob").path("source_landmarks70", TRAIN + f)), atol=0.1)
    assert set(json.loads((tmp_path / "bob.json").read_text())) == {
        *("format", "version", "face_model", "person", "consent", "fps", "expression_names", "rotation", "zoom", "shift"),
        *("expression", "pupils", "lids", "lips"),
    }


def test_turns_that_the_target_never_made_are_pointed_out(place, tmp_path, capsys):
    dataset, _ = place
    take = write_csv(tmp_path / "far.csv", 61, HeadYaw=lambda t: 1.2 * np.sin(6 * t))
    run(dataset, "--drive", take, "--target_id", "Ann")
    warning = capsys.readouterr().err
    assert "the head turns further than Ann's own frames show: yaw -68 to 68 degrees" in warning and "pitch" not in warning
    run(dataset, "--drive", take, "--target_id", "Ann", "--keep_target_pose")
    assert "further" not in capsys.readouterr().err


def test_turns_are_eased_in_the_files(place, tmp_path, capsys):
    """A driver who turns by 68 degrees: the drawn head turns less, and as far with --no_limit_pose; the pair is made again for that."""
    dataset, _ = place
    take = write_csv(tmp_path / "far.csv", 61, HeadYaw=lambda t: 1.2 * np.sin(6 * t))
    turned, eased = [], "it is eased, to at most 20 degrees more (--no_limit_pose: not)"
    for words, told in (((), eased), (["--no_limit_pose"], "expect faults there")):
        run(dataset, "--drive", take, "--target_id", "Ann", *words)
        assert f"are known; {told}; film Ann turning further, or use --keep_target_pose" in capsys.readouterr().err
        points = [read_table(dataset.pair("Ann", "far").path("source_landmarks70", f)) for f in range(25)]
        turned.append(max((p[30, 0] - p[[36, 45], 0].mean()) / np.linalg.norm(p[8] - p[27]) for p in points))
    assert 0.1 < turned[0] < 0.8 * turned[1]


def test_expressions_that_the_target_never_made_are_pointed_out(place, model, capsys):
    """Once, in one sentence; not for what the target does as well, nor for single frames."""
    dataset, people = place
    run(dataset, "--source_id", "Bob", "--target_id", "Ann", "--split_s", "train")
    assert "the driver" not in capsys.readouterr().err  # Bob does what Ann does
    calm = people["Ann"].expression.copy()
    calm[:, [model.expression_names.index(f"mouthSmile_{side}") for side in "LR"]] = 0
    calm[:, model.expression_names.index("jawOpen")] *= 0.1
    write_identity(dataset, model, "Cid", replace(people["Ann"], expression=calm))
    for words, end in (((), ", or hold the mouth with --limit_mouth"), (["--limit_mouth"], "How to film)")):
        run(dataset, "--source_id", "Bob", "--target_id", "Cid", "--split_s", "train", *words)
        (said,) = [line for line in capsys.readouterr().err.splitlines() if "the driver" in line]
        assert said.startswith("warning: the driver opens the mouth further and smiles more than Cid ever does in the training frames; ")
        assert "film Cid doing so (README.md, How to film)" in said and said.endswith(end)
    rare = people["Ann"].expression.copy()
    rare[::40, model.expression_names.index("browDown_L")] = 1.0
    write_identity(dataset, model, "Dan", replace(people["Ann"], expression=rare))
    capsys.readouterr()
    run(dataset, "--source_id", "Dan", "--target_id", "Ann", "--split_s", "train", "--no_smoothing")
    assert "frowns" not in capsys.readouterr().err


def test_a_file_without_head_rotation_says_so(place, tmp_path, capsys):
    dataset, _ = place
    still = write_csv(tmp_path / "still.csv", 7, JawOpen=lambda t: 3 * t)
    tabs = tmp_path / "tabs.TSV"
    tabs.write_text(write_csv(tmp_path / "turns.csv", 7, HeadRoll=lambda t: t).read_text().replace(",", "\t"))
    words = "warning: no head rotation in still.csv: the head looks straight ahead all the time; --keep_target_pose takes the target's own"
    for take, more, told in ((still, (), True), (still, ("--keep_target_pose",), False), (tabs, (), False)):
        run(dataset, "--drive", take, "--target_id", "Ann", *more)
        messages = capsys.readouterr().err
        assert messages.startswith(words) == told and messages.count("warning") == told
    assert dataset.read_pair("Ann", "tabs").driver["kind"] == "arkit"
    run(dataset, "--drive", still, "--save_template", tmp_path / "still.json")
    assert words in capsys.readouterr().err
    # what cannot be read leaves no pair behind
    for name in ("bad.csv", "bad.json"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(UserError, match=name):
            run(dataset, "--drive", tmp_path / name, "--target_id", "Ann")
    assert dataset.read_pair("Ann", "bad") is None and not dataset.pair("Ann", "bad").folder("source_nmfcs").exists()


def test_a_dataset_of_the_original_system(tmp_path, model):
    """It has no records: the coefficients say whether they are the face model's."""
    dataset = Dataset.open("old", tmp_path)
    for k, name in enumerate(("Ann", "Bob")):
        write_identity(dataset, model, name, make_person(model, k), record=False)
    run(dataset, "--source_id", "Bob", "--target_id", "Ann", "--face_model", "mesh478")
    assert dataset.read_pair("Ann", "Bob").complete
    write_table(dataset.id_coeffs_path("train", "Ann"), np.zeros((157, 1)))
    with pytest.raises(UserError, match="not of the face model mesh478; run preprocessing/reconstruct.py"):
        run(dataset, "--source_id", "Bob", "--target_id", "Ann", "--face_model", "mesh478")


@pytest.mark.parametrize(
    "words, prepare, message",
    [
        (["--target_id", "Ann", "--source_id", "Cid"], None, "no identity 'Cid' .* it holds: Ann, Bob"),
        (["--source_id", "Bob"], None, "nothing to do"),
        (["--target_id", "Ann", "--drive", "none.csv"], None, "no file none.csv"),
        (["--target_id", "Ann", "--source_id", "Bob", "--edit", "nose=1"], None, "no expression 'nose'"),
        (["--target_id", "Ann", "--source_id", "Bob", "--exaggerate", "-1"], None, "--exaggerate -1.0"),
        (["--target_id", "Ann", "--source_id", "Bob", "--face_model", "ict"], None, "mesh478, not ict; run preprocessing/reconstruct.py"),
        (
            ["--target_id", "Ann", "--source_id", "Bob"],
            lambda d: d.write_record(d.read_record("Bob").without_steps("reconstruct")),
            "'Bob' is not reconstructed completely; run preprocessing/reconstruct.py",
        ),
        (
            ["--target_id", "Ann", "--source_id", "Bob"],
            lambda d: d.write_record(replace(d.read_record("Bob"), face_model={"name": "mesh478", "version": "0"})),
            "version 0 of mesh478, now it is",
        ),
        (
            ["--target_id", "Ann", "--source_id", "Bob"],
            lambda d: d.sequence("test", "Bob").path("exp_coeffs", 99).unlink(),
            "not reconstructed completely",
        ),
        (
            ["--target_id", "Ann", "--source_id", "Bob"],
            lambda d: d.sequence("test", "Bob").path("misc", 99).write_text("1 2 3"),
            "is not a camera",
        ),
        (
            ["--target_id", "Ann", "--source_id", "Bob"],
            lambda d: [p.unlink() for p in d.sequence("test", "Bob").folder("images").iterdir()],
            "no frames in test; use --split_s train",
        ),
    ],
)
def test_mistakes_are_said(place, words, prepare, message):
    dataset, _ = place
    if prepare:
        prepare(dataset)
    with pytest.raises(UserError, match=message):
        run(dataset, *words)
    assert not (dataset.folder / "test" / "source_nmfcs").exists()


def test_the_command_line_and_the_wrappers(place, tmp_path):
    dataset, _ = place
    make_run(tmp_path, "Ann", dataset="small", loadSize=64, face_model=dataset.read_record("Ann").face_model)
    places = ["--datasets_dir", ".", "--checkpoints_dir", "checkpoints", "--results_dir=results", "--gpu_ids", "-1", "--how_many", "4"]
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # taken where the checkout has no .venv
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PATH": own}
    for script, mode in (("test_reenactment", "head"), ("test_face_reenactment", "face")):
        wrapper = ["bash", str(ROOT / f"scripts/test/{script}_from_source_to_target.sh")]
        words = ["Bob", "Ann", "small", *places, "--edit", "jawOpen=+0.1", "--renderer=cpu"]
        done = subprocess.run([*wrapper, *words], cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert dataset.read_pair("Ann", "Bob").mode == mode
        folder = tmp_path / "results/small/head2head_Ann/latest_epoch/test/Ann_Bob"
        assert len(list((folder / "fake").glob("*.png"))) == 4 and (folder / "all.mp4").is_file()
        assert subprocess.run([*wrapper, "--help"], capture_output=True).returncode == 0
    usage = subprocess.run([*wrapper, "Ann", "small"], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage:" in usage.stderr
    words = ["--dataset_name", "small", "--datasets_dir", str(tmp_path), "--source_id", "Bob", "--target_id", "Cid"]
    wrong = subprocess.run([sys.executable, str(ROOT / "preprocessing/reenact.py"), *words], capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: there is no identity 'Cid'") and wrong.stderr.count("\n") == 1


def test_the_table_of_figures(place, tmp_path, capsys):
    dataset, _ = place
    bench = load_command("scripts/bench/reenact.py")
    bench.main(["--dataset_name", "small", "--datasets_dir", str(dataset.home.parent), "--output", str(tmp_path / "table.json")])
    table = json.loads((tmp_path / "table.json").read_text())
    assert set(table) == {f"{a} -> {b}, {m}" for a, b in (("Ann", "Bob"), ("Bob", "Ann")) for m in ("head", "face")}
    for figures in table.values():
        moving = [figures["correlation"][k] for k in bench.CURVES if figures["spread"][k] >= bench.CURVES[k]]
        assert len(moving) >= 5 and min(moving) > 0.95
        assert figures.get("scale", 0) <= 1.001
    assert "0 below 0.95" in capsys.readouterr().out


@pytest.mark.clips
@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"the clips {CLIPS} are not here")
def test_a_real_pair(tmp_path, model):
    """Two people's clips through the whole chain: the motion arrives, steadier than it came, at the target's size."""
    common = ("--dataset_name", "real", "--datasets_dir", str(tmp_path))
    for name in ("faced", "facec"):
        clip = CLIPS / f"{name[:-1]}_{name[-1]}.mp4"
        for script, words in (
            ("detect.py", ("--original_videos_path", clip)),
            ("detect_landmarks70.py", ("--name", name)),
            ("reconstruct.py", ("--name", name, "--face_model", "mesh478")),
        ):
            done = subprocess.run(
                [sys.executable, ROOT / "preprocessing" / script, *common, *map(str, words)], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
    dataset = Dataset.open("real", tmp_path)
    said = {name: {i["what"]: i["verdict"] for i in dataset.read_record(name).coverage} for name in ("faced", "facec")}
    assert said["facec"]["open mouth"] == said["faced"]["smile"] == said["faced"]["sharpness"] == "well"  # as one sees
    assert {said[name]["turning left and right"] for name in said} | {said["faced"]["shut eyes"]} == {"not"}
    bench = load_command("scripts/bench/reenact.py")
    bench.main([*common, "--output", str(tmp_path / "table.json")])
    for name, figures in json.loads((tmp_path / "table.json").read_text()).items():
        low = {k: v for k, v in figures["correlation"].items() if figures["spread"][k] >= bench.CURVES[k] and v < 0.95}
        assert not low, (name, low)
        assert figures["jitter_mesh"] < 0.9
        if "scale" in figures:
            assert figures["scale"] <= 1 and figures["jitter_rotation"] < 0.95
    # as files: the drawn face is the target's in size and place, its eyes on its lids
    run(dataset, "--source_id", "faced", "--target_id", "facec")
    person = read_person(dataset, find_frames(dataset, "facec", "train", ""), model)
    source = read_person(dataset, find_frames(dataset, "faced", "test", ""), model)
    sequence = dataset.pair("facec", "faced")
    covered = [read_image(sequence.path("source_nmfcs", f)).any(-1).mean() for f in sequence.frames("source_nmfcs")[::10]]
    own = [read_image(s.path("nmfcs", s.frames()[0])).any(-1).mean() for s in dataset.sequences("train", "facec")]
    assert 0.85 < np.mean(covered) / np.mean(own) < 1.15
    motion = identity_motion(dataset, find_frames(dataset, "faced", "test", ""), model, True)
    driven = drive(model, TargetProfile.of(model, person), motion)
    mesh = mesh_landmarks(model, person.identity, driven.expression, driven.cameras)
    assert np.linalg.norm(driven.landmarks - mesh, axis=-1)[:, [36, 39, 42, 45]].mean() < 2
    assert angle_between_deg(head_rotation(driven.cameras), head_rotation(source.cameras)).max() < 2
    assert np.isfinite(to_angles(head_rotation(driven.cameras))).all()
