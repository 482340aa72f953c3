"""data/: clips and driving sequences from prepared files."""

import itertools
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_dataset import draw_frame, face_landmarks, make_dataset, moving_landmarks

from data.augmentation.head_motion import move_heads
from data.augmentation.transforms import (
    Jitter,
    jitter_landmarks,
    jitter_nmfc,
    random_jitter,
)
from data.clips import ClipIndex, VideoDataset
from data.driving_sequence import DrivingSequence
from data.frames import read_frames
from data.loader import ClipOrder, load_clips
from util.caches.persons import Persons
from util.cli import UserError
from util.face.eye_gaze import draw_eye_gaze
from util.image_io import read_image, resize_image, resize_nmfc, write_image
from util.layout import Dataset
from util.tensors import to_image, to_tensor

SIZE = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_dataset(root, "Ann")
    make_dataset(root, "Anna", parts=1)
    make_dataset(root, "Ann_B", parts=1)
    return root


@pytest.fixture
def own(tmp_path):
    """A dataset that the test may damage."""
    return make_dataset(tmp_path)


def test_clip_without_jitter_is_what_the_files_hold(root):
    data = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE, augment=False)
    assert data.lengths == [8, 8] and data.face_model["name"] == "mesh478"
    clip = data[ClipIndex(1, 3, 4, 0)]
    assert {k: (v.dtype, tuple(v.shape)) for k, v in clip.items()} == {
        "image": (torch.uint8, (4, SIZE, SIZE, 3)),
        "nmfc": (torch.uint8, (6, SIZE, SIZE, 3)),
        "gaze": (torch.uint8, (6, SIZE, SIZE, 3)),
        "landmarks": (torch.float32, (4, 70, 2)),
    }
    for i in range(6):
        points = moving_landmarks(8 + 1 + i, SIZE)  # second part, two frames before the clip's first
        image, nmfc = draw_frame(points, SIZE)
        np.testing.assert_array_equal(clip["nmfc"][i], nmfc)
        np.testing.assert_array_equal(clip["gaze"][i], draw_eye_gaze(points.round(6), SIZE))
        if i >= 2:
            np.testing.assert_array_equal(clip["image"][i - 2], image)
            np.testing.assert_allclose(clip["landmarks"][i - 2], points, atol=1e-4)


def test_many_frames_are_read_as_few(tmp_path):
    """On threads, and without."""
    sequence = make_dataset(tmp_path, "Ann", parts=1, part_length=40, test_frames=0, size=16).sequences("train", "Ann")[0]
    many = read_frames(sequence, range(40), 16)
    for first in range(0, 40, 10):
        few = read_frames(sequence, range(first, first + 10), 16)
        assert all(np.array_equal(a, b) for a, b in zip(vars(few).values(), vars(many[first : first + 10]).values()))


def test_context_is_clamped_at_the_start_of_a_sequence(root):
    data = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE)
    for start, same in ((0, 3), (1, 2), (2, 1)):
        nmfc = data[ClipIndex(1, start, 2, 5)]["nmfc"]
        assert all(torch.equal(nmfc[0], nmfc[i]) for i in range(same))
        assert not torch.equal(nmfc[0], nmfc[same])


@pytest.mark.parametrize("wrong", [ClipIndex(0, -1, 2, 0), ClipIndex(0, 7, 2, 0), ClipIndex(0, 0, 0, 0)])
def test_a_clip_outside_of_its_sequence_is_refused(root, wrong):
    with pytest.raises(IndexError):
        VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE)[wrong]


def test_clips_depend_on_their_index_alone(root):
    open_data = lambda **k: VideoDataset(Dataset.open("fake", root), ["Ann"], 48, **k)  # noqa: E731
    cached, uncached = open_data(), open_data(cache_gb=0)
    a, b = ClipIndex(0, 2, 3, 11), ClipIndex(0, 2, 3, 12)
    first = cached[a]
    cached[b]
    for again in (cached[a], uncached[a], uncached[a]):
        assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["nmfc"], cached[b]["nmfc"])
    assert torch.equal(first["image"], cached[b]["image"]) and torch.equal(first["landmarks"], cached[b]["landmarks"])
    assert not uncached._cache and set(cached._cache) == {0}
    first["image"].zero_()  # what a caller does with a clip must not reach the cache
    first["landmarks"].zero_()
    assert cached[a]["image"].sum() > 0 and cached[a]["landmarks"].abs().sum() > 0


def test_cache_keeps_within_its_budget(root):
    per_part = 8 * (SIZE * SIZE * 6 + 70 * 2 * 4)
    data = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE, cache_gb=1.5 * per_part / 1e9)
    for sequence in (0, 1, 0, 1):
        data[ClipIndex(sequence, 0, 2, 0)]
    assert set(data._cache) == {0}


def test_threads_get_the_same_clips(root):
    data = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE)
    clips = [ClipIndex(i % 2, i % 5, 3, i) for i in range(16)]
    got = {}
    threads = [threading.Thread(target=lambda c=c: got.__setitem__(c, data[c])) for c in clips]
    [t.start() for t in threads]
    [t.join() for t in threads]
    fresh = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE)
    for c in clips:
        assert torch.equal(got[c]["nmfc"], fresh[c]["nmfc"]) and torch.equal(got[c]["image"], fresh[c]["image"])


@pytest.mark.parametrize("size", [96, 128, 512])
def test_resizing_keeps_points_on_the_picture(size):
    point = np.array([101.3, 60.8])
    y, x = np.mgrid[:256, :256] + 0.5
    spot = (255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 50)).astype(np.uint8)[..., None].repeat(3, -1)
    for resized in (resize_image(spot, size), resize_nmfc(spot, size)):
        weights = resized[..., 0].astype(float)
        y, x = np.mgrid[:size, :size] + 0.5
        found = np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()
        np.testing.assert_allclose(found, point * size / 256, atol=0.15)


def test_persons_are_told_apart_by_their_whole_name(root):
    data = Dataset.open("fake", root)
    assert [s.id for s in VideoDataset(data, ["Ann"], SIZE).sequences] == ["Ann_000000", "Ann_000001"]
    assert [s.id for s in VideoDataset(data, ["Ann_B", "Anna"], SIZE).sequences] == ["Ann_B_000000", "Anna_000000"]


@pytest.mark.parametrize("cache_gb", [None, 0.0])
def test_flows_follow_the_clip(root, cache_gb):
    flows = {s: np.arange(8 - s, dtype=np.float16)[:, None, None, None] * np.ones((1, 2, 4, 4), np.float16) for s in (1, 3)}
    flows[9] = np.zeros((0, 2, 4, 4), np.float16)

    def read(sequence, part):
        return {s: f[part.start : max(part.start, part.stop - s)] for s, f in flows.items()}

    data = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE, flows=read, cache_gb=cache_gb)
    got = data[ClipIndex(0, 2, 4, 0)]["flows"]
    assert got[1][:, 0, 0, 0].tolist() == [2, 3, 4] and got[3][:, 0, 0, 0].tolist() == [2] and got[9].shape == (0, 2, 4, 4)
    assert data[ClipIndex(0, 2, 2, 0)]["flows"][3].shape == (0, 2, 4, 4)


def test_nmfc_and_gaze_move_together():
    """The drawn gaze of jittered landmarks lies where warping the picture puts it."""
    size = 256
    landmarks = face_landmarks(size)
    jitter = random_jitter(np.random.default_rng(3), size)
    still_eyes = Jitter(jitter.affine, np.ones(2), np.zeros(2))
    drawn = draw_eye_gaze(jitter_landmarks(landmarks, still_eyes), size)
    warped = jitter_nmfc(draw_eye_gaze(landmarks, size), jitter)
    centre = lambda im: np.array([c.mean() for c in np.nonzero(im[..., 0] > 128)])  # noqa: E731
    assert np.abs(centre(drawn) - centre(warped)).max() < 0.4
    assert np.abs(centre(drawn) - centre(draw_eye_gaze(landmarks, size))).max() > 0.5


def test_jitter_has_the_sizes_of_the_recipe():
    rng = np.random.default_rng(0)
    jitters = [random_jitter(rng, 256) for _ in range(2000)]
    scale = np.array([j.affine[0, 0] for j in jitters])
    middle = np.array([j.affine @ [128, 128, 1] - 128 for j in jitters])
    assert 0.99 <= scale.min() < 0.9901 and 1.0099 < scale.max() <= 1.01
    assert 2.5 < np.abs(middle).max() <= 2.56
    assert abs(np.std([j.eye_scale for j in jitters]) - 0.02) < 1e-3 and abs(np.std([j.eye_shift_px for j in jitters]) - 2) < 0.1
    landmarks = face_landmarks(256)
    moved = jitter_landmarks(landmarks, Jitter(np.eye(2, 3), np.array([1.5, 1.0]), np.array([0.0, 3.0])))
    np.testing.assert_allclose(np.ptp(moved[36:42], 0), 1.5 * np.ptp(landmarks[36:42], 0))
    np.testing.assert_allclose(moved[42:48] - landmarks[42:48], np.tile([3, 0], (6, 1)), atol=1e-9)  # outwards: to the right
    np.testing.assert_allclose(moved[69] - landmarks[69], [3, 0], atol=1e-9)
    np.testing.assert_array_equal(moved[:36], landmarks[:36])


def test_jittered_nmfc_has_the_colours_of_the_mesh():
    _, nmfc = draw_frame(face_landmarks(SIZE), SIZE)
    colours = {tuple(c) for c in nmfc.reshape(-1, 3)}
    for seed in range(5):
        assert {tuple(c) for c in jitter_nmfc(nmfc, random_jitter(np.random.default_rng(seed), SIZE)).reshape(-1, 3)} <= colours


def test_tensors_and_images_are_each_others_inverse():
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    np.testing.assert_array_equal(to_image(to_tensor(image, signed=True)), image)
    assert to_image(torch.tensor([[[-3.0]], [[3.0]], [[0.0]]])).ravel().tolist() == [0, 255, 128]


def test_every_epoch_has_one_window_of_every_sequence():
    lengths = [50, 50, 7, 20]
    order = ClipOrder(lengths, 1)
    clips = order.clips(range(12, 16), 12)
    assert sorted(c.sequence for c in clips) == [0, 1, 2, 3]
    for c in clips:
        assert c.length == min(12, lengths[c.sequence]) and 0 <= c.start <= lengths[c.sequence] - c.length
    assert clips[2:] == ClipOrder(lengths, 1).clips([14, 15], 12)  # a clip's number says all
    assert clips != order.clips(range(16, 20), 12) and clips != ClipOrder(lengths, 2).clips(range(12, 16), 12)
    starts = {c.start for c in ClipOrder([50], 0).clips(range(400), 12)}
    assert starts == set(range(39))  # the last window too
    assert len({c.seed for c in ClipOrder(lengths, 0).clips(range(200), 12)}) == 200


def test_batches_come_in_order(root):
    data = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE)
    clips = [[ClipIndex(0, 0, 4, 1), ClipIndex(1, 0, 3, 2)], [ClipIndex(0, 1, 2, 3)]] * 5
    for workers in (1, 3):
        batches = list(load_clips(data, clips, workers=workers))
        assert [tuple(b["image"].shape[:2]) for b in batches] == [(2, 3), (1, 2)] * 5
        assert torch.equal(batches[0]["gaze"][1], data[clips[0][1]]["gaze"])
    endless = load_clips(data, itertools.repeat(clips[1]))
    assert next(endless)["image"].shape[0] == 1
    endless.close()
    with pytest.raises(IndexError):
        list(load_clips(data, [[ClipIndex(0, 7, 2, 0)]]))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda d: shutil.rmtree(d.folder / "train/images"), "no training data for Ann"),
        (lambda d: shutil.rmtree(d.folder / "train/nmfcs/Ann_000001"), r"Ann_000001 has no nmfcs .*reconstruct\.py"),
        (lambda d: d.train_sequence("Ann", 0).path("landmarks70", 3).unlink(), r"7 landmarks70 .*000003.*detect_landmarks70\.py"),
        (lambda d: [d.train_sequence("Ann", 0).path(k, 3).unlink() for k in ("images", "nmfcs", "landmarks70")], "lacks frame 000003"),
        (
            lambda d: write_image(d.train_sequence("Ann", 0).path("nmfcs", 0), np.zeros((32, 32, 3), np.uint8)),
            "64 pixels wide but nmfcs 32",
        ),
        (lambda d: write_image(d.train_sequence("Ann", 0).path("images", 0), np.zeros((64, 60, 3), np.uint8)), "60x64 .*square"),
    ],
)
def test_incomplete_data_is_refused_before_reading(own, damage, words):
    damage(own)
    with pytest.raises(UserError, match=words):
        VideoDataset(own, ["Ann"], SIZE)


@pytest.mark.parametrize("step, command", [("reconstruct", "reconstruct.py"), ("landmarks70", "detect_landmarks70.py")])
def test_files_of_an_incomplete_step_are_not_taken(own, step, command):
    own.write_record(own.read_record("Ann").without_steps(step))
    for open_data in (lambda: VideoDataset(own, ["Ann"], SIZE), lambda: DrivingSequence.open(own, "Ann", None, SIZE)):
        with pytest.raises(UserError, match=f"Ann is not complete; run preprocessing/{command} --dataset_name fake"):
            open_data()


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda s: s.path("images", 5).write_bytes(b"no image"), "000005.png is not a readable image"),
        (lambda s: write_image(s.path("images", 5), np.zeros((32, 32, 3), np.uint8)), "32x32 pixels where 64x64"),
        (lambda s: s.path("landmarks70", 5).write_text("1 2\n3 4\n"), "does not hold 70 points"),
        (lambda s: s.path("landmarks70", 5).write_text("1 nan\n" * 70), "does not hold 70 points"),
    ],
)
def test_damaged_files_are_named_when_read(own, damage, words):
    damage(own.train_sequence("Ann", 0))
    data = VideoDataset(own, ["Ann"], SIZE)
    with pytest.raises(UserError, match=words):
        data[ClipIndex(0, 0, 2, 0)]


def test_persons_of_two_face_models_do_not_mix(tmp_path):
    make_dataset(tmp_path, "Ann")
    data = make_dataset(tmp_path, "Bob")
    data.write_record(replace(data.read_record("Bob"), face_model={"name": "ict", "version": "2"}))
    with pytest.raises(UserError, match=r"Ann .*mesh478.*Bob .*ict.*reconstruct\.py"):
        VideoDataset(data, ["Ann", "Bob"], SIZE)


def test_dataset_of_the_original_system_needs_no_record(tmp_path):
    data = make_dataset(tmp_path, record=False)
    assert VideoDataset(data, ["Ann"], SIZE).face_model is None


def test_own_test_frames_stream_in_order(root):
    sequence = DrivingSequence.open(Dataset.open("fake", root), "Ann", None, SIZE)
    frames = list(sequence)
    assert [f.number for f in frames] == list(range(16, 22)) and len(sequence) == 6
    for f in frames:
        image, nmfc = draw_frame(moving_landmarks(f.number, SIZE), SIZE)
        np.testing.assert_array_equal(f.image, image)
        np.testing.assert_array_equal(f.conditioning()[..., :3], nmfc)
        np.testing.assert_array_equal(f.conditioning()[..., 3:], draw_eye_gaze(moving_landmarks(f.number, SIZE).round(6), SIZE))
    assert [f.number for f in DrivingSequence.open(Dataset.open("fake", root), "Ann", None, SIZE, how_many=2)] == [16, 17]


def test_pairs_stream_the_drivers_conditioning(tmp_path):
    data = make_dataset(tmp_path, "Ann")
    make_dataset(tmp_path, "Bob")
    for kind in ("images", "nmfcs", "landmarks70"):
        shutil.copytree(data.sequence("test", "Bob").folder(kind), data.folder / "test" / f"source_{kind}" / "Ann_Bob")
    write_image(data.sequence("test", "Ann_Bob").path("source_images", 16), np.full((80, 80, 3), 9, np.uint8))
    frames = list(DrivingSequence.open(data, "Ann", "Bob", SIZE))
    assert len(frames) == 6 and (frames[0].image == 9).all()  # a driver's crop may have another size
    np.testing.assert_array_equal(frames[1].nmfc, read_image(data.sequence("test", "Bob").path("nmfcs", 17)))
    shutil.rmtree(data.folder / "test/source_images")
    assert next(iter(DrivingSequence.open(data, "Ann", "Bob", SIZE))).image is None
    with pytest.raises(UserError, match=r"no conditioning images for Cid driving Ann .*reenact\.py"):
        DrivingSequence.open(data, "Ann", "Cid", SIZE)


def test_no_test_frames_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no test frames of Ann .*test_seq_ratio"):
        DrivingSequence.open(make_dataset(tmp_path, test_frames=0), "Ann", None, SIZE)


def test_moved_heads_are_moved_in_all_that_belongs_to_a_frame(root):
    whole = Persons(np.full((16, 32, 32), 255, np.uint8), np.zeros((SIZE, SIZE, 4), np.uint8))
    options = {"augment": False, "move_heads": 1.0}
    data = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE, **options, persons=lambda name: whole)
    still = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE, augment=False)
    index = ClipIndex(1, 3, 4, 11)
    [[batch], [again], [plain]] = (list(load_clips(d, [[index, replace(index, seed=12)]])) for d in (data, data, still))
    assert all(torch.equal(batch[k], again[k]) for k in ("image", "gaze", "landmarks"))
    moved = move_heads(batch)
    for k, i in itertools.product(range(2), range(4)):  # frame i goes with conditioning i + 2
        nmfc, before = (x["nmfc"][k, i + 2].numpy().any(-1) for x in (moved, plain))
        shift = np.argwhere(nmfc).mean(0)[::-1] - np.argwhere(before).mean(0)[::-1]
        of_landmarks = (moved["landmarks"][k, i] - plain["landmarks"][k, i]).numpy().mean(0)
        assert np.abs(shift).max() > 0.3
        np.testing.assert_allclose(shift, of_landmarks, atol=1.0)
        np.testing.assert_array_equal(moved["gaze"][k, i + 2], draw_eye_gaze(moved["landmarks"][k, i].numpy(), SIZE))
        assert not torch.equal(moved["image"][k, i], plain["image"][k, i])


def test_a_share_of_the_clips_is_moved(root):
    whole = Persons(np.full((16, 32, 32), 255, np.uint8), np.zeros((SIZE, SIZE, 4), np.uint8))
    data = VideoDataset(Dataset.open("fake", root), ["Ann"], SIZE, augment=False, move_heads=0.3, persons=lambda name: whole)
    moved = [bool(data[ClipIndex(0, 0, 2, seed)]["motion"]["frames"].any()) for seed in range(80)]
    assert 12 <= sum(moved) <= 36
