"""The live engine: a driver's frame in, the trained person's frame out, from a run's folder alone.

A frame passes through the stages of `HeadEngine.stages` one after the other: `step` runs them in the caller's thread, live.pipeline gives
each group of them a thread. They are the pieces that the batch commands use (docs/architecture.md), causal ones throughout.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from live.backdrop import Backdrop, Prepared
from live.calibration import Calibration
from live.easing import HOLD_S, TO_DRIVER_S, TO_REST_S, Easing
from live.face_track import FaceTrack
from models.checkpoints import read_run_options
from models.synthesis import Synthesizer, load_synthesizer
from preprocessing.driving.conditioner import Conditioner
from preprocessing.driving.driver import Driver
from preprocessing.driving.examples import example_images
from preprocessing.driving.heads import DrivenFrame
from preprocessing.driving.motion import Motion, from_angles, head_rotation, shapes_called, to_angles, turning_shift
from preprocessing.driving.openings import openings
from preprocessing.driving.people import load_profile
from preprocessing.driving.profile import TargetProfile
from preprocessing.driving.retarget import place_head, retarget
from preprocessing.face_models.dense_points import from_dense
from preprocessing.fitting.frame import FrameFit, FrameFitter, step_s
from preprocessing.fitting.live_refinement import HeadRegion
from util.cli import UserError
from util.face.appearance import Appearance
from util.geometry import nearest_rotation
from util.layout import Run
from util.provenance import Provenance
from util.results.origin import provenance_of_run
from util.threads import one_opencv_thread

MODES = ("head", "face")
LEAST_SIDE = 32  # pixels; smaller frames show no face, and an empty one ends MediaPipe's graph
GAZE_CM = (0.35, 0.25)  # how far pupils go to the side and up at a gaze of 1: about 20 and 15 degrees of an eye of 1.2 cm radius


@dataclass(frozen=True)
class Settings:
    """What may be changed while the engine runs: `engine.settings = replace(engine.settings, mirror=True)`."""

    mode: str = "head"  # head: the driver's pose, expression and gaze; face: expression and gaze, the head moves as in the target's video
    mirror: bool = False  # flip the driver's frames, as a mirror does
    paste_back: bool = False  # the head in the target's full original frames; needs the target's video
    exaggerate: float = 1.0  # factor of the expressions
    limit_mouth: bool = False  # the mouth opens hardly further than in the target's frames
    refine: bool = True  # correct the landmarks' fit by the driver's skin (preprocessing.fitting.live_refinement): some 5 ms a frame


@dataclass(frozen=True)
class Pose:
    """A pose that is given outright. Angles in degrees relative to the rest pose: to the subject's left, up, counter-clockwise."""

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    expression: Mapping[str, float] = field(default_factory=dict)  # weights 0..1 by ARKit's names; a name without a side means both
    gaze: tuple[float, float] = (0.0, 0.0)  # -1..1: to the right and up in the picture


@dataclass
class LiveFrame:
    """One frame on its way through the engine."""

    number: int  # of the captured frame
    time_s: float  # time.monotonic() when it was captured
    driver: np.ndarray  # uint8 [H, W, 3] RGB as captured (mirrored if asked)
    image: np.ndarray | None = None  # uint8 RGB, the result, without mark or text: [S, S, 3], with paste-back [H, W, 3]
    nmfc: np.ndarray | None = None  # uint8 [S, S, 3]
    state: str = ""  # "calibrating", "driving" or "lost"
    stages_ms: dict[str, float] = field(default_factory=dict)
    done_s: float = 0.0  # time.monotonic() when the image was ready
    # between the stages
    begins: bool = False  # whether a driver is calibrated anew from here on
    calibration: Calibration | None = None  # of the driver
    landmarks: np.ndarray | None = None  # [478, 3] px, as tracked
    landmarks70: np.ndarray | None = None
    place: int = 0  # which of the target's frames is played
    backdrop: Prepared | None = None  # that frame, for paste-back
    aligned: bool = False  # whether the head is posed as in that frame
    fit: FrameFit | None = None
    driven: DrivenFrame | None = None
    gaze: np.ndarray | None = None

    @property
    def delay_ms(self) -> float:
        """From capture to the finished image."""
        return 1000 * (self.done_s - self.time_s)


class HeadEngine:
    """A trained person, ready to be driven. A context manager; else call close().

    settings: may be replaced as a whole at any time. size: side of the synthesised frames, pixels. expression_names: of the sliders.
    backend: what runs the generator, one sentence. origin: what the credentials of a recording say, when a camera drives.
    own_placement: keep the driver's own size and place, in frames that are the target's crops (for measures against the truth).
    """

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        name: str | None = None,
        backend: str = "auto",
        gpu_ids: str = "auto",
        settings: Settings = Settings(),
        video: str | Path | None = None,
        driver: TargetProfile | None = None,
        own_placement: bool = False,
    ) -> HeadEngine:
        """Load a run.

        folder: of the run (checkpoints/D/head2head_T), which is all that is needed. name: the person, where the run has several.
        video: the target's original video, for paste-back. driver: the profile of the person who drives, where there is one: then the
            identity and the usual look of the eyes are known, and need not be found within a second.
        Raises: UserError when something in the folder is missing or damaged, the video is another one, or a package is missing.
        """
        run = Run(Path(folder), Path(folder))
        path = run.profile_path(name)
        profile, options = load_profile(path), read_run_options(run)
        appearance = Appearance.read(run.appearance_path(path.stem)) if options["appearance"] else None
        made = {"backend": backend, "gpu_ids": gpu_ids, "examples": lambda: example_images(profile, options["loadSize"])}
        synthesizer = load_synthesizer(run, options, appearance=appearance, **made)
        engine = cls(profile, options["loadSize"], synthesizer, settings, video, driver, own_placement)
        if driver and appearance and driver.name == profile.name:
            engine._known_colours = appearance.image(engine._model.nmfc_colours()[None])[0]
        engine.origin = provenance_of_run(run, options, profile.name, "", "camera")
        return engine

    def __init__(
        self,
        profile: TargetProfile,
        size: int,
        synthesizer: Synthesizer,
        settings: Settings = Settings(),
        video: str | Path | None = None,
        driver: TargetProfile | None = None,
        own_placement: bool = False,
    ) -> None:
        # BLAS' own threads wait for work by spinning, some 20 ms after every small product, on the cores that the generator needs: on two
        # cores it then takes twice as long.
        self._limits = ExitStack()
        self._limits.enter_context(threadpool_limits(1, user_api="blas"))
        self._limits.enter_context(one_opencv_thread())  # every stage has a thread already
        self.profile, self.size = profile, size
        self.origin = Provenance(profile.name, driver_kind="camera")
        self.backend = synthesizer.reason
        self._model = model = profile.load_model()
        self.expression_names = [n for n in model.expression_names if not n.startswith("smooth_")]
        self._synthesizer, self._conditioner = synthesizer, Conditioner(model, profile.identity, size, "cpu", profile.size)
        self._own_placement = own_placement
        self._known_driver, self._known_colours = driver, None
        self._backdrop = Backdrop(model, profile, video, size) if video else None
        self.settings = settings
        # sliders draw from other threads than the stages
        self._drawing, self._synthesising = threading.Lock(), threading.Lock()
        self._rest = self._drive_pose(Pose())
        self._face = FaceTrack()
        self._count, self._recalibrate = 0, True
        self._seen_as: tuple = ()  # mirror and shape of the last frame
        self._easing, self._driver, self._driver_options, self._driven_by = Easing(), None, (), None
        self._fitted_s = self._driven_s = -math.inf
        self._began_s: float | None = None  # of the target's frames
        self.stages: tuple[tuple[str, Callable[[LiveFrame], None]], ...] = (
            ("track", self._track),
            ("fit", self._fit),
            ("refine", self._refine),
            ("drive", self._drive),
            ("condition", self._condition),
            ("synthesise", self._synthesise),
            ("blend", self._blend),
        )
        beside = ThreadPoolExecutor(1, "head2head compiler")
        self._compiled = beside.submit(self._compile_fit)
        beside.shutdown(wait=False)
        self.draw(Pose())  # whatever is compiled or chosen at the first frame

    def close(self) -> None:
        """Release what the engine holds."""
        self._limits.close()
        self._face.close()
        if self._backdrop:
            self._backdrop.close()

    def __enter__(self) -> HeadEngine:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # ---- use ----

    @property
    def settings(self) -> Settings:
        """Replace them at any time, for the frames that follow. Raises: UserError for paste-back without the target's video."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        if settings.paste_back and not self._backdrop:
            raise UserError(f"paste-back needs the original video that '{self.profile.name}' was learnt from; none was given")
        if settings.mode not in MODES:
            raise UserError(f"there is no mode '{settings.mode}'; there are {' and '.join(MODES)}")
        self._settings = settings

    def begin(self, rgb: np.ndarray, time_s: float | None = None) -> LiveFrame:
        """A captured frame, uint8 [H, W, 3] RGB, before its way through the stages. time_s: time.monotonic() of its capture.

        Raises: ValueError for anything else than such a frame, or a tiny one.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or min(rgb.shape[:2]) < LEAST_SIDE:
            wanted = f"a uint8 frame [H, W, 3] with sides of {LEAST_SIDE} pixels or more"
            raise ValueError(f"expected {wanted}, got {rgb.dtype} {list(rgb.shape)}")
        self._count += 1
        return LiveFrame(self._count, time.monotonic() if time_s is None else time_s, rgb)

    def run_stage(self, name: str, function: Callable[[LiveFrame], None], frame: LiveFrame) -> None:
        """One of `stages` on a frame; its time goes into the frame."""
        began = time.perf_counter()
        function(frame)
        frame.stages_ms[name] = 1000 * (time.perf_counter() - began)
        frame.done_s = time.monotonic()

    def step(self, rgb: np.ndarray, time_s: float | None = None) -> LiveFrame:
        """All stages for the next frame of a stream, in the caller's thread; see `begin`."""
        frame = self.begin(rgb, time_s)
        self._compiled.result()
        for name, function in self.stages:
            self.run_stage(name, function, frame)
        return frame

    def recalibrate(self) -> None:
        """Forget the driver: the next face that is seen drives, after a second."""
        self._recalibrate = True

    def draw(self, pose: Pose | DrivenFrame) -> np.ndarray:
        """The person in a pose, or as driven already, uint8 [S, S, 3] RGB. Raises: UserError for a name that no expression has."""
        driven = self._drive_pose(pose) if isinstance(pose, Pose) else pose
        with self._drawing:
            nmfc, gaze = self._conditioner.step(*driven)
        with self._synthesising:
            self._synthesizer.reset()
            return self._synthesizer.step(nmfc, gaze)

    def rest(self) -> np.ndarray:
        """The person at rest, uint8 [S, S, 3] RGB."""
        return self.draw(Pose())

    # ---- stages; each is called by one thread at a time, with the frames in their order ----

    def _track(self, frame: LiveFrame) -> None:
        mirror = self.settings.mirror
        if self._recalibrate:
            self._recalibrate, frame.begins = False, True
            self._face.forget()
        elif (mirror, frame.driver.shape) != self._seen_as:
            self._face.lose_place()
        self._seen_as = (mirror, frame.driver.shape)
        if mirror:
            frame.driver = np.ascontiguousarray(frame.driver[:, ::-1])
        frame.landmarks = self._face.step(frame.driver, frame.time_s)

    def _fit(self, frame: LiveFrame) -> None:
        if frame.begins:
            self._calibration = Calibration(self._model, frame.driver.shape[0], self._known_driver, self._known_colours)
            self._fitter = None
        frame.calibration = calibration = self._calibration
        since_s, self._fitted_s = step_s(frame.time_s, self._fitted_s), frame.time_s
        if self._fitter is None:
            frame.state = "calibrating"
            if frame.landmarks is None or not self._compiled.done() or not calibration.begin(frame.landmarks, frame.driver, frame.time_s):
                return
            self._compiled.result()
            self._face.remember(calibration.landmarks)
            self._fitter = FrameFitter(self._model, calibration.reference.identity)
            self._fitted = False
        try:
            frame.fit = self._fitter.step(frame.landmarks, since_s)
            self._fitted = True
        except ValueError:  # landmarks that are no face
            frame.landmarks = None
            frame.fit = self._fitter.step(None, 0.0) if self._fitted else None
        frame.state = "driving" if frame.landmarks is not None else "lost"

    def _refine(self, frame: LiveFrame) -> None:
        if frame.state != "driving":
            return
        calibration = frame.calibration
        if self.settings.refine and calibration.refiner:
            region = HeadRegion.of(frame.driver, frame.landmarks)
            with suppress(ValueError):  # what cannot be refined stays as the landmarks say
                frame.fit = calibration.refiner.step(frame.fit, region, frame.landmarks, frame.time_s)
        frame.landmarks70 = from_dense(frame.landmarks)
        calibration.update(frame.fit, frame.landmarks70, frame.time_s)

    def _drive(self, frame: LiveFrame) -> None:
        settings, time_s = self.settings, frame.time_s
        frame.place = self._place(time_s) if settings.mode == "face" or settings.paste_back else 0
        frame.backdrop = self._backdrop.prepare(frame.place) if settings.paste_back else None
        if frame.calibration is not self._driven_by:
            self._driver, self._driven_s, self._driven_by = None, -math.inf, frame.calibration
        options = (settings.exaggerate, settings.limit_mouth)
        if frame.fit is not None and (self._driver is None or options != self._driver_options):
            self._driver, self._driver_options = self._make_driver(*options), options
        if frame.state == "driving":
            self._driver.reference = frame.calibration.reference
            pose = frame.place if settings.mode == "face" else None
            self._driven, self._driven_s = self._driver.step(frame.fit, frame.landmarks70, pose), time_s
        follows = frame.state == "driving" or (frame.state == "lost" and time_s - self._driven_s <= HOLD_S)
        if follows:
            frame.driven = self._easing.step(self._driven, f"driver, {settings.mode}", time_s, TO_DRIVER_S)
        else:
            frame.driven = self._easing.step(self._rest, "rest", time_s, TO_REST_S)
        frame.aligned = settings.mode == "face" and follows and self._easing.arrived

    def _condition(self, frame: LiveFrame) -> None:
        with self._drawing:
            frame.nmfc, frame.gaze = self._conditioner.step(*frame.driven)

    def _synthesise(self, frame: LiveFrame) -> None:
        with self._synthesising:
            frame.image = self._synthesizer.step(frame.nmfc, frame.gaze)

    def _blend(self, frame: LiveFrame) -> None:
        if frame.backdrop:
            frame.image = self._backdrop.blend(frame.image, frame.nmfc, frame.backdrop, aligned=frame.aligned)

    def _compile_fit(self) -> None:
        """Fit the person at rest: the first fit ever is compiled, for seconds, while the head rests."""
        model, profile = self._model, self.profile
        rest = model.landmarks(profile.identity, np.zeros((1, len(model.expression_names))))
        fitter = FrameFitter(model, profile.identity, points=model.landmark_ids)
        for _ in range(2):  # a first frame, and one with an earlier one
            fitter.step(profile.cameras[:1].project(rest)[0])

    # ---- poses ----

    def _make_driver(self, exaggerate: float, limit_mouth: bool) -> Driver:
        own = self._own_placement
        options = {"exaggerate": exaggerate, "limit_mouth": limit_mouth, "scale": not own, "translation": not own, "limit_pose": not own}
        return Driver(self._model, self.profile, self._driven_by.reference, **options)

    def _place(self, time_s: float) -> int:
        """Which of the target's frames is played now: there and back, at its own rate."""
        if self._began_s is None:
            self._began_s = time_s
        count = self._backdrop.count if self._backdrop else len(self.profile.cameras)
        period = max(2 * (count - 1), 1)
        place = int((time_s - self._began_s) * float(self.profile.fps)) % period
        return min(place, period - place)

    def _drive_pose(self, pose: Pose) -> DrivenFrame:
        """What to draw for a pose that is given outright."""
        profile, names = self.profile, self._model.expression_names
        rest = nearest_rotation(head_rotation(profile.cameras).mean(0))
        asked = (pose.yaw_deg, pose.pitch_deg, pose.roll_deg)
        rotation = from_angles(*(angle + more for angle, more in zip(to_angles(rest), asked)))[None]
        expression = np.zeros((1, len(names)))
        for name, weight in pose.expression.items():
            if not (shapes := shapes_called(name, names)):
                raise UserError(f"there is no expression '{name}'; there are {', '.join(self.expression_names)}")
            expression[0, shapes] = weight
        pupils = np.zeros((1, 2, 3))
        pupils[..., :2] = np.array(pose.gaze) * GAZE_CM
        shift = turning_shift(rotation) - turning_shift(rest[None])
        motion = Motion(profile.fps, rotation, np.ones(1), shift, expression, pupils)
        cameras = place_head(motion, profile)
        driven = retarget(self._model, openings(self._model, profile.identity), profile, motion, cameras)
        return DrivenFrame(driven.expression[0], driven.cameras[0], driven.landmarks[0])
