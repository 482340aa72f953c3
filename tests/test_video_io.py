from fractions import Fraction

import av
import numpy as np
import pytest
from synthetic_videos import read_sound, set_display_matrix, write_video

from util import VERSION
from util.cli import UserError
from util.layout import root
from util.provenance import PROVENANCE
from util.video import reading as video_io
from util.video.reading import frames_at, probe, read_frames
from util.video.writing import VideoWriter

NTSC = Fraction(30000, 1001)


def grey(values, size=(64, 48)):
    """Frames of one shade each, which tell their number."""
    for v in values:
        yield np.full((size[1], size[0], 3), v, np.uint8)


def corner_picture():
    """80x48, each quarter in its own colour, so that every turn and mirroring differs."""
    image = np.zeros((48, 80, 3), np.uint8)
    image[:24, :40], image[:24, 40:], image[24:, :40], image[24:, 40:] = (220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30)
    return image


def sweep(seconds, rate=44100):
    """A rising tone: like nothing but itself at any shift (noise would not do: AAC invents its own)."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (300 * t + 400 * t**2))).astype(np.float32)


@pytest.mark.parametrize("fps", [NTSC, Fraction(24000, 1001), 25, 30, Fraction(59, 2), Fraction(60000, 1001)])
def test_written_rate_is_exact_and_every_frame_comes_back(tmp_path, fps):
    with VideoWriter(tmp_path / "v.mp4", fps) as writer:
        for image in grey(range(0, 200, 4)):
            writer.write(image)
    info = probe(tmp_path / "v.mp4")
    assert (info.fps, info.frames, info.variable_rate) == (Fraction(fps), 50, False)
    assert info.duration_s == pytest.approx(50 / fps)
    levels = [round(image.mean() / 4) for image in read_frames(tmp_path / "v.mp4")]
    assert levels == list(range(50))


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".avi"])
def test_other_containers_keep_rate_and_frames(tmp_path, suffix):
    write_video(tmp_path / f"v{suffix}", grey(range(0, 240, 4)), NTSC)
    info = probe(tmp_path / f"v{suffix}")
    assert (info.fps, info.frames) == (NTSC, 60)
    assert [round(image.mean() / 4) for image in read_frames(tmp_path / f"v{suffix}")] == list(range(60))


def test_colours_survive_writing(tmp_path):
    image = corner_picture()
    with VideoWriter(tmp_path / "v.mp4", 25, crf=10) as writer:
        for _ in range(5):
            writer.write(image)
    back = list(read_frames(tmp_path / "v.mp4"))[-1].astype(int)
    inside = np.ones(image.shape[:2], bool)
    inside[20:28], inside[:, 36:44] = False, False  # chroma is halved at the edges
    assert np.abs(back - image)[inside].max() <= 5
    with av.open(str(tmp_path / "v.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == ("h264", "yuv420p", 1, 1)


def test_odd_sizes_gain_an_edge(tmp_path):
    image = corner_picture()[:47, :79]
    with VideoWriter(tmp_path / "v.mp4", 25) as writer:
        writer.write(image)
    back = next(read_frames(tmp_path / "v.mp4"))
    assert back.shape == (48, 80, 3)
    assert np.abs(back[:16, :30].astype(int) - image[:16, :30]).max() <= 8


def test_every_file_says_that_it_is_synthetic(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", 25, title="Ann by Bob", description="Reenactment") as writer:
        writer.write(corner_picture())
    with av.open(str(tmp_path / "v.mp4")) as container:
        tags = container.metadata
    assert tags["title"] == "Ann by Bob" and tags["comment"] == PROVENANCE and tags["description"] == f"Reenactment. {PROVENANCE}"
    assert "AI-generated" in PROVENANCE and "Head2Head" in PROVENANCE and VERSION in PROVENANCE


def test_tags_in_an_old_encoding_do_no_harm(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", 25, title="Mueller") as writer:
        writer.write(corner_picture())
    data = (tmp_path / "v.mp4").read_bytes()
    assert b"Mueller" in data
    (tmp_path / "v.mp4").write_bytes(data.replace(b"Mueller", b"M\xfcllers"))  # Latin-1
    assert probe(tmp_path / "v.mp4").frames == 1


def test_version_agrees_with_the_package():
    assert f'version = "{VERSION}"' in (root() / "pyproject.toml").read_text() or "util.VERSION" in (root() / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),  # a phone held upright: a quarter turn clockwise
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),  # a mirrored selfie
        ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    ],
)
def test_marks_of_rotation_are_applied(tmp_path, matrix, upright):
    path = set_display_matrix(write_video(tmp_path / "v.mp4", [corner_picture()] * 3), *matrix)
    expected = upright(corner_picture())
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]
    images = list(read_frames(path))
    assert len(images) == 3
    assert np.abs(images[0].astype(int) - expected).mean() < 4
    small = next(read_frames(path, max_side=40))
    assert small.shape == (expected.shape[0] // 2, expected.shape[1] // 2, 3)
    assert np.abs(small.astype(int) - expected[::2, ::2]).mean() < 8


def test_rotation_agrees_with_ffmpegs_own_reading(tmp_path):
    path = set_display_matrix(write_video(tmp_path / "v.mp4", [corner_picture()]), 0, 1, -1, 0)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    if not hasattr(frame, "rotation"):
        pytest.skip("this PyAV does not tell the rotation")
    expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    assert np.array_equal(next(read_frames(path)), expected)
    assert probe(path).rotation == 90


def test_variable_rate_becomes_constant_and_stays_in_time(tmp_path):
    rng = np.random.default_rng(1)
    steps = rng.choice([1 / 30, 1 / 30, 1 / 30, 2 / 30, 0.036, 0.03], 70)  # a phone in poor light
    times = 0.5 + np.concatenate([[0], np.cumsum(steps)])
    path = write_video(tmp_path / "v.mp4", grey(range(0, 213, 3)), times_s=times)
    info = probe(path)
    assert info.variable_rate and info.fps == 30
    levels = np.array([round(image.mean() / 3) for image in read_frames(path)])
    assert len(levels) == info.frames == round((times[-1] - times[0]) * 30) + 1
    for k, level in enumerate(levels):
        distance = np.abs(times - times[0] - k / 30)
        assert distance[level] <= distance.min() + 1e-4, f"frame {k} is not the nearest in time"


def test_a_file_can_be_read_at_another_rate(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey(range(0, 240, 4)), 60)
    info = probe(path).at_rate(Fraction(30))
    levels = [round(image.mean() / 4) for image in read_frames(path, info)]
    assert len(levels) == info.frames == 30
    assert np.abs(np.array(levels) - 2 * np.arange(30)).max() <= 1


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv444p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(corner_picture(), format="rgb24")))
        container.mux(stream.encode(None))
    assert (probe(tmp_path / "v.mp4").width, probe(tmp_path / "v.mp4").height) == (120, 48)
    assert next(read_frames(tmp_path / "v.mp4")).shape == (48, 120, 3)


# an .mkv has time stamps in whole milliseconds
@pytest.mark.parametrize(("suffix", "codec", "tolerance_s"), [(".mp4", "aac", 0), (".mkv", "flac", 1e-3), (".mov", "pcm_s16le", 0)])
@pytest.mark.parametrize("start_frame", [0, 37])
def test_sound_is_cut_to_the_video_and_in_sync(tmp_path, suffix, codec, tolerance_s, start_frame):
    rate = 44100
    sound = sweep(3.2, rate)
    source = write_video(tmp_path / f"s{suffix}", grey([100] * 90), NTSC, sound=sound, sound_codec=codec, rate=rate)
    start_s = start_frame / float(NTSC)
    with VideoWriter(tmp_path / "v.mp4", NTSC, audio_from=source, audio_start_s=start_s) as writer:
        for image in grey([50] * 40):
            writer.write(image)
    info = probe(tmp_path / "v.mp4")
    assert info.has_audio and info.frames == 40 and info.start_s == 0
    begin_s, samples, got_rate = read_sound(tmp_path / "v.mp4")
    assert got_rate == 48000
    end_s = begin_s + len(samples) / 48000
    assert 0 <= begin_s < 0.03 and abs(end_s - info.duration_s) < 0.05
    piece = samples[8000:28000]
    match = np.correlate(sweep(3.2, 48000), piece, "valid")
    assert match.max() / np.linalg.norm(piece) ** 2 > 0.9
    expected = (start_s + begin_s) * 48000 + 8000
    assert abs(match.argmax() - expected) <= 2 + tolerance_s * 48000


def test_sound_may_start_after_the_picture(tmp_path):
    source = write_video(tmp_path / "s.mp4", grey([100] * 60), sound=sweep(2))
    with VideoWriter(tmp_path / "v.mp4", 30, audio_from=source, audio_start_s=-0.5) as writer:
        for image in grey([50] * 60):
            writer.write(image)
    assert read_sound(tmp_path / "v.mp4")[0] == pytest.approx(0.5, abs=0.03)


def test_a_silent_source_gives_a_silent_video(tmp_path):
    source = write_video(tmp_path / "s.mp4", grey([100] * 5))
    with VideoWriter(tmp_path / "v.mp4", 30, audio_from=source) as writer:
        writer.write(corner_picture())
    assert not probe(tmp_path / "v.mp4").has_audio


def test_an_interrupted_writer_leaves_the_older_file(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError), VideoWriter(path, 25) as writer:
        writer.write(corner_picture())
        raise RuntimeError("stopped")
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_writing_needs_an_mp4_name_and_equal_frames(tmp_path):
    with pytest.raises(UserError, match="ends in .mp4"):
        VideoWriter(tmp_path / "v.avi", 25)
    with pytest.raises(ValueError, match="80x48"), VideoWriter(tmp_path / "v.mp4", 25) as writer:
        writer.write(corner_picture())
        writer.write(corner_picture()[:, :60])
    with pytest.raises(UserError, match="there is no video"), VideoWriter(tmp_path / "v.mp4", 25, audio_from=tmp_path / "no.mp4") as writer:
        writer.write(corner_picture())
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_refused_in_words(tmp_path):
    good = tmp_path / "good.mp4"
    with VideoWriter(good, 30) as writer:  # its index is in front, so a part of the file can be opened
        for image in np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8):
            writer.write(image)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video " * 500)
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "stub.mp4").write_bytes(good.read_bytes()[:300])
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(sweep(0.5)[None], format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, words in {
        "absent.mp4": "there is no video",
        ".": "is a folder",
        "empty.mp4": "is empty",
        "text.mp4": "not a readable video",
        "stub.mp4": "not a readable video|no picture",
        "cut.mp4": r"is cut short: \d+ of 60 frames",
        "sound.mp4": "no picture",
    }.items():
        with pytest.raises(UserError, match=words):
            probe(tmp_path / name)
        with pytest.raises(UserError, match=words):
            list(read_frames(tmp_path / name))


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_of_a_wav_file_is_taken(tmp_path, channels):
    """A WAV file names no channel layout."""
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.zeros(16000 * channels, np.int16).tobytes())
    with VideoWriter(tmp_path / "v.mp4", Fraction(25), audio_from=tmp_path / "a.wav") as writer:
        for _ in range(10):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    assert probe(tmp_path / "v.mp4").has_audio


def levels_at(path, numbers, info=None):
    return [round(image.mean() / 2) for image in frames_at(path, info or probe(path), numbers)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("irregular", [False, True])
def test_any_frame_is_the_one_that_reading_in_order_gives(tmp_path, suffix, irregular):
    """Forwards, backwards, again, and with jumps; also where B-frames and irregular time stamps mislead an index."""
    rng = np.random.default_rng(0)
    times_s = np.cumsum(np.where(rng.random(120) < 0.2, 0.1, 1 / 30)) if irregular else np.arange(120) / 30
    path = tmp_path / f"v{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.options = {"crf": "5", "preset": "medium", "g": "40", "bf": "3"}
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 64, 48
        stream.codec_context.time_base = Fraction(1, 90000)
        for image, time_s in zip(grey(range(0, 240, 2)), times_s):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 90000), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path)
    assert info.variable_rate == irregular
    in_order = [round(image.mean() / 2) for image in read_frames(path)]
    for first in (1, 39, 40, 41, 97, len(in_order) - 1):
        assert [round(image.mean() / 2) for image in read_frames(path, info, first=first)] == in_order[first:]
    end = len(in_order)
    there_and_back = [*range(end - 30, end), *range(end - 1, end - 60, -1), 5, 5, 4, 4, *range(70, 75), 3, end - 1]
    assert levels_at(path, there_and_back) == [in_order[n] for n in there_and_back]
    with pytest.raises(UserError, match="ends before its frame"):
        levels_at(path, [end - 2, end + 5])


def test_reading_backwards_holds_few_frames(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", grey(range(0, 200, 2)), 30)
    monkeypatch.setattr("util.video.reading._BLOCK_BYTES", 7 * 64 * 48 * 3)
    in_order = [round(image.mean() / 2) for image in read_frames(path)]
    calls = []
    whole = video_io._ascending
    monkeypatch.setattr(
        "util.video.reading._ascending", lambda path, info, numbers: calls.append(len(numbers)) or whole(path, info, numbers)
    )
    assert levels_at(path, range(99, -1, -1)) == in_order[::-1]
    assert max(calls) <= 7


def test_a_raw_stream_without_time_stamps_is_read_from_its_beginning(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey(range(0, 100, 2)), 25)
    raw = tmp_path / "v.h264"
    with av.open(str(path)) as source, av.open(str(raw), "w", format="h264") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    in_order = [round(image.mean() / 2) for image in read_frames(raw)]
    assert levels_at(raw, [7, 6, 30, 2]) == [in_order[n] for n in (7, 6, 30, 2)]


def test_decoders_threads_never_wait_for_python(tmp_path):
    """With a log level, PyAV calls Python out of a decoder's threads, and closing it half way then hung now and then."""
    path = write_video(tmp_path / "v.mp4", grey(range(0, 100, 2)), 25)
    next(read_frames(path, first=20))
    assert av.logging.get_level() is None
