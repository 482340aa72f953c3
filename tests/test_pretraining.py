"""scripts/bench/pretraining.py: the derived datasets, and the command from end to end with tiny networks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_dataset import draw_frame, make_dataset, moving_landmarks
from fake_run import load_command

import train
from models.checkpoints import read_run_options
from preprocessing.face_models.registry import load_face_model, model_version
from scripts.bench import pretraining
from scripts.bench.frame_choice import CAPTION, GAP, PANEL, Subject
from util.cli import UserError
from util.geometry import FRONTAL
from util.image_io import read_image
from util.layout import Dataset, Run, write_camera, write_table

SIZE, TRAINED, TESTED = 32, 120, 12  # frames of each person
BAD = [40, 41, 42]  # of Ann's
TINY = "--loadSize 32 --ngf 4 --n_downsample_G 2 --n_blocks 1 --ndf 4 --num_D 1 --n_layers_D 1 --gpu_ids -1 --no_vgg --no_tensorboard "
TINY += "--niter 1 --niter_decay 0 --batch_size 1 --n_frames_total 3 --move_heads 0 --epoch_frames 0"
TINY += " --n_scales_temporal 0 --lambda_warp 0 --appearance"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root, model = tmp_path_factory.mktemp("datasets"), load_face_model("mesh478")
    for name in ("Ann", "Bob", "Cleo"):
        data = make_dataset(root, name, parts=2, part_length=TRAINED // 2, test_frames=TESTED, size=SIZE)
        for split in ("train", "test"):
            write_table(data.id_coeffs_path(split, name), np.zeros((len(model.identity_basis), 1)))
            for s in data.sequences(split, name):
                for frame in s.frames():
                    write_table(s.path("exp_coeffs", frame), np.zeros((len(model.expression_names), 1)))
                    write_camera(s.path("misc", frame), 1.2, FRONTAL, np.array([16.0, 16, 0]))
        record = replace(data.read_record(name), face_model={"name": "mesh478", "version": model_version("mesh478")})
        data.write_record(record.with_bad_frames("landmarks70", BAD, ["lost"] * len(BAD)) if name == "Ann" else record)
    return data


@pytest.fixture(scope="module")
def ann(dataset):
    return Subject.read(dataset, "Ann")


def shown(dataset, split, name):
    """The pictures of an identity's sequences."""
    return [[read_image(s.path("images", n)) for n in s.frames()] for s in dataset.sequences(split, name)]


def drawn(frames):
    return np.array([draw_frame(moving_landmarks(n, SIZE), SIZE)[0] for n in frames])


@pytest.mark.parametrize(
    ("count", "runs"),
    [
        (20, [(0, 20)]),
        (50, [(0, 40), (43, 53)]),  # over the frames that do not show her
        (100, [(0, 40), (43, 73), (73, 103)]),
        (117, [(0, 40), (43, 82), (82, 120)]),
    ],
)
def test_short_identities_hold_exactly_the_frames_asked_for(ann, tmp_path, count, runs):
    derived = Dataset.open("fake_short", tmp_path)
    case = pretraining.write_short(ann, derived, count)
    assert case.identity == f"Ann-{count}" and case.trained == count and derived.identities() == [f"Ann-{count}"]
    sequences = shown(derived, "train", case.identity)
    assert len(sequences) == len(runs)
    for pictures, (first, end) in zip(sequences, runs):
        np.testing.assert_array_equal(pictures, drawn(range(first, end)))
    # all test frames, whatever the length; those that lead there are not measured
    (pictures,) = shown(derived, "test", case.identity)
    assert case.measured.tolist() == list(range(count + GAP, count + GAP + TESTED))
    np.testing.assert_array_equal(pictures, drawn([TRAINED - GAP + i for i in range(GAP + TESTED)]))


def test_more_frames_than_there_are_cannot_be_had(ann, tmp_path):
    with pytest.raises(UserError, match="Ann has 117 usable training frames only; ask for no more by --frames"):
        pretraining.write_short(ann, Dataset.open("fake_short", tmp_path), 118)
    assert not (tmp_path / "fake_short").exists()


def test_others_are_learnt_from_alone_and_whole(dataset, tmp_path):
    derived = Dataset.open("fake_pretraining-Cleo", tmp_path)
    pretraining.write_others(dataset, derived, ["Ann", "Bob"])
    assert derived.identities() == ["Ann", "Bob"] and not shown(derived, "test", "Bob")
    np.testing.assert_array_equal(np.concatenate(shown(derived, "train", "Bob")), drawn(range(TRAINED + TESTED)))
    np.testing.assert_array_equal(np.concatenate(shown(derived, "train", "Ann")), drawn(n for n in range(TRAINED + TESTED) if n not in BAD))
    with pytest.raises(UserError, match="holds Bob too, of an earlier call with other --others; delete that folder"):
        pretraining.write_others(dataset, derived, ["Ann"])


# ---- the command ----


class OneAfterTheOther:
    """In place of ThreadPoolExecutor: signals are for the main thread."""

    def __init__(self, parallel):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        pass

    def map(self, do, items):
        return [do(item) for item in items]


def call(dataset, tmp_path, *arguments):
    places = [x for what in ("checkpoints", "results") for x in (f"--{what}_dir", str(tmp_path / what))]
    pretraining.main(["fake", "Ann", "--frames", "20", "--datasets_dir", str(dataset.home.parent), *places, *arguments])


@pytest.fixture
def commands(monkeypatch):
    """The project's commands are run in this process; which ones, with their arguments."""
    ran = []

    def run_commands(title, wanted, log, parallel):
        for command, *arguments in wanted:
            ran.append((command, arguments))
            (train if command == "train.py" else load_command(command)).main(arguments)
        return True

    monkeypatch.setattr(pretraining, "run_commands", run_commands)
    monkeypatch.setattr(pretraining, "ThreadPoolExecutor", OneAfterTheOther)
    return ran


def test_the_command_from_end_to_end(dataset, tmp_path, commands, capsys):
    options = [f"--pretrain={TINY} --seed 1", f"--train={TINY}", "--output", str(tmp_path / "out.json")]
    call(dataset, tmp_path, *options)
    printed = capsys.readouterr().out
    assert [c for c, _ in commands].count("train.py") == 3
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["target"] == "Ann" and found["others"] == ["Bob", "Cleo"] and list(found["lengths"]) == ["20"]
    assert found["pre-training"]["frames trained"] == 6 * 3  # of both, 132 frames in sequences of 44
    own = found["lengths"]["20"]
    assert own["frames"] == {"train": 20, "test": TESTED}
    assert own["scratch"]["frames trained"] == own["pre-trained"]["frames trained"] == 3
    assert own["nearest"]["APD-L2"] < min(own[start]["APD-L2"] for start in pretraining.STARTS)
    assert own["scratch"]["SSIM"] is not None and own["scratch"]["APD-L2"] != own["pre-trained"]["APD-L2"]
    assert read_image(tmp_path / "results/fake_short/now_Ann-20.png").shape == (4 * CAPTION + 3 * PANEL, 6 * PANEL, 3)
    assert "Ann, 20 frames                   scratch pre-trained     nearest" in printed

    pretrained = Run.open("fake_pretraining-Ann", "now", tmp_path / "checkpoints")
    assert read_run_options(pretrained)["identities"] == ["Bob", "Cleo"]
    for start, source in (("scratch", None), ("pretrained", str(pretrained.checkpoints))):
        run = Run.open("fake_short", f"now_Ann-20-{start}", tmp_path / "checkpoints")
        opt = read_run_options(run)
        assert opt["load_pretrain"] == source and opt["identities"] == ["Ann-20"]
        assert [path.stem for path in run.appearance_path("x").parent.iterdir()] == ["Ann-20"]  # the colours of its own person alone

    commands.clear()
    call(dataset, tmp_path, *options, "--skip_training")
    assert {c for c, _ in commands} == {"test.py", "scripts/evaluate.py"}
    assert json.loads((tmp_path / "out.json").read_text()) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parallel", "0"], "--parallel 0 must be at least 1"),
        (["--frames", "5"], "--frames 5 must be at least 10"),
        (["--recipe", "a/b"], "--recipe 'a/b' is no usable name"),
        (["--train=--ngf 8 --lr 1e-4"], r"ask for different networks \(ngf: 24 and 8\); give both the same"),
        (["--others", "Bob", "Ann"], "pre-training needs persons of fake other than Ann"),
        (["--others", "Dora"], "there is no identity 'Dora'"),
    ],
)
def test_mistakes_are_told_at_once(dataset, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        call(dataset, tmp_path, *arguments)
    assert not list(tmp_path.iterdir())
