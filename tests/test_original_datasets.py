"""Datasets preprocessed by the original system (no dataset.json, no pair.json): what the preprocessing commands keep and make of them.

Training and testing on them: tests/test_wrappers.py.
"""

import pytest
from fake_dataset import make_original

from preprocessing import detect_landmarks70, reconstruct, reenact
from preprocessing.driving.people import unrecorded_face_model
from util.cli import UserError
from util.layout import read_table


def files_of(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_preprocessing_keeps_what_is_there_and_says_what_does_not_fit(tmp_path, capsys):
    data = make_original(tmp_path)
    place = ["--dataset_name", "fake", "--datasets_dir", str(tmp_path)]
    pair = [*place, "--source_id", "Bob", "--target_id", "Ann"]
    before = files_of(data.home)
    detect_landmarks70.main(place)
    reconstruct.main(place)
    reenact.main(pair)
    said = "".join(capsys.readouterr())
    assert "keeping the landmarks that are there" in said and "keeping the reconstruction that is there" in said
    assert "the conditioning images that are there are kept" in said
    # what asks for more than the original had asks for other images
    for wish in (["--face_model", "mesh478"], ["--exaggerate", "1.2"]):
        with pytest.raises(UserError, match=r"\(157 identity, 30 expression\) are not of the face model .*reconstruct\.py"):
            reenact.main([*pair, *wish])
    assert files_of(data.home) == before

    # asked for by name, a face model replaces the reconstruction, from the original's 70 landmarks
    reconstruct.main([*place, "--name", "Ann", "--face_model", "mesh478"])
    assert "landmark error" in capsys.readouterr().out
    sequence = data.sequence("test", "Ann")
    assert read_table(sequence.path("exp_coeffs", sequence.frames()[0])).shape[0] > 53 and data.read_record("Ann") is None
    assert [unrecorded_face_model(data, name, "test") for name in ("Ann", "Bob")] == ["mesh478", None]  # whatever auto stands for
    landmarks = sequence.path("landmarks70", sequence.frames()[0])
    assert landmarks.read_bytes() == before[landmarks]
