"""live/sources.py: files at their own rate or as fast as they go, cameras as far as there are any here, addresses that come and go."""

import http.server
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice

import cv2
import numpy as np
import pytest
from file_server import serving
from synthetic_videos import write_video

from live import sources
from live.sources import CameraSource, open_source
from util.cli import UserError
from util.video.reading import read_frames
from util.video.writing import VideoWriter

FPS = Fraction(25)
COUNT = 20


def grey(k):
    return np.full((48, 64, 3), (10 * k + 20, 255 - 10 * k, 30), np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    return write_video(folder / "driver.mp4", map(grey, range(COUNT)), FPS, sound=np.zeros(44100 * COUNT // 25, np.float32))


def number_of(rgb):
    return round((float(rgb[..., 0].mean()) - 20) / 10)


def test_a_file_as_fast_as_it_goes_gives_every_frame_with_the_files_times(video):
    with open_source(str(video), as_fast_as_possible=True) as source:
        found = list(source)
    assert (source.size, source.fps, source.frames, source.is_file) == ((64, 48), FPS, COUNT, True)
    assert all(np.array_equal(rgb, whole) for (rgb, _), whole in zip(found, read_frames(video)))
    times = np.array([time_s for _, time_s in found])
    assert len(found) == COUNT and np.allclose(times, source.sound_zero_s + np.arange(COUNT) / 25) and source.sound_file == video


def test_a_file_at_its_own_rate_leaves_out_what_is_late(video):
    begun_s = time.monotonic()
    with open_source(f"file://{video}") as source:
        found = []
        for rgb, time_s in source:
            now_s = time.monotonic()
            assert 0 <= now_s - time_s < 0.04 + 0.02, "neither early nor late"
            found.append((number_of(rgb), time_s))
            if len(found) == 3:
                time.sleep(0.21)  # five frames
    numbers, times = (np.array(column) for column in zip(*found))
    assert time.monotonic() - begun_s >= (COUNT - 1) / 25
    assert np.allclose(times, source.sound_zero_s + numbers / 25)
    assert (np.diff(numbers) > 0).all() and not set(range(4, 7)) <= set(numbers)


def test_a_file_again_and_again_is_silent(video):
    with open_source(str(video), loop=True) as source:
        found = list(islice(source, 2 * COUNT))
    assert source.sound_file is None and source.frames is None
    times = np.array([time_s for _, time_s in found])
    numbers = [number_of(rgb) for rgb, _ in found]
    assert numbers.count(numbers[-1]) >= 1 and (np.diff(times) > 0).all() and times[-1] - times[0] >= (2 * COUNT - 1) / 25 - 1e-6


def test_closing_ends_a_file_that_waits_for_its_time(tmp_path):
    slow = write_video(tmp_path / "slow.mp4", map(grey, range(3)), Fraction(1, 5))
    source = open_source(str(slow))
    threading.Timer(0.2, source.close).start()
    assert len(list(source)) == 1


def test_a_camera_gives_the_newest_picture_and_tells_when_it_is_gone(video, monkeypatch):
    """OpenCV reading a file stands for one that reads a camera: it gives pictures as fast as they are taken."""
    monkeypatch.setattr(sources, "_SILENT_S", 0.3)
    with CameraSource(0, cv2.VideoCapture(str(video))) as source:
        assert source.size == (64, 48) and source.fps == FPS
        time.sleep(0.3)  # the capture runs on
        frames = iter(source)
        rgb, _ = next(frames)
        assert number_of(rgb) == COUNT - 1 and rgb[..., 1].mean() < 80, "the last one, in RGB"
        with pytest.raises(UserError, match="camera 0 gives no picture any more; was it unplugged"):
            next(frames)


@pytest.mark.parametrize("text", ["17", "/dev/video17"])
def test_a_camera_that_is_not_there(text):
    with pytest.raises(UserError, match="camera 17"):
        open_source(text)


def test_which_cameras_there_are(tmp_path):
    assert "this machine has no camera" in sources._cameras_in_words(tmp_path / "none")
    for number, index, name in ((0, "0", "Webcam C920: Webcam C920"), (1, "1", "Webcam C920: Webcam C920"), (10, "0", "")):
        place = tmp_path / f"video{number}"
        place.mkdir()
        (place / "index").write_text(index + "\n")
        (place / "name").write_text(name + "\n")
    assert sources._cameras_in_words(tmp_path) == "there are 0 (Webcam C920: Webcam C920), 10 (without a name)"


def test_what_is_no_source_is_refused_in_words(tmp_path, video):
    (tmp_path / "text.mp4").write_text("no video")
    for text, options, message in (
        ("webcam", {}, "--source webcam is no file, no camera's number and no address"),
        (str(tmp_path / "gone.mp4"), {}, r"there is no video .*gone\.mp4"),
        (str(tmp_path / "text.mp4"), {}, "is not a readable video"),
        ("0", {"as_fast_as_possible": True}, "--as_fast_as_possible is for files; 0 is a camera"),
        ("rtsp://127.0.0.1/x", {"loop": True}, "--loop is for files; rtsp://127.0.0.1/x is an address"),
        ("http://me:secret@127.0.0.1:9/x.mp4", {}, r"^http://127\.0\.0\.1:9/x\.mp4 cannot be opened"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(text, **options)


def test_a_file_on_a_server_plays_at_its_own_rate_to_its_end(video, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", FPS) as writer:  # its index is at the front
        for k in range(COUNT):
            writer.write(grey(k))
    with serving() as server:
        server.files["/a.mp4"] = (tmp_path / "a.mp4").read_bytes()
        server.files["/text"] = b"no video at all"
        with open_source(f"{server.url}/a.mp4") as source:
            assert source.size == (64, 48) and source.fps == FPS and not source.is_file
            found = [(number_of(rgb), time_s) for rgb, time_s in source]
        with pytest.raises(UserError, match="cannot be opened"):
            open_source(f"{server.url}/text")
        whole = (tmp_path / "a.mp4").read_bytes()
        server.files["/cut.mp4"] = whole[: whole.rindex(b"mdat") + 100]
        with open_source(f"{server.url}/cut.mp4") as source, pytest.raises(UserError, match="download it, and give the file"):
            next(iter(source))
    numbers, times = (np.array(column) for column in zip(*found))
    assert numbers[-1] == COUNT - 1 and len(numbers) > 3
    assert np.allclose(times - times[0], (numbers - numbers[0]) / 25, atol=1e-3)


class Mjpeg(http.server.BaseHTTPRequestHandler):
    """A network camera that closes the connection after `frames` pictures; the first pictures of the second connection are others."""

    frames, connections, resting = 15, 0, threading.Event()

    def do_GET(self):
        type(self).connections += 1
        if self.connections == 2:
            return self.send_error(503)  # it starts anew
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for k in range(self.frames):
            _, jpeg = cv2.imencode(".jpg", grey(k if self.connections == 1 else 22)[..., ::-1])
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % jpeg.size)
            self.wfile.write(jpeg.tobytes() + b"\r\n")
            self.resting.wait(0.02)

    def log_message(self, *_):
        pass


@contextmanager
def network_camera():
    Mjpeg.connections = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mjpeg) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/video.mjpg"
        Mjpeg.resting.set()
        server.shutdown()
        Mjpeg.resting.clear()


def test_a_network_camera_that_is_lost_is_taken_up_again(monkeypatch, capsys):
    monkeypatch.setattr(sources, "_LEAST_PAUSE_S", 0.05)
    with network_camera() as address, open_source(address) as source:
        assert source.size == (64, 48)
        times = []
        for rgb, time_s in source:
            times.append(time_s)
            assert time.monotonic() - time_s < 1
            if number_of(rgb) > 21:  # of a later connection
                break
    assert Mjpeg.connections >= 3 and (np.diff(times) > 0).all()
    assert capsys.readouterr().err.count("is lost") == 1


def test_a_network_camera_that_stays_away_is_given_up(monkeypatch):
    for name, value in (("_LEAST_PAUSE_S", 0.05), ("_GIVE_UP_S", 0.4)):
        monkeypatch.setattr(sources, name, value)
    with network_camera() as address, open_source(address) as source:
        monkeypatch.setattr(Mjpeg, "do_GET", lambda self: self.send_error(404))
        with pytest.raises(UserError, match="did not come back within|has given no picture"):
            for _ in source:
                pass
