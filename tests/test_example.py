"""example.py: from a run's folder alone, copied elsewhere, and a video to a video."""

import shutil
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from fake_run import SIZE, make_run
from synthetic_videos import face_frame, write_video
from test_retarget import make_person

import example
from models.checkpoints import read_run_options, write_run_options
from preprocessing.driving.profile import TargetProfile
from preprocessing.face_models.registry import load_face_model
from util.cli import UserError
from util.face.appearance import CELLS, Appearance
from util.image_io import write_bytes
from util.layout import Run
from util.video.reading import probe, read_frames

FPS = Fraction(10)
COUNT = 36  # frames: three seconds that are looked at first, and some more


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run, copied to where there is no dataset."""
    root = tmp_path_factory.mktemp("trained")
    model = load_face_model("mesh478")
    files, _, _ = make_run(root, "Ann", face_model={"name": model.name, "version": model.version})
    profile = TargetProfile.of(model, make_person(model, 1), "Ann")
    write_bytes(files.profile_path("Ann"), profile.to_bytes())
    alone = tmp_path_factory.mktemp("elsewhere") / "ann"
    shutil.copytree(files.checkpoints, alone)
    shutil.rmtree(root)
    return alone


def driver_frames():
    """A portrait that goes from left to right; in three frames nobody is seen."""
    for i in range(COUNT):
        yield face_frame((320, 240), (130 + 2 * i, 120), 1.0) if i not in (20, 21, 22) else np.full((240, 320, 3), 128, np.uint8)


def test_a_video_drives_a_person_from_the_runs_folder_alone(folder, tmp_path):
    source, output = write_video(tmp_path / "driver.mp4", driver_frames(), FPS), tmp_path / "ann.mp4"
    example.main([str(folder), str(source), str(output)])
    made = list(read_frames(output))
    assert len(made) == COUNT and made[0].shape == (SIZE, SIZE, 3) and probe(output).fps == FPS
    assert any((a != b).any() for a, b in zip(made, made[1:]))


def test_the_head_follows(folder, monkeypatch):
    """With a network that hands its NMFC image on, frames from an iterable."""

    class Mirror:
        def step(self, nmfc, gaze):
            assert gaze.shape == nmfc.shape and gaze.any()
            return nmfc

    monkeypatch.setattr(example, "load_synthesizer", lambda *_, **__: Mirror())
    made = list(example.drive_person(folder, driver_frames(), FPS))
    assert len(made) == COUNT
    columns = np.array([np.nonzero(image.any((0, 2)))[0].mean() for image in made])
    assert np.corrcoef(columns, np.arange(COUNT))[0, 1] > 0.9
    assert np.abs(np.diff(columns[19:23])).max() < 0.3  # nobody is seen: it keeps still


def test_a_run_that_draws_with_the_persons_colours(folder, tmp_path, monkeypatch):
    alone = tmp_path / "ann"
    shutil.copytree(folder, alone)
    files, colours = Run(alone, alone), np.zeros((CELLS**3, 3), np.uint8)
    write_run_options(files, {**read_run_options(files), "appearance": True})
    write_bytes(files.appearance_path("Ann"), Appearance(colours).to_bytes())
    given = []

    def record(*_, appearance):
        given.append(appearance)
        return SimpleNamespace(step=lambda nmfc, gaze: nmfc)

    monkeypatch.setattr(example, "load_synthesizer", record)
    next(example.drive_person(alone, driver_frames(), FPS))
    assert np.array_equal(given[0].colours, colours)
    files.appearance_path("Ann").unlink()
    with pytest.raises(UserError, match=r"Ann\.npz is missing: the generator needs the colours"):
        next(example.drive_person(alone, driver_frames(), FPS))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda alone: shutil.rmtree(alone / "profiles"), r"does not hold one target profile \(but none\).*write_profile\.py"),
        (lambda alone: shutil.copy(alone / "profiles" / "Ann.npz", alone / "profiles" / "Bob.npz"), "Ann, Bob"),
        (lambda alone: (alone / "latest_net_G.pth").unlink(), "there is no checkpoint"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_in_words(folder, tmp_path, change, message):
    alone = tmp_path / "ann"
    shutil.copytree(folder, alone)
    change(alone)
    with pytest.raises(UserError, match=message):
        next(example.drive_person(alone, driver_frames(), FPS))


def test_a_driver_without_a_face_is_refused_in_words(folder, tmp_path):
    blank = [np.full((240, 320, 3), 128, np.uint8)] * 12
    with pytest.raises(UserError, match="a face is seen in 0 of the driver's first 12 frames"):
        next(example.drive_person(folder, iter(blank), FPS))
    with pytest.raises(SystemExit, match="python example.py checkpoints"):
        example.main([str(folder)])
