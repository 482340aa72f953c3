"""The page's server: who may ask, what it takes, and driving over the WebSocket with a real engine of random weights."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
from synthetic_videos import face_frame, write_video
from web_server import RunningServer, make_person_run, web_options
from websockets.exceptions import ConnectionClosed, InvalidStatus

from live.web.app import MOST_WAITING, STATIC, Outbox
from live.web.certificate import self_made
from live.web.jobs import commands
from live.web.options import WebOptions
from live.web.security import FREE_TRIES
from live.web.studio import read_pose
from live.web.wire import _HEAD, decode_jpeg, encode_jpeg, pack, unpack
from util.cli import UserError
from util.credentials.reading import UNCHANGED, read_findings
from util.layout import Dataset, PageFiles
from util.video.reading import probe, read_frames

PASSWORD = "a long enough one"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """The certificate that seals recordings is not the user's."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("HEAD2HEAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("web")
    make_person_run(root)
    return root


@pytest.fixture
def place(tmp_path):
    return tmp_path


@pytest.fixture
def client():
    """Starts servers, which end with the test."""
    running = []

    def start(root, **changes):
        running.append(RunningServer(web_options(root, **changes)))
        return running[-1]

    yield start
    for server in running:
        server.close()


def send(page, data, purpose="drive", name="clip.mp4", **headers):
    return page.post(f"/api/uploads?purpose={purpose}&name={name}", data=data, headers=headers)


def refused(answer, status=400):
    assert answer.status_code == status, answer.text
    text = answer.json()["error"]
    assert "Traceback" not in text and "/tmp" not in text and "\n" not in text
    return text


# ---- who may ask ----


def test_only_this_machines_names_are_answered(client, place):
    local = client(place)
    for host in ("localhost", "localhost:8750", "127.0.0.1:1", "[::1]:80"):
        assert local.get("/api/session", headers={"host": host}).status_code == 200, host
    for host in (
        "evil.example",
        "localhost.evil.example",
        "192.168.1.5",
        "127.0.0.1.evil.example",
        "",
        "localhost:x",
        "[::1",
        "a@localhost.b",
    ):
        assert local.get("/api/session", headers={"host": host}).status_code == 421, host
    wide = client(place, host="0.0.0.0", password=PASSWORD)
    assert wide.get("/api/session", headers={"host": "192.168.1.5:8750"}).status_code == 200
    assert wide.get("/api/session", headers={"host": "evil.example"}).status_code == 421


def test_other_pages_are_refused(client, place):
    page = client(place)
    own = page.address
    for origin in (None, "null", "http://evil.example", own.replace("http", "https"), f"{own}1", f"http://127.0.0.1:{page.port}"):
        assert page.post("/api/jobs", json={}, headers={"origin": origin}).status_code == 403, origin
        with pytest.raises(InvalidStatus):
            page.live({"origin": origin})
    assert page.post("/api/jobs", json={}).status_code == 400  # what is asked for is incomplete
    assert page.get("/api/state", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert page.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link to the page


def test_a_password_closes_everything_but_the_way_in(client, place):
    page = client(place, password=PASSWORD)
    for path in ("/api/state", "/api/recordings/x.mp4", "/api/persons/x/picture", "/api/jobs/x", "/api/uploads/x/sound", "/api/nothing"):
        assert refused(page.get(path), 401) == "log in first"
    assert send(page, b"x").status_code == 401
    with pytest.raises(InvalidStatus):
        page.live()
    assert page.get("/").status_code == page.get("/static/app.js").status_code == 200
    assert page.get("/api/session").json()["password"]
    assert page.get("/api/state", headers={"cookie": "head2head=guess"}).status_code == 401
    assert page.get("/api/state", headers={"cookie": "head2head=@; ;;="}).status_code == 401
    answer = page.post("/api/login", json={"password": PASSWORD})
    flags = answer.headers["set-cookie"]
    assert answer.status_code == 200 and "HttpOnly" in flags and "SameSite=Strict" in flags and PASSWORD not in flags
    assert page.get("/api/state").status_code == 200 and not page.get("/api/session").json()["password"]
    cookie = {"cookie": flags.split(";")[0]}
    with page.live(cookie):
        pass
    page.post("/api/logout")
    assert page.get("/api/state", headers=cookie).status_code == 401  # the session is over, not only the cookie


def test_https_with_a_self_made_certificate(client, place):
    page = client(place, password=PASSWORD, tls=())  # the client takes no other certificate
    answer = page.post("/api/login", json={"password": PASSWORD})
    assert "; Secure" in answer.headers["set-cookie"] and answer.headers["set-cookie"].startswith("__Host-")
    assert "strict-transport-security" in answer.headers and page.get("/api/state").status_code == 200
    assert page.post("/api/jobs", json={}, headers={"origin": page.address.replace("https", "http")}).status_code == 403
    folder = PageFiles.open(place / "results").home / "certificate"
    certificate, key = self_made(folder, "127.0.0.1")
    assert os.name == "nt" or key.stat().st_mode & 0o777 == 0o600
    before = certificate.read_bytes()
    assert self_made(folder, "127.0.0.1")[0].read_bytes() == before  # browsers that trust it go on doing so
    assert self_made(folder, "head.example")[0].read_bytes() != before


def test_guessing_passwords_is_slow(client, place, monkeypatch):
    monkeypatch.setattr("live.web.app.WRONG_S", 0.0)
    page = client(place, password=PASSWORD)
    answers = [page.post("/api/login", json={"password": f"wrong {i}"}).status_code for i in range(FREE_TRIES + 2)]
    assert answers == [403] * FREE_TRIES + [429] * 2
    assert "seconds" in refused(page.post("/api/login", json={"password": PASSWORD}), 429)  # nor the right one, until then


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"host": "0.0.0.0"}, "give --password"),
        ({"host": "::"}, "give --password"),
        ({"host": "192.168.1.5"}, "give --password"),
        ({"password": "short"}, "8 characters"),
        ({"port": 70000}, "65535"),
    ],
)
def test_the_page_is_not_opened_by_mistake(changes, words):
    with pytest.raises(UserError, match=words):
        WebOptions(**changes).check()


def test_every_answer_forbids_foreign_content(client, trained):
    page = client(trained)
    for path in ("/", "/static/app.js", "/api/state", "/api/nothing", "/nothing"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|style=|https?://", html)
    scripts = "".join(path.read_text() for path in STATIC.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!localhost|\$)", scripts)


def test_no_path_leaves_its_folder(client, trained):
    page = client(trained)
    outside = ["../server.py", "..%2fserver.py", "%2e%2e/server.py", "....//server.py", "/etc/passwd", "%2fetc%2fpasswd", "..%5cserver.py"]
    for path in outside:
        for base in ("/static/", "/api/recordings/", "/api/persons/", "/api/jobs/", "/api/jobs/x/samples/", "/api/uploads/"):
            status, body = page.raw("GET", base + path)
            assert status in (400, 404) and b"import" not in body and b"root:" not in body, base + path
        assert page.raw("DELETE", "/api/recordings/" + path)[0] in (404, 405)


# ---- uploads ----


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds of a portrait with sound."""
    frames = (face_frame((320, 240), (140 + i, 120), 1.0) for i in range(40))
    sound = 0.3 * np.sin(np.arange(2 * 44100) * 0.05).astype(np.float32)
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", frames, Fraction(20), sound=sound)


def test_a_video_is_taken_whatever_it_is_called(client, place, clip):
    page = client(place)
    told = send(page, clip.read_bytes(), name="notes.txt").json()
    assert told["name"] == "notes.txt" and told["seconds"] == pytest.approx(2, abs=0.2) and told["sound"]
    sound = page.get(f"/api/uploads/{told['id']}/sound", headers={"range": "bytes=0-99"})
    assert sound.status_code == 206 and len(sound.content) == 100
    kept = PageFiles.open(place / "results").uploads
    assert {p.suffix for p in kept.iterdir()} == {".mp4", ".m4a"} and all(told["id"] in p.name for p in kept.iterdir())
    named = send(page, clip.read_bytes(), name="%3Cimg src=x onerror=alert(1)%3E%0a%00.mp4").json()["name"]
    assert named == "<img src=x onerror=alert(1)>.mp4"  # the page shows it as text; what cannot be seen is left out


def playlist(target):
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n".encode()


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "sound alone", "playlist", "list", "picture", "html"])
def test_wrong_uploads_get_a_sentence_and_leave_nothing(client, place, clip, kind, tmp_path_factory):
    data = clip.read_bytes()
    if kind == "sound alone":
        alone = tmp_path_factory.mktemp("sound") / "a.mp4"
        with av.open(str(alone), "w") as out:
            stream = out.add_stream("aac", rate=44100, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            out.mux([*stream.encode(frame), *stream.encode(None)])
        data = alone.read_bytes()
    data = {
        "empty": b"",
        "text": b"not a video\n" * 1000,
        "cut": data[: len(data) // 3],
        "playlist": playlist(f"file://{clip}"),  # would read another file of this machine
        "list": f"ffconcat version 1.0\nfile {clip}\n".encode(),
        "picture": encode_jpeg(face_frame((64, 64), (32, 32), 0.2)),
        "html": b"<html><script>alert(1)</script></html>",
    }.get(kind, data)
    text = refused(send(client(place), data, name="me.mp4"))
    assert "me.mp4" in text
    assert not list(PageFiles.open(place / "results").uploads.iterdir())


def test_uploads_are_limited_in_size_and_length(client, place, clip):
    data = clip.read_bytes()
    small = client(place, max_upload_bytes=len(data) - 1)
    assert "more than" in refused(send(small, data))
    assert "larger than" in refused(send(small, iter([data[:5000]] * (len(data) // 5000 + 1))))  # without a length, in pieces
    assert "cut it" in refused(send(client(place, max_video_s=1.0), data))
    assert "half a minute" in refused(send(client(place), data, purpose="person"))
    assert not list(PageFiles.open(place / "results").uploads.iterdir())
    assert refused(send(client(place), data, purpose="other"))
    assert refused(client(place).post("/api/jobs", data=b"{" + b" " * 50_000 + b"}")) == "this is too long"
    for body in (b"[]", b"{", b"\xff", b"[" * 10_000):
        assert "does not understand" in refused(client(place).post("/api/jobs", data=body))


# ---- connections that only cost ----


def ask(page, path="/", method="GET", more="", source="127.0.0.1"):
    """A connection that has sent a head, but not its end, unless `more` has it."""
    connection = socket.create_connection(("127.0.0.1", page.port), 30, source_address=(source, 0))
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost:{page.port}\r\nOrigin: {page.address}\r\n{more}".encode())
    return connection


def rest_of(connection):
    """What comes until the end of a connection, which is waited for."""
    got = b""
    with connection, suppress(ConnectionError):
        while part := connection.recv(65536):
            got += part
    return got


def test_connections_that_ask_for_nothing_are_cut_off(client, place, monkeypatch):
    monkeypatch.setattr("live.web.server.HEAD_S", 0.1)
    page = client(place, password=PASSWORD)
    assert rest_of(ask(page)) == b""
    connection = ask(page, more="\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    connection.sendall(b"GET / HTTP/1.1\r\n")  # uvicorn waits for its end for ever
    rest_of(connection)
    assert refused(page.post("/api/login", json={"password": "wrong"}), 403)  # answered after half a second: busy, not idle


def test_what_comes_slowly_is_not_waited_for(client, place, clip, monkeypatch):
    monkeypatch.setattr("live.web.app.BODY_S", 0.5)
    page = client(place)
    for path in ("/api/login", "/api/jobs", "/api/uploads?purpose=drive&name=a.mp4"):
        answer = rest_of(ask(page, path, "POST", "Content-Length: 100000\r\n\r\n["))
        assert answer.startswith(b"HTTP/1.1 400") and b"too slowly" in answer
    assert not list(PageFiles.open(place / "results").uploads.iterdir())

    def slow_enough():
        data = clip.read_bytes()
        for i in range(0, len(data), 1 + len(data) // 8):
            time.sleep(0.1)
            yield data[i : i + 1 + len(data) // 8]

    assert send(page, slow_enough()).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a second address of its own")
def test_one_machine_does_not_keep_out_the_others(client, place, monkeypatch):
    monkeypatch.setattr("live.web.server.MOST_OF_ADDRESS", 5)
    page = client(place)
    held = [ask(page) for _ in range(5)]
    assert rest_of(ask(page, more="\r\n")) == b""
    other = ask(page, source="127.0.0.2", more="\r\n")
    assert other.recv(100).startswith(b"HTTP/1.1 200")
    for connection in (*held, other):
        connection.close()


def test_what_waits_for_a_page_that_does_not_read_is_limited():
    async def fill():
        outbox = Outbox(asyncio.get_running_loop())
        for _ in range(2 * MOST_WAITING):
            outbox.put({"type": "error", "text": "again"})
        await asyncio.sleep(0)
        return len(outbox._messages)

    assert asyncio.run(fill()) == MOST_WAITING


def capture(rows=40):
    names = ["EyeBlinkLeft", "JawOpen", "MouthClose", "MouthFunnel", "MouthPucker", "MouthSmileLeft", "MouthSmileRight", "BrowInnerUp"]
    names += ["BrowDownLeft", "BrowDownRight", "CheekPuff", "HeadYaw"]
    lines = ["Timecode," + ",".join(names)]
    for i in range(rows):
        values = [0.0, i / rows, *[0.1] * 9, 0.2 * i / rows]
        lines.append(f"{i / 30:.4f}," + ",".join(f"{v:.4f}" for v in values))
    return "\n".join(lines).encode()


def test_motion_files_are_looked_at(client, place):
    page = client(place)
    told = send(page, capture(), purpose="motion", name="take.csv").json()
    assert told["kind"] == "motion" and told["name"] == "take.csv"
    for data in (b"a,b\n1,2\n", b"{}", b"", b"\x00" * 999, b"[" * 99_999):
        assert "take" in refused(send(page, data, purpose="motion", name="take.csv"))
    assert len(list(PageFiles.open(place / "results").uploads.iterdir())) == 1


# ---- the wire ----


def test_broken_messages_are_left_out():
    picture = encode_jpeg(face_frame((64, 48), (32, 24), 0.2))
    assert unpack(pack("driving", 7, 12.5, picture)) == ("picture", 7, 12.5, picture)
    for data in (b"", b"\x01", b"\x09" + bytes(40), _HEAD.pack(1, 0, 0, 0, float("nan")) + b"x", _HEAD.pack(2, 0, 0, 48000, 1.0) + b"abc"):
        assert unpack(data) is None
    assert unpack(_HEAD.pack(1, 0, 0, 0, 1.0) + bytes(2_100_000)) is None
    assert decode_jpeg(picture).shape == (48, 64, 3)
    huge = bytearray(picture)
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = b"\xff\xff\xff\xff"  # 65535 x 65535, says the header
    for data in (b"", b"abc", picture[:40], bytes(huge), b"\x89PNG\r\n\x1a\n" + bytes(30)):
        assert decode_jpeg(data) is None


def test_poses_are_brought_back_to_the_sliders_ends():
    pose = read_pose({"yaw": 1e9, "pitch": -4, "gaze": [-5, 0.5], "expression": {"jawOpen": 3, "nothing": 1}}, ["jawOpen"])
    assert (pose.yaw_deg, pose.pitch_deg, pose.roll_deg, pose.gaze, dict(pose.expression)) == (45, -4, 0, (-1, 0.5), {"jawOpen": 1})
    for told in ({"yaw": "x"}, {"yaw": float("nan")}, {"gaze": 3}, {"expression": [1]}):
        with pytest.raises((ValueError, TypeError)):
            read_pose(told, ["jawOpen"])


# ---- driving ----


class Driver:
    """What the page's script does."""

    def __init__(self, socket):
        self.socket = socket
        self.until = time.monotonic() + 120  # messages of statistics come without end
        self.tell(type="hello", now=1000 * time.monotonic())

    def tell(self, **message):
        self.socket.send(json.dumps(message))

    def message(self, kind):
        """The next message of a kind; pictures before it are acknowledged."""
        while True:
            got = self.next()
            if isinstance(got, dict):
                if got["type"] == kind:
                    return got
                assert got["type"] != "error", got

    def next(self):
        assert time.monotonic() < self.until, "what was waited for did not come"
        received = self.socket.recv(timeout=60)
        if isinstance(received, str):
            return json.loads(received)
        self.socket.send(b"")  # it was shown
        kind, state, _, number, time_ms = _HEAD.unpack_from(received)
        return time_ms, state, decode_jpeg(received[_HEAD.size :])

    def picture(self):
        while isinstance(got := self.next(), dict):
            assert got["type"] != "error", got
        return got

    def camera(self, image, time_ms):
        self.socket.send(_HEAD.pack(1, 0, 0, 0, time_ms) + encode_jpeg(image))


def test_driving_by_camera_sliders_and_files(client, trained, clip):
    page = client(trained)
    person = page.get("/api/state").json()["persons"][0]
    assert person["name"] == "Ann" and len(person["id"]) == 12
    with page.live() as socket:
        driver = Driver(socket)
        driver.tell(type="person", id=person["id"])
        assert "jawOpen" in driver.message("person")["expressions"]
        state = page.get("/api/state").json()
        assert state["driving"] and state["persons"][0]["picture"]  # drawn at rest
        assert page.get(f"/api/persons/{person['id']}/picture").headers["content-type"] == "image/jpeg"
        camera(driver, page)
        sliders(driver)
        files(driver, page, clip)
        wrong_messages(driver)
        with page.live() as other:  # one at a time
            assert json.loads(other.recv()) == {"type": "busy"}
            with pytest.raises(ConnectionClosed):
                other.recv()
    until = time.monotonic() + 10
    while page.get("/api/state").json()["driving"] and time.monotonic() < until:
        time.sleep(0.05)
    with page.live() as socket:
        Driver(socket).message("statistics")


def test_recordings_leave_room_on_the_disk(client, trained, monkeypatch):
    page = client(trained)
    recordings = PageFiles.open(page.app.state.page.options.results_dir).recordings
    with page.live() as websocket:
        driver = Driver(websocket)
        driver.tell(type="person", id=page.get("/api/state").json()["persons"][0]["id"])
        driver.message("person")
        driver.tell(type="source", kind="sliders")
        driver.picture()
        with monkeypatch.context() as full:
            full.setattr("live.web.studio.SPARE_BYTES", 1 << 60)
            driver.tell(type="record", on=True)
            while not isinstance(said := driver.next(), dict) or said["type"] == "statistics":
                pass
            assert said == {"type": "error", "text": "the disk of this machine is nearly full; delete some recordings"}
        driver.tell(type="record", on=True)
        assert driver.message("recording")["on"]
        monkeypatch.setattr("live.web.studio.SPACE_S", 0.0)
        monkeypatch.setattr("live.web.studio.SPARE_BYTES", 1 << 60)
        driver.tell(type="pose", yaw=5)
        told = driver.message("recording")
        assert not told["on"] and len(list(read_frames(recordings / told["name"]))) > 0  # what there is is kept
        while not isinstance(said := driver.next(), dict) or said["type"] == "statistics":
            pass
        assert "nearly full" in said["text"]


def camera(driver, page):
    """Pictures there and back, with their time; broken ones between them; a recording of them with sound."""
    driver.tell(type="source", kind="camera")
    driver.socket.send(_HEAD.pack(1, 0, 0, 0, 1.0) + b"no JPEG")
    driver.message("next")
    driver.socket.send(b"\x07broken")
    driver.tell(type="record", on=True, sound=True)
    assert driver.message("recording")["on"]
    sent = []
    for i in range(25):
        now_ms = 1000 * time.monotonic()
        sent.append(now_ms)
        driver.camera(face_frame((320, 240), (150 + i, 120), 1.0), now_ms)
        samples = np.full(2400, 0.2, "<f4")
        driver.socket.send(_HEAD.pack(2, 0, 0, 48000, now_ms) + samples.tobytes())
        time_ms, _, image = driver.picture()
        assert image.shape == (64, 64, 3)
        assert min(abs(time_ms - t) for t in sent) < 1.0
        time.sleep(0.02)
    beside = {"type": "settings", "mirror": True, "side_by_side": True, "exaggerate": 99, "mode": "face"}
    driver.tell(**beside)  # a recording stays what it is: without the driver's picture
    driver.camera(face_frame((320, 240), (150, 120), 1.0), 1000 * time.monotonic())
    assert driver.picture()[2].shape == (64, 64, 3)
    driver.tell(type="record", on=False)
    name = driver.message("recording")["name"]
    driver.tell(**beside)
    driver.camera(face_frame((320, 240), (150, 120), 1.0), 1000 * time.monotonic())
    assert driver.picture()[2].shape == (64, 64 + 85, 3)
    answer = page.get(f"/api/recordings/{name}")
    assert answer.status_code == 200 and answer.headers["content-type"] == "video/mp4"
    path = PageFiles.open(page.app.state.page.options.results_dir).recordings / name
    info = probe(path)
    assert info.has_audio and info.frames > 15 and (info.width, info.height) == (64, 64)
    found = read_findings(path)
    assert found.state == UNCHANGED and found.source_type == "trainedAlgorithmicMedia"
    assert (found.facts["target"], found.facts["driver_kind"], found.facts["run"]) == ("Ann", "camera", "head2head_Ann")
    assert "attachment" in page.get(f"/api/recordings/{name}?download").headers["content-disposition"]
    assert page.delete(f"/api/recordings/{name}").status_code == 200 and not path.exists()
    driver.tell(type="settings", mirror=False, side_by_side=False, exaggerate=1, mode="head")
    driver.tell(type="stop")


def sliders(driver):
    """The mouth is where the picture changes when the jaw opens."""
    driver.tell(type="source", kind="sliders")
    rest = settled(driver)
    driver.tell(type="pose", expression={"jawOpen": 1.0})
    opened = settled(driver)
    driver.tell(type="pose", yaw=20)
    turned = settled(driver)
    change = np.abs(opened.astype(int) - rest).mean(2)
    assert change.max() > 5 and np.abs(turned.astype(int) - rest).mean() > 1
    assert change[: 64 // 3].mean() < change[64 // 3 :].mean()  # the upper third shows the forehead


def settled(driver):
    return driver.picture()[2]


def files(driver, page, clip):
    upload = send(page, clip.read_bytes()).json()["id"]
    driver.tell(type="source", kind="video", upload=upload)
    driver.tell(type="record", on=True)
    times = play(driver)
    assert times == sorted(times) and times[-1] > 1500
    take = send(page, capture(), purpose="motion", name="take.csv").json()["id"]
    driver.tell(type="source", kind="motion", upload=take)
    assert play(driver)[-1] > 1000


def play(driver):
    """Times of the pictures until the file ends; what was recorded of it plays, with its sound."""
    times = []
    while True:
        got = driver.next()
        if isinstance(got, tuple):
            times.append(got[0])
        elif got["type"] == "ended":
            return times
        else:
            assert got["type"] != "error", got


def wrong_messages(driver):
    for text in ("[]", "{", '{"type": 5}', '{"type": "nothing"}', '{"type": "source", "kind": "x"}', '{"type": "source"}'):
        driver.socket.send(text)
        assert "again" in driver.message("error")["text"], text
    for message in (
        {"type": "person", "id": "../x"},
        {"type": "source", "kind": "video", "upload": "../x"},
        {"type": "record", "on": True},
    ):
        driver.tell(**message)
        driver.message("error")


# ---- new persons ----


def wait_for(page, job, *states, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        told = page.get(f"/api/jobs/{job}").json()
        if told["state"] in states:
            return told
        time.sleep(0.2)
    raise AssertionError(told)


@pytest.fixture(scope="module")
def nobody(tmp_path_factory):
    """Six seconds without a face."""
    return write_video(
        tmp_path_factory.mktemp("nobody") / "n.mp4", (np.full((96, 128, 3), i, np.uint8) for i in range(60)), 10
    ).read_bytes()


def test_a_person_needs_a_video_a_name_and_consent(client, place, nobody):
    page = client(place)
    upload = send(page, nobody, purpose="person").json()["id"]
    good = {"upload": upload, "name": "Ann", "consent": "I am Ann and agree to this."}
    for wrong, words in (
        ({"consent": ""}, "consent is missing"),
        ({"consent": "yes"}, "whole sentence"),
        ({"name": "../.."}, "letters or digits"),
        ({"name": "  "}, "name is missing"),
        ({"name": 5}, "name is missing"),
        ({"upload": "../x"}, "choose it again"),
        ({"upload": None}, "choose it again"),
    ):
        assert words in refused(page.post("/api/jobs", json={**good, **wrong}))
    (place / "checkpoints/people/head2head_Ann").mkdir(parents=True)
    assert "already" in refused(page.post("/api/jobs", json=good))
    assert not (place / "datasets").exists()


def test_a_job_fails_in_words_is_found_after_a_restart_and_can_be_cut_off(client, place, nobody):
    page = client(place)
    upload = send(page, nobody, purpose="person", name="hers.mp4").json()["id"]
    consent = '--split "test" $(touch x); I am Ann'
    job = page.post("/api/jobs", json={"upload": upload, "name": "An n/../x", "consent": consent}).json()
    assert job["identity"] == "Ann..x" and job["state"] == "running"
    second = send(page, nobody, purpose="person").json()["id"]
    assert "one person at a time" in refused(page.post("/api/jobs", json={"upload": second, "name": "Bob", "consent": consent}))
    page = client(place)  # the server was started again
    told = wait_for(page, job["id"], "failed")
    assert told["consent"] == consent and "face" in told["error"] and "/tmp" not in told["error"].replace(str(place), "")
    videos = Dataset.open("people", place / "datasets").original_videos
    assert [p.name for p in videos.iterdir()] == ["Ann..x.mp4"]

    assert page.post(f"/api/jobs/{job['id']}/resume").status_code == 200  # the same again; this time it is killed
    lock = PageFiles.open(place / "results").jobs_lock
    until = time.monotonic() + 30
    while not (lock.is_file() and lock.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    page = client(place)
    told = wait_for(page, job["id"], "cut off", "failed")
    assert told["state"] == "cut off" and "kept" in told["error"]
    assert page.post(f"/api/jobs/{job['id']}/delete").status_code == 200
    assert refused(page.get(f"/api/jobs/{job['id']}")) and not page.get("/api/state").json()["jobs"]
    assert not list(videos.iterdir())  # nothing was made of it: the name is free again


def test_stopping_a_job(client, place, nobody):
    page = client(place)
    upload = send(page, nobody, purpose="person").json()["id"]
    job = page.post("/api/jobs", json={"upload": upload, "name": "Ann", "consent": "I am Ann and agree."}).json()["id"]
    lock = PageFiles.open(place / "results").jobs_lock
    until = time.monotonic() + 30
    while not (lock.is_file() and lock.read_text()) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)  # the command is starting
    page.post(f"/api/jobs/{job}/stop")
    assert wait_for(page, job, "stopped", "failed")["state"] == "stopped"
    assert "not ready" in refused(page.post(f"/api/jobs/{job}/train", json={"minutes": 10}))


def test_commands_of_a_job_take_no_value_for_an_option():
    job = {
        "phase": "prepare",
        "dataset": "people",
        "datasets_dir": "/d",
        "checkpoints_dir": "/c",
        "identity": "--help",
        "video": "/d/v.mp4",
    }
    job |= {"consent": "--version", "gpu": False, "minutes": 10, "trained_s": 240.0}
    assert [step for step, _ in commands(job)] == ["detect", "landmarks", "reconstruct"]
    for _, (_, *arguments) in [*commands(job), *commands({**job, "phase": "train"})]:
        assert all(re.match(r"--[A-Za-z0-9_]+=", a) for a in arguments)
    ((_, training),) = commands({**job, "phase": "train"})
    assert "--max_minutes=6.00" in training and "--preset=preview" in training
    ((_, training),) = commands({**job, "phase": "train", "gpu": True, "minutes": None})
    assert not any(a.startswith("--max_minutes") for a in training) and "--preset=default" in training
