"""Datasets preprocessed by the original system (no dataset.json, no pair.json): what the preprocessing commands keep and make of them.

Training and testing on them: tests/test_wrappers.py.
"""

import shutil
import subprocess
import sys

import pytest
from fake_dataset import make_original
from fake_run import ROOT

from preprocessing.driving.people import unrecorded_face_model
from util.layout import Dataset, read_table


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Ann and Bob, and Bob driving Ann."""
    return make_original(tmp_path_factory.mktemp("original")).home.parent


def command(folder, file, *arguments, code=0):
    """Run a command on the dataset; returns what it printed."""
    places = ["--dataset_name", "fake", "--datasets_dir", str(folder)]
    done = subprocess.run([sys.executable, str(ROOT / file), *places, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def files_of(folder):
    return {p: p.read_bytes() for p in (folder / "fake").rglob("*") if p.is_file()}


def test_preprocessing_keeps_what_is_there_and_says_what_does_not_fit(original, tmp_path):
    shutil.copytree(original / "fake", tmp_path / "fake")
    before = files_of(tmp_path)
    assert "keeping the landmarks that are there" in command(tmp_path, "preprocessing/detect_landmarks70.py")
    assert "keeping the reconstruction that is there" in command(tmp_path, "preprocessing/reconstruct.py")
    pair = ["--source_id", "Bob", "--target_id", "Ann", "--face_model", "mesh478"]
    said = command(tmp_path, "preprocessing/reenact.py", *pair, code=1)
    assert "(157 identity, 30 expression) are not of the face model mesh478" in said and "reconstruct.py" in said
    # asked for more than the original had, the pair that is there is not what is wanted
    said = command(tmp_path, "preprocessing/reenact.py", *pair[:4], "--exaggerate", "1.2", code=1)
    assert "(157 identity, 30 expression) are not of the face model" in said
    assert files_of(tmp_path) == before

    # asked for by name, a face model replaces the reconstruction, from the original's 70 landmarks
    assert "landmark error" in command(tmp_path, "preprocessing/reconstruct.py", "--name", "Ann", "--face_model", "mesh478")
    data = Dataset.open("fake", tmp_path)
    sequence = data.sequence("test", "Ann")
    assert read_table(sequence.path("exp_coeffs", sequence.frames()[0])).shape[0] > 53 and data.read_record("Ann") is None
    assert [unrecorded_face_model(data, name, "test") for name in ("Ann", "Bob")] == ["mesh478", None]  # whatever auto stands for
    landmarks = sequence.path("landmarks70", sequence.frames()[0])
    assert landmarks.read_bytes() == before[landmarks]
