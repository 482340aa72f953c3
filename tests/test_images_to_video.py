"""scripts/images_to_video.py: every output mode, the exact frame rate, and sound that belongs to the frames."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from fake_dataset import make_dataset
from fake_run import SIZE, load_command, make_run, run_test
from synthetic_videos import add_sound, hide_codec

from util.cli import UserError
from util.image_io import read_image
from util.layout import Record
from util.provenance import PROVENANCE
from util.results.folder import KINDS, MODES, Results
from util.results.panels import side_by_side
from util.video.reading import probe, read_frames

FPS = Fraction(30000, 1001)
FIRST, FRAMES = 16, 8
RATE = 48000


def write_source(path, frames, tone_from):
    """A video of `frames` black frames whose sound is silent before frame `tone_from` and a tone from there on."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=FPS)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = file.add_stream("aac", rate=RATE, layout="mono")
        for _ in range(frames):
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        file.mux(video.encode(None))
        t = np.arange(int(frames / FPS * RATE)) / RATE
        wave = (0.5 * np.sin(2 * np.pi * 440 * t) * (t >= tone_from / float(FPS))).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
        file.mux(audio.encode(sound))
        file.mux(audio.encode(None))


def coarse(image):
    """The brightness of 16 x 16 fields, which compression leaves alone."""
    luma = image @ [0.2126, 0.7152, 0.0722]
    field = luma.shape[0] // 16
    return luma.reshape(16, field, 16, field).mean((1, 3)).ravel()


def loudness(path, seconds):
    """Root mean square of the sound of a video within [0, seconds) and after."""
    with av.open(str(path)) as file:
        pieces = [(float(f.pts * f.time_base), f.to_ndarray()[0]) for f in file.decode(audio=0)]
    wave = np.concatenate([p for _, p in pieces])
    cut = int((seconds - pieces[0][0]) * RATE)
    return np.sqrt(np.mean(wave[:cut] ** 2)), np.sqrt(np.mean(wave[cut:] ** 2))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("videos")
    data = make_dataset(root, "Ann", test_frames=FRAMES, fps=FPS)
    # The tone starts with the fifth test frame.
    write_source(root / "Ann.mp4", FIRST + FRAMES + 30, tone_from=FIRST + 4)
    source = {"file": str(root / "Ann.mp4"), "sha256": "", "frames": FIRST + FRAMES + 30, "width": 64, "height": 64}
    record = data.read_record("Ann")
    data.write_record(Record(**{**record.__dict__, "sources": [source], "source_start": {"train": 0, "test": FIRST}}))
    run, _, _ = make_run(root)
    run_test(root, "--no_report")
    return root, data, Results(run.test_folder("Ann"))


def command(*arguments):
    return load_command("scripts/images_to_video.py").main(list(map(str, arguments)))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(place, mode):
    root, _, results = place
    command("--results_dir", root / "results", "--output_mode", mode)  # finds what lies below
    for name, kinds in MODES[mode].items():
        path = results.video(name)
        info = probe(path)
        assert info.fps == FPS and info.has_audio
        frames = list(read_frames(path))
        assert len(frames) == FRAMES
        assert frames[0].shape == ((SIZE, SIZE, 3) if len(kinds) == 1 else (256 + 30, 256 * len(kinds), 3))
        for i, kind in enumerate(kinds):  # each panel shows its pictures
            panel = frames[3] if len(kinds) == 1 else frames[3][30:, 256 * i : 256 * (i + 1)]
            likeness = {k: np.corrcoef(coarse(panel), coarse(read_image(results.path(k, FIRST + 3))))[0, 1] for k in KINDS}
            assert max(likeness, key=likeness.get) == kind and likeness[kind] > 0.98


def test_sound_belongs_to_the_frames(place):
    root, _, results = place
    command("--results_dir", results.folder, "--output_mode", "only_fake")
    before, after = loudness(results.video("only_fake"), 4 / float(FPS) - 0.02)  # AAC smears by a packet's overlap
    assert before < 0.02 and after > 0.2
    with av.open(str(results.video("only_fake"))) as file:
        assert file.metadata["comment"] == PROVENANCE
        assert file.streams.audio[0].duration * file.streams.audio[0].time_base == pytest.approx(FRAMES / float(FPS), abs=0.03)


def test_sound_that_cannot_be_decoded_is_said_once_for_all_videos(place, tmp_path, capsys):
    root, data, results = place
    record = data.read_record("Ann")
    phone = add_sound(Path(record.sources[0]["file"]), tmp_path / "phone.mp4", {"samples": np.zeros(RATE, np.float32)})
    data.write_record(replace(record, sources=[{**record.sources[0], "file": str(hide_codec(phone))}]))
    command("--results_dir", results.folder, "--output_mode", "source_target_separate", "--fps", "30")
    data.write_record(record)
    for name in MODES["source_target_separate"]:
        assert not probe(results.video(name)).has_audio
        results.video(name).unlink()
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(MODES["source_target_separate"]) > 1 and len(warnings) == 1
    assert f"the sound of {phone} is empty or cannot be decoded" in warnings[0]


def test_videos_that_are_there_are_left_unless_the_rate_is_given(place, capsys):
    root, _, results = place
    command("--results_dir", results.folder, "--output_mode", "source_target_separate")
    target = results.video("target")
    before = target.stat().st_mtime_ns
    command("--results_dir", results.folder, "--output_mode", "source_target_separate")
    assert target.stat().st_mtime_ns == before and str(target) in capsys.readouterr().out
    command("--results_dir", results.folder, "--output_mode", "source_target_separate", "--fps", "25")
    assert probe(target).fps == 25


def test_a_dataset_without_record_takes_25_and_says_so(tmp_path, capsys):
    make_dataset(tmp_path, record=False)
    run, _, _ = make_run(tmp_path)
    run_test(tmp_path, "--no_report")
    command("--results_dir", tmp_path / "results", "--output_mode", "all")
    info = probe(Results(run.test_folder("Ann")).video("all"))
    assert info.fps == 25 and not info.has_audio
    assert "does not say Ann's frame rate: using 25; images_to_video.py --fps" in capsys.readouterr().err


def test_mistakes_are_said(place, tmp_path):
    root, _, results = place
    with pytest.raises(UserError, match="there is no folder"):
        command("--results_dir", tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no finished results; run test\.py"):
        command("--results_dir", tmp_path)
    for rate in ("0", "x", "1/0", "-3"):
        with pytest.raises(UserError, match="--fps"):
            command("--results_dir", results.folder, f"--fps={rate}")
    with pytest.raises(SystemExit):
        command("--results_dir", results.folder, "--output_mode", "everything")
    facts = json.loads((results.folder / "complete.json").read_text())
    unfinished = Results(tmp_path / "unfinished")
    unfinished.finish(facts)  # says complete, but the frames are not there
    with pytest.raises(UserError, match="no finished results"):
        command("--results_dir", tmp_path)


def test_heatmaps_need_a_truth(place, tmp_path):
    _, _, results = place
    pair = Results(tmp_path)
    for kind in ("fake", "nmfc"):
        (tmp_path / kind).mkdir()
        for f in range(FIRST, FIRST + FRAMES):
            pair.path(kind, f).write_bytes(results.path(kind, f).read_bytes())
    pair.finish({**results.read(), "kinds": ["fake", "nmfc"], "source": "Bob"})
    with pytest.raises(UserError, match="heatmaps need the truth"):
        command("--results_dir", tmp_path, "--output_mode", "all_heatmaps")
    command("--results_dir", tmp_path, "--output_mode", "source_nmfc_target")
    assert probe(pair.video("source_nmfc_target")).width == 2 * 256  # without the driver's own pictures


def test_captions_stand_above_the_panels():
    panels = [np.full((256, 256, 3), v, np.uint8) for v in (10, 200)]
    image = side_by_side(panels, ["real", "a very long name that would not fit into so narrow a panel"])
    assert image.shape == (286, 512, 3)
    np.testing.assert_array_equal(image[30:, :256], panels[0])
    for strip in (image[:30, :256], image[:30, 256:]):
        text = strip.max(-1) > 150
        columns = np.nonzero(text.any(0))[0]
        assert text.sum() > 30 and columns.min() > 2 and columns.max() < 253
        assert abs((columns.min() + columns.max()) / 2 - 128) < 4  # centred
    assert side_by_side([np.zeros((512, 512, 3), np.uint8)] * 2, ["a", "b"]).shape == (512 + 60, 1024, 3)
