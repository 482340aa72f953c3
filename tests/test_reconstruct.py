"""preprocessing/reconstruct.py by its real command: files, resuming, refusals; on real clips where they are."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_fitting import error as landmark_error
from test_fitting import make_video

from preprocessing.face_models import ict
from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.registry import default_files_dir, load_face_model
from preprocessing.render import create_renderer
from util.geometry import Cameras
from util.image_io import read_image, write_image
from util.layout import SPLITS, Dataset, Record, read_camera, read_table, write_table

ROOT = Path(__file__).resolve().parents[1]
CLIPS = ROOT.parent / "shared" / "clips"
TRAIN, TEST = 8, 6  # frames: two sequences of four, then one of six


def command(*words, script="reconstruct.py"):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, ROOT / "preprocessing" / script, *map(str, words)], capture_output=True, text=True, env=environment
    )


def reconstruct(dataset, *words):
    result = command("--dataset_name", dataset.home.name, "--datasets_dir", dataset.home.parent, "--renderer", "cpu", *words)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def make_identity(dataset, name, seed=0, record=True, dense=True):
    """Frames and landmarks of an identity as the two steps before leave them; the landmarks [N, 478, 3]."""
    seen = make_video(load_face_model("mesh478"), TRAIN + TEST, seed=seed)[0]
    plan = [(dataset.train_sequence(name, 0), 0, 4), (dataset.train_sequence(name, 1), 4, 4), (dataset.sequence("test", name), 8, TEST)]
    for sequence, first, count in plan:
        for frame in range(first, first + count):
            write_image(sequence.path("images", frame), np.full((240, 256, 3), frame, np.uint8))
            write_table(sequence.path("landmarks70", frame), from_dense(seen[frame]), precision=3)
        if dense:
            sequence.dense_landmarks_path.parent.mkdir(parents=True, exist_ok=True)
            np.save(sequence.dense_landmarks_path, seen[first : first + count])
    if record:
        steps = {"detect": {"of": "video"}, "landmarks70": {"of": "frames"}}
        dataset.write_record(Record(name, Fraction(30), splits={"train": TRAIN, "test": TEST}, steps=steps))
    return seen


def frames_of(dataset, name):
    return [(s, f) for split in SPLITS for s in dataset.sequences(split, name) for f in s.frames()]


def fitted_cameras(dataset, name):
    cameras = [read_camera(s.path("misc", f)) for s, f in frames_of(dataset, name)]
    return Cameras(*(np.array([c[i] for c in cameras]) for i in range(3)))


@pytest.fixture
def dataset(tmp_path):
    return Dataset.open("small", tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    dataset = Dataset.open("small", tmp_path_factory.mktemp("datasets"))
    seen = make_identity(dataset, "Ann")
    result = reconstruct(dataset, "--face_model", "mesh478")
    assert result.returncode == 0, result.stderr
    return dataset, seen, result


def test_files_and_their_meaning(done):
    dataset, seen, _ = done
    model = load_face_model("mesh478")
    identity = read_table(dataset.id_coeffs_path("train", "Ann"))[:, 0]
    assert identity.shape == (len(model.identity_basis),)
    assert dataset.id_coeffs_path("test", "Ann").read_bytes() == dataset.id_coeffs_path("train", "Ann").read_bytes()
    frames = frames_of(dataset, "Ann")
    assert len(frames) == TRAIN + TEST
    expression = np.stack([read_table(s.path("exp_coeffs", f))[:, 0] for s, f in frames])
    cameras = fitted_cameras(dataset, "Ann")
    points = cameras.project(model.landmarks(identity, expression))
    inner = np.linalg.norm(from_dense(points) - from_dense(seen), axis=-1)[:, 17:68]
    assert inner.mean() < 0.6  # pixels, of a face 100 wide
    # the picture is what the renderer draws of these files
    renderer = create_renderer("cpu", model.triangles, model.nmfc_colours(), (240, 256))
    for i in (0, 9):
        sequence, frame = frames[i]
        picture = read_image(sequence.path("nmfcs", frame))
        drawn = renderer.draw(model.in_image(identity, expression[i : i + 1], cameras[i : i + 1])[0])
        assert picture.shape == (240, 256, 3) and (picture == drawn).all(-1).mean() > 0.999
        assert 0.1 < picture.any(-1).mean() < 0.5


def test_record_and_message(done):
    dataset, _, result = done
    record = dataset.read_record("Ann")
    model = load_face_model("mesh478")
    assert record.face_model == {"name": "mesh478", "version": model.version}
    assert record.steps["reconstruct"]["landmarks70"] == {"of": "frames"}
    error = float(result.stdout.split("landmark error ")[1].split()[0])
    assert 0 < error < 0.008


def test_what_the_frames_show_is_told_and_kept(done, dataset):
    """Of the training frames; of a person without any, nothing. It is told again when nothing is left to do."""
    known, _, result = done
    shown = known.read_record("Ann").coverage
    by_name = {item["what"]: item for item in shown}
    assert by_name["length"]["seen"] == "0 s to learn from" and by_name["length"]["verdict"] == "not"  # 8 frames
    assert by_name["sharpness"]["seen"].startswith("blurred, face ")  # even pictures
    said = [line for line in result.stdout.splitlines() if re.match("Ann: (good|a little|lacking|for a better)", line)]
    assert 2 <= len(said) <= 4 and any("film: half a minute or more; " in line for line in said)
    again = reconstruct(known, "--face_model", "mesh478").stdout
    assert [line for line in again.splitlines() if line in said] == said
    # a reconstruction of before, which says nothing of it, is measured by its files
    record = known.read_record("Ann")
    known.write_record(replace(record, coverage=[]))
    assert [line for line in reconstruct(known, "--face_model", "mesh478").stdout.splitlines() if line in said] == said
    assert known.read_record("Ann") == record
    make_identity(dataset, "Bob")
    shutil.rmtree(dataset.folder / "train")
    dataset.write_record(replace(dataset.read_record("Bob"), splits={"test": TEST}))
    result = reconstruct(dataset, "--face_model", "mesh478")
    assert result.returncode == 0 and "for a better" not in result.stdout and dataset.read_record("Bob").coverage == []


def test_running_again_changes_nothing_and_an_interrupted_run_is_redone(done):
    dataset, *_ = done
    frames = frames_of(dataset, "Ann")
    stamp = frames[3][0].path("nmfcs", frames[3][1]).stat().st_mtime_ns
    again = reconstruct(dataset, "--face_model", "mesh478")
    assert again.returncode == 0 and "already complete" in again.stdout
    # auto keeps what the dataset has, whatever is installed
    again = reconstruct(dataset)
    assert again.returncode == 0 and "already complete" in again.stdout
    assert frames[3][0].path("nmfcs", frames[3][1]).stat().st_mtime_ns == stamp
    frames[5][0].path("misc", frames[5][1]).unlink()  # a file is lost
    assert "NMFC images" in reconstruct(dataset).stdout
    assert frames[5][0].path("misc", frames[5][1]).is_file()


def test_new_landmarks_are_fitted_again_and_later_steps_dropped(dataset):
    make_identity(dataset, "Ann")
    assert reconstruct(dataset, "--face_model", "mesh478").returncode == 0
    record = dataset.read_record("Ann")
    dataset.write_record(record.with_step("landmarks70", {"of": "other frames"}).with_step("reenact", {}))
    result = reconstruct(dataset)
    assert result.returncode == 0 and "already complete" not in result.stdout
    assert sorted(dataset.read_record("Ann").steps) == ["detect", "landmarks70", "reconstruct"]


def test_two_face_models_are_not_mixed(dataset):
    for name in ("Ann", "Anna"):
        make_identity(dataset, name)
        record = dataset.read_record(name)
        if name == "Anna":  # as if she had been reconstructed with the other model
            record = Record(**{**record.__dict__, "face_model": {"name": "ict", "version": "x"}}).with_step("reconstruct", {})
            dataset.write_record(record)
    result = reconstruct(dataset, "--name", "Ann", "--face_model", "mesh478")
    assert result.returncode == 1
    assert "'Anna'" in result.stderr and "--face_model ict" in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not dataset.id_coeffs_path("train", "Ann").exists()
    # all together may change
    assert reconstruct(dataset, "--face_model", "mesh478").returncode == 0
    assert {dataset.read_record(n).face_model["name"] for n in ("Ann", "Anna")} == {"mesh478"}


def test_a_dataset_of_the_original_system(dataset):
    """No dataset.json and no dense landmarks; what it holds already is kept unless a face model is named."""
    seen = make_identity(dataset, "Bob", record=False, dense=False)
    result = reconstruct(dataset, "--face_model", "mesh478")
    assert result.returncode == 0, result.stderr
    assert dataset.read_record("Bob") is None
    model = load_face_model("mesh478")
    identity = read_table(dataset.id_coeffs_path("test", "Bob"))[:, 0]
    expression = np.stack([read_table(s.path("exp_coeffs", f))[:, 0] for s, f in frames_of(dataset, "Bob")])
    points = fitted_cameras(dataset, "Bob").project(model.landmarks(identity, expression))
    assert np.linalg.norm(from_dense(points) - from_dense(seen), axis=-1)[:, 17:68].mean() < 1
    kept = reconstruct(dataset)
    assert kept.returncode == 0 and "keeping the reconstruction" in kept.stdout
    dataset.id_coeffs_path("test", "Bob").unlink()  # it is written last: the run was interrupted
    assert "keeping" not in reconstruct(dataset).stdout


def test_one_bad_identity_does_not_stop_the_others(dataset):
    make_identity(dataset, "Ann")
    make_identity(dataset, "Zoe")
    sequence = dataset.sequence("test", "Ann")
    np.save(sequence.dense_landmarks_path, np.zeros((3, 478, 3), np.float32))
    result = reconstruct(dataset, "--face_model", "mesh478")
    assert result.returncode == 1
    assert "1 of 2 identities failed (Ann" in result.stderr and "detect_landmarks70.py" in result.stderr
    assert "reconstruct" in dataset.read_record("Zoe").steps and "reconstruct" not in dataset.read_record("Ann").steps


@pytest.mark.parametrize("words", [("--face_model", "lsfm"), ("--name", "Nobody")])
def test_what_cannot_be_done_is_said_in_one_line(dataset, words):
    make_identity(dataset, "Ann")
    result = reconstruct(dataset, *words)
    assert result.returncode == 1 and result.stderr.startswith("error: ") and len(result.stderr.strip().splitlines()) == 1


def test_steps_before_are_demanded(dataset):
    result = reconstruct(dataset)
    assert result.returncode == 1 and "detect.py" in result.stderr
    make_identity(dataset, "Ann")
    dataset.write_record(dataset.read_record("Ann").without_steps("landmarks70"))
    result = reconstruct(dataset)
    assert result.returncode == 1 and "detect_landmarks70.py" in result.stderr
    make_identity(dataset, "Ann")
    for split in SPLITS:
        for s in dataset.sequences(split, "Ann"):
            np.save(s.dense_landmarks_path, np.full((len(s.frames()), 478, 3), np.nan, np.float32))
    result = reconstruct(dataset)
    assert result.returncode == 1 and "no frame has landmarks" in result.stderr


def test_parts_of_a_video_are_not_joined():
    from util.layout import continues

    dataset = Dataset.open("x", "/nowhere")
    frames = [(dataset.sequence("train", "a_000000"), i) for i in range(6)] + [(dataset.sequence("test", "a"), i) for i in range(6, 10)]
    record = Record("a", Fraction(30), sources=[{"frames": 3}, {"frames": 9}], source_start={"train": 0, "test": 6})
    assert np.flatnonzero(~continues(frames, record)).tolist() == [0, 3]
    assert np.flatnonzero(~continues(frames, None)).tolist() == [0]
    del frames[4]
    assert np.flatnonzero(~continues(frames, None)).tolist() == [0, 4]


@pytest.mark.clips
@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"the clips {CLIPS} are not here")
def test_a_real_clip_is_met_by_both_models(tmp_path):
    dataset = Dataset.open("real", tmp_path)
    common = ("--dataset_name", "real", "--datasets_dir", tmp_path)
    for script, words in (
        ("detect.py", ("--original_videos_path", CLIPS / "face_f_wide.mp4", "--split", "test")),
        ("detect_landmarks70.py", ()),
    ):
        result = command(*common, *words, script=script)
        assert result.returncode == 0, result.stderr
    limits = {"mesh478": 0.015}
    if ict.is_converted(default_files_dir()):
        limits["ict"] = 0.025
    for kind, limit in limits.items():
        result = reconstruct(dataset, "--face_model", kind)
        assert result.returncode == 0, result.stderr
        assert float(result.stdout.split("landmark error ")[1].split()[0]) < limit
        name = dataset.identities()[0]
        (sequence,) = dataset.sequences("test", name)
        assert sequence.frames("nmfcs") == sequence.frames() and len(sequence.frames()) >= 250  # no frame lost


def test_error_of_the_helper_is_the_measure():
    """What the command prints is the measure that test_fitting uses."""
    from preprocessing.fitting.video import fit_video
    from preprocessing.steps.reconstruction import landmark_error as measured

    model = load_face_model("mesh478")
    seen = make_video(model, 12)[0]
    fit = fit_video(model, seen)
    assert measured(model, fit, seen[..., :2], np.arange(478)) == pytest.approx(landmark_error(model, fit, seen), rel=1e-4)
