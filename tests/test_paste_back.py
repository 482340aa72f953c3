"""util/paste_back/blender.py: frames and sound meet by time, colours are matched, and nothing outside the mask is touched."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import cv2
import numpy as np
import pytest
from fake_dataset import FACE_MODEL, STEPS, draw_frame, make_dataset, moving_landmarks
from fake_run import make_run, run_test
from synthetic_videos import add_sound, face_frame, hide_codec, read_sound, set_display_matrix, write_video

from scripts import paste_back as command
from util.cli import UserError
from util.credentials.reading import UNCHANGED, read_findings
from util.hashing import sha256_of
from util.image_io import crop, read_image, write_image
from util.layout import Dataset, Pair, Record
from util.paste_back.blender import Blender
from util.paste_back.colour import ColourMatch, Colours
from util.paste_back.masks import Head, fill, soft_mask
from util.paste_back.plan import make_plan, source_index
from util.paste_back.writing import write_paste_back
from util.provenance import PROVENANCE
from util.results.folder import Results
from util.results.panels import write_videos
from util.video.reading import probe, read_frames

NTSC = Fraction(30000, 1001)
SIZE = (160, 120)  # of the original frames: width, height
BOX = [40, 8, 136, 104]  # of the crop
RATE = 44100


def scene(number, size=SIZE, box=BOX):
    """An original frame: background with its number in a strip on the left, and a drawn face in the crop box."""
    width, height = size
    x = np.arange(width)[None, :, None]
    y = np.arange(height)[:, None, None]
    image = np.broadcast_to((90 + 40 * np.sin(x / 9) + 30 * np.cos(y / 7) + [0, 12, 24]), (height, width, 3)).astype(np.uint8).copy()
    side = box[2] - box[0]
    picture, nmfc = draw_frame(moving_landmarks(number, side), side)
    face = nmfc.any(-1)
    image[box[1] : box[3], box[0] : box[2]][face] = picture[face]
    for bit in range(8):
        image[bit * 14 : bit * 14 + 14, :20] = 230 if number >> bit & 1 else 25
    return image, nmfc


def number_in(image):
    return sum(1 << bit for bit in range(8) if image[bit * 14 + 4 : bit * 14 + 10, 6:14].mean() > 128)


def clicks(frames, fps, seconds, rate=RATE):
    """Silence with a click of 2 ms at the beginning of each of these frames."""
    sound = np.zeros(round(seconds * rate), np.float32)
    for k in frames:
        click = sound[round(k / fps * rate) :][: rate // 500]
        click[:] = 0.8 * np.sin(2 * np.pi * 3000 * np.arange(len(click)) / rate)
    return sound


def click_frames(path, fps):
    """The moments of the clicks, in frames."""
    start_s, samples, rate = read_sound(path)
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    firsts = loud[np.r_[True, np.diff(loud) > rate // 50]]
    return (start_s + firsts / rate) * float(fps)


def make_identity(root, name, fps, count=60, test_start=40, sound_at=(), turned=False, times_s=None, size=64):
    """A video, and the dataset that detect.py and the rest would make of it."""
    folder = root / "videos"
    folder.mkdir(exist_ok=True)
    pictures = [scene(n)[0] for n in range(count)]
    if turned:  # stored lying on its side
        pictures = [np.ascontiguousarray(np.rot90(p)) for p in pictures]
    sound = clicks(sound_at, fps, count / fps) if sound_at else None
    path = write_video(folder / f"{name}.mp4", pictures, fps, sound=sound, times_s=times_s)
    if turned:
        set_display_matrix(path, 0, 1, -1, 0)
    info = probe(path)
    source = {"file": str(path), "sha256": sha256_of(path), "frames": info.frames, "width": info.width, "height": info.height}
    data = Dataset.open("fake", root)
    sequences = {n: data.train_sequence(name, n // 20) if n < test_start else data.sequence("test", name) for n in range(info.frames)}
    for n, image in enumerate(read_frames(path)):
        write_image(sequences[n].path("images", n), crop(image, BOX, size))
        write_image(sequences[n].path("nmfcs", n), cv2.resize(scene(number_in(image))[1], (size, size), interpolation=cv2.INTER_NEAREST))
    splits = {"train": test_start, "test": info.frames - test_start}
    starts = {"train": 0, "test": test_start}
    data.write_record(Record(name, info.fps, [source], BOX, size, splits, starts, FACE_MODEL, STEPS))
    return data, path


def make_results(root, data, target, source=None, frames=(40, 59), fakes=None, change=None):
    """Finished results whose synthesised frames are the target's own crops of `fakes` (numbers), possibly changed."""
    results = Results(root / "results" / (f"{target}_{source}" if source else target))
    results.begin()
    numbers = range(frames[0], frames[1] + 1)
    places = {n: s for split in ("train", "test") for s in data.sequences(split, target) for n in s.frames()}
    for number, fake in zip(numbers, fakes or numbers):
        image = read_image(places[fake].path("images", fake))
        write_image(results.path("fake", number), change(image) if change else image)
        write_image(results.path("nmfc", number), read_image(places[fake].path("nmfcs", fake)))
    results.finish(
        {
            "dataset_name": "fake",
            "datasets_dir": str(root),
            "target": target,
            "source": source,
            "frames": list(frames),
            "kinds": ["fake", "nmfc"],
        }
    )
    return results


def originals(path, numbers):
    frames = list(read_frames(path))
    return [frames[n] for n in numbers]


@pytest.mark.parametrize("fps", [Fraction(25), NTSC, Fraction(30), Fraction(50)])
def test_self_reenactment_gives_the_original_back_in_sync(tmp_path, fps):
    data, path = make_identity(tmp_path, "Ann", fps, sound_at=(10, 43, 55))
    results = make_results(tmp_path, data, "Ann")
    made = write_paste_back(results)
    info = probe(made)
    assert (info.fps, info.frames, (info.width, info.height)) == (fps, 20, SIZE)
    frames = list(read_frames(made))
    assert [number_in(f) for f in frames] == list(range(40, 60))
    for frame, original in zip(frames, originals(path, range(40, 60))):
        assert np.abs(frame.astype(int) - original).mean() < 3
    np.testing.assert_allclose(click_frames(made, fps), [3, 15], atol=0.12)  # 43 and 55, less 40
    import av

    with av.open(str(made)) as container:
        assert container.metadata["comment"] == PROVENANCE
    credentials = read_findings(made)
    assert (credentials.state, credentials.originals, credentials.facts["target"]) == (UNCHANGED, 1, "Ann")
    assert credentials.source_type == "compositeWithTrainedAlgorithmicMedia"


@pytest.mark.parametrize("audio, heard", [("source", True), ("target", True), ("none", False)])
def test_sound_of_self_reenactment(tmp_path, audio, heard):
    data, _ = make_identity(tmp_path, "Ann", 25, sound_at=(43,))
    made = write_paste_back(make_results(tmp_path, data, "Ann"), audio=audio)
    assert probe(made).has_audio == heard


@pytest.mark.parametrize("codec, rate, layout", [("pcm_s24le", 192000, "mono"), ("pcm_s16le", 48000, "7.1")])
def test_any_sound_of_the_source_through_the_command(tmp_path, codec, rate, layout, capsys):
    """A phone's video: a first track that no decoder knows, then one of many channels or of a high rate."""
    data, path = make_identity(tmp_path, "Ann", 25)
    track = {"samples": clicks((43, 55), 25, 2.4, rate), "codec": codec, "rate": rate, "layout": layout}
    phone = hide_codec(add_sound(path, tmp_path / "phone.mov", {"samples": np.zeros(2 * RATE, np.float32)}, track))
    record = data.read_record("Ann")
    data.write_record(replace(record, sources=[{**record.sources[0], "file": str(phone), "sha256": sha256_of(phone)}]))
    results = make_results(tmp_path, data, "Ann")
    command.main(["--results_dir", str(results.folder)])
    np.testing.assert_allclose(click_frames(results.paste_back, 25), [3, 15], atol=0.12)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and f"sound track 1 of {phone} cannot be decoded" in warnings[0] and "taking track 2" in warnings[0]


def test_rotated_and_variable_rate_videos_line_up_with_the_crops(tmp_path):
    for name, options in {
        "Turned": {"turned": True},
        "Phone": {"times_s": np.cumsum(np.random.default_rng(1).choice([1 / 30, 1 / 30, 1 / 24, 0.07], 60))},
    }.items():
        data, path = make_identity(tmp_path, name, Fraction(30), **options)
        count = probe(path).frames
        results = make_results(tmp_path, data, name, frames=(40, count - 1))
        frames = list(read_frames(write_paste_back(results)))
        expected = originals(path, range(40, count))
        assert len(frames) == len(expected) and frames[0].shape == expected[0].shape == (SIZE[1], SIZE[0], 3)
        assert [number_in(f) for f in frames] == [number_in(f) for f in expected]
        assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(frames, expected)) < 3


def make_pair(data, target, source, fps, frames, target_frames, mode="head", split="train"):
    pair = Pair(target, source, mode, fps, list(frames), {"kind": "identity", "split": "test"}, split, target_frames, {}, True)
    data.write_pair(pair)
    return pair


@pytest.mark.parametrize("mode", ["head", "face"])
def test_a_driven_head_lies_in_the_targets_frames_of_that_moment(tmp_path, mode):
    """Bob at 50 drives Ann at 25 frames/s; hers are too few and go back and forth."""
    data, path = make_identity(tmp_path, "Ann", Fraction(25), sound_at=(2,))
    make_identity(tmp_path, "Bob", Fraction(50), sound_at=(44, 51))
    place = [k // 2 for k in range(12)] + [6 - k // 2 for k in range(8)]
    make_pair(data, "Ann", "Bob", Fraction(50), (40, 59), place, mode)
    results = make_results(tmp_path, data, "Ann", "Bob", fakes=place if mode == "face" else range(40, 60))
    made = write_paste_back(results)
    assert probe(made).fps == 50
    frames = list(read_frames(made))
    assert [number_in(f) for f in frames] == place
    np.testing.assert_allclose(click_frames(made, 50), [4, 11], atol=0.12)  # Bob's sound
    if mode == "face":  # the heads are those of the frames: nothing may change
        assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(frames, originals(path, place))) < 3
    made = write_paste_back(results, audio="target", path=tmp_path / "t.mp4")
    np.testing.assert_allclose(click_frames(made, 50), [4], atol=0.12)  # Ann's frame 2 of 25 a second


def test_no_second_edge_where_the_head_was(tmp_path):
    """The driven head is elsewhere: where the target's own head sticks out, the synthesised background covers it."""
    side = 96
    plain = np.full((160, 200, 3), 120, np.uint8)
    own, driven = np.zeros((2, side, side), np.uint8)
    cv2.circle(own, (34, 50), 18, 1, cv2.FILLED)
    cv2.circle(driven, (60, 50), 18, 1, cv2.FILLED)
    frame, fake = plain.copy(), plain[:side, :side].copy()
    frame[40 : 40 + side, 50 : 50 + side][own > 0] = (220, 160, 130)
    fake[driven > 0] = (220, 160, 130)
    nmfcs = [np.repeat(m[..., None] * 200, 3, -1).astype(np.uint8) for m in (driven, own)]
    blender = Blender([50, 40, 50 + side, 40 + side], plain.shape[:2], 25, aligned=False)
    result = blender(frame, fake, *nmfcs)
    expected = plain.copy()
    expected[40 : 40 + side, 50 : 50 + side] = fake
    assert np.abs(result.astype(int) - expected).max() <= 3
    alone = Blender([50, 40, 50 + side, 40 + side], plain.shape[:2], 25, aligned=True)(frame, fake, nmfcs[0])
    assert np.abs(alone.astype(int) - expected).max() > 60  # which is what the union is for


def test_nothing_outside_of_the_crop_changes_and_no_square_shows():
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.integers(0, 255, (120, 160, 3), np.uint8), (0, 0), 5)
    _, nmfc = scene(3)
    fake = np.clip(crop(frame, BOX, 96).astype(int) + rng.normal(0, 20, (96, 96, 3)), 0, 255).astype(np.uint8)
    before = frame.copy()
    result = Blender(BOX, frame.shape[:2], 25, True)(frame, fake, nmfc)
    np.testing.assert_array_equal(frame, before)
    outside = np.ones(frame.shape[:2], bool)
    outside[BOX[1] : BOX[3], BOX[0] : BOX[2]] = False
    np.testing.assert_array_equal(result[outside], frame[outside])
    change = np.abs(result.astype(int) - frame).mean(-1)[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    edge = np.concatenate([change[0], change[-1], change[:, 0], change[:, -1]])
    assert edge.max() <= 1 and change[nmfc.any(-1)].mean() > 8


def test_background_stays_the_originals_where_no_person_is():
    """The synthesised background is wrong all over, hair is where the segmentation says so."""
    frame = np.full((120, 160, 3), 120, np.uint8)
    head, hair = np.zeros((2, 96, 96), np.uint8)
    cv2.circle(head, (48, 56), 16, 1, cv2.FILLED)
    cv2.ellipse(hair, (48, 54), (17, 19), 0, 0, 360, 1, cv2.FILLED)
    fake = np.full((96, 96, 3), 120, np.uint8)
    fake[::2] = 160  # which no match of colours mends
    fake[hair > 0] = 60
    nmfc = np.repeat(head[..., None] * 200, 3, -1)

    def person(rgb):
        return ((rgb < 100).all(-1)).astype(np.float32)

    both = [Blender(BOX, frame.shape[:2], 25, True, p)(frame, fake, nmfc)[BOX[1] : BOX[3], BOX[0] : BOX[2]] for p in (None, person)]
    wide, close = (np.abs(b.astype(int) - 120).mean(-1) > 3 for b in both)
    assert close[hair > 0].mean() > 0.97 and wide[hair > 0].mean() > 0.97
    background = cv2.dilate(hair, np.ones((13, 13), np.uint8)) == 0
    assert not close[background].any() and wide[background].sum() > 300


def test_the_segmenter_finds_the_portrait(monkeypatch):
    from preprocessing.tracking.person_matte import create_person_mask

    picture = face_frame((256, 256), (128, 120), 1.0)
    mask = create_person_mask()(picture)
    assert mask.shape == (256, 256) and mask.dtype == np.float32 and mask[90:150, 100:160].mean() > 0.9 and mask[:30, :30].mean() < 0.2
    monkeypatch.setattr("preprocessing.tracking.person_matte.load_solutions", lambda: (_ for _ in ()).throw(UserError("no MediaPipe")))
    assert create_person_mask() is None


def test_a_crop_that_reaches_the_frames_border_is_not_faded_there():
    frame = np.full((96, 120, 3), 100, np.uint8)
    nmfc = np.zeros((96, 96, 3), np.uint8)
    cv2.rectangle(nmfc, (30, 30), (66, 95), (9, 9, 9), cv2.FILLED)
    fake = np.full((96, 96, 3), 100, np.uint8)
    fake[30:, 30:66] = 160
    own = np.zeros_like(nmfc)
    own[30:60, 30:66] = 9
    frame[40:70, 40:76] = 160
    result = Blender([10, 10, 106, 106], frame.shape[:2], 25, False)(frame, fake, nmfc, own)
    assert np.abs(result[95, 50:66].astype(int) - 160).max() <= 6  # the crop leaves the frame below: 160 down to its last row


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("gain, offset", [(0.7, 0), (1.0, [25, 0, -20]), (0.8, [10, 5, -8])])
def test_colours_are_matched(aligned, gain, offset):
    frame, nmfc = scene(7)
    whole = crop(frame, BOX, 96)
    fake = np.clip(whole * gain + np.array(offset), 0, 255).astype(np.uint8)
    result = Blender(BOX, frame.shape[:2], 25, aligned)(frame, fake, nmfc, None if aligned else nmfc)
    face = nmfc.any(-1)
    inside = (slice(BOX[1], BOX[3]), slice(BOX[0], BOX[2]))
    before = np.abs(fake.astype(int) - whole)[face].mean()
    after = np.abs(result[inside].astype(int) - whole)[face].mean()
    assert before > 10 and after < (3 if aligned else 4)


def test_the_match_leaves_what_is_not_a_matter_of_colour():
    """An open mouth in the synthesised frame is no reason to darken the face."""
    frame, nmfc = scene(7)
    fake = crop(frame, BOX, 96)
    fake[60:74, 40:60] = (40, 10, 10)
    result = Blender(BOX, frame.shape[:2], 25, True)(frame, fake, nmfc)[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    assert np.abs(result[40:55, 35:60].astype(int) - fake[40:55, 35:60]).mean() < 3
    assert np.abs(result[62:72, 43:57].astype(int) - fake[62:72, 43:57]).mean() < 6


def test_the_match_does_not_flicker():
    rng = np.random.default_rng(2)
    whole = crop(scene(7)[0], BOX, 96)
    match = ColourMatch(0.08)
    trust = np.ones((96, 96), np.float32)
    gains = 0.8 + 0.04 * rng.standard_normal(60)
    fakes = [np.clip(whole * g, 0, 255).astype(np.uint8) for g in gains]
    out = [match(fake, Colours.of(fake), Colours.of(whole), trust).mean() / g for fake, g in zip(fakes, gains)]
    assert np.std(out[20:]) < 0.3 * np.std(whole.mean() * 0.04 / 0.8 * rng.standard_normal(60))


def test_percentiles_of_a_face_are_those_of_its_pixels():
    whole = crop(scene(7)[0], BOX, 96)
    face = cv2.circle(np.zeros((96, 96), np.uint8), (40, 50), 20, 1, cv2.FILLED) > 0
    np.testing.assert_allclose(Colours.of(whole, face).face.T, np.percentile(whole[face], np.arange(10, 100, 10), axis=0), atol=1e-9)
    assert Colours.of(whole, face & (np.arange(96) < 22)).face is None  # too few of them


def test_masks():
    mask = np.zeros((100, 100), bool)
    mask[40:80, 40:60] = True
    mask[60:66, 46:54] = False  # an open mouth
    assert fill(mask)[40:80, 40:60].all() and fill(mask).sum() == 40 * 20
    wide = Head(fill(mask)).with_hair
    rows, columns = np.flatnonzero(wide.any(1)), np.flatnonzero(wide.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (31, 80, 36, 63)  # 9 above, 1 below, 4 beside
    soft = soft_mask([Head(fill(mask))])
    assert (soft[wide] == 1).all() and soft.dtype == np.float32 and 0 <= soft.min() and soft[0, 0] == 0
    assert np.abs(np.diff(soft, axis=0)).max() < 0.5  # falls over 4 pixels
    empty = soft_mask([Head(np.zeros((50, 50), bool))])
    assert not empty.any()


def test_frames_of_repeated_starts_and_parts(tmp_path):
    record = Record("Ann", Fraction(25), source_start={"train": -3, "test": 37})
    assert [source_index(record, n) for n in (0, 2, 3, 4, 40)] == [0, 0, 0, 1, 37]
    record = replace(record, first_number=20, source_start={"train": 17, "test": 37})  # the shot begins with the source's frame 20
    assert [source_index(record, n) for n in (20, 22, 23, 24, 40)] == [20, 20, 20, 21, 37]
    data, first = make_identity(tmp_path, "Ann", Fraction(25))
    second = write_video(tmp_path / "videos" / "Ann_2.mp4", (scene(n)[0] for n in range(100, 110)), 25)
    record = data.read_record("Ann")
    more = {"file": str(second), "sha256": sha256_of(second), "frames": 10, "width": SIZE[0], "height": SIZE[1]}
    data.write_record(replace(record, sources=[*record.sources, more]))
    sequence = data.sequence("test", "Ann")
    for n in range(60, 70):
        write_image(sequence.path("images", n), crop(scene(n + 40)[0], BOX, 64))
        write_image(sequence.path("nmfcs", n), cv2.resize(scene(n + 40)[1], (64, 64), interpolation=cv2.INTER_NEAREST))
    made = write_paste_back(make_results(tmp_path, data, "Ann", frames=(55, 69)))
    assert [number_in(f) for f in read_frames(made)] == [*range(55, 60), *range(100, 110)]


def test_mistakes_are_said(tmp_path):
    data, path = make_identity(tmp_path, "Ann", Fraction(25))
    results = make_results(tmp_path, data, "Ann")
    driven = make_results(tmp_path, data, "Ann", "Bob")
    with pytest.raises(UserError, match=r"no complete record of Bob driving Ann .*reenact\.py"):
        write_paste_back(driven)
    make_pair(data, "Ann", "Bob", Fraction(25), (40, 44), [0] * 5)
    with pytest.raises(UserError, match="older than the pair"):
        write_paste_back(driven)
    record = data.read_record("Ann")
    data.write_record(replace(record, sources=[]))
    with pytest.raises(UserError, match="does not record where Ann's crops come from"):
        make_plan(results.read(), None, "source")
    data.write_record(record)
    results.path("fake", 45).unlink()
    with pytest.raises(UserError, match="no finished results"):
        write_paste_back(results)
    assert not list((tmp_path / "results").rglob("*.mp4")) and not list((tmp_path / "results").rglob("*.part"))


def test_a_lost_video_is_said_and_the_advice_works(tmp_path, capsys):
    """Another video has its place. Where find_video looks: tests/test_layout.py."""
    data, video = make_identity(tmp_path, "Ann", Fraction(25), 26, 20, sound_at=(22,))
    results = make_results(tmp_path, data, "Ann", frames=(20, 25))
    lost = video.rename(tmp_path / "lost.mp4")
    write_video(video, (scene(n)[0] for n in range(30)), 30)
    state = f"Ann's original video {video} is not the file any more that Ann's crops were cut from"
    remedy = f"put the original, under any name, into {data.original_videos}"
    with pytest.raises(UserError, match=f"^{state}, and neither {data.original_videos} nor .*; {remedy}$"):
        write_paste_back(results)
    write_videos(results, "only_fake")
    assert f"warning: no sound: {state}" in capsys.readouterr().err
    data.original_videos.mkdir()
    lost.rename(data.original_videos / "under any name.mp4")
    made = write_paste_back(results)
    assert [number_in(f) for f in read_frames(made)] == list(range(20, 26))
    np.testing.assert_allclose(click_frames(made, 25), [2], atol=0.12)  # its sound as well


def test_datasets_and_results_that_were_moved(tmp_path, monkeypatch):
    """The folder of all datasets, with the videos in it, first where no one can know."""
    before = tmp_path / "before"
    before.mkdir()
    data, video = make_identity(before, "Ann", Fraction(25), 26, 20)
    data.original_videos.mkdir()
    source = {**data.read_record("Ann").sources[0], "file": str(video.rename(data.original_videos / "Ann.mp4"))}
    data.write_record(replace(data.read_record("Ann"), sources=[source]))
    results = Results(tmp_path / "elsewhere")
    shutil.move(make_results(before, data, "Ann", frames=(20, 25)).folder, results.folder)
    before.rename(tmp_path / "now")
    remedy = "give the folder that holds fake now with --datasets_dir"
    with pytest.raises(UserError, match=f"there is no {data.folder}; {remedy}"):
        command.main(["--results_dir", str(results.folder)])
    command.main(["--results_dir", str(results.folder), "--datasets_dir", str(tmp_path / "now")])
    assert [number_in(f) for f in read_frames(results.paste_back)] == list(range(20, 26))
    (tmp_path / "now").rename(tmp_path / "datasets")
    monkeypatch.setattr("util.layout.root", lambda: tmp_path)  # as if the repository were there
    assert make_plan(results.read(), None, "source").target.sources[0]["file"] == str(tmp_path / "datasets/fake/original_videos/Ann.mp4")


def test_the_commands(tmp_path, capsys):
    """test.py --paste_back, and scripts/paste_back.py on what it left; the file that drives is another than the target's."""
    data = make_dataset(tmp_path, "Ann", parts=5, part_length=8, test_frames=6)
    run, _, _ = make_run(tmp_path)
    run_test_with = ["--target_id", "Ann", "--no_report", "--paste_back", "--audio", "none"]
    with pytest.raises(UserError, match="does not record where"):
        run_test(tmp_path, *run_test_with)
    assert not (tmp_path / "results").exists()  # said before the work
    video = write_video(tmp_path / "Ann.mp4", (scene(n)[0] for n in range(60)), 25)
    source = {"file": str(video), "sha256": sha256_of(video), "frames": 60, "width": SIZE[0], "height": SIZE[1]}
    changes = {"sources": [source], "crop_box": BOX, "source_start": {"train": 0, "test": 40}, "fps": Fraction(25)}
    data.write_record(replace(data.read_record("Ann"), **changes))
    run_test(tmp_path, *run_test_with)
    made = run.test_folder("Ann") / "paste_back.mp4"
    assert str(made) in capsys.readouterr().out
    assert [number_in(f) for f in read_frames(made)] == list(range(40, 46))
    made.unlink()
    command.main(["--results_dir", str(tmp_path / "results")])
    assert probe(made).frames == 6 and json.loads((made.parent / "complete.json").read_text())["target"] == "Ann"
    shutil.rmtree(made.parent)
    with pytest.raises(UserError, match="no finished results"):
        command.main(["--results_dir", str(tmp_path / "results")])
    assert next(islice(read_frames(video), 1)).shape == (SIZE[1], SIZE[0], 3)
