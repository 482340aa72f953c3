"""Datasets preprocessed by the original system (no dataset.json, no pair.json) train and test as they are, by the real commands."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fake_dataset import make_dataset
from fake_run import ROOT

from models.checkpoints import PUBLISHED_OPTIONS, save_weights
from models.networks import build_generator
from util.image_io import read_image
from util.layout import Dataset, Run, read_table, write_camera, write_table

TINY = "--preset preview --loadSize 64 --ngf 4 --n_blocks 1 --ndf 4 --max_minutes 0.05 --move_heads 0 --no_tensorboard --gpu_ids -1"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two persons with everything that the original wrote: images, NMFCs, landmarks, cameras, LSFM's coefficients, and Bob driving Ann."""
    folder = tmp_path_factory.mktemp("original")
    rng = np.random.default_rng(0)
    for name in ("Ann", "Bob"):
        data = make_dataset(folder, name, record=False)
        for split in ("train", "test"):
            write_table(data.id_coeffs_path(split, name), rng.standard_normal((157, 1)))
            for s in data.sequences(split, name):
                for frame in s.frames():
                    write_table(s.path("exp_coeffs", frame), rng.standard_normal((30, 1)))
                    write_camera(s.path("misc", frame), 2e-4, np.diag([1.0, -1, -1]), np.array([32.0, 32, 0]))
    pair, driver = data.pair("Ann", "Bob"), data.sequence("test", "Bob")
    for frame in driver.frames():
        for kind in ("images", "nmfcs", "landmarks70"):
            copy = pair.path(f"source_{kind}", frame)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(driver.path(kind, frame), copy)
    return folder


def command(folder, file, *arguments, code=0):
    """Run a command on the dataset; returns what it printed."""
    places = ["--dataset_name", "fake", "--datasets_dir", str(folder)]
    done = subprocess.run([sys.executable, str(ROOT / file), *places, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def files_of(folder):
    return {p: p.read_bytes() for p in (folder / "fake").rglob("*") if p.is_file()}


def test_train_and_test(original, tmp_path):
    before = files_of(original)
    runs = ["--checkpoints_dir", str(tmp_path / "runs")]
    # --n_scales_temporal and the warp loss: flow between the original's frames is computed as well
    command(original, "train.py", "--target_id", "Ann", *runs, *TINY.split(), "--n_scales_temporal", "1", "--lambda_warp", "10")
    run = Run.open("fake", "head2head_Ann", tmp_path / "runs", tmp_path / "results")
    options = json.loads(run.options_path.read_text())
    assert options["face_model"] is None and options["identities"] == ["Ann"]

    tested = ["--target_id", "Ann", *runs, "--results_dir", str(tmp_path / "results"), "--gpu_ids", "-1"]
    assert "MAPD-L2" in command(original, "test.py", *tested)
    command(original, "test.py", *tested, "--source_id", "Bob")
    data = Dataset.open("fake", original)
    for id, kind in (("Ann", "images"), ("Ann_Bob", "source_images")):
        folder, frames = run.test_folder(id), data.sequence("test", id).frames(kind)
        assert len(frames) == 6 and sorted(p.stem for p in (folder / "fake").glob("*.png")) == [f"{f:06d}" for f in frames]
        fake = read_image(folder / "fake" / f"{frames[0]:06d}.png")
        assert fake.shape == (64, 64, 3) and fake.std() > 5
        assert (folder / "index.html").is_file() and (folder / "all.mp4").is_file()
    after = files_of(original)
    assert {p: after[p] for p in before} == before  # what the original made stays as it is
    assert {p.parent.parent.name for p in after.keys() - before.keys()} == {"flows"}


def test_a_checkpoint_of_the_original_on_its_dataset(original, tmp_path):
    """Nothing but latest_net_G.pth and the original's opt.txt: the published network's shapes, at their full depth."""
    run = Run.open("fake", "head2head_Ann", tmp_path / "runs")
    run.checkpoints.mkdir(parents=True)
    save_weights(build_generator({**PUBLISHED_OPTIONS, "ngf": 8}), run.network_path("G"))
    run.options_path.write_text(
        "------------ Options -------------\nloadSize: 64\nngf: 8\nno_prev_output: False\n-------------- End ---------\n"
    )
    places = ["--checkpoints_dir", str(tmp_path / "runs"), "--results_dir", str(tmp_path / "results")]
    command(original, "test.py", "--target_id", "Ann", *places, "--gpu_ids", "-1", "--no_report")
    assert len(list((tmp_path / "results/fake/head2head_Ann/latest_epoch/test/Ann/fake").glob("*.png"))) == 6


def test_preprocessing_keeps_what_is_there_and_says_what_does_not_fit(original, tmp_path):
    shutil.copytree(original / "fake", tmp_path / "fake")
    before = files_of(tmp_path)
    assert "keeping the landmarks that are there" in command(tmp_path, "preprocessing/detect_landmarks70.py")
    assert "keeping the reconstruction that is there" in command(tmp_path, "preprocessing/reconstruct.py")
    pair = ["--source_id", "Bob", "--target_id", "Ann", "--face_model", "mesh478"]
    said = command(tmp_path, "preprocessing/reenact.py", *pair, code=1)
    assert "(157 identity, 30 expression) are not of the face model mesh478" in said and "reconstruct.py" in said
    assert files_of(tmp_path) == before

    # asked for by name, a face model replaces the reconstruction, from the original's 70 landmarks
    assert "landmark error" in command(tmp_path, "preprocessing/reconstruct.py", "--name", "Ann", "--face_model", "mesh478")
    data = Dataset.open("fake", tmp_path)
    sequence = data.sequence("test", "Ann")
    assert read_table(sequence.path("exp_coeffs", sequence.frames()[0])).shape[0] > 53 and data.read_record("Ann") is None
    landmarks = sequence.path("landmarks70", sequence.frames()[0])
    assert landmarks.read_bytes() == before[landmarks]
