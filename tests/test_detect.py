import hashlib
import shutil
import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest
from synthetic_videos import face_frame, write_video

from preprocessing import detect
from preprocessing.detect import main, parse
from preprocessing.steps.crops import split_frames
from preprocessing.tracking.crop_box import choose_box, drifts, smooth_boxes
from preprocessing.tracking.detectors import overlap
from util import image_io
from util.cli import UserError
from util.image_io import crop, read_image
from util.layout import Dataset, root
from util.video.reading import read_frames
from util.video.sources import find_videos

SIZE = (480, 360)


def moving_face(frames, size=SIZE, start=(240, 170), step=(0.25, 0.1), scale=1.0):
    for k in range(frames):
        yield face_frame(size, (start[0] + k * step[0], start[1] + k * step[1]), scale)


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """Ann_B.mp4: 70 frames of a slowly moving face at 30000/1001 frames a second."""
    return write_video(tmp_path_factory.mktemp("video") / "Ann_B.mp4", moving_face(70), Fraction(30000, 1001))


@pytest.fixture(scope="session")
def detected(video, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detected")
    assert run(video, folder, "--train_seq_length", "20") == 0
    return Dataset.open("D", folder)


def run(video, folder, *options):
    return main(["--original_videos_path", str(video), "--dataset_name", "D", "--datasets_dir", str(folder), *options])


def all_files(dataset):
    return {p.relative_to(dataset.home): p.stat().st_mtime_ns for p in dataset.home.rglob("*") if p.is_file()}


def test_frame_numbers_are_places_in_the_source(video, detected):
    record = detected.read_record("AnnB")
    # 70 frames: the last 23 are test, 47 are cut to two sequences of 20
    assert [(s.id, s.frames()) for s in detected.sequences("train", "AnnB")] == [
        ("AnnB_000000", list(range(20))),
        ("AnnB_000001", list(range(20, 40))),
    ]
    assert detected.sequence("test", "AnnB").frames() == list(range(47, 70))
    assert record.splits == {"train": 40, "test": 23} and record.source_start == {"train": 0, "test": 47}
    assert record.fps == Fraction(30000, 1001) and record.crop_size == 256
    assert record.sources == [
        {
            "file": str(video),
            "sha256": hashlib.sha256(video.read_bytes()).hexdigest(),
            "frames": 70,
            "width": 480,
            "height": 360,
        }
    ]
    frames = list(read_frames(video))
    left, top, right, bottom = record.crop_box
    for sequence in [*detected.sequences("train", "AnnB"), *detected.sequences("test", "AnnB")]:
        for number in sequence.frames()[::7]:
            expected = cv2.resize(frames[number][top:bottom, left:right], (256, 256), interpolation=cv2.INTER_CUBIC)
            assert np.array_equal(read_image(sequence.path("images", number)), expected)


def test_box_follows_the_face(video, detected, tmp_path):
    """The same film with the face 60 px to the left and 20 px up has its box there too."""
    moved = write_video(tmp_path / "moved.mp4", moving_face(70, start=(180, 150)), Fraction(30000, 1001))
    run(moved, tmp_path)
    first, second = (np.array(d.read_record(n).crop_box) for d, n in ((detected, "AnnB"), (Dataset.open("D", tmp_path), "moved")))
    assert np.abs(first - second - [60, 20, 60, 20]).max() <= 3
    assert second[2] - second[0] == second[3] - second[1]


def test_a_completed_step_returns_at_once(video, detected, monkeypatch, capsys):
    before = all_files(detected)
    monkeypatch.setattr(detect, "create_detector", lambda *_: pytest.fail("nothing must be detected again"))
    run(video, detected.home.parent, "--train_seq_length", "20")
    assert "already complete" in capsys.readouterr().out
    assert all_files(detected) == before


def test_changed_options_redo_the_step_and_drop_later_ones(video, detected, tmp_path):
    shutil.copytree(detected.home, tmp_path / "D")
    dataset = Dataset.open("D", tmp_path)
    dataset.write_record(dataset.read_record("AnnB").with_step("landmarks70", {"of": "before"}))
    for s in dataset.sequences("train", "AnnB"):
        for kind in ("landmarks70", "nmfcs"):
            s.folder(kind).mkdir(parents=True)
            s.path(kind, 0).write_text("old")
        s.dense_landmarks_path.parent.mkdir(parents=True, exist_ok=True)
        s.dense_landmarks_path.write_text("old")
    other = dataset.train_sequence("AnnBella", 0)
    other.folder("landmarks70").mkdir(parents=True)
    other.path("landmarks70", 0).write_text("another person's")
    run(video, tmp_path, "--train_seq_length", "30", "--cropped_image_size", "128")
    record = dataset.read_record("AnnB")
    assert list(record.steps) == ["detect"] and record.splits == {"train": 30, "test": 23}
    assert read_image(dataset.train_sequence("AnnB", 0).path("images", 3)).shape == (128, 128, 3)
    assert dataset.sequences("train", "AnnB", "nmfcs") == dataset.sequences("train", "AnnB", "landmarks70") == []
    assert [s.id for s in dataset.sequences("train", "AnnB")] == ["AnnB_000000"]
    assert not list((dataset.folder / "train" / "landmarks478").iterdir())
    assert other.path("landmarks70", 0).read_text() == "another person's"


def test_an_interrupted_run_does_not_count_as_complete(video, detected, tmp_path, monkeypatch):
    real, written = image_io.write_image, []

    def full_disk(path, image):
        if len(written) == 25:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        real(path, image)

    monkeypatch.setattr(image_io, "write_image", full_disk)
    with pytest.raises(OSError, match="No space"):
        run(video, tmp_path, "--train_seq_length", "20")
    dataset = Dataset.open("D", tmp_path)
    assert dataset.read_record("AnnB").steps == {}
    monkeypatch.setattr(image_io, "write_image", real)
    run(video, tmp_path, "--train_seq_length", "20")
    assert dataset.read_record("AnnB") == detected.read_record("AnnB")
    names = {p for p in all_files(detected) if "original_videos" not in p.parts}
    assert names == set(all_files(dataset))
    for p in names:
        assert (detected.home / p).read_bytes() == (dataset.home / p).read_bytes()


def test_deleted_frames_are_written_again(video, detected, tmp_path):
    shutil.copytree(detected.home, tmp_path / "D")
    dataset = Dataset.open("D", tmp_path)
    lost = dataset.train_sequence("AnnB", 1).path("images", 25)
    content = lost.read_bytes()
    lost.unlink()
    run(video, tmp_path, "--train_seq_length", "20")
    assert lost.read_bytes() == content


def test_frames_of_others_are_never_replaced(video, tmp_path):
    folder = Dataset.open("D", tmp_path).train_sequence("AnnB", 0).folder("images")
    folder.mkdir(parents=True)
    (folder / "000000.png").write_bytes(b"precious")
    with pytest.raises(UserError, match="did not write"):
        run(video, tmp_path)
    assert (folder / "000000.png").read_bytes() == b"precious"


def test_split_test_takes_everything_and_the_first_frame_may_repeat(video, detected, tmp_path):
    run(video, tmp_path, "--split", "test", "--n_replicate_first", "3")
    dataset = Dataset.open("D", tmp_path)
    record = dataset.read_record("AnnB")
    assert record.splits == {"train": 0, "test": 73} and record.source_start["test"] == -3
    sequence = dataset.sequence("test", "AnnB")
    assert sequence.frames() == list(range(73)) and dataset.identities() == ["AnnB"]
    first = read_image(sequence.path("images", 0))
    assert all(np.array_equal(read_image(sequence.path("images", k)), first) for k in (1, 2, 3))
    source = read_image(detected.sequence("test", "AnnB").path("images", 50))
    assert np.array_equal(read_image(sequence.path("images", 53)), source)


def test_parts_are_joined_in_order_with_the_box_of_the_first(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "Bob_2.mp4", moving_face(40, start=(250, 175), step=(0, 0)), 60)  # another rate, slightly elsewhere
    write_video(folder / "Bob_1.mp4", moving_face(30, step=(0, 0)), 30)
    alone = tmp_path / "alone"
    run(folder / "Bob_1.mp4", alone)
    run(folder, tmp_path, "--train_seq_length", "10", "--test_seq_ratio", "0.2")
    dataset = Dataset.open("D", tmp_path)
    record = dataset.read_record("Bob")
    assert [s["frames"] for s in record.sources] == [30, 20] and [s["file"][-9:] for s in record.sources] == ["Bob_1.mp4", "Bob_2.mp4"]
    assert record.crop_box == Dataset.open("D", alone).read_record("Bob1").crop_box
    assert record.splits == {"train": 40, "test": 10} and record.fps == 30
    images = [read_image(s.path("images", f)).astype(int) for s in dataset.sequences("train", "Bob") for f in s.frames()]
    steps = [np.abs(a - b).mean() for a, b in zip(images, images[1:])]
    assert int(np.argmax(steps)) == 29 and steps[29] > 5 * max(steps[:29])  # the only jump is where part 2 begins


def test_parts_of_different_size_are_refused(tmp_path):
    write_video(tmp_path / "Bob_1.mp4", moving_face(12))
    write_video(tmp_path / "Bob_2.mp4", moving_face(12, size=(400, 360)))
    with pytest.raises(UserError, match="Bob_2.mp4 is 400x360, but Bob_1.mp4"):
        run(tmp_path, tmp_path)


def test_file_names_become_identities(tmp_path):
    for name in ("Ann_2.mp4", "Ann_1.MOV", "Ann_10.mp4", "my_own film.mkv", "take_7.mp4", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).touch()
    found = {name: [p.name for p in paths] for name, paths in find_videos(tmp_path).items()}
    assert found == {"Ann": ["Ann_1.MOV", "Ann_2.mp4", "Ann_10.mp4"], "myownfilm": ["my_own film.mkv"], "take7": ["take_7.mp4"]}
    assert find_videos(tmp_path / "Ann_2.mp4") == {"Ann2": [tmp_path / "Ann_2.mp4"]}


def test_the_persistent_face_wins_and_gaps_are_bridged(tmp_path, capsys):
    """A second, slightly smaller face for the first half; the main one hidden for 8 frames in the middle."""
    size = (800, 400)
    frames = []
    for k in range(60):
        image = face_frame(size, (250 + 0.3 * k, 200), 1.1)
        if k < 30:
            small = face_frame(size, (620, 200), 0.95)
            image[:, 480:] = small[:, 480:]
        if 34 <= k < 42:
            image[:, :480] = 128
        frames.append(image)
    run(write_video(tmp_path / "two.mp4", frames), tmp_path)
    left, top, right, bottom = Dataset.open("D", tmp_path).read_record("two").crop_box
    assert left < 170 and 330 < right < 520 and abs((left + right) / 2 - 259) < 25
    printed = capsys.readouterr().err
    assert "two.mp4 shows 2 faces" in printed and "no face in 8 of 60 frames" in printed


def test_small_faces_are_found_in_every_frame(tmp_path, capsys):
    video = write_video(tmp_path / "far.mp4", moving_face(20, (1280, 720), (900, 420), (1.5, 0.5), 0.55))
    run(video, tmp_path)
    out, err = capsys.readouterr()
    assert "no face" not in err and "the head is small" in err
    left, top, right, bottom = Dataset.open("D", tmp_path).read_record("far").crop_box
    assert abs((left + right) / 2 - 914) < 20 and abs((top + bottom) / 2 - 425) < 25 and 90 < right - left < 190


def test_a_face_that_walks_away_is_refused_or_kept_in_the_crop(tmp_path):
    video = write_video(tmp_path / "walk.mp4", moving_face(40, (900, 360), (150, 180), (14, 0)))
    with pytest.raises(UserError, match="raise --dst_threshold"):
        run(video, tmp_path)
    assert not any(path.is_file() for path in (tmp_path / "D").rglob("*"))
    run(video, tmp_path, "--dst_threshold", "2")
    left, top, right, bottom = Dataset.open("D", tmp_path).read_record("walk").crop_box
    assert left < 150 - 50 and right > 150 + 39 * 14 + 50


@pytest.mark.parametrize(("length", "expected"), [(20, (14, 14)), (74, (50, 50)), (75, (50, 51)), (160, (100, 108)), (1008, (650, 676))])
def test_split(length, expected):
    n_train, test_start = split_frames(length, 0.33, 50)
    assert (n_train, test_start) == expected


def test_short_videos(tmp_path):
    run(write_video(tmp_path / "short.mp4", moving_face(20)), tmp_path)
    record = Dataset.open("D", tmp_path).read_record("short")
    assert record.splits == {"train": 14, "test": 6} and record.source_start["test"] == 14
    with pytest.raises(UserError, match="has 4 frames, too few"):
        run(write_video(tmp_path / "tiny.mp4", moving_face(4)), tmp_path)
    run(write_video(tmp_path / "still.mp4", moving_face(1)), tmp_path, "--split", "test")
    assert Dataset.open("D", tmp_path).read_record("still").splits == {"train": 0, "test": 1}


def test_no_face_is_said_and_the_other_videos_are_done(tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "Ann.mp4", moving_face(12))
    write_video(folder / "Empty.mp4", (np.full((360, 480, 3), 128, np.uint8) for _ in range(12)))
    write_video(folder / "Rare.mp4", [*moving_face(4), *(np.full((360, 480, 3), 128, np.uint8) for _ in range(12))])
    (folder / "Broken.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="3 of 4 videos failed"):
        run(folder, tmp_path)
    printed = capsys.readouterr().err
    assert (
        "no face was found in" in printed and "a face in only 4 of 16 frames" in printed and "Broken.mp4 is not a readable video" in printed
    )
    assert Dataset.open("D", tmp_path).identities() == ["Ann"]


def test_mtcnn_gives_nearly_the_same_crop(video, detected, tmp_path):
    pytest.importorskip("facenet_pytorch")
    short = write_video(tmp_path / "Ann.mp4", list(read_frames(video))[:12])
    run(short, tmp_path, "--detector", "mtcnn", "--gpu_id", "-1", "--mtcnn_batch_size", "6", "--margin", "40")
    run(short, tmp_path / "m", "--margin", "40")
    a, b = (np.array(Dataset.open("D", d).read_record("Ann").crop_box, float) for d in (tmp_path, tmp_path / "m"))
    assert overlap(a, b) > 0.75


def options(**changes):
    o = parse(["--dataset_name", "D"])
    for k, v in changes.items():
        setattr(o, k, v)
    return o


def box_of(centre, size, frame, **changes):
    o = options(**changes)
    c, s = np.array(centre), np.array(size)
    boxes = np.tile(np.concatenate([c - s / 2, c + s / 2]), (9, 1)).astype(float)
    return choose_box([smooth_boxes(boxes, o.window_length, o.polyorder)], frame, o.margin, o.height_recentre).tolist()


def test_drift_is_the_largest_move_of_a_box_side_since_the_first_part_relative_to_the_mean_frame_side():
    still = np.tile([100.0, 100, 200, 220], (9, 1))
    moved = still + [0, 0, 0, 45]
    moved[4, 0] -= 90
    assert drifts([still, moved, still], (1000, 800)) == [0, 0.1, 0]


def test_box_geometry():
    # margin: the face takes (256 - margin) / 256 of the crop
    assert box_of((500, 400), (117, 156), (1000, 800)) == [372, 272, 628, 528]
    assert box_of((500, 400), (117, 156), (1000, 800), margin=0) == [418, 318, 582, 482]  # with 5 % of room
    assert box_of((500, 400), (117, 156), (1000, 800), height_recentre=0.1) == [372, 298, 628, 554]
    # at the border it is moved inside
    assert box_of((900, 100), (117, 156), (1000, 800)) == [744, 0, 1000, 256]
    # in a narrow frame it shrinks to the frame's width, and more so below than above the face
    assert box_of((200, 400), (225, 300), (400, 800)) == [0, 177, 400, 577]
    # a face higher than the frame is wide: the crop reaches outside on both sides
    left, top, right, bottom = box_of((200, 400), (380, 600), (400, 1000))
    assert (right - left, bottom - top) == (630, 630) and left < 0 and right > 400 and top >= 0 and bottom <= 1000


def test_crop_repeats_the_border_outside():
    frame = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    image = crop(frame, [-5, 0, 35, 40], 40)
    assert np.array_equal(image[:, 5:35], frame) and np.array_equal(image[:, :5], np.repeat(frame[:, :1], 5, axis=1))
    assert np.array_equal(image[:, 35:], np.repeat(frame[:, -1:], 5, axis=1))
    for left, top in ((-7, -9), (12, 25), (-60, 3), (4, 90), (5, 6)):  # over edges, beside the frame, within
        rows, columns = (np.clip(np.arange(first, first + 20), 0, most) for first, most in ((top, 39), (left, 29)))
        assert np.array_equal(crop(frame, [left, top, left + 20, top + 20], 20), frame[rows][:, columns])


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 50, 99, 200])
def test_smoothing_keeps_a_straight_motion_at_any_length(frames):
    boxes = np.linspace([0, 0, 10, 10], [frames, 0, 10 + frames, 10], frames)
    assert np.allclose(smooth_boxes(boxes, 99, 3), boxes, atol=1e-6)


def test_the_command_speaks_plainly(tmp_path):
    """As a file, from another folder: one line on stderr, no traceback, exit code 1."""

    def call(*options):
        command = [
            sys.executable,
            str(root() / "preprocessing/detect.py"),
            "--dataset_name",
            "D",
            "--datasets_dir",
            str(tmp_path),
            *options,
        ]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    (tmp_path / "empty").mkdir()
    for options, words in (
        (["--original_videos_path", "no.mp4"], "there is no video file or folder no.mp4"),
        ([], "D/original_videos"),
        (["--original_videos_path", "empty"], "there is no video in empty"),
        (["--margin", "256"], "--margin 256: give a value from 0 to 255"),
    ):
        done = call(*options)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1, (
            done.stderr
        )
    write_video(tmp_path / "a.mp4", moving_face(10))
    done = call("--original_videos_path", "a.mp4")
    assert done.returncode == 0, done.stderr
    assert not any(word in done.stderr for word in ("INFO", "WARNING", "W0000", "I0000", "absl"))
    assert "7 train and 3 test frames" in done.stdout


def test_only_the_first_seconds_are_taken(video, tmp_path):
    run(video, tmp_path, "--max_seconds", "1.2", "--train_seq_length", "10")
    dataset = Dataset.open("D", tmp_path)
    (name,) = dataset.identities()
    record = dataset.read_record(name)
    frames = int(np.ceil(1.2 * record.fps))
    assert record.sources[0]["frames"] == frames
    assert dataset.sequences("test", name)[0].frames()[-1] == frames - 1
