"""All preprocessing steps for one identity: what scripts/preprocess.py does for each, in this process, in workers, or on a cluster."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from preprocessing.face_models.morphable import MorphableModel
from preprocessing.steps.consent import keep_consent
from preprocessing.steps.crops import CropSettings, crops_key, make_crops
from preprocessing.steps.landmarks70 import landmarks_key, make_landmarks
from preprocessing.steps.reconstruction import make_reconstruction, reconstruction_key
from preprocessing.tracking.detectors import FaceDetector, create_detector
from preprocessing.tracking.dlib_landmarks import Predict68, load_dlib
from util.cli import DiskFull, UserError, collecting
from util.image_io import ImageStore
from util.layout import SPLITS, Dataset
from util.locks import locked

IMAGE_MEMORY = 256 << 20  # bytes of crops that a step leaves to the next: 1,365 of 256 x 256 pixels
MADE = ("images", "landmarks70", "exp_coeffs", "misc", "nmfcs")  # kinds of files of a complete identity


@dataclass(frozen=True)
class StepSettings:
    """How identities are preprocessed: the options of the three commands."""

    crops: CropSettings
    face_model: str  # as choose_model chose it
    face_model_asked: bool = False  # by name: it replaces another one
    renderer: str = "auto"
    landmarks: str | None = None  # method of the 68 points, None: MediaPipe, or what a dataset of the original system has
    dlib_file: Path | None = None
    mtcnn_batch_size: int = 8  # frames
    gpu_id: int = -1
    consent: str = ""  # of the people, as preprocessing.steps.consent.find_consent found it
    consent_given: bool = False  # with --consent: it replaces an earlier one
    wait_s: float = 0.0  # for another process that holds the identity: the system may notice late that a machine is lost


class Tools:
    """What a process keeps between identities; each is made when it is first needed."""

    def __init__(self, settings: StepSettings) -> None:
        self._settings = settings
        self.models: dict[str, MorphableModel] = {}

    @cached_property
    def detector(self) -> FaceDetector:
        return create_detector(self._settings.crops.detector, self._settings.mtcnn_batch_size, self._settings.gpu_id)

    @cached_property
    def predict68(self) -> Predict68 | None:
        return load_dlib(self._settings.dlib_file) if self._settings.landmarks == "dlib" else None


@dataclass(frozen=True)
class Outcome:
    """What became of an identity."""

    frames: int = 0  # in both splits
    made: bool = False  # False: it was complete already
    error: str = ""  # why it failed
    disk_full: bool = False  # so that nothing else can be written either
    messages: list[tuple[str, bool]] = field(default_factory=list)  # and whether each is a warning


def preprocess_video(dataset: Dataset, name: str, paths: list[Path], settings: StepSettings, tools: Tools) -> tuple[int, bool]:
    """Crops, landmarks and reconstruction of one identity; steps that are complete are kept.

    paths: its video files in order. Returns: its number of frames, and whether anything was made.
    Raises: UserError when a step cannot be done, the files change meanwhile, or another process works on the identity.
    """
    mark = dataset.record_path(name)
    with locked(dataset.lock_path(name), f"'{name}'", settings.wait_s):
        before = _state(mark), [_state(path) for path in paths]
        images = ImageStore(IMAGE_MEMORY)
        make_crops(settings.crops, dataset, name, paths, lambda: tools.detector, images)
        keep_consent(dataset, name, settings.consent, settings.consent_given)
        record = dataset.read_record(name)
        if [_state(path) for path in paths] != before[1]:  # two passes have read two contents
            dataset.write_record(record.without_steps(*record.steps))
            raise UserError(f"{' or '.join(map(str, paths))} was changed while it was being read; run again")
        make_landmarks(dataset, name, settings.landmarks, tools.predict68, images)
        asked = settings.face_model_asked
        make_reconstruction(dataset, name, settings.face_model, asked, settings.renderer, tools.models, images)
        return sum(record.splits.values()), _state(mark) != before[0]


def attempt(dataset: Dataset, settings: StepSettings, item: tuple[str, list[Path]]) -> Outcome:
    """As preprocess_video, with the tools of this process; errors and messages are part of what is returned.

    item: an identity and its video files.
    """
    with collecting() as messages:
        try:
            frames, made = preprocess_video(dataset, *item, settings, _tools(settings))
            return Outcome(frames, made, messages=messages)
        except UserError as e:
            return Outcome(error=str(e), disk_full=isinstance(e, DiskFull), messages=messages)
        except Exception as e:  # a bug, or a file that a library does not stand: the others go on
            place = traceback.extract_tb(e.__traceback__)[-1]
            return Outcome(error=f"{type(e).__name__}: {e} ({Path(place.filename).name}, line {place.lineno})", messages=messages)


@cache
def _tools(settings: StepSettings) -> Tools:
    return Tools(settings)


def complete_identities(dataset: Dataset, videos: dict[str, list[Path]], settings: StepSettings) -> dict[str, int]:
    """The identities whose steps are all complete for these videos and settings, with their numbers of frames.

    A quick look: a video that is where it was, and as old as before, is not read, and the files of the frames are not counted.
    """
    there = {split: dataset.identities_with(split, MADE) for split in SPLITS}
    found = {}
    for name, paths in videos.items():
        try:
            record, mark = dataset.read_record(name), _state(dataset.record_path(name))
        except UserError:  # damaged: preprocess_video says so
            continue
        if record is None or mark is None or [source["file"] for source in record.sources] != [str(p.resolve()) for p in paths]:
            continue
        states = [_state(path) for path in paths]
        if (
            all(state and max(state[:2]) < mark[0] for state in states)
            and record.is_done("detect", crops_key(settings.crops, [source["sha256"] for source in record.sources]))
            and record.is_done("landmarks70", landmarks_key(settings.landmarks, record))
            and record.is_done("reconstruct", reconstruction_key(settings.face_model, record))
            and all(name in there[split] for split, count in record.splits.items() if count)
        ):
            found[name] = sum(record.splits.values())
    return found


def _state(path: Path) -> tuple[int, int, int, int] | None:
    """Times of change of a file's content and of the file, ns, its number and its size; None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
