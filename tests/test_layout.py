import os
from fractions import Fraction

import numpy as np
import pytest

from util.cli import UserError
from util.hashing import sha256_of
from util.layout import Dataset, Pair, Record, Run, read_camera, read_table, root, write_camera, write_table


def add(dataset, split, id, frames, kind="images"):
    folder = dataset.sequence(split, id).folder(kind)
    folder.mkdir(parents=True)
    for frame in frames:
        dataset.sequence(split, id).path(kind, frame).touch()


@pytest.fixture
def people(tmp_path):
    """Ann, Anna and Ann_B, names that contain one another."""
    dataset = Dataset.open("D", tmp_path)
    for name in ("Ann", "Anna", "Ann_B"):
        add(dataset, "train", f"{name}_000000", range(3))
        add(dataset, "train", f"{name}_000001", range(3, 6))
        add(dataset, "test", name, range(8, 10))
    return dataset


@pytest.mark.parametrize("name", ["Ann", "Anna", "Ann_B"])
def test_sequences_are_those_of_exactly_one_identity(people, name):
    assert [s.id for s in people.sequences("train", name)] == [f"{name}_000000", f"{name}_000001"]
    assert [s.id for s in people.sequences("test", name)] == [name]
    assert [f for s in people.sequences("train", name) for f in s.frames()] == list(range(6))


def test_identities_are_listed_once(people):
    assert people.identities() == ["Ann", "Ann_B", "Anna"]
    assert people.sequences("train", "An") == []


def test_frames_ignore_what_is_no_frame(people):
    sequence = people.sequence("test", "Ann")
    (sequence.folder("images") / "notes.png").touch()
    (sequence.folder("images") / "000007.txt").touch()
    (sequence.folder("images") / ".000007.png.12.part").touch()
    assert sequence.frames() == [8, 9] and sequence.frames("nmfcs") == []


def test_paths_are_the_published_ones(tmp_path):
    dataset = Dataset.open("D", tmp_path)
    assert dataset.train_sequence("Ann", 7).path("landmarks70", 352) == tmp_path / "D/dataset/train/landmarks70/Ann_000007/000352.txt"
    assert dataset.sequence("test", "Ann").path("images", 1) == tmp_path / "D/dataset/test/images/Ann/000001.png"
    assert dataset.id_coeffs_path("test", "Ann") == tmp_path / "D/dataset/test/id_coeffs/Ann.txt"
    run = Run.open("D", "head2head_Ann")
    assert run.network_path("G") == root() / "checkpoints/D/head2head_Ann/latest_net_G.pth"
    assert run.test_folder("Ann", 3) == root() / "results/D/head2head_Ann/3_epoch/test/Ann"


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b"])
def test_unusable_dataset_names_are_refused(name):
    with pytest.raises(UserError, match="not usable"):
        Dataset.open(name)


def test_record_comes_back_as_it_was_written(tmp_path):
    dataset = Dataset.open("D", tmp_path)
    record = Record(
        name="Ann",
        fps=Fraction(30000, 1001),
        sources=[{"file": "/v/Ann.mp4", "sha256": "ab", "frames": 90, "width": 64, "height": 48}],
        crop_box=[-3, 0, 45, 48],
        splits={"train": 50, "test": 30},
        source_start={"train": 0, "test": 60},
        face_model={"name": "ict", "version": "1"},
    ).with_step("detect", {"margin": 100, "sources": ("ab",)})
    dataset.write_record(record)
    back = dataset.read_record("Ann")
    assert back.fps == Fraction(30000, 1001) and back.crop_box == [-3, 0, 45, 48] and back.source_start == {"train": 0, "test": 60}
    assert back.is_done("detect", {"sources": ("ab",), "margin": 100})
    assert not back.is_done("detect", {"sources": ("ab",), "margin": 99}) and not back.is_done("landmarks70", {})
    assert not back.without_steps("detect").is_done("detect", {"sources": ("ab",), "margin": 100})
    dataset.write_record(back)
    assert dataset.read_record("Ann") == back
    assert dataset.read_record("Anna") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"name": "Ann"}', '{"name": "Ann", "fps": "0/0"}', '{"name": "Ann", "fps": "25", "what": 1}']
)
def test_a_damaged_record_is_named(tmp_path, text):
    dataset = Dataset.open("D", tmp_path)
    path = dataset.record_path("Ann")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match="dataset.json is damaged"):
        dataset.read_record("Ann")


def test_sound_source_finds_the_part_and_the_moment(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    record = Record(
        name="Ann",
        fps=Fraction(25),
        sources=[{"file": str(tmp_path / "a.mp4"), "frames": 100}, {"file": str(tmp_path / "b.mp4"), "frames": 50}],
        source_start={"train": -5, "test": 110},
    )
    assert record.sound_source("train") == (tmp_path / "a.mp4", -0.2)
    assert record.sound_source("test") == (tmp_path / "b.mp4", 0.4)
    (tmp_path / "b.mp4").unlink()
    assert record.sound_source("test") is None
    assert Record(name="Ann", fps=Fraction(25)).sound_source("test") is None


def link_into(folder, video):
    (folder / "c.mkv").symlink_to(video.rename(folder.parents[1] / "far.mp4"))
    return folder / "c.mkv"


def take_folder(folder, video):
    return video.parent.rename(folder / "b") / video.name


# folder of original videos, video -> where it is to be found then
MOVES = {
    "not at all": lambda folder, video: video,
    "renamed": lambda folder, video: video.rename(video.with_name("holiday.mp4")),
    "in original_videos": lambda folder, video: video.rename(folder / video.name),
    "in original_videos, renamed": lambda folder, video: video.rename(folder / "a b"),
    "linked there": link_into,
    "with its folder": take_folder,
    "deleted": lambda folder, video: video.unlink(),
    "where nobody can know": lambda folder, video: video.rename(folder.parent / video.name) and None,
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
@pytest.mark.parametrize("other", [False, True], ids=["", "another file has its place"])
def test_a_video_that_was_moved_is_found_by_its_content(tmp_path, move, other):
    dataset = Dataset.open("D", tmp_path)
    dataset.original_videos.mkdir(parents=True)
    video = tmp_path / "v" / "Ann.MP4"
    video.parent.mkdir()
    video.write_bytes(b"Ann" * 99)
    (dataset.original_videos / "Bob.mp4").write_bytes(b"Bob" * 99)
    (dataset.original_videos / "folder").mkdir()
    source = {"file": str(video), "sha256": sha256_of(video), "frames": 9}
    record = Record("Ann", Fraction(25), [source], source_start={"test": 5})
    expected = move(dataset.original_videos, video)
    if other and expected != video:
        video.parent.mkdir(exist_ok=True)
        video.write_bytes(b"Eve" * 99)
    assert dataset.find_video(source) == expected
    assert record.sound_source("test", dataset) == (expected and (expected, 0.2))


def test_a_file_that_changes_is_read_again(tmp_path):
    dataset = Dataset.open("D", tmp_path)
    video = tmp_path / "Ann.mp4"
    video.write_bytes(b"Ann")
    source = {"file": str(video), "sha256": sha256_of(video)}
    assert dataset.find_video(source) == video
    video.write_bytes(b"Eve")
    os.utime(video, (0, 0))
    assert dataset.find_video(source) is None


def test_tables_and_cameras_come_back(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 100, (70, 2))
    write_table(tmp_path / "t.txt", values, precision=3)
    assert np.abs(read_table(tmp_path / "t.txt") - values).max() <= 5e-4
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    write_camera(tmp_path / "c.txt", 812.345678, rotation, [1.5, -2.25, 0])
    scale, back, translation = read_camera(tmp_path / "c.txt")
    assert scale == pytest.approx(812.345678) and np.allclose(back, rotation, atol=1e-8) and translation.tolist() == [1.5, -2.25, 0]
    for text, table in (("1\n-2e3\n", [[1], [-2000]]), ("# x y\n1 2\n\n3 nan", [[1, 2], [3, np.nan]])):
        (tmp_path / "t.txt").write_text(text)
        np.testing.assert_array_equal(read_table(tmp_path / "t.txt"), table)
    (tmp_path / "bad.txt").write_text("1 2\n3 4 5\n")
    with pytest.raises(UserError, match=r"bad.txt is not a table of numbers"):
        read_table(tmp_path / "bad.txt")
    (tmp_path / "bad.txt").write_text("1 2\nthree 4\n")
    for read in (read_table, read_camera):
        with pytest.raises(UserError, match="bad.txt is not a"):
            read(tmp_path / "bad.txt")
        with pytest.raises(UserError, match="there is no"):
            read(tmp_path / "absent.txt")


def test_the_record_of_a_pair_comes_back_as_it_was(tmp_path):
    dataset = Dataset.open("D", tmp_path)
    assert dataset.read_pair("Ann", "Bob") is None
    pair = Pair("Ann", "Bob", "face", Fraction(30000, 1001), [7, 9], {"kind": "identity", "split": "test"}, "train", [3, 4, 3])
    dataset.write_pair(pair)
    assert dataset.pair_path("Ann", "Bob") == tmp_path / "D/dataset/metadata/Ann_Bob/pair.json"
    assert dataset.read_pair("Ann", "Bob") == pair and not pair.complete
    assert dataset.pair("Ann", "Bob").path("source_nmfcs", 7) == tmp_path / "D/dataset/test/source_nmfcs/Ann_Bob/000007.png"
    dataset.pair_path("Ann", "Bob").write_text('{"target": "Ann"}')
    with pytest.raises(UserError, match="damaged.*reenact.py"):
        dataset.read_pair("Ann", "Bob")
