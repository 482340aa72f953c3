import shutil
import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest
from synthetic_videos import face_frame, write_video

from preprocessing import detect
from preprocessing.detect_landmarks70 import main
from preprocessing.face_models.dense_points import DENSE_INDICES, from_dense
from preprocessing.steps import landmarks70
from preprocessing.tracking.dlib_landmarks import DLIB_FILE, dlib_box
from preprocessing.tracking.tracker import Tracker, _coordinates, track_frames
from util.cli import UserError
from util.face import landmarks as groups
from util.image_io import read_image, write_image
from util.layout import SPLITS, Dataset, read_table, root

# Where a person sees these points in skimage's astronaut, magnified eight times: x, y in pixels from the corner.
SEEN = {
    8: (225, 178),  # chin
    30: (223, 126),  # tip of the nose
    33: (223, 134),  # below the nose
    36: (192, 100),  # right eye, outer corner
    39: (212, 103),  # right eye, inner corner
    42: (236, 105),  # left eye, inner corner
    45: (259, 104),  # left eye, outer corner
    48: (202, 140),  # right corner of the mouth
    54: (246, 141),  # left corner of the mouth
    66: (224, 150),  # lower edge of the teeth
    68: (203, 101),  # right pupil
    69: (247, 103),  # left pupil
}


@pytest.fixture(scope="session")
def tracker():
    with Tracker() as tracker:
        yield tracker


def fresh_detect(image):
    with Tracker() as tracker:
        return tracker.step(image)


def turned(image, angle_deg):
    matrix = cv2.getRotationMatrix2D((128, 128), angle_deg, 1)
    return cv2.warpAffine(image, matrix, (256, 256), borderValue=(128, 128, 128)), matrix


@pytest.mark.parametrize("more", [{}, {"visibility": 0.5}])
def test_a_list_of_landmarks_is_read_whatever_else_it_holds(more):
    from mediapipe.framework.formats.landmark_pb2 import NormalizedLandmark, NormalizedLandmarkList

    points = np.random.default_rng(0).normal(size=(478, 3)).astype(np.float32)
    face = NormalizedLandmarkList(landmark=[NormalizedLandmark(x=x, y=y, z=z, **more) for x, y, z in points])
    np.testing.assert_array_equal(_coordinates(face), points)


def test_points_lie_where_a_person_sees_them():
    from skimage.data import astronaut

    points = from_dense(fresh_detect(np.ascontiguousarray(astronaut()[:320, 70:390]))) + [70, 0]
    for k, seen in SEEN.items():
        assert np.linalg.norm(points[k] - seen) < 4, f"point {k} at {points[k]}, seen at {seen}"


def test_order_and_shape_of_the_70_points():
    dense = fresh_detect(face_frame((256, 256), (128, 128), 1.4))
    assert dense.shape == (478, 3) and dense.dtype == np.float32
    points = from_dense(dense)
    assert points.shape == (70, 2) and len(set(DENSE_INDICES)) == 70
    assert from_dense(np.stack([dense, dense])).shape == (2, 70, 2)
    x, y = points.T
    # the jaw runs from the subject's right ear (left in the picture) over the chin to the left ear
    assert np.all(np.diff(x[3:14]) > 0) and y[:17].argmax() == 8 and x[:3].max() < x[4] and x[12] < x[14:17].min()
    assert np.all(np.diff(y[:9]) > 0) and np.all(np.diff(y[8:17]) < 0)
    assert np.all(np.diff(x[groups.BROWS]) > 0) and y[groups.BROWS].max() < y[36:48].min()
    assert np.all(np.diff(y[27:31]) > 0) and np.all(np.diff(x[31:36]) > 0)
    for eye, pupil in ((groups.RIGHT_EYE, 68), (groups.LEFT_EYE, 69)):
        outline = points[eye].astype(np.float32)
        assert cv2.pointPolygonTest(outline, tuple(map(float, points[pupil])), False) > 0
    # clockwise in the picture, inner lips inside the outer ones
    assert cv2.contourArea(points[48:60].astype(np.float32), True) > 0 and cv2.contourArea(points[60:68].astype(np.float32), True) > 0
    assert cv2.contourArea(points[48:60].astype(np.float32)) > cv2.contourArea(points[60:68].astype(np.float32))
    # the tip of the nose is nearer than the ears
    assert dense[4, 2] < dense[[234, 454], 2].min() - 20


def test_known_motion_is_recovered_to_a_fraction_of_a_pixel(tracker):
    """The same face shifted, scaled and turned: all 70 points move with it."""
    first = from_dense(fresh_detect(face_frame((256, 256), (128, 128), 1.4)))
    for dx, dy, error in ((0.5, 0.25, 0.2), (7.3, -4.6, 0.6)):
        moved = from_dense(fresh_detect(face_frame((256, 256), (128 + dx, 128 + dy), 1.4)))
        assert np.abs((moved - first).mean(0) - [dx, dy]).max() < error
    larger = from_dense(fresh_detect(face_frame((256, 256), (128, 128), 1.6)))
    assert groups.interocular_distance(larger) / groups.interocular_distance(first) == pytest.approx(1.6 / 1.4, rel=0.02)
    image, matrix = turned(face_frame((256, 256), (128, 128), 1.4), 20)
    expected = first @ matrix[:, :2].T + matrix[:, 2]
    assert np.linalg.norm(from_dense(fresh_detect(image)) - expected, axis=1).mean() < 1.5


def test_tracker_finds_small_and_large_faces_and_tells_when_there_is_none(tracker):
    for scale in (0.4, 0.6, 2.2, 3.4):
        points = fresh_detect(face_frame((256, 256), (128, 128), scale))
        eyes = groups.interocular_distance(from_dense(points))
        assert eyes == pytest.approx(66.5 * scale, rel=0.1)
    assert fresh_detect(np.full((256, 256, 3), 128, np.uint8)) is None
    # one that lost the face finds it again elsewhere
    assert tracker.step(face_frame((256, 256), (80, 100))) is not None
    assert tracker.step(np.full((256, 256, 3), 128, np.uint8)) is None
    assert np.abs(tracker.step(face_frame((256, 256), (170, 150)))[4, :2] - [170, 150]).max() < 6


def test_the_loop_is_one_tracker_over_all_frames():
    """Rows without a face are nan and reported as missed; the others are what Tracker.step gives, bit for bit."""
    blank = np.full((256, 256, 3), 128, np.uint8)
    images = [face_frame((256, 256), (128 + k, 128), 1.4) for k in range(3)] + [blank, face_frame((256, 256), (130, 128), 1.4)]
    with Tracker() as one:
        expected = [one.step(image) for image in images]
    seen = []
    tracked = track_frames(iter(images), 5, "landmarks", lambda k, image, points: seen.append((k, image is images[k], points)))
    dense, missed = tracked.dense, tracked.missed
    assert dense.shape == (5, 478, 3) and dense.dtype == np.float32 and missed.tolist() == [False, False, False, True, False]
    assert np.isnan(dense[3]).all() and expected[3] is None
    for k in (0, 1, 2, 4):
        assert np.array_equal(dense[k], expected[k])
    assert [(k, same) for k, same, _ in seen] == [(k, True) for k in (0, 1, 2, 4)]
    assert all(np.array_equal(points, dense[k]) for k, _, points in seen)


# ---- the command ----


def frames_of(dataset, name):
    return [(s, f) for split in SPLITS for s in dataset.sequences(split, name) for f in s.frames()]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Dataset D with one person, Ann: 30 detected frames, 24 of train and 6 of test; the face moves 0.5 px a frame."""
    folder = tmp_path_factory.mktemp("landmarks")
    video = write_video(folder / "Ann.mp4", (face_frame((320, 320), (150 + 0.5 * k, 160), 1.2) for k in range(30)), Fraction(25))
    arguments = ["--dataset_name", "D", "--datasets_dir", str(folder)]
    detect.main(["--original_videos_path", str(video), *arguments, "--train_seq_length", "12", "--test_seq_ratio", "0.2"])
    main(arguments)
    return Dataset.open("D", folder)


@pytest.fixture
def copy(prepared, tmp_path):
    shutil.copytree(prepared.home, tmp_path / "D")
    return Dataset.open("D", tmp_path)


def run(dataset, *options):
    return main(["--dataset_name", dataset.home.name, "--datasets_dir", str(dataset.home.parent), *options])


def test_files_of_every_frame(prepared):
    frames = frames_of(prepared, "Ann")
    assert [(s.id, f) for s, f in frames] == [("Ann_000000", f) for f in range(12)] + [("Ann_000001", f) for f in range(12, 24)] + [
        ("Ann", f) for f in range(24, 30)
    ]
    noses = []
    for sequence in dict.fromkeys(s for s, _ in frames):
        dense = np.load(sequence.dense_landmarks_path)
        assert dense.shape == (len(sequence.frames()), 478, 3) and dense.dtype == np.float32 and np.isfinite(dense).all()
        for points, number in zip(dense, sequence.frames()):
            table = read_table(sequence.path("landmarks70", number))
            assert table.shape == (70, 2) and np.abs(table - from_dense(points)).max() < 1e-3
            noses.append(table[30])
    record = prepared.read_record("Ann")
    assert list(record.steps) == ["detect", "landmarks70"]
    scale = 256 / (record.crop_box[2] - record.crop_box[0])
    # steady motion, also from one sequence to the next: the tracker is not restarted there
    steps = np.diff(noses, axis=0)
    assert np.abs(steps.mean(0) - [0.5 * scale, 0]).max() < 0.1 and np.abs(steps[1:] - steps.mean(0)).max() < 1


def test_a_completed_step_returns_at_once(copy, monkeypatch, capsys):
    with monkeypatch.context() as m:
        m.setattr(landmarks70, "track_frames", lambda *_: pytest.fail("nothing must be found again"))
        run(copy)
    assert "already complete" in capsys.readouterr().out
    # but not when a file is missing
    path = copy.sequence("test", "Ann").path("landmarks70", 25)
    content = path.read_text()
    path.unlink()
    run(copy, "--name", "Ann")
    assert path.read_text() == content


def test_what_was_made_from_older_landmarks_is_dropped(copy):
    record = copy.read_record("Ann")
    copy.write_record(record.with_step("landmarks70", {"of": "before"}).with_step("reconstruct", {"of": "before"}))
    run(copy)
    assert copy.read_record("Ann") == record


def test_frames_alone_are_enough(copy, capsys):
    """A dataset of the original system: images without dataset.json."""
    expected = (copy.train_sequence("Ann", 0).path("landmarks70", 3)).read_text()
    shutil.rmtree(copy.folder / "metadata")
    for split in SPLITS:
        shutil.rmtree(copy.folder / split / "landmarks70")
        shutil.rmtree(copy.folder / split / "landmarks478")
    run(copy)
    assert copy.train_sequence("Ann", 0).path("landmarks70", 3).read_text() == expected
    assert copy.read_record("Ann") is None


def test_hidden_faces_are_bridged_up_to_a_quarter(copy, capsys):
    shutil.rmtree(copy.folder / "metadata")
    frames = frames_of(copy, "Ann")
    blank = np.full((256, 256, 3), 128, np.uint8)
    for s, f in frames[10:14]:
        write_image(s.path("images", f), blank)
    run(copy, "--landmarks", "mediapipe")
    assert "no face in 4 of 30 frames" in capsys.readouterr().err
    tables = np.array([read_table(s.path("landmarks70", f)) for s, f in frames[9:15]])
    assert np.abs(tables[1:-1] - (tables[:1] + (tables[-1:] - tables[:1]) * np.arange(1, 5)[:, None, None] / 5)).max() < 2e-3
    for s, f in frames[14:20]:
        write_image(s.path("images", f), blank)
    with pytest.raises(UserError, match="in 10 of the 30 frames of 'Ann'"):
        run(copy, "--landmarks", "mediapipe")


def test_damaged_and_missing_input_is_named(copy, tmp_path):
    with pytest.raises(UserError, match="no identity 'Bob' in .*; it holds: Ann"):
        run(copy, "--name", "Bob")
    with pytest.raises(UserError, match="run preprocessing/detect.py --dataset_name E first"):
        main(["--dataset_name", "E", "--datasets_dir", str(tmp_path)])
    image = copy.train_sequence("Ann", 0).path("images", 5)
    image.write_bytes(image.read_bytes()[:100])
    copy.write_record(copy.read_record("Ann").without_steps("landmarks70"))
    with pytest.raises(UserError, match="000005.png is not a readable image"):
        run(copy)
    copy.write_record(copy.read_record("Ann").without_steps("detect"))
    with pytest.raises(UserError, match="frames of 'Ann' are incomplete"):
        run(copy)


def test_dlib_without_its_file_names_the_remedy(copy, tmp_path):
    command = [sys.executable, str(root() / "preprocessing/detect_landmarks70.py"), "--dataset_name", "D", "--datasets_dir", str(tmp_path)]
    done = subprocess.run([*command, "--landmarks", "dlib"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    for words in (f"no dlib model {DLIB_FILE}", "pip install dlib", "--dlib_file", "leave out --landmarks dlib"):
        assert words in done.stderr


def test_landmarks_of_dlib(copy, tmp_path):
    """A predictor that is trained here, on our own points of the very frames, must give them back."""
    dlib = pytest.importorskip("dlib")
    frames = frames_of(copy, "Ann")[::3]
    images, objects = [], []
    for s, f in frames:
        points = read_table(s.path("landmarks70", f))[:68]
        box = dlib.rectangle(*dlib_box(np.load(s.dense_landmarks_path)[s.frames().index(f)]))
        images.append(read_image(s.path("images", f)))
        objects.append([dlib.full_object_detection(box, [dlib.point(int(a), int(b)) for a, b in points])])
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.tree_depth, options.num_trees_per_cascade_level, options.oversampling_amount = 6, 3, 30, 10
    dlib.train_shape_predictor(images, objects, options).save(str(tmp_path / "model.dat"))
    before = np.array([read_table(s.path("landmarks70", f)) for s, f in frames])
    run(copy, "--landmarks", "dlib", "--dlib_file", str(tmp_path / "model.dat"))
    after = np.array([read_table(s.path("landmarks70", f)) for s, f in frames])
    assert np.linalg.norm(after[:, :68] - before[:, :68], axis=-1).mean() < 3
    assert not np.array_equal(after[:, :68], before[:, :68]) and np.array_equal(after[:, 68:], before[:, 68:])
    (tmp_path / "bad.dat").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not a dlib landmark model"):
        run(copy, "--landmarks", "dlib", "--dlib_file", str(tmp_path / "bad.dat"))
