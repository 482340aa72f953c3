"""util/video/sound.py: whatever the sound of a file is, a video that is written with it has it in stereo, at 48 kHz and in sync."""

import av
import numpy as np
import pytest
from scipy.signal import correlate
from synthetic_videos import add_sound, encode_sound, hide_codec, write_video

from util.video.reading import probe
from util.video.sound import RATE_HZ, stereo_gains
from util.video.writing import VideoWriter

SECONDS = 2.4
START_S = 0.6


def sweep(rate=RATE_HZ, seconds=SECONDS):
    """A rising tone: like nothing but itself at any shift."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 * t + 400 * t**2))).astype(np.float32)


def tones(frequencies, rate, seconds=SECONDS):
    """A tone for each channel, float32 [channels, n]."""
    return (0.2 * np.sin(2 * np.pi * np.outer(frequencies, np.arange(int(seconds * rate)) / rate))).astype(np.float32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("pictures") / "p.mp4", [np.full((48, 64, 3), k, np.uint8) for k in range(60)], 25)


@pytest.fixture(scope="module")
def broadcast(tmp_path_factory):
    """Pictures as .ts files may hold them."""
    path = tmp_path_factory.mktemp("pictures") / "p.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), k, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_with(source, start_s=START_S, frames=40):
    """Write a video with the sound of `source`. Returns its sound's start in seconds and samples [2, n]; None when it is silent."""
    path = source.with_name(f"{source.name}.written.mp4")
    with VideoWriter(path, 25, audio_from=source, audio_start_s=start_s) as writer:
        for _ in range(frames):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        (stream,) = container.streams.audio
        assert (stream.codec_context.name, stream.rate, stream.layout.name) == ("aac", RATE_HZ, "stereo")
        decoded = list(container.decode(stream))
        return float(decoded[0].pts * decoded[0].time_base), np.concatenate([f.to_ndarray() for f in decoded], 1)


def lag_s(written, start_s=START_S, place=20000, length=16000, truth=None):
    """By how much a part of the sound is late, in seconds, where it is found in the truth (the sweep)."""
    begin_s, samples = written
    truth = sweep() if truth is None else truth
    lags = []
    for channel in samples:
        piece = channel[place : place + length]
        match = correlate(truth, piece, "valid", method="fft")
        at = match.argmax()
        assert match[at] > 0.9 * np.linalg.norm(piece) * np.linalg.norm(truth[at : at + length]) > 0
        lags.append(start_s + begin_s + (place - at) / RATE_HZ)
    return max(lags, key=abs)


# suffix, codec, layout, rate: PCM in all sample formats, layouts that have a name and those that are a number only
@pytest.mark.parametrize(
    "suffix, codec, layout, rate",
    [
        (".mp4", "aac", "7.1", 48000),
        (".mp4", "aac", "3.0", 96000),
        (".mkv", "flac", "7.1", 192000),
        (".mkv", "flac", "mono", 384000),
        (".mov", "pcm_u8", "stereo", 11025),
        (".mov", "pcm_s24le", "2.1", 192000),
        (".mov", "pcm_f32le", "quad", 12345),
        (".mov", "pcm_f64le", "16 channels", 48000),
        (".mov", "pcm_s16le", "ambisonic 1", 44100),
        (".mov", "pcm_s32le", "1 channels (FL)", 8000),
        (".mkv", "pcm_s16le", "hexadecagonal", 48000),
        (".mkv", "wavpack", "24 channels", 44100),
        (".mkv", "libopus", "7.1", 48000),
        (".avi", "pcm_s16le", "7.1", 96000),
        (".3gp", "aac", "stereo", 44100),
        (".ts", "ac3", "5.1", 48000),
    ],
)
def test_any_channels_rates_codecs_and_containers(tmp_path, pictures, broadcast, suffix, codec, layout, rate):
    source = broadcast if suffix in (".ts", ".avi") else pictures
    path = add_sound(source, tmp_path / f"s{suffix}", {"samples": sweep(rate) / 2, "codec": codec, "layout": layout, "rate": rate})
    assert abs(lag_s(write_with(path))) < 0.001
    assert probe(path).has_audio


def test_all_channels_of_surround_sound_are_heard_on_their_side(tmp_path, pictures):
    frequencies = [500, 800, 1100, 1400, 1700, 2000, 2300, 2600]  # FL FR FC LFE BL BR SL SR
    path = add_sound(pictures, tmp_path / "s.mkv", {"samples": tones(frequencies, RATE_HZ), "codec": "flac", "layout": "7.1"})
    _, samples = write_with(path)
    power = np.abs(np.fft.rfft(samples[:, 4800:52800])) / 24000 / 0.2
    half = np.sqrt(0.5)
    np.testing.assert_allclose(power[0, frequencies], [1, 0, half, 0, half, 0, half, 0], atol=0.05)
    np.testing.assert_allclose(power[1, frequencies], [0, 1, half, 0, 0, half, 0, half], atol=0.05)


@pytest.mark.parametrize("tag", [122, 123, 124])  # MPEG 5.1 B to D
def test_channels_in_any_order(tmp_path, pictures, tag):
    """Layouts with the channels in an order of their own kill PyAV."""
    frequencies = [500, 800, 1100, 1400, 1700, 2000]
    track = {"samples": tones(frequencies, RATE_HZ), "codec": "pcm_s16le", "layout": "5.1"}
    path = add_sound(pictures, tmp_path / "s.mov", track)
    data = bytearray(path.read_bytes())
    at = data.index(b"chan") + 8
    data[at : at + 4] = (tag << 16 | 6).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    _, samples = write_with(path)
    power = np.abs(np.fft.rfft(samples[:, 4800:52800])) / 24000 / 0.2
    names = ["L R Ls Rs C LFE", "L C R Ls Rs LFE", "C L R Ls Rs LFE"][tag - 122].split()
    half = np.sqrt(0.5)
    left, right = ({**dict.fromkeys(names, 0), side: 1, "C": half, f"{side}s": half} for side in "LR")
    np.testing.assert_allclose(power[0, frequencies], [left[n] for n in names], atol=0.05)
    np.testing.assert_allclose(power[1, frequencies], [right[n] for n in names], atol=0.05)


def test_every_layout_is_heard_on_both_sides():
    for layout in ("mono", "2.1", "4.0", "6.1(back)", "7.1.4", "22.2", "cube", "binaural", "downmix", "ambisonic 3", "ambisonic 1+stereo"):
        left, right = stereo_gains([channel.name for channel in av.AudioLayout(layout).channels])
        assert sum(left) == pytest.approx(sum(right)) or layout.startswith("ambisonic"), layout
        assert any(left) and any(right)
    for count in range(1, 65):
        left, right = stereo_gains(["NONE"] * count)
        assert len(left) == len(right) == count and any(left) and any(right)
    assert stereo_gains(["FR", "FL"]) == ([0, 1], [1, 0])
    assert stereo_gains(["FL", "LFE"]) == ([1, 0], [1, 0])
    assert stereo_gains(["LFE"]) == ([1], [1])
    assert stereo_gains(["LFE", "LFE2"]) == ([0.5, 0.5], [0.5, 0.5])


def test_two_channels_stay_apart_at_their_level(tmp_path, pictures):
    samples = np.stack([sweep(44100), np.zeros_like(sweep(44100))])
    _, written = write_with(add_sound(pictures, tmp_path / "s.mp4", {"samples": samples, "layout": "stereo", "rate": 44100}))
    assert np.abs(written[0, 4800:60000]).max() == pytest.approx(0.3, abs=0.03) and np.abs(written[1, 4800:60000]).max() < 0.01
    _, written = write_with(add_sound(pictures, tmp_path / "m.mov", {"samples": sweep(8000), "codec": "pcm_s16le", "rate": 8000}))
    assert np.abs(written[:, 4800:60000]).max(1) == pytest.approx([0.3, 0.3], abs=0.03)  # mono is as loud as it was


def test_values_that_are_no_numbers_or_too_loud_are_survived(tmp_path, pictures):
    samples = sweep()
    samples[::4800], samples[1000], samples[2000], samples[3000] = np.nan, np.inf, -np.inf, 1e30
    written = write_with(add_sound(pictures, tmp_path / "s.mov", {"samples": samples, "codec": "pcm_f32le"}))
    assert abs(lag_s(written)) < 0.001


@pytest.mark.parametrize("suffix, default", [(".mp4", 1), (".mov", 2), (".mkv", 2)])
def test_the_default_track_is_taken(tmp_path, pictures, suffix, default, capsys):
    tracks = [{"samples": sweep() if k == default else 0 * sweep(), "default": k == default} for k in range(3)]
    assert abs(lag_s(write_with(add_sound(pictures, tmp_path / f"s{suffix}", *tracks)))) < 0.001
    assert capsys.readouterr().err == ""


def test_the_next_track_is_taken_when_the_default_cannot_be_decoded(tmp_path, pictures, capsys):
    path = add_sound(pictures, tmp_path / "phone.mp4", {"samples": 0 * sweep()}, {"samples": sweep()})
    assert abs(lag_s(write_with(hide_codec(path)))) < 0.001
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: sound track 1 of {path} cannot be decoded (unknown codec): taking track 2 (aac)"
    tracks = [{"samples": 0 * sweep(), "default": True}, {"samples": sweep(), "default": False}]
    path = add_sound(pictures, tmp_path / "locked.mp4", *tracks)
    overwrite_packets(path, 0, 0, 10**6)  # the decoder is known, but makes nothing of it
    assert abs(lag_s(write_with(path))) < 0.001
    (line,) = capsys.readouterr().err.splitlines()
    assert "sound track 1" in line and "taking track 2 (aac)" in line
    path = add_sound(pictures, tmp_path / "empty.mkv", {"samples": np.zeros(0, np.float32), "default": True}, {"samples": sweep()})
    assert abs(lag_s(write_with(path))) < 0.001


def test_sound_that_cannot_be_decoded_gives_a_silent_video_and_one_warning(tmp_path, pictures, capsys):
    path = add_sound(pictures, tmp_path / "phone.mp4", {"samples": sweep()}, {"samples": sweep()})
    hide_codec(hide_codec(path))
    assert not probe(path).has_audio
    assert write_with(path) is None and write_with(path) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: the sound of {path} is empty or cannot be decoded (unknown codec): the video is silent; convert")


def test_no_stream_of_sound_where_the_sound_is_over(tmp_path, pictures, capsys):
    path = add_sound(pictures, tmp_path / "s.mkv", {"samples": sweep()[:24000], "codec": "flac"})
    assert write_with(path, start_s=1.5) is None and capsys.readouterr().err == ""


def overwrite_packets(path, track, first, last):
    """Break the packets of a track of sound: random bytes."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(container.streams.audio[track]) if p.size]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for at, size in places[first:last]:
        data[at : at + size] = (b"\xff" * 8 + rng.bytes(size))[:size]
    path.write_bytes(bytes(data))


def test_broken_packets_do_not_move_the_rest(tmp_path, pictures):
    path = add_sound(pictures, tmp_path / "s.mp4", {"samples": sweep()})
    overwrite_packets(path, 0, 40, 47)
    written = write_with(path)
    assert abs(lag_s(written, place=2000, length=8000)) < 0.001
    assert abs(lag_s(written, place=40000, length=16000)) < 0.001


@pytest.mark.parametrize("suffix, codec", [(".mkv", "flac"), (".mov", "pcm_s16le"), (".mp4", "aac"), (".ts", "aac")])
@pytest.mark.parametrize("start_s", [0.5, -0.5])
def test_sound_may_begin_later_or_earlier_than_the_picture(tmp_path, pictures, broadcast, suffix, codec, start_s):
    track = {"samples": sweep(), "codec": codec, "start_s": start_s}
    path = add_sound(broadcast if suffix == ".ts" else pictures, tmp_path / f"s{suffix}", track)
    assert lag_s(write_with(path, 0.0), 0.0, place=30000) == pytest.approx(start_s, abs=0.003)


def shift_stamps(source, path, shift_s):
    """Copy a video; packet k of its sound gets shift_s(k) seconds more, or is left out (None)."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        sound, k = old.streams.audio[0].index, 0
        for packet in old.demux():
            if packet.size:
                index = packet.stream.index
                if index == sound:
                    k += 1
                    if shift_s(k) is None:
                        continue
                    packet.pts = packet.dts = packet.pts + round(shift_s(k) / packet.time_base)
                packet.stream = streams[index]
                new.mux(packet)
    return path


def test_holes_are_silent_and_the_rest_stays_in_place(tmp_path, pictures):
    source = add_sound(pictures, tmp_path / "s.mkv", {"samples": sweep(), "codec": "libopus", "rate": 48000})
    written = write_with(shift_stamps(source, tmp_path / "hole.mkv", lambda k: None if 50 < k <= 60 else 0))  # 1.0 to 1.2 s
    assert abs(lag_s(written, place=2000, length=14000)) < 0.002
    assert abs(lag_s(written, place=33000)) < 0.002
    at = round((1.1 - START_S - written[0]) * RATE_HZ)
    assert np.abs(written[1][:, at - 2000 : at + 2000]).max() < 0.01
    written = write_with(shift_stamps(source, tmp_path / "gap.mkv", lambda k: 0.3 if k > 50 else 0))
    assert lag_s(written, place=40000) == pytest.approx(0.3, abs=0.002)


def test_time_stamps_from_a_clock_do_not_chop_the_sound(tmp_path, pictures):
    source = add_sound(pictures, tmp_path / "s.mkv", {"samples": sweep(), "codec": "libopus", "rate": 48000})
    jitter = np.random.default_rng(0).uniform(-0.006, 0.006, 200)
    assert abs(lag_s(write_with(shift_stamps(source, tmp_path / "j.mkv", lambda k: jitter[k])), place=4000, length=60000)) < 0.006


def test_one_wrong_time_stamp_does_not_lose_the_rest(tmp_path, broadcast):
    """In a .ts file the time of a first packet before 0 is 26 hours later."""
    path = tmp_path / "s.ts"
    with av.open(str(broadcast)) as old, av.open(str(path), "w") as new:
        stream, sound = new.add_stream_from_template(old.streams.video[0]), new.add_stream("aac", rate=RATE_HZ, layout="mono")
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
        new.mux(encode_sound(sound, sweep()))
    assert abs(lag_s(write_with(path))) < 0.001


def test_rate_and_channels_may_change_on_the_way(tmp_path, broadcast):
    path = tmp_path / "s.ts"
    with av.open(str(broadcast)) as old, av.open(str(path), "w") as new:
        stream, sound = new.add_stream_from_template(old.streams.video[0]), new.add_stream("ac3", rate=48000, layout="5.1")
        packets = [p for p in old.demux(video=0) if p.size]
        for packet in packets:
            packet.stream = stream
        at_s = 0.0
        for layout, rate in [("5.1", 48000), ("stereo", 44100), ("mono", 32000)]:
            encoder = sound.codec_context
            if at_s:
                encoder = av.CodecContext.create("ac3", "w")
                encoder.sample_rate, encoder.layout, encoder.format = rate, layout, "fltp"
            samples = sweep(rate)[round(at_s * rate) :][: 1536 * (rate * 8 // 10 // 1536)]
            for packet in encode_sound(encoder, samples, at_s):
                packet.stream = sound
                packets.append(packet)
            at_s += len(samples) / rate
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            new.mux(packet)
    with av.open(str(path)) as container:
        assert {f.sample_rate for f in container.decode(audio=0)} == {48000, 44100, 32000}
    written = write_with(path, 0.0, 60)
    for place in (6000, 50000, 90000):
        assert abs(lag_s(written, 0.0, place, 12000)) < 0.001


@pytest.mark.parametrize("suffix, codec", [(".mp4", "aac"), (".mkv", "flac"), (".mov", "pcm_s16le")])
def test_a_late_start_is_jumped_to_and_in_sync(tmp_path, suffix, codec):
    source = write_video(tmp_path / "p.mp4", (np.full((48, 64, 3), k, np.uint8) for k in range(100)), 5)
    truth = sweep(seconds=20)[: 18 * RATE_HZ]
    path = add_sound(source, tmp_path / f"s{suffix}", {"samples": truth[: 18 * RATE_HZ], "codec": codec})
    assert abs(lag_s(write_with(path, 12.5), 12.5, truth=truth)) < 0.001
