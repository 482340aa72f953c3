"""util/results/frames.py: frames to measure are found as pictures, in videos, or in the dataset."""

import json
import shutil

import numpy as np
import pytest
from fake_dataset import draw_frame, make_dataset, moving_landmarks

from util.cli import UserError
from util.face.eye_gaze import draw_eye_gaze
from util.image_io import read_image, write_image
from util.results.folder import Results
from util.results.frames import find_folders, open_frames
from util.results.panels import write_videos

FRAMES = list(range(16, 22))


def make_results(root, size=64, gaze=True, id="Ann"):
    data = make_dataset(root, "Ann", size=size)
    results = Results(root / "results" / "fake" / "head2head_Ann" / "latest_epoch" / "test" / id)
    results.begin()
    for n in FRAMES:
        landmarks = moving_landmarks(n, size)
        image, nmfc = draw_frame(landmarks, size)
        pictures = {"real": image, "nmfc": nmfc, "fake": np.clip(image.astype(int) + n - 10, 0, 255).astype(np.uint8)}
        if gaze:
            pictures["eye_gaze"] = draw_eye_gaze(landmarks, size)
        for kind, picture in pictures.items():
            write_image(results.path(kind, n), picture)
    facts = {"dataset_name": "fake", "datasets_dir": str(root), "target": "Ann", "source": None, "size": size}
    results.finish({**facts, "frames": [FRAMES[0], FRAMES[-1]], "kinds": list(pictures)})
    return data, results


def test_pictures_are_taken_as_they_are(tmp_path):
    _, results = make_results(tmp_path)
    with open_frames(results.folder) as frames:
        assert (frames.target, frames.source, frames.numbers, frames.size, frames.notes) == ("Ann", None, FRAMES, 64, [])
        for kind in ("real", "fake", "nmfc"):
            np.testing.assert_array_equal(frames.read(kind, 2), read_image(results.path(kind, 18)))


@pytest.mark.parametrize("gaze", [True, False])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("size", [64, 256])
def test_a_video_alone_will_do(tmp_path, size, marked, gaze):
    """all.mp4 came back from another machine, with or without complete.json; the dataset is here, or not."""
    _, results = make_results(tmp_path, size, gaze)
    write_videos(results, "all")
    kept = {kind: [read_image(results.path(kind, n)) for n in FRAMES] for kind in ("real", "fake", "nmfc")}
    for kind in ("real", "nmfc", "eye_gaze", "fake"):
        shutil.rmtree(results.folder / kind, ignore_errors=True)
    if not marked:
        (results.folder / "complete.json").unlink()
    with open_frames(results.folder, datasets_dir=tmp_path) as frames:
        assert frames.numbers == FRAMES and frames.target == "Ann"
        assert any("cut from a video" in note for note in frames.notes)
        assert frames.size == (size if marked else 256)
        if frames.size == size:
            for i in range(len(FRAMES)):
                assert np.abs(frames.read("fake", i).astype(int) - kept["fake"][i]).mean() < 4  # the codec's
                np.testing.assert_array_equal(frames.read("real", i), kept["real"][i])  # of the dataset
    with open_frames(results.folder, datasets_dir=tmp_path / "nowhere") as frames:
        assert frames.dataset is None and set(frames.paths) == {"real", "fake", "nmfc"}
        if frames.size == size:
            for kind in kept:
                assert np.abs(frames.read(kind, 1).astype(int) - kept[kind][1]).mean() < 6
            assert ((frames.read("nmfc", 1) > 0).any(-1) == (kept["nmfc"][1] > 0).any(-1)).mean() > 0.96
        places = frames.paths["fake"]
    assert not places[0].exists()  # temporary pictures are gone


def test_other_videos(tmp_path):
    _, results = make_results(tmp_path)
    write_videos(results, "source_target_separate")
    shutil.rmtree(results.folder / "fake")
    with open_frames(results.folder) as frames:
        assert len(frames.paths["fake"]) == 6 and frames.paths["real"][0].parent.name == "real"


def test_a_driven_pairs_frames(tmp_path):
    data, _ = make_results(tmp_path)
    _, results = make_results(tmp_path, id="Ann_Bob")
    (results.folder / "complete.json").unlink()
    shutil.rmtree(results.folder / "real")
    shutil.copytree(data.sequence("test", "Ann").folder("images"), data.folder / "test" / "source_images" / "Ann_Bob")
    with open_frames(results.folder, datasets_dir=tmp_path) as frames:
        assert (frames.target, frames.source, frames.driven) == ("Ann", "Bob", True)
        assert frames.paths["real"][0].parent.parent.name == "source_images"


def test_what_is_missing_is_said(tmp_path):
    _, results = make_results(tmp_path)
    with pytest.raises(UserError, match="no results' folder"), open_frames(tmp_path / "none"):
        pass
    results.path("fake", 18).unlink()
    with pytest.raises(UserError, match="frames are missing"), open_frames(results.folder):
        pass
    shutil.rmtree(results.folder / "fake")
    with pytest.raises(UserError, match="neither fake/"), open_frames(results.folder):
        pass
    elsewhere = tmp_path / "x"
    write_image(elsewhere / "fake" / "000000.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="--dataset_name and --target_id"), open_frames(elsewhere):
        pass
    with open_frames(elsewhere, dataset_name="fake", target="Ann", datasets_dir=tmp_path) as frames:
        assert set(frames.paths) == {"fake"}  # the dataset has no frame 0 in test
    with pytest.raises(UserError, match="holds no results"):
        find_folders(tmp_path / "datasets")


def test_folders_are_found_below(tmp_path):
    _, results = make_results(tmp_path)
    assert find_folders(tmp_path / "results") == [results.folder] == find_folders(results.folder)
    write_videos(results, "only_fake")
    shutil.rmtree(results.folder / "fake")
    assert find_folders(tmp_path / "results") == [results.folder]
    assert json.loads((results.folder / "complete.json").read_text())["target"] == "Ann"
