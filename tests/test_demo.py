"""demo.py: a real run, real files, a window without a screen; the recording is decoded."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from live_runs import FPS, FRAME, SIZE, driver_frames, make_live_run
from synthetic_videos import write_video
from test_live_recorder import beeps, onsets_of_sound

import demo
from live import show, sources
from live.engine import HeadEngine
from live.outputs import VirtualCamera, Window
from live.show import KEYS, Show, recorder_for
from live.sources import CameraSource, FileSource, open_source
from live.view import View
from util.cli import UserError
from util.credentials.reading import UNCHANGED, read_findings
from util.provenance import PROVENANCE
from util.video.reading import probe, read_frames

ROOT = Path(__file__).resolve().parents[1]
COUNT = 50  # frames of the driver: two and a half seconds
FLASH_S = 1.5  # when a corner of the driver's picture is white, and a tone sounds


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with checkpoints/fake/head2head_ann, ann.mp4, and driver.mp4."""
    home = tmp_path_factory.mktemp("demo")
    folder = home / "checkpoints" / "fake"
    folder.mkdir(parents=True)
    make_live_run(folder)
    shutil.move(folder / "ann.mp4", home / "ann.mp4")
    frames = driver_frames(COUNT, step_px=0.5)
    for k, frame in enumerate(frames):
        frame[:60, :60] = 250 if FLASH_S <= k / FPS < FLASH_S + 0.1 else 5
    write_video(home / "driver.mp4", frames, FPS, sound=beeps([FLASH_S], COUNT / FPS, 44100))
    return home


@pytest.fixture
def engine(home):
    with HeadEngine.load(home / "checkpoints" / "fake" / "head2head_ann", backend="torch", gpu_ids="-1") as engine:
        yield engine


@pytest.fixture
def window(monkeypatch):
    pytest.importorskip("pygame", reason="the window needs pygame-ce")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = Window("test", (("h", "help"), ("q", "quit")))
    yield window
    window.close()


def call(home, *arguments):
    demo.main([*map(str, arguments), "--checkpoints_dir", str(home / "checkpoints"), "--backend", "torch", "--gpu_ids", "-1"])


def flash_s(path):
    """When the driver's corner, at the left, is white."""
    lit = [frame[: SIZE // 6, : SIZE // 6].mean() > 128 for frame in read_frames(path)]
    return lit.index(True) / float(probe(path).fps)


def test_a_video_drives_a_person_into_a_file_with_its_sound(home, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    call(home, "ann", "--dataset_name", "fake", "--source", home / "driver.mp4", "--output", out, "--no_window", "--side_by_side")
    frames = list(read_frames(out))
    assert len(frames) == COUNT and probe(out).fps == FPS, "every frame, once"
    width = round(FRAME[0] * SIZE / FRAME[1])
    assert frames[0].shape == (SIZE, width + width % 2 + SIZE, 3) or frames[0].shape[1] - width - SIZE in (0, 1)
    people = [frame[: SIZE - 20, width:].astype(int) for frame in frames]
    assert max(np.abs(a - people[0]).mean() for a in people) > 1, "the person moves"
    assert np.abs(people[1] - people[0]).mean() < 20, "and is driven from the first frame on"
    sound, _ = onsets_of_sound(out)
    assert flash_s(out) == pytest.approx(FLASH_S) and sound == pytest.approx([FLASH_S], abs=0.01)
    said = capsys.readouterr().out
    assert "untrained, 64x64 pixels; torch" in said and "driver.mp4, 320x240, 20 frames/s" in said and f"recorded 2.5 s: {out}" in said
    assert "calibrat" not in said


def test_what_is_written_is_marked(home, tmp_path):
    """In its metadata, and in the picture: the corner is darker than the same frame's without the mark."""
    import av

    out = tmp_path / "out.mp4"
    call(home, home / "checkpoints" / "fake" / "head2head_ann", "--source", home / "driver.mp4", "--output", out, "--no_window")
    with av.open(str(out)) as container:
        assert PROVENANCE in container.metadata["comment"]
    found = read_findings(out)
    assert (found.state, found.source_type) == (UNCHANGED, "trainedAlgorithmicMedia")
    assert (found.facts["target"], found.facts["driver"], found.facts["driver_kind"]) == ("untrained", "driver", "identity")
    assert found.facts["run"] == "head2head_ann" and len(found.facts["checkpoint"]) == 64
    corner = np.mean([frame[-14:-5, -42:-8] for frame in read_frames(out)], 0)
    assert corner.max() > 150 and np.median(corner) < 110


def test_paste_back_into_the_original(home, tmp_path):
    out = tmp_path / "out.mp4"
    arguments = ["--source", home / "driver.mp4", "--output", out, "--no_window", "--paste_back", "--mode", "face", "--overlay"]
    call(home, "ann", "--dataset_name", "fake", *arguments, "--target_video", home / "ann.mp4")
    assert next(read_frames(out)).shape == (FRAME[1], FRAME[0], 3)
    assert read_findings(out).source_type == "compositeWithTrainedAlgorithmicMedia"
    with pytest.raises(UserError, match=r"the video that 'untrained' was learnt from, which no dataset names.*--target_video FILE"):
        call(home, home / "checkpoints" / "fake" / "head2head_ann", *arguments)


def post(key):
    import pygame

    code = pygame.K_ESCAPE if key == "escape" else ord(key)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=code, unicode="" if key == "escape" else key, mod=0))


def wait_for(condition):
    end_s = time.monotonic() + 120  # other tests may take the cores
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.02)
    assert condition()


def test_keys_in_the_window(home, engine, window, tmp_path, monkeypatch):
    """A file that plays at its own rate; each key is pressed, and seen to work, while it runs."""
    view, recorders, errors = View(), [], []
    source = open_source(str(home / "driver.mp4"), loop=True)
    running = Show(engine, source, view, window=window, recordings=tmp_path)
    monkeypatch.setattr(show, "recorder_for", lambda *a: recorders.append(recorder_for(*a)) or recorders[-1])

    def fingers():
        try:
            wait_for(lambda: running.frames > 3)
            for key, done in (
                ("s", lambda: view.side_by_side),
                ("o", lambda: view.overlay),
                ("m", lambda: engine.settings.mirror),
                ("f", lambda: engine.settings.mode == "face"),
                ("h", lambda: window.shows_help),
                ("p", lambda: True),  # cannot be: said, not raised
                ("x", lambda: True),  # stands for nothing
                ("r", lambda: recorders and recorders[0].frames > 12 and "recording" in window.title),
                ("r", lambda: recorders[0].written and "recording" not in window.title),
                ("c", lambda: running._state == "calibrating"),
            ):
                post(key)
                wait_for(done)
            wait_for(lambda: running._state == "driving")
        except BaseException as e:
            errors.append(e)
        post("escape")

    thread = threading.Thread(target=fingers)
    thread.start()
    running.run()
    thread.join()
    assert not errors
    (recorded,) = tmp_path.iterdir()
    assert recorded.name.startswith("untrained_") and len(list(read_frames(recorded))) == recorders[0].frames
    assert next(read_frames(recorded)).shape[1] > SIZE, "as shown: side by side"


def test_the_window_shows_the_picture_enlarged_and_the_help(window):
    import pygame

    picture = np.full((64, 96, 3), (200, 100, 50), np.uint8)
    window.write(picture, 0.0)
    assert window.poll() == []
    surface = pygame.display.get_surface()
    assert surface.get_size()[1] == 512 and abs(surface.get_size()[0] - 768) <= 1
    assert tuple(surface.get_at((384, 256)))[:3] == (200, 100, 50)
    window.shows_help = True
    window.write(picture, 0.1)
    window.poll()
    shown = pygame.surfarray.array3d(surface)
    assert (shown != (200, 100, 50)).any(2).mean() > 0.002
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert window.poll() == ["close"]


def test_a_camera_that_goes_away_leaves_a_whole_recording(home, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_SILENT_S", 1.0)
    source = CameraSource(0, cv2.VideoCapture(str(home / "driver.mp4")))
    recorder = recorder_for(source, tmp_path / "out.mp4")
    with pytest.raises(UserError, match="was it unplugged"):
        Show(engine, source, View(), [recorder]).run()
    assert recorder.frames == len(list(read_frames(tmp_path / "out.mp4"))) > 0


def test_a_file_that_cannot_be_written_ends_it_in_words(home, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        call(home, "ann", "--dataset_name", "fake", "--source", home / "driver.mp4", "--no_window", "--output", tmp_path / "file" / "o.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")
def test_ctrl_c_ends_the_published_command_line_with_a_whole_file(home, tmp_path):
    out = tmp_path / "out.mp4"
    command = ["bash", ROOT / "scripts/demo/run_demo_on_target.sh", "ann", "fake", "--checkpoints_dir", home / "checkpoints"]
    command += ["--source", home / "driver.mp4", "--loop", "--output", out, "--no_window", "--gpu_ids", "-1", "--backend", "torch"]
    # as in a terminal: commands in the background of a shell, as this suite may be, inherit that Ctrl-C is ignored
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes)
    try:
        wait_for(lambda: list(tmp_path.glob(".out.mp4*.part")))  # it writes
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert "stopping" in said and "recorded" in said and len(list(read_frames(out))) > 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--no_window"], "nothing would be shown: give --output FILE"),
        (["--output", "x.avi"], r"ends in \.mp4"),
        (["--exaggerate", "0"], "--exaggerate 0 must be above 0"),
        ([], "say whom to drive; give a run's folder.*trained runs: .*head2head_ann"),
        (["bob"], "'bob' is no folder; give a run's folder"),
        (["bob", "--dataset_name", "fake"], "there is no run .*head2head_bob; trained runs: .*head2head_ann"),
        (["--dataset_name", "fake"], "say who of fake is driven"),
        (["ann", "--dataset_name", "fake", "--target_id", "bob"], "named twice"),
        (["ann", "--dataset_name", "fake", "--source", "gone.mp4", "--output", "o.mp4"], r"there is no video gone\.mp4"),
        (["ann", "--dataset_name", "fake", "--source", "99", "--output", "o.mp4"], "camera 99"),
        (["ann", "--dataset_name", "fake", "--source", "99"], "no display to show a window on; use --no_window with --output"),
    ],
)
def test_what_cannot_be_done_is_said(home, monkeypatch, tmp_path, arguments, message):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call(home, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(any(Path("/sys/class/video4linux").glob("*")), reason="there may be a virtual camera here")
def test_no_virtual_camera_is_said_with_how_to_get_one():
    with pytest.raises(UserError, match="v4l2loopback|pip install pyvirtualcam"):
        VirtualCamera(30)


def test_a_virtual_camera_keeps_its_size_and_says_when_it_is_gone(monkeypatch):
    """A back end of our own stands for the system's: pyvirtualcam takes the first one that opens."""
    pyvirtualcam = pytest.importorskip("pyvirtualcam", reason="virtual cameras need pyvirtualcam")
    cameras, gone = [], []

    class Backend:
        def __init__(self, *, width, height, fps, fourcc, device):
            cameras.append((width, height, round(fps)))
            self.shown, self.closed = [], False
            if len(cameras) > 1:  # the first one only tries
                cameras.append(self)

        def send(self, frame):
            if gone:
                raise RuntimeError("no such device")
            self.shown.append(frame.reshape(64, 66, 3).copy())

        def close(self):
            self.closed = True

        def device(self):
            return "/dev/video9"

        def native_fourcc(self):
            return None

    monkeypatch.setattr(pyvirtualcam.camera, "BACKENDS", {"test": Backend})
    camera = VirtualCamera(Fraction(30))
    camera.write(np.full((63, 65, 3), 200, np.uint8), 0.0)
    camera.write(np.full((64, 128, 3), 100, np.uint8), 0.1)
    assert cameras[1] == (66, 64, 30)
    first, second = cameras[2].shown
    assert first.shape == second.shape == (64, 66, 3) and (first[2:62, 2:62] == 200).all()
    assert (second[:14] == 0).all() and (second[20:44] == 100).all()
    gone.append(True)
    with pytest.raises(UserError, match="/dev/video9 takes no pictures any more"):
        camera.write(first, 0.2)
    camera.close()
    assert cameras[2].closed


def test_every_key_is_told_and_the_help_of_the_wrapper_names_them(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--help"])
    told = capsys.readouterr().out
    assert all(f"  {key}   {what}" in told for key, what in KEYS.items())
    done = subprocess.run(["bash", ROOT / "scripts/demo/run_demo_on_target.sh", "--help"], capture_output=True, text=True, check=True)
    assert all(f" {key} " in done.stdout.replace("Keys:", "") for key in KEYS)
    assert subprocess.run(["bash", ROOT / "scripts/demo/run_demo_on_target.sh"], capture_output=True).returncode == 2


def test_the_settings_of_the_command_line_reach_the_engine(home, tmp_path, monkeypatch):
    seen = {}

    class Told(Show):
        def run(self):
            seen.update(settings=self.engine.settings, view=self.view, fast=self.source.as_fast_as_possible)

    monkeypatch.setattr(demo, "Show", Told)
    common = ["ann", "--dataset_name", "fake", "--source", home / "driver.mp4", "--output", tmp_path / "o.mp4", "--no_window"]
    call(home, *common, "--mode", "face", "--mirror", "--exaggerate", "1.2", "--limit_mouth", "--overlay", "--no_as_fast_as_possible")
    settings = seen["settings"]
    assert (settings.mode, settings.mirror, settings.exaggerate, settings.limit_mouth) == ("face", True, 1.2, True)
    assert seen["view"] == View(overlay=True) and not seen["fast"]
    call(home, *common)
    assert seen["fast"] and isinstance(seen["view"], View) and seen["view"].mark
    assert isinstance(FileSource(home / "driver.mp4").sound_file, Path)
