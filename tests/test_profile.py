"""Target profiles: what they hold, as a file, from a dataset, and reenactment with nothing but the profile."""

import io
import json
import shutil
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
from fake_dataset import make_dataset
from fake_run import load_command, make_run
from test_reenact import FRAMES, TRAIN, run, write_identity
from test_retarget import make_person

import train
from preprocessing.driving.driver import read_motion
from preprocessing.driving.people import load_profile, profile_of_dataset
from preprocessing.driving.profile import TargetProfile
from preprocessing.driving.retarget import drive
from preprocessing.face_models.registry import load_face_model
from util.cli import UserError
from util.image_io import read_image, write_bytes
from util.layout import Dataset, read_table, write_table


@pytest.fixture(scope="module")
def model():
    return load_face_model("mesh478")


@pytest.fixture(scope="module")
def profile(model):
    return TargetProfile.of(model, make_person(model, 1, scale=0.8, noise_px=0.15), "Ann", [10, -5, 310, 295])


@pytest.fixture
def place(tmp_path, model):
    """A dataset of Ann and Bob, and a run that was trained on Ann, with her profile."""
    dataset = Dataset.open("small", tmp_path / "datasets")
    for k, name in enumerate(("Ann", "Bob")):
        write_identity(dataset, model, name, make_person(model, k))
    record = dataset.read_record("Ann")
    dataset.write_record(replace(record, crop_box=[1, 2, 257, 258]))
    files, _, _ = make_run(tmp_path, "Ann", dataset="small", face_model=record.face_model)
    write_bytes(files.profile_path("Ann"), profile_of_dataset(dataset, "Ann").to_bytes())
    return dataset, files


def same(a, b):
    for f in fields(TargetProfile):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if f.name == "cameras":
            for key in ("scale", "rotation", "translation"):
                np.testing.assert_array_equal(getattr(x, key), getattr(y, key))
        elif isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        else:
            assert x == y and type(x) is type(y)


def test_the_statistics_are_those_of_the_frames(model, profile):
    person = make_person(model, 1, scale=0.8, noise_px=0.15)
    assert profile.scale == person.cameras.scale.mean() and len(profile.cameras) == len(profile.numbers) == FRAMES
    places = person.cameras.translation[:, :2] / person.cameras.scale[:, None]
    np.testing.assert_array_equal(profile.place, places.mean(0))
    assert profile.turns_deg[0, 0] == pytest.approx(-18, abs=1) and profile.turns_deg[0, 1] == pytest.approx(18, abs=1)  # yaw
    jaw = model.expression_names.index("jawOpen")
    assert profile.expression_range[0, jaw] == 0 and profile.expression_range[1, jaw] == pytest.approx(0.7)
    assert np.abs(profile.offsets).max() < 0.02  # cm: the detected landmarks are the mesh's but for noise
    np.testing.assert_allclose(profile.seen_gaps, profile.mean_gaps, atol=0.01)
    assert (profile.usual_gaps > profile.mean_gaps).all()  # blinks


def test_a_profile_comes_back_to_the_bit_and_drives_the_same(model, profile):
    again = TargetProfile.from_bytes(profile.to_bytes(), "ann.npz")
    same(again, profile)
    assert profile.to_bytes() == again.to_bytes()  # the same content is the same file
    assert again.load_model().name == "mesh478"
    motion = read_motion(model, make_person(model, 0))
    for poses in (None, np.arange(FRAMES)):
        a, b = (drive(model, p, motion, poses) for p in (profile, again))
        np.testing.assert_array_equal(a.expression, b.expression)
        np.testing.assert_array_equal(a.landmarks, b.landmarks)


def test_profiles_of_before_do_not_know_the_mouth(profile):
    """They are read all the same, and hold no mouth."""
    with np.load(io.BytesIO(profile.to_bytes())) as stored:
        content = dict(stored)
    facts = json.loads(str(content["facts"]))
    assert facts.pop("widest_lips") == profile.widest_lips > 0.5
    file = io.BytesIO()
    np.savez(file, **{**content, "facts": json.dumps(facts)})
    old = TargetProfile.from_bytes(file.getvalue(), "old.npz")
    assert old.widest_lips == np.inf
    same(TargetProfile.from_bytes(old.to_bytes(), "again.npz"), old)
    same(replace(old, widest_lips=profile.widest_lips), profile)


def changed(data, **arrays):
    with np.load(io.BytesIO(data)) as stored:
        content = dict(stored)
    facts = json.loads(str(content["facts"]))
    for key, value in arrays.items():
        if key in facts:
            facts[key] = value
        elif value is None:
            del content[key]
        else:
            content[key] = value
    file = io.BytesIO()
    np.savez(file, **{**content, "facts": json.dumps(facts)})
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"text",
        lambda data: changed(data, version=2),
        lambda data: changed(data, format="something"),
        lambda data: changed(data, offsets=None),
        lambda data: changed(data, offsets=np.zeros((68, 3))),
        lambda data: changed(data, place=np.array([1, np.nan])),
        lambda data: changed(data, fps="0/0"),
        lambda data: changed(data, camera_scale=np.zeros(0)),
        lambda data: changed(data, identity=np.array([{}], dtype=object)),
    ],
)
def test_a_damaged_profile_is_refused_in_words(profile, damage):
    with pytest.raises(UserError, match=r"^some/ann\.npz is damaged or of another version .*scripts/write_profile\.py"):
        TargetProfile.from_bytes(damage(profile.to_bytes()), "some/ann.npz")


def test_another_version_of_the_face_model_is_refused(profile):
    with pytest.raises(UserError, match="version 0 of the face model mesh478, now it is"):
        replace(profile, face_model_version="0").load_model()


def test_a_profile_from_a_dataset(place, model, capsys):
    dataset, files = place
    profile = profile_of_dataset(dataset, "Ann")
    assert profile.name == "Ann" and profile.fps == 30 and profile.size == 256 and profile.crop_box == (1, 2, 257, 258)
    assert profile.split == "train" and profile.numbers.tolist() == list(range(TRAIN))
    stored = files.profile_path("Ann")
    assert stored == files.checkpoints / "profiles" / "Ann.npz"
    same(load_profile(stored), profile)
    stored.unlink()
    with pytest.raises(UserError, match="no target profile .*scripts/write_profile.py"):
        load_profile(stored)
    command = load_command("scripts/write_profile.py").main
    words = ["--dataset_name", "small", "--target_id", "Ann", "--datasets_dir", str(dataset.home.parent)]
    command([*words, "--checkpoints_dir", str(files.checkpoints.parents[1])])
    same(load_profile(stored), profile)
    with pytest.raises(UserError, match="there is no run .*head2head_Ann"):
        command([*words, "--checkpoints_dir", str(dataset.home)])


def test_a_finished_run_gets_lost_profiles_again(place, capsys):
    dataset, files = place
    path = files.profile_path("Ann")
    whole = path.read_bytes()
    for damage in (lambda: path.write_bytes(whole[:500]), path.unlink):
        damage()
        train.write_profiles(dataset, ["Ann"], files, lost_only=True)
        assert path.read_bytes() == whole
        assert "Ann.npz was missing or damaged: written anew from the dataset" in capsys.readouterr().err
    before = path.stat().st_mtime_ns
    train.write_profiles(dataset, ["Ann"], files, lost_only=True)
    assert path.stat().st_mtime_ns == before and not capsys.readouterr().err


def test_training_data_without_a_profile_is_said_once(tmp_path, model, capsys):
    """A dataset of the original system: the coefficients tell the face model; unknown ones make no profile, and no failure."""
    dataset = Dataset.open("old", tmp_path)
    write_identity(dataset, model, "Ann", make_person(model, 0), record=False)
    profile = profile_of_dataset(dataset, "Ann")
    assert profile.face_model == "mesh478" and profile.crop_box == () and profile.fps == Fraction(25)
    assert capsys.readouterr().out == ""
    write_table(dataset.id_coeffs_path("train", "Ann"), np.zeros((157, 1)))
    assert profile_of_dataset(dataset, "Ann") is None
    said = capsys.readouterr().out
    assert said.startswith("Ann: no target profile is made") and said.count("\n") == 1 and "of no face model that is here" in said
    make_dataset(tmp_path, "Cid")  # without fitted coefficients
    assert profile_of_dataset(Dataset.open("fake", tmp_path), "Cid") is None
    assert "not reconstructed completely" in capsys.readouterr().out
    assert profile_of_dataset(dataset, "Dan") is None
    assert "no identity 'Dan'" in capsys.readouterr().out


def files_of(dataset):
    """All files of the pair Ann_Bob, and its record."""
    sequence = dataset.pair("Ann", "Bob")
    kinds = ("source_images", "source_nmfcs", "source_landmarks70")
    content = {(k, n): sequence.path(k, n).read_bytes() for k in kinds for n in sequence.frames(k)}
    return content, dataset.read_pair("Ann", "Bob")


def remove_frames(dataset, name):
    for split in ("train", "test"):
        for folder in (dataset.folder / split).iterdir():
            for path in folder.glob(f"{name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(dataset.record_path(name).parent)


@pytest.mark.parametrize("mode", ["head", "face"])
def test_the_profile_alone_gives_the_same_pair(place, mode, capsys):
    dataset, files = place
    words = ["--source_id", "Bob", "--target_id", "Ann", *(["--keep_target_pose"] if mode == "face" else [])]
    run(dataset, *words)
    before, pair = files_of(dataset)
    shutil.rmtree(dataset.folder / "metadata" / "Ann_Bob")
    shutil.rmtree(dataset.folder / "test" / "source_nmfcs")
    remove_frames(dataset, "Ann")
    assert dataset.identities() == ["Bob"]
    # the default place is below checkpoints_dir; --target_run names any folder
    run(dataset, *words, "--checkpoints_dir", files.checkpoints.parents[1])
    after, again = files_of(dataset)
    assert after == before and len(after) == 3 * (FRAMES - TRAIN)
    assert replace(again, made_from={}) == replace(pair, made_from={})
    capsys.readouterr()
    run(dataset, *words, "--target_run", files.checkpoints)
    assert "already complete" in capsys.readouterr().out
    write_bytes(files.profile_path("Ann"), replace(load_profile(files.profile_path("Ann")), scale=9.0).to_bytes())
    run(dataset, *words, "--target_run", files.checkpoints)
    assert "already" not in capsys.readouterr().out  # another profile makes the pair again


def test_a_file_drives_a_profile_where_there_is_no_dataset(place, tmp_path):
    dataset, files = place
    run(dataset, "--source_id", "Bob", "--save_template", tmp_path / "bob.json")
    other = Dataset.open("elsewhere", tmp_path / "datasets")
    run(other, "--drive", tmp_path / "bob.json", "--target_id", "Ann", "--target_run", files.checkpoints)
    pair = other.read_pair("Ann", "bob")
    assert pair.complete and pair.target_split == "train" and pair.target_frames[:3] == [0, 1, 2]
    picture = read_image(other.pair("Ann", "bob").path("source_nmfcs", 5))
    assert picture.shape == (256, 256, 3) and 0.1 < picture.any(-1).mean() < 0.6
    assert read_table(other.pair("Ann", "bob").path("source_landmarks70", 5)).shape == (70, 2)


def test_the_pair_of_a_profile_is_synthesised(place, tmp_path, capsys):
    dataset, files = place
    remove_frames(dataset, "Ann")
    run(dataset, "--source_id", "Bob", "--target_id", "Ann", "--target_run", files.checkpoints)
    test = load_command("test.py").main
    words = ["--dataset_name", "small", "--target_id", "Ann", "--source_id", "Bob", "--gpu_ids", "-1", "--how_many", "3"]
    words += ["--datasets_dir", str(dataset.home.parent), "--checkpoints_dir", str(tmp_path / "checkpoints")]
    words += ["--results_dir", str(tmp_path / "results")]
    test(words)
    folder = tmp_path / "results/small/head2head_Ann/latest_epoch/test/Ann_Bob"
    assert len(list((folder / "fake").glob("*.png"))) == 3 and (folder / "index.html").is_file()
    with pytest.raises(UserError, match="where Ann's crops come from.* original video"):
        test([*words, "--paste_back"])
    with pytest.raises(UserError, match="no person 'Cid'"):
        test(["Cid" if word == "Ann" else word for word in words])


def test_the_face_model_of_a_profiles_pair_is_that_of_the_profile(place, tmp_path):
    """The run's face model is used, even if the dataset's target was later fitted again with another one."""
    dataset, files = place
    run(dataset, "--source_id", "Bob", "--target_id", "Ann", "--target_run", files.checkpoints)
    record = dataset.read_record("Ann")
    assert dataset.read_pair("Ann", "Bob").target_is_profile and record.face_model["name"] == "mesh478"
    dataset.write_record(replace(record, face_model={"name": "ict", "version": "2"}))
    test = load_command("test.py").main
    words = ["--dataset_name", "small", "--target_id", "Ann", "--source_id", "Bob", "--gpu_ids", "-1", "--how_many", "3", "--no_report"]
    words += ["--datasets_dir", str(dataset.home.parent), "--checkpoints_dir", str(tmp_path / "checkpoints")]
    words += ["--results_dir", str(tmp_path / "results")]
    test(words)
    facts = json.loads((tmp_path / "results/small/head2head_Ann/latest_epoch/test/Ann_Bob/complete.json").read_text())
    assert facts["face_model"] == " ".join(record.face_model.values())
    make_run(tmp_path, "Ann", dataset="small", face_model={"name": "ict", "version": "2"})
    with pytest.raises(UserError, match="trained on NMFCs of the face model ict 2, but the profile of Ann that Bob drives is of mesh478"):
        test(words)


def test_a_pair_of_frames_is_no_pair_of_a_profile(place):
    dataset, _ = place
    run(dataset, "--source_id", "Bob", "--target_id", "Ann")
    assert not dataset.read_pair("Ann", "Bob").target_is_profile


def test_mistakes_with_profiles_are_said(place, tmp_path):
    dataset, files = place
    words = ["--source_id", "Bob", "--target_id"]
    with pytest.raises(UserError, match="no identity 'Cid' .*--target_run"):
        run(dataset, *words, "Cid")
    with pytest.raises(UserError, match=r"no target profile .*Cid\.npz"):
        run(dataset, *words, "Cid", "--target_run", files.checkpoints)
    with pytest.raises(UserError, match="trained with the face model mesh478, not ict"):
        run(dataset, *words, "Ann", "--target_run", files.checkpoints, "--face_model", "ict")
    files.profile_path("Ann").write_bytes(b"nothing")
    with pytest.raises(UserError, match="Ann.npz is damaged"):
        run(dataset, *words, "Ann", "--target_run", files.checkpoints)
