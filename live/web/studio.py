"""The one engine of the page's server, the one client that drives it, and where its frames come from."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from live.web.persons import Person
from live.web.uploads import NEARLY_FULL, SPARE_BYTES, Upload, read_motion_file
from live.web.wire import decode_jpeg, encode_jpeg, pack, unpack
from util.ahead import usable_cores
from util.cli import UserError, collecting
from util.image_io import write_bytes
from util.layout import Dataset, PageFiles, Run

if TYPE_CHECKING:
    from live.engine import HeadEngine, LiveFrame, Pose, Settings
    from util.provenance import Provenance

RECORD_FPS = Fraction(30)  # of recordings of a camera and of sliders; those of files have the file's rate
MOST_RECORD_S = 3600.0  # an hour: nobody means to record for longer, and disks end
SPACE_S = 2.0  # between two looks at what is left of the disk
LEAST_STEP_S = 1e-4  # between two pictures: clocks jump
MOST_STAMPS = 100  # of pictures on their way
STALE_S = 2.0  # a camera's time stamps may be that old; older ones are taken for now
REFINE_ABOVE_CORES = 2  # on so few, with the browser on them too, refinement costs more pictures than it is worth
VIDEO_SIDE_PX = 960  # frames of uploaded videos are shrunk to this: tracking needs no more
NEUTRAL = np.zeros((1, 1, 3), np.uint8)  # in place of a driver's picture where there is no driver


class Studio:
    """Holds the engine of the person who was chosen last. Its methods may be called from any thread."""

    def __init__(self, files: PageFiles, datasets_dir: Path | None, backend: str = "auto", gpu_ids: str = "auto") -> None:
        self._files, self._datasets_dir, self._backend, self._gpu_ids = files, datasets_dir, backend, gpu_ids
        self._lock = threading.Lock()
        self._engine: HeadEngine | None = None
        self._key: tuple[Any, ...] = ()
        self.client: Session | None = None  # the one that drives

    def load(self, person: Person, full_picture: bool = False) -> HeadEngine:
        """The person's engine; the former one's is closed. full_picture: with the person's own video, for paste-back. Raises: UserError."""
        with self._lock:
            key = (person.id, person.trained_ns, full_picture)
            if self._engine is None or self._key != key:
                video = self._find_video(person) if full_picture else None
                self._close()
                self._engine = self._open(person, self._backend, video)
                self._key = key
            with suppress(UserError):  # a full disk is no reason not to drive
                self._draw_picture(person, self._engine)
            return self._engine

    def draw_picture(self, person: Person) -> None:
        """Draw the person at rest, unless that was done, or somebody drives. Raises: UserError."""
        with self._lock:
            if self.client is None and not person.picture(self._files).is_file():
                with self._open(person, "torch") as engine:
                    self._draw_picture(person, engine)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine, self._key = None, ()

    def _open(self, person: Person, backend: str, video: Path | None = None) -> HeadEngine:
        from live.engine import HeadEngine, Settings

        settings = Settings(refine=usable_cores() > REFINE_ABOVE_CORES)
        return HeadEngine.load(person.folder, name=person.name, backend=backend, gpu_ids=self._gpu_ids, settings=settings, video=video)

    def _draw_picture(self, person: Person, engine: HeadEngine) -> None:
        place = person.picture(self._files)
        if not place.is_file():
            from live.view import View

            picture = View().compose(_drawn(0, time.monotonic(), engine.rest()))
            for old in place.parent.glob(f"{person.id}_*.jpg"):
                old.unlink(missing_ok=True)
            write_bytes(place, encode_jpeg(picture))

    def _find_video(self, person: Person) -> Path:
        """The video that a person was learnt from. Raises: UserError."""
        from models.checkpoints import read_run_options

        recorded = read_run_options(Run(person.folder, person.folder)).get("datasets_dir")
        dataset = Dataset.find(person.dataset, self._datasets_dir, recorded)
        record = dataset.read_record(person.name)
        found = record.sound_source("train", dataset) if record else None
        if found is None:
            raise UserError(f"the full picture needs the video that {person.name} was learnt from, and it is not here any more")
        return found[0]


class Session:
    """One client that drives: takes its messages, and gives pictures and texts to `send`.

    send: called from any thread with bytes (a picture, of which only the newest counts) or a dict (a message).
    """

    def __init__(self, studio: Studio, files: PageFiles, find_person: Callable[[str], Person], find_upload: Callable[[Any], Upload], send):
        from live.view import View

        self._studio, self._files, self._send = studio, files, send
        self._find_person, self._find_upload = find_person, find_upload
        self._view = View()
        self._engine: HeadEngine | None = None
        self._person: Person | None = None
        self._source: Source | None = None
        self._clock_s = 0.0  # time.monotonic() less the client's clock
        self._recording = Recording(files)
        self._statistics = Rate()

    # ---- messages; each in a worker thread, one after the other ----

    def receive(self, message: str) -> None:
        """Take a text message. Raises: UserError, with a sentence for the person who drives."""
        try:
            told = json.loads(message)
            kind = told["type"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError("the page sent something that the server does not understand; load it again") from None
        action = {
            "hello": self._hello,
            "person": self._choose,
            "source": self._begin,
            "stop": lambda _: self._end_source(),
            "settings": self._set,
            "pose": self._pose,
            "recalibrate": lambda _: self._engine and self._engine.recalibrate(),
            "record": self._record,
        }.get(kind if isinstance(kind, str) else "")
        if action is None:
            raise UserError("the page and the server are of different versions; load the page again")
        try:
            action(told)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError("the page sent a value that the server cannot use; load it again") from None

    def receive_bytes(self, data: bytes) -> None:
        """Take a picture of the camera, or sound of the microphone. What cannot be read is left out."""
        part = unpack(data)
        if part is None:
            return
        now_s = time.monotonic()
        # nothing comes before it was sent: the message that took the least time tells the difference of the clocks best
        self._clock_s = min(self._clock_s, now_s - part.time_ms / 1000)
        time_s = max(part.time_ms / 1000 + self._clock_s, now_s - STALE_S)
        if part.kind == "sound":
            samples = np.frombuffer(part.body, "<f4")
            if 8000 <= part.number <= 192_000:
                self._recording.add_sound(samples, part.number, time_s)
        elif isinstance(self._source, CameraSource):
            image = decode_jpeg(part.body)
            if image is not None:
                self._source.put(image, time_s, part.time_ms)

    def close(self) -> None:
        """End what runs; a recording is finished."""
        self._end_source()
        self._recording.stop()

    # ---- actions ----

    def _hello(self, told: dict[str, Any]) -> None:
        now_ms = float(told["now"])
        if not math.isfinite(now_ms):
            raise ValueError
        self._clock_s = time.monotonic() - now_ms / 1000

    def _choose(self, told: dict[str, Any]) -> None:
        person = self._find_person(str(told["id"]))
        self._end_source()
        self._send({"type": "loading", "name": person.name})
        self._engine, full = None, bool(told.get("full_picture"))
        try:
            engine = self._studio.load(person, full)
        except UserError as e:
            if not full:
                raise
            self._send({"type": "error", "text": str(e)})
            full, engine = False, self._studio.load(person)
        self._engine, self._person = engine, person
        self._send(
            {
                "type": "person",
                "id": person.id,
                "name": person.name,
                "expressions": list(engine.expression_names),
                "size": engine.size,
                "backend": engine.backend,
                "full_picture": full,
            }
        )

    def _begin(self, told: dict[str, Any]) -> None:
        if self._engine is None:
            raise UserError("choose a person first")
        self._end_source()
        kind = told["kind"]
        if kind == "camera":
            self._source = CameraSource(self._engine, self._put_out)
        elif kind == "sliders":
            self._source = SliderSource(self._engine, self._put_out)
        elif kind in ("video", "motion"):
            upload = self._find_upload(told["upload"])
            cls = VideoSource if upload.kind == "video" else MotionSource
            self._source = cls(self._engine, self._put_out, upload, self._ended)
        else:
            raise ValueError
        self._statistics = Rate()
        self._engine.recalibrate()
        self._source.start()

    def _ended(self, error: str | None) -> None:
        self._recording_stopped(self._recording.stop())
        self._send({"type": "error", "text": error} if error else {"type": "ended"})

    def _end_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.stop()
        self._recording_stopped(self._recording.stop())

    def _set(self, told: dict[str, Any]) -> None:
        fixed = self._recording.is_on  # what kind of picture it is stays the same in a recording
        if not fixed:
            self._view.side_by_side = bool(told.get("side_by_side", self._view.side_by_side))
        if self._engine is None:
            return
        values: dict[str, Any] = {}
        if "mode" in told:
            values["mode"] = str(told["mode"])
        for name in ("mirror", "limit_mouth", *(() if fixed else ("paste_back",))):
            if name in told:
                values[name] = bool(told[name])
        if "exaggerate" in told:
            values["exaggerate"] = min(max(float(told["exaggerate"]), 0.0), 3.0)
        settings: Settings = self._engine.settings
        self._engine.settings = replace(settings, **values)

    def _pose(self, told: dict[str, Any]) -> None:
        if isinstance(self._source, SliderSource):
            self._source.put(read_pose(told, self._engine.expression_names))

    def _record(self, told: dict[str, Any]) -> None:
        if not told["on"]:
            self._recording_stopped(self._recording.stop())
        elif self._source is None or self._person is None:
            raise UserError("start the camera, a file or the sliders first")
        else:
            composite = self._view.side_by_side or self._engine.settings.paste_back
            shown = self._person.provenance(self._source.driver, self._source.driver_kind, composite)
            self._recording.start(self._person.name, shown, self._source, bool(told.get("sound")))
            self._send({"type": "recording", "on": True})

    def _recording_stopped(self, name: str | None) -> None:
        if name is not None:
            self._send({"type": "recording", "on": False, "name": name})

    # ---- pictures; in the thread of the source ----

    def _put_out(self, frame: LiveFrame, time_ms: float) -> None:
        """Show a finished frame. time_ms: its time on the clock of its source, for the page."""
        has_driver = frame.driver.shape[0] > 1
        view = self._view if has_driver or not self._view.side_by_side else replace(self._view, side_by_side=False)
        picture = view.compose(frame)
        try:
            self._recording.write(picture, frame.time_s)
        except UserError as e:  # the disk is full, or nearly
            self._recording_stopped(self._recording.stop() or "")
            self._send({"type": "error", "text": str(e)})
        self._statistics.add()
        self._send(pack(frame.state, frame.number, time_ms, encode_jpeg(picture)))

    def statistics(self) -> dict[str, Any]:
        """What the page shows of speed: pictures a second that were made, and milliseconds of each stage."""
        source = self._source
        figures = source.figures() if source is not None else None
        told: dict[str, Any] = {"type": "statistics", "fps": round(self._statistics.per_s(), 1)}
        if figures is not None:
            told |= {"engine_ms": round(figures.delay_ms_p50), "dropped": figures.dropped}
            told["stages"] = {name: round(value, 1) for name, value in figures.stages.items()}
        return told


def read_pose(told: dict[str, Any], names: list[str]) -> Pose:
    """A pose as the page's sliders say it; values beyond the sliders' ends are brought back. Raises: ValueError, TypeError, KeyError."""
    from live.engine import Pose

    def number(value: Any, least: float, most: float) -> float:
        value = float(value)
        if not math.isfinite(value):
            raise ValueError
        return min(max(value, least), most)

    expression = {name: number(weight, 0, 1) for name, weight in dict(told.get("expression", {})).items() if name in names}
    gaze = told.get("gaze", (0, 0))
    angles = (number(told.get(name, 0), -45, 45) for name in ("yaw", "pitch", "roll"))
    return Pose(*angles, expression, (number(gaze[0], -1, 1), number(gaze[1], -1, 1)))


def _drawn(number: int, time_s: float, image: np.ndarray) -> LiveFrame:
    """A frame that no driver's frame lies behind."""
    from live.engine import LiveFrame

    return LiveFrame(number, time_s, NEUTRAL, image=image, state="driving", done_s=time.monotonic())


class Rate:
    """Pictures a second over the last seconds."""

    WINDOW_S = 3.0

    def __init__(self) -> None:
        self._times: list[float] = []

    def add(self) -> None:
        now = time.monotonic()
        self._times = [t for t in self._times if now - t < self.WINDOW_S] + [now]

    def per_s(self) -> float:
        times = [t for t in self._times if time.monotonic() - t < self.WINDOW_S]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0


# ---- sources ----


class Source:
    """Where frames come from. put_out: called with each finished frame and its time for the page, ms."""

    fps = RECORD_FPS  # of a recording
    driver, driver_kind = "", "camera"  # as of util.provenance.Provenance
    sound: Path | None = None  # file whose sound belongs to the frames
    sound_from_s: float | None = None  # time.monotonic() of that file's first picture

    def start(self) -> None:
        """Begin; returns at once."""

    def stop(self) -> None:
        """End; no frame is put out any more after it returns."""

    def figures(self):
        """live.pipeline.Figures; None where there are none."""
        return None


class CameraSource(Source):
    """Frames that the page sends."""

    def __init__(self, engine: HeadEngine, put_out: Callable[[LiveFrame, float], None]) -> None:
        from live.pipeline import Pipeline

        self._last_s = -math.inf
        self._stamps: dict[float, float] = {}  # time.monotonic() of the last pictures -> their time on the page's clock, ms
        self._pipeline = Pipeline(engine, lambda frame: put_out(frame, self._stamps.get(frame.time_s, math.nan)))
        self._closed = False

    def start(self) -> None:
        self._pipeline.__enter__()

    def put(self, image: np.ndarray, time_s: float, time_ms: float) -> None:
        """A frame, uint8 [H, W, 3] RGB, and its time here and on the page's clock; never waits."""
        if not self._closed:
            self._last_s = time_s = max(time_s, self._last_s + LEAST_STEP_S)
            self._stamps[time_s] = time_ms
            if len(self._stamps) > MOST_STAMPS:
                self._stamps.pop(next(iter(self._stamps)))
            self._pipeline.put(image, time_s)

    def stop(self) -> None:
        self._closed = True
        self._pipeline.__exit__(None, None, None)

    def figures(self):
        return self._pipeline.statistics


class PlayedSource(Source):
    """A file that is played at its own rate, in a thread; what comes late is left out. ended: called at its end, with an error or None."""

    def __init__(self, engine: HeadEngine, put_out: Callable[[LiveFrame, float], None], upload: Upload, ended) -> None:
        self._engine, self._put_out, self._upload, self._ended = engine, put_out, upload, ended
        self.driver = Path(upload.name).stem
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="head2head page source", daemon=True)
        self._start_s = 0.0

    def start(self) -> None:
        self._upload.used += 1
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._upload.used -= 1

    def _run(self) -> None:
        error = None
        try:
            self._play()
        except UserError as e:
            error = str(e).replace(str(self._upload.path), self._upload.name)
        if not self._stopped.is_set():
            self._ended(error)

    def _play(self) -> None:
        raise NotImplementedError

    def _due(self, frames: Iterator[Any]) -> Iterator[tuple[int, float, Any]]:
        """Number, time (time.monotonic) and value of the frames, each when it is due."""
        for number, frame in enumerate(frames):
            due_s = self._start_s + number / float(self.fps)
            if number == 0:  # time counts from the first frame on: opening a file takes some
                self._start_s = due_s = self.sound_from_s = time.monotonic()
            late_s = time.monotonic() - due_s
            if late_s > 1 / float(self.fps):
                continue
            if self._stopped.wait(max(0.0, -late_s)):
                return
            yield number, due_s, frame

    def _ms(self, frame: LiveFrame) -> float:
        return 1000 * (frame.time_s - self._start_s)


class VideoSource(PlayedSource):
    """An uploaded video whose person drives."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.fps, self.driver_kind = self._upload.info.fps, "identity"
        self.sound = self._upload.path if self._upload.sound else None
        self._pipeline = None

    def _play(self) -> None:
        from live.pipeline import Pipeline
        from util.video.reading import read_frames

        frames = read_frames(self._upload.path, self._upload.info, max_side=VIDEO_SIDE_PX)
        with Pipeline(self._engine, lambda frame: self._put_out(frame, self._ms(frame))) as self._pipeline:
            for _, due_s, image in self._due(frames):
                self._pipeline.put(image, due_s)
            if not self._stopped.is_set():
                self._pipeline.finish()

    def figures(self):
        return self._pipeline.statistics if self._pipeline else None


class MotionSource(PlayedSource):
    """An uploaded capture or template that drives."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.driver_kind = "template" if self._upload.path.suffix == ".json" else "arkit"

    def _play(self) -> None:
        from preprocessing.driving.heads import DrivenFrame
        from preprocessing.driving.retarget import drive, target_frames

        engine, profile = self._engine, self._engine.profile
        model = profile.load_model()
        with collecting():  # what it says was said when it was uploaded
            motion = read_motion_file(self._upload, tuple(model.expression_names))
        self.fps = motion.fps
        driven, made_with = None, None

        def retargeted() -> Iterator[DrivenFrame]:
            nonlocal driven, made_with
            for i in range(len(motion)):
                settings = engine.settings
                if made_with != settings:  # also when they are changed while it plays
                    poses = target_frames(len(motion), motion.fps, len(profile.cameras), profile.fps) if settings.mode == "face" else None
                    options = {"exaggerate": settings.exaggerate, "limit_mouth": settings.limit_mouth}
                    driven, made_with = drive(model, profile, motion, poses, **options), settings
                yield DrivenFrame(driven.expression[i], driven.cameras[i], driven.landmarks[i])

        for number, due_s, frame in self._due(retargeted()):
            done = _drawn(number, due_s, engine.draw(frame))
            self._put_out(done, self._ms(done))


class SliderSource(Source):
    """A pose that the page's sliders give; drawn when it changes, the newest counts."""

    driver_kind = "sliders"

    def __init__(self, engine: HeadEngine, put_out: Callable[[LiveFrame, float], None]) -> None:
        from live.engine import Pose

        self._engine, self._put_out = engine, put_out
        self._pose: Pose | None = Pose()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="head2head page sliders", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, pose: Pose) -> None:
        with self._changed:
            self._pose = pose
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pose is not None or self._closed)
                if self._closed:
                    return
                pose, self._pose = self._pose, None
            frame = _drawn(number, time.monotonic(), self._engine.draw(pose))
            number += 1
            self._put_out(frame, 0.0)


# ---- recording ----


class Recording:
    """At most one recording at a time, written while it is made."""

    def __init__(self, files: PageFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._recorder = None
        self._live_sound = self._still = False
        self._began_s = self._checked_s = 0.0
        self._last: tuple[np.ndarray, float] | None = None

    @property
    def is_on(self) -> bool:
        return self._recorder is not None

    def start(self, person: str, shown: Provenance, source: Source, microphone: bool) -> None:
        """Begin. shown: what the credentials say. Raises: UserError when the file cannot be written."""
        from live.recorder import Recorder

        self.stop()
        with self._lock:
            stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
            path = self._files.recordings / f"{person}_{stamp}.mp4"
            self._live_sound = microphone and isinstance(source, CameraSource)
            sound = {"audio_from": source.sound, "audio_from_s": source.sound_from_s} if source.sound else {"live_sound": self._live_sound}
            self._check_space()
            self._recorder = Recorder(path, source.fps, provenance=shown, **sound)
            self._began_s, self._still = time.monotonic(), isinstance(source, SliderSource)
            if self._still and self._last is not None:  # nothing may move for a while
                self._recorder.write(self._last[0], self._began_s)

    def write(self, picture: np.ndarray, time_s: float) -> None:
        """Add a picture. Raises: UserError when the file could not be written, and is lost, or nothing more should be: stop() keeps it."""
        with self._lock:
            self._last = (picture, time_s)
            if self._recorder is None or time_s - self._began_s > MOST_RECORD_S:
                return
            try:
                self._recorder.write(picture, time_s)
            except UserError:
                self._recorder = None
                raise
            if time.monotonic() - self._checked_s > SPACE_S:
                self._check_space()

    def _check_space(self) -> None:
        """Raises: UserError when the disk is nearly full."""
        self._checked_s = time.monotonic()
        place = next(p for p in (self._files.recordings, *self._files.recordings.parents) if p.is_dir())
        if shutil.disk_usage(place).free < SPARE_BYTES:
            raise UserError(NEARLY_FULL)

    def add_sound(self, samples: np.ndarray, rate: int, time_s: float) -> None:
        with self._lock:
            if self._recorder is not None and self._live_sound:
                self._recorder.add_sound(np.clip(np.nan_to_num(samples), -1, 1), rate, time_s)

    def stop(self) -> str | None:
        """Finish; the name of the file, "" when there was no picture to record, None when nothing was being recorded."""
        with self._lock:
            recorder, self._recorder = self._recorder, None
            if recorder is None:
                return None
            if self._last is not None and self._still:  # nothing may have moved for a while
                recorder.write(self._last[0], time.monotonic())
            recorder.close()
            return recorder.path.name if recorder.path.is_file() else ""
