"""live/recorder.py: what comes in time stamps of its own becomes a video of constant rate, its sound where its picture is."""

from fractions import Fraction

import av
import numpy as np
import pytest
from synthetic_videos import write_video

from live.recorder import Recorder
from util.cli import UserError
from util.provenance import PROVENANCE
from util.video.reading import probe, read_frames

BEEP_S = 0.1
SYNC_S = 0.04  # what people do not notice


def grey(value, size=(32, 24)):
    return np.full((size[1], size[0], 3), value, np.uint8)


def beeps(times_s, seconds, rate):
    """Silence with a tone of BEEP_S at each of these times, float32 [n]."""
    t = np.arange(round(seconds * rate)) / rate
    on = sum(((t >= s) & (t < s + BEEP_S)).astype(np.float32) for s in times_s)
    return (0.5 * on * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)


def onsets_of_sound(path):
    """Seconds at which a tone begins, and the end of the sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.layout.name) == ("aac", 48000, "stereo")
        frames = list(container.decode(stream))
    level = np.abs(np.concatenate([f.to_ndarray()[0] for f in frames]))
    loud = np.array([level[i : i + 240].max() > 0.1 for i in range(0, len(level) - 240, 48)])  # 5 ms, every ms
    quiet_before = np.array([not loud[max(0, i - 50) : i].any() for i in range(len(loud))])
    start_s = float(frames[0].pts * frames[0].time_base)
    return start_s + (np.nonzero(loud & quiet_before)[0] + 4) / 1000, start_s + len(level) / 48000


def onsets_of_light(path, fps):
    bright = np.array([frame.mean() > 128 for frame in read_frames(path)])
    return np.nonzero(bright & ~np.roll(bright, 1))[0] / float(fps)


def test_the_rate_is_constant_whatever_the_time_stamps(tmp_path):
    """A camera at about 30 frames/s that is late by up to 12 ms and leaves out a third of a second, at 25 frames/s."""
    rng = np.random.default_rng(0)
    times = np.arange(90) / 30
    times = np.delete(times + rng.uniform(0, 0.012, 90) - 0.006, range(40, 50))
    values = np.round(times / 3 * 200 + 20)
    with Recorder(tmp_path / "r.mp4", 25) as recorder:
        for time_s, value in zip(times, values):
            recorder.write(grey(value), 1000.0 + time_s)
        assert not (tmp_path / "r.mp4").exists()
    made = [frame.mean() for frame in read_frames(tmp_path / "r.mp4")]
    info = probe(tmp_path / "r.mp4")
    assert info.fps == 25 and not info.variable_rate and len(made) == recorder.frames == round((times[-1] - times[0]) * 25) + 1
    shown_s = (np.array(made) - 20) / 200 * 3  # when what is shown was captured
    off = shown_s - times[0] - np.arange(len(made)) / 25
    hole = (np.arange(len(made)) / 25 > times[39] - times[0]) & (np.arange(len(made)) / 25 < times[40] - times[0])
    assert np.abs(off[~hole]).max() < 0.5 / 25 + 0.03 and np.abs(off[hole]).max() < 0.4
    with av.open(str(tmp_path / "r.mp4")) as container:
        assert container.metadata["comment"] == PROVENANCE and not container.streams.audio


def test_the_sound_of_a_file_that_is_recorded_from_its_middle(tmp_path):
    fps, flashes = Fraction(30000, 1001), [1.5, 2.5, 4.0]
    lit = [any(s <= k / fps < s + BEEP_S for s in flashes) for k in range(150)]
    source = write_video(tmp_path / "driver.mp4", (grey(250 if on else 5) for on in lit), fps, sound=beeps(flashes, 5, 44100))
    with Recorder(tmp_path / "r.mp4", fps, audio_from=source, audio_from_s=77.0) as recorder:
        for k, frame in enumerate(read_frames(source)):
            if k >= 31 and k % 5 != 2:  # some are dropped on the way
                recorder.write(frame, 77.0 + k / float(fps))
    light, (sound, end_s) = onsets_of_light(tmp_path / "r.mp4", fps), onsets_of_sound(tmp_path / "r.mp4")
    assert np.allclose(light, np.array(flashes) - 31 / float(fps), atol=0.07)
    assert len(sound) == 3 and np.abs(light - sound).max() < SYNC_S + 1 / 30  # a flash may have lost its first frame
    assert abs(end_s - recorder.duration_s) < 0.05


def record_live(path, seconds, flashes, *, rate, off=0.0, jitter_s=0.0, early_s=0.0, missing=(), fps=10):
    """A picture with flashes and a microphone whose clock is off by a share; pieces of 20 ms that come 0.3 s after their time.

    early_s: how long the microphone is on before the picture; missing: from, to in seconds, when it is off.
    """
    rng = np.random.default_rng(1)
    heard = beeps(np.array(flashes) + early_s, seconds + early_s, rate * (1 + off))
    step = rate // 50
    events = [(k / fps, k) for k in range(round(seconds * fps))]
    for i in range(0, len(heard) - step, step):
        true_s = i / (rate * (1 + off)) - early_s
        if not (missing and missing[0] <= true_s < missing[1]):
            events.append((true_s + 0.3, (heard[i : i + step], true_s + rng.uniform(-jitter_s, jitter_s))))
    with Recorder(path, fps, live_sound=True) as recorder:
        for at, what in sorted(events, key=lambda event: event[0]):
            if isinstance(what, int):
                recorder.write(grey(250 if any(s <= at + 1e-6 < s + BEEP_S for s in flashes) else 5, (16, 16)), 500 + at)
            else:
                recorder.add_sound(what[0], rate, 500 + what[1])
    light, (sound, end_s) = onsets_of_light(path, fps), onsets_of_sound(path)
    assert abs(end_s - recorder.duration_s) < 0.05
    return light, sound


@pytest.mark.parametrize("rate", [48000, 44100, 16000])
def test_the_sound_of_a_microphone_whose_clock_is_not_the_cameras(tmp_path, rate):
    """A minute with a clock that is off by as much as others are in an hour: 0.1 %, with rough time stamps."""
    flashes = [2.0, 15.0, 30.0, 45.0, 58.0]
    light, sound = record_live(tmp_path / "r.mp4", 60, flashes, rate=rate, off=0.001, jitter_s=0.01)
    assert np.allclose(light, flashes) and len(sound) == 5
    assert np.abs(light - sound).max() < SYNC_S


def test_a_microphone_that_is_on_before_the_picture_and_off_for_a_while(tmp_path):
    flashes = [1.0, 9.0]
    light, sound = record_live(tmp_path / "r.mp4", 10, flashes, rate=48000, early_s=1.5, missing=(3.0, 7.5))
    assert np.allclose(light, flashes) and np.abs(sound - flashes).max() < 0.01


def test_a_microphone_that_never_speaks_and_one_that_nobody_asked_for(tmp_path):
    light, sound = record_live(tmp_path / "r.mp4", 2, [1.0], rate=48000, missing=(-1, 9))
    assert len(light) == 1 and len(sound) == 0
    with pytest.raises(ValueError, match="live_sound=True"):
        Recorder(tmp_path / "r.mp4", 25).add_sound(np.zeros((480, 2), np.float32), 48000, 0.0)


def test_a_picture_of_another_size_goes_into_the_first_ones(tmp_path):
    with Recorder(tmp_path / "r.mp4", 10) as recorder:
        recorder.write(grey(200, (64, 64)), 0.0)
        recorder.write(grey(200, (128, 64)), 0.1)
    _, second = read_frames(tmp_path / "r.mp4")
    assert second.shape == (64, 64, 3)
    assert second[:14].mean() < 5 and abs(second[20:44].mean() - 200) < 3 and second[50:].mean() < 5


def test_what_was_recorded_is_kept_after_an_error_elsewhere(tmp_path):
    with pytest.raises(UserError, match="unplugged"), Recorder(tmp_path / "r.mp4", 10) as recorder:
        for k in range(5):
            recorder.write(grey(50 * k), k / 10)
        raise UserError("the camera was unplugged")
    assert len(list(read_frames(tmp_path / "r.mp4"))) == 5


def test_nothing_is_written_without_a_frame_or_after_an_error_of_the_file(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.mp4"):
        Recorder(tmp_path / "r.avi", 10)
    Recorder(tmp_path / "r.mp4", 10).close()
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file" / "r.mp4", 10)
    recorder.write(grey(0), 0.0)
    with pytest.raises(UserError, match="cannot write"):
        recorder.write(grey(0), 0.1)
    recorder.close()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
