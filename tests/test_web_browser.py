"""The page in a real Chromium, with a moving portrait as its camera and a person of random weights."""

import contextlib
import shutil
import socket
import time

import cv2
import numpy as np
import pytest
from synthetic_videos import face_frame, write_video
from web_server import RunningServer, make_person_run, web_options

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium here (Debian: apt-get install chromium)")
PASSWORD = "a long enough one"
# of the picture that the page shows, [H, W, 3] as a flat list
PIXELS = """() => { const c = document.querySelector('.screen canvas')
  return [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]] }"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    make_person_run(root)
    with pytest.MonkeyPatch.context() as changed:  # the certificate that seals recordings is not the user's
        changed.setenv("HEAD2HEAD_CACHE", str(root / "cache"))
        yield root


@pytest.fixture(scope="module")
def browser(root):
    """Chromium, whose camera shows the portrait going from left to right and back."""
    from playwright.sync_api import sync_playwright

    steps = [*range(0, 60, 2), *range(60, 0, -2)]
    pictures = (cv2.imencode(".jpg", face_frame((320, 240), (130 + x, 120), 1.0)[..., ::-1])[1].tobytes() for x in steps)
    (root / "camera.mjpeg").write_bytes(b"".join(pictures))
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += [f"--use-file-for-fake-video-capture={root}/camera.mjpeg", "--autoplay-policy=no-user-gesture-required"]
    flags += [f"--host-resolver-rules=MAP {socket.gethostname()} 127.0.0.1"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="module")
def server(root):
    running = RunningServer(web_options(root))
    yield running
    running.close()


@contextlib.contextmanager
def opened(browser, address, width=1280, height=800, expected=()):
    """A page; what its scripts complain of fails the test, unless it is expected."""
    context = browser.new_context(viewport={"width": width, "height": height}, permissions=["camera", "microphone"])
    page = context.new_page()
    page.set_default_timeout(30_000)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.goto(address)
    yield page
    context.close()
    expected = (*expected, "willReadFrequently")  # the tests' own reading of the picture
    assert not [text for text in complaints if not any(word in text for word in expected)]


@pytest.fixture
def page(browser, server):
    with opened(browser, server.address, expected=("status of 400",)) as page:
        page.click("text=Ann")
        page.wait_for_selector("text=Start the camera")
        page.wait_for_selector(".hint", state="hidden")
        yield page


def picture(page):
    width, height, values = page.evaluate(PIXELS)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3].astype(int)


def wait_until(true, seconds=30):
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.1)
    assert true()


def test_the_camera_drives_and_a_recording_plays(page):
    page.click("text=Start the camera")
    page.wait_for_selector("#delay")
    assert 0 < float(page.inner_text("#fps")) < 100 and 0 < float(page.inner_text("#delay")) < 5000
    page.wait_for_selector(".state", state="hidden")  # calibrated, and not lost
    before = picture(page)
    wait_until(lambda: np.abs(picture(page) - before).mean() > 1)
    page.click("text=Driver beside")
    wait_until(lambda: picture(page).shape[1] > 1.5 * picture(page).shape[0])
    page.check("text=microphone")
    page.click("text=● Record")
    page.wait_for_selector(".live")
    time.sleep(2)
    page.click("text=End the recording")
    page.wait_for_selector(".films video")
    video = page.locator(".films video").first
    wait_until(lambda: video.evaluate("v => v.readyState >= 2"))
    assert video.evaluate("v => v.duration") > 1 and video.evaluate("v => v.videoWidth") > 64
    video.evaluate("v => { v.muted = true; return v.play() }")
    wait_until(lambda: video.evaluate("v => v.currentTime") > 0.3)
    assert video.evaluate("v => v.webkitAudioDecodedByteCount") > 0
    page.keyboard.press("m")
    assert not page.is_checked("text=Mirror")
    page.click("text=Stop the camera")


def test_sliders_move_the_mouth(page):
    page.click("text=Sliders")
    page.wait_for_selector("#slider-jawOpen")
    time.sleep(0.5)
    rest = picture(page)
    page.fill("#slider-jawOpen", "100")
    wait_until(lambda: np.abs(picture(page) - rest).max() > 10)
    assert page.inner_text("#slider-jawOpen + output") == "100"
    third = len(rest) // 3
    change = np.abs(picture(page) - rest).mean((1, 2))
    assert change[:third].mean() < change[third:].mean()  # forehead and mouth
    page.click("text=Reset")
    wait_until(lambda: np.abs(picture(page) - rest).mean() < 1)
    page.click("text=Wink")  # of one side: the sliders part
    assert page.input_value("#slider-eyeBlink_L") == "100" and page.input_value("#slider-eyeBlink_R") == "0"


def test_files_drive_and_wrong_ones_get_a_sentence(page, tmp_path):
    page.click("button:has-text('Video')")
    (tmp_path / "<b>note.mp4").write_text("no video")
    page.set_input_files("input[type=file]", str(tmp_path / "<b>note.mp4"))
    assert page.inner_text("[role=alert]").startswith("<b>note.mp4 is no video")
    frames = (face_frame((320, 240), (130 + i, 120), 1.0) for i in range(60))
    sound = 0.3 * np.sin(np.arange(3 * 44100) * 0.05).astype(np.float32)
    page.set_input_files("input[type=file]", str(write_video(tmp_path / "drive.mp4", frames, 20, sound=sound)))
    page.click("button:has-text('Play')")
    wait_until(lambda: page.evaluate("document.querySelector('audio').currentTime") > 0.5)
    assert abs(page.evaluate("document.querySelector('audio').playbackRate") - 1) < 0.1
    page.wait_for_selector("button:has-text('Play')")  # at its end


@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
def test_views_fit_and_say_what_is_missing(browser, server, width, height):
    with opened(browser, server.address, width, height) as page:
        for view, words in (
            ("#/", "Who shall move?"),
            ("#/recordings", "Recordings"),
            ("#/new", "Consent statement"),
            ("#/drive/x", "not here"),
        ):
            page.goto(f"{server.address}/{view}")
            page.wait_for_selector(f"main :text('{words}')")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.goto(f"{server.address}/#/new")
        page.click("text=Begin")
        assert page.inner_text("[role=alert] >> visible=true") == "Choose a video first."
        for field in page.query_selector_all("input, textarea, select"):
            assert field.evaluate("f => f.labels.length > 0 || !!f.ariaLabel"), field.evaluate("f => f.outerHTML")


def test_from_elsewhere_a_password_and_why_there_is_no_camera(browser, root):
    server = RunningServer(web_options(root, host="0.0.0.0", password=PASSWORD))
    try:
        with opened(browser, f"http://{socket.gethostname()}:{server.port}/", expected=("status of 403", "untrustworthy")) as page:
            page.fill("#password", "something else")
            page.click("button:has-text('Log in')")
            page.wait_for_selector("[role=alert]:has-text('not the password')")
            page.fill("#password", PASSWORD)
            page.click("button:has-text('Log in')")
            page.click("text=Ann")
            page.wait_for_selector("#slider-jawOpen")  # it begins with what works
            page.click("button:has-text('Camera')")
            notice = page.inner_text(".panel .notice")
            assert "--tls" in notice and f"http://localhost:{server.port}" in notice
            page.click("text=Log out")
            page.wait_for_selector("#password")
    finally:
        server.close()
