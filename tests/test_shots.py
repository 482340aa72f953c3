"""Shots, and frames that do not show the person: through detect.py, detect_landmarks70.py, reconstruct.py and what reads their findings."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from fake_dataset import make_dataset
from synthetic_videos import face_frame, write_video

from data.clips import ClipIndex, VideoDataset
from data.integrity import tell_left_out
from preprocessing import detect, detect_landmarks70, reconstruct
from preprocessing.tracking.crop_box import choose_box
from preprocessing.tracking.follower import Track, choose_track, parse_face
from preprocessing.tracking.shots import Look, ShotDetector, difference
from preprocessing.tracking.tracker import Tracker
from util.cli import UserError
from util.layout import Dataset, Record, continues

SIZE = (400, 320)


def scene(seed):
    """A picture with structure everywhere, uint8 [180, 320, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), np.uint8)
    return cv2.resize(noise, (320, 180), interpolation=cv2.INTER_CUBIC)


def panned(picture, frames, first=0):
    return [np.roll(picture, 2 * (first + k), axis=1) for k in range(frames)]


def starts_and_between(frames):
    detector = ShotDetector()
    told = [x for frame in frames for x in detector.add(frame)] + detector.finish()
    assert len(told) == len(frames)
    return [i for i, (begins, _) in enumerate(told) if begins], [i for i, (_, between) in enumerate(told) if between]


def test_cuts_zooms_and_dissolves_begin_shots():
    a, b = panned(scene(1), 50), panned(scene(2), 50)
    assert starts_and_between(a + b) == ([0, 50], [])
    zoomed = [cv2.resize(f[20:160, 35:285], (320, 180)) for f in panned(scene(1), 20, 50)]
    assert starts_and_between(a + zoomed) == ([0, 50], [])
    mixed = [np.uint8(scene(1) * (1 - w) + scene(2) * w) for w in np.linspace(0, 1, 18)[1:-1]]
    starts, between = starts_and_between([scene(1)] * 50 + mixed + [scene(2)] * 40)
    assert len(starts) == 2 and 60 <= starts[1] <= 70 and len(between) >= 10 and set(between) <= set(range(48, 70))


def test_pans_flashes_fades_and_black_frames_begin_none():
    a = panned(scene(3), 60)
    assert starts_and_between(a) == ([0], [])
    assert starts_and_between(a[:20] + [np.zeros_like(a[0])] * 9 + a[20:]) == ([0], list(range(20, 29)))
    flash = [np.full_like(a[0], 255)] * 2
    assert starts_and_between(a[:30] + flash + a[32:]) == ([0], [30, 31])
    faded = [np.uint8(f * (abs(k - 30) / 30)) for k, f in enumerate([a[0]] * 60)]
    assert starts_and_between(faded)[0] == [0]
    lamp = [np.uint8(f * 0.7) for f in a[30:]]
    assert starts_and_between(a[:30] + lamp) == ([0], [])
    # behind black comes another scene
    assert starts_and_between(a[:30] + [np.zeros_like(a[0])] * 3 + panned(scene(4), 20)) == ([0, 33], [30, 31, 32])


def test_light_is_no_difference():
    a = Look.of(scene(5))
    assert difference(a, Look.of(np.uint8(scene(5) * 0.4 + 60))) < 0.05 and difference(a, Look.of(scene(6))) > 0.8
    assert Look.of(np.full((90, 160, 3), 200, np.uint8)).blank and not a.blank


# ---- the commands ----


def woman(frames, place=(200, 150), step=0.3, scale=1.0, first=0):
    return [face_frame(SIZE, (place[0] + step * (first + k), place[1]), scale) for k in range(frames)]


def stranger(frames):
    """Another face: narrower, in other colours, elsewhere."""
    shown = []
    for k in range(frames):
        image = cv2.resize(face_frame(SIZE, (150 + 0.2 * k, 170), 1.15), (320, 320))
        image = cv2.copyMakeBorder(image, 0, 0, 0, 80, cv2.BORDER_CONSTANT, value=(128, 128, 128))
        shown.append(np.ascontiguousarray(np.clip(image[..., [2, 0, 1]] * [0.9, 0.8, 1.0], 0, 255).astype(np.uint8)))
    return shown


def run(command, folder, *options):
    assert command.main(["--dataset_name", "D", "--datasets_dir", str(folder), *map(str, options)]) == 0
    return Dataset.open("D", folder)


def test_the_longest_shot_is_taken_and_cuts_are_named(tmp_path, capsys):
    video = write_video(tmp_path / "cut.mp4", [*woman(25), *stranger(45), *woman(30, first=25)])
    data = run(detect, tmp_path, "--original_videos_path", video, "--train_seq_length", 10)
    record = data.read_record("cut")
    assert record.first_number == 25 and record.splits == {"train": 30, "test": 14} and record.source_start == {"train": 25, "test": 56}
    assert [s.frames()[0] for s in data.sequences("train", "cut")] == [25, 35, 45] and data.sequence("test", "cut").frames()[-1] == 69
    assert [record.source_index(n) for n in (25, 56, 69)] == [25, 56, 69]
    assert "cut.mp4 has cuts at 0:00.83, 0:02.33; only the longest shot is taken (0:00.83 to 0:02.33)" in capsys.readouterr().err


def test_all_shots_of_the_person_are_taken(tmp_path, capsys):
    video = write_video(tmp_path / "cut.mp4", [*woman(40), *stranger(25), *woman(30, first=40)])
    data = run(detect, tmp_path, "--original_videos_path", video, "--train_seq_length", 10, "--all_shots", "--test_seq_ratio", 0.2)
    record = data.read_record("cut")
    assert "2 of 3 shots show the person" in capsys.readouterr().err
    train = [s.frames() for s in data.sequences("train", "cut")]
    assert [numbers[0] for numbers in train] == [0, 10, 20, 30, 65] and record.shots == [65] and record.splits == {"train": 50, "test": 14}
    frames = [(s, n) for s in data.sequences("train", "cut") for n in s.frames()]
    assert np.flatnonzero(~continues(frames, record)).tolist() == [0, 40]
    # all to test: it goes through, and tells of the stranger's frames
    data = run(detect, tmp_path / "t", "--original_videos_path", video, "--all_shots", "--split", "test")
    record = data.read_record("cut")
    assert data.sequence("test", "cut").frames() == list(range(95))
    assert np.flatnonzero(~record.usable(range(95))).tolist() == list(range(40, 65))
    assert record.tell_bad_frames(range(95)) == "25 of another shot"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """90 frames: black from 20 to 29, a fade to black and back from 40 to 59 (darkest at 50), a blue box over the mouth from 70 to 77."""
    frames = woman(90, step=0.2, scale=1.2)
    for k in range(20, 30):
        frames[k] = np.zeros_like(frames[k])
    for k in range(41, 60):
        frames[k] = np.uint8(frames[k] * (abs(k - 50) / 10))
    for k in range(70, 78):
        cv2.rectangle(frames[k], (200 + k // 5 - 40, 158), (200 + k // 5 + 40, 208), (40, 60, 200), cv2.FILLED)
    folder = tmp_path_factory.mktemp("faulty")
    video = write_video(folder / "ann.mp4", frames)
    run(detect, folder, "--original_videos_path", video, "--test_seq_ratio", 0, "--train_seq_length", 90)
    return run(detect_landmarks70, folder)


def test_states_are_recorded(faulty):
    record = faulty.read_record("ann")
    good = record.usable(range(90))
    assert not good[20:30].any() and not good[43:58].any() and not good[70:78].any()
    assert good[:20].all() and good[30:40].all() and good[61:69].all() and good[79:].all()
    assert record.tell_bad_frames(range(60, 90)) == "8 with a covered face"
    assert "dark, blank" in record.tell_bad_frames(range(20, 30))


def test_training_leaves_bad_frames_out(faulty):
    run(reconstruct, faulty.home.parent, "--face_model", "mesh478", "--renderer", "cpu")
    videos = VideoDataset(faulty, ["ann"], 64, augment=False)
    good = faulty.read_record("ann").usable(range(90))
    assert sum(videos.lengths) <= good.sum() and len(videos.lengths) == 4 and videos.identities == ["ann"] * 4
    for run_number, length in enumerate(videos.lengths):
        clip = videos[ClipIndex(run_number, 0, length, 0)]["image"].numpy()
        assert clip.mean((1, 2, 3)).min() > 0.8 * clip.mean()
    assert "training frames are left out" in tell_left_out(faulty, "ann") and "covered" in tell_left_out(faulty, "ann")
    with pytest.raises(IndexError, match="outside of a run"):
        videos[ClipIndex(0, 0, videos.lengths[0] + 1, 0)]
    # the conditioning of a run's first frame does not come from the bad frame before it
    first = videos[ClipIndex(1, 0, 5, 0)]["nmfc"]
    assert np.array_equal(first[0], first[1]) and np.array_equal(first[1], first[2])


def test_nothing_good_is_nothing_to_train_on(tmp_path):
    data = make_dataset(tmp_path)
    record = data.read_record("Ann")
    data.write_record(record.with_bad_frames("detect", range(16), ["dark"] * 16))
    with pytest.raises(UserError, match="16 of 16 training frames are left out: 16 dark.*film Ann again"):
        VideoDataset(data, ["Ann"], 64)


def test_another_face_is_left_alone():
    """The person has gone: a portrait in the same crop is not taken for her, and she is taken up again behind it."""
    both = face_frame((512, 320), (140, 160))
    portrait = face_frame((512, 320), (380, 130), 0.9)
    both[:, 256:] = portrait[:, 256:]
    alone = both.copy()
    alone[:, :256] = 128
    near = np.array([90, 75, 195, 215.0])
    with Tracker() as tracker:
        assert tracker.step(both, near)[4, 0] < 200
        for _ in range(3):
            assert tracker.step(alone, near) is None and tracker.strayed
        points = tracker.step(both, near)
        assert points is not None and abs(points[4, 0] - 140) < 8


def test_a_face_is_chosen(tmp_path):
    tracks = [Track(), Track(), Track()]
    for k in range(20):
        tracks[0].add(k, np.array([100, 50, 150, 110.0]))
        tracks[1].add(k, np.array([300, 50, 380, 150.0]))
    tracks[2].add(3, np.array([0, 0, 20, 20.0]))  # a mistake of the detector
    chosen = [tracks.index(choose_track(tracks, 20, parse_face(f))) for f in ("largest", "left", "right", "130,90", "350,90")]
    assert chosen == [1, 0, 1, 0, 1] and choose_track([], 20) is None
    for wrong in ("middle", "1", "1,2,3", "a,b"):
        with pytest.raises(UserError, match="--face"):
            parse_face(wrong)
    two = face_frame((640, 300), (160, 150))
    two[:, 320:] = face_frame((640, 300), (480, 150), 1.1)[:, 320:]
    video = write_video(tmp_path / "two.mp4", [two] * 12)
    for face, place in (("left", 160), ("largest", 480), ("150,140", 160)):
        record = run(detect, tmp_path / face, "--original_videos_path", video, "--face", face).read_record("two")
        assert record.crop_box[0] < place < record.crop_box[2] and abs(sum(record.crop_box[::2]) / 2 - place) < 40
    with pytest.raises(UserError, match="outside of"):
        run(detect, tmp_path / "x", "--original_videos_path", video, "--face", "700,10")


def test_the_crop_goes_beyond_the_frame_only_where_it_must():
    def box(low, high, frame):
        return choose_box([np.tile(np.array([*low, *high], float), (5, 1))], frame).tolist()

    # a face higher than the frame is wide, at its left border: all of the frame's width is shown
    left, top, right, bottom = box((0, 100), (380, 700), (400, 1000))
    assert left <= 0 and right >= 400 and top >= 0 and bottom <= 1000 and bottom - top == right - left == 630
    # a face larger than the frame, as after a zoom: no more than the frame's longer side
    left, top, right, bottom = box((-50, -80), (700, 900), (640, 480))
    assert (left, right) == (0, 640) and top <= 0 and bottom >= 480 and right - left == bottom - top == 640
    # one that just fits is not made larger than the frame for the sake of the margin
    assert box((5, 10), (205, 390), (600, 390))[1::2] == [0, 390]


def test_a_record_tells_of_frames(tmp_path):
    record = Record("a", Fraction(25)).with_bad_frames("detect", [4, 5, 6, 9], ["dark", "dark", "", "dark"])
    assert record.bad_frames == {"detect": [[4, 5, "dark"], [9, 9, "dark"]]}
    record = record.with_bad_frames("landmarks70", [5, 6, 7], ["lost", "lost", "covered"])
    assert record.usable([3, 4, 5, 6, 7, 8, 9]).tolist() == [True, False, False, False, False, True, False]
    assert record.tell_bad_frames(range(10)) == "3 dark, blank or between two shots, 1 without the face, 1 with a covered face"
    data = Dataset.open("D", tmp_path)
    data.write_record(record)
    assert data.read_record("a") == record and record.with_bad_frames("detect", [4], [""]).bad_frames.keys() == {"landmarks70"}
