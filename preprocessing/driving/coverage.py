"""What a video shows of its person: how far the head turns, what the face does, how good the pictures are, and what to film as well.

Thresholds were chosen so that what is said agrees with what one sees in ten real clips. Ranges reach from the 2nd to the 98th percentile of
the frames: outside lie mistakes of the fit and what is seen too briefly to be learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from preprocessing.driving.filters import runs
from preprocessing.driving.heads import Person
from preprocessing.driving.landmarks import gaze
from preprocessing.driving.motion import ANGLES, head_rotation, to_angles
from preprocessing.driving.openings import openings
from preprocessing.face_models.morphable import MorphableModel
from util.face.landmarks import interocular_distance
from util.report.coverage import Shown

RANGE = (2, 98)  # percentiles
# (well, a little): widths of the range in degrees. A person in conversation turns by about 15 degrees either way; training adds as much.
TURNS_DEG = {"yaw": (30, 12), "pitch": (20, 8), "roll": (20, 8)}
TURNS = {
    "yaw": ("turning left and right", "look slowly left and right for ten seconds"),
    "pitch": ("nodding", "look slowly up and down"),
    "roll": ("tilting", "tilt the head to both shoulders"),
}
OPEN_CM = 0.6  # gap of the inner lips above which a mouth is open: dark inside or teeth are seen; lips at rest are up to 0.35 apart
SHUT_CM = 0.45  # gap below which lips count as shut
MOUTH_CM = (1.5, 0.7)  # widest gap: an A or O; a smile with teeth, or speech with hardly opened lips
MIN_OPEN_SHARE = 0.1  # of the frames, to be learnt well
SMILE = (0.5, 0.25)  # largest weight, mean of both sides: a plain smile; a hint of one
BROWS_RAISED = (0.5, 0.25)  # likewise, range: plain to see; a little
BROWS_LOWERED = (0.4, 0.25)  # likewise, from the 5th to the 95th percentile: a blink moves this weight as well
LIDS_SHUT = 0.35  # opening of the eyes in parts of the usual one, below which they are shut
LIDS_OPEN = 0.6  # and above which the pupils are seen well
BLINKS = (3, 1)  # times that the eyes shut
GAZE_DEG = {"left and right": (35, 15), "up and down": (12, 6)}  # width of the range: to the corners of a screen; across a page
EYE_RADIUS_CM = 1.2
SHARPNESS = (0.55, 0.35)  # see `sharpness`: a good phone; blurred by about 1.5 pixels where the eyes' outer corners are 80 apart
FACE_PIXELS = (90, 70)  # width of the face in the video and in its crop, where a picture of 256 pixels usually holds 110
LENGTH_S = (20, 7)  # to learn from: two thirds of half a minute, since the last third is for the test; fewer hold a pose or two
SAMPLES = 24  # pictures that sharpness is measured in

# What a driver may do more than the target, in words, and the shapes that tell
OPENS_MOUTH = "opens the mouth further"
BEYOND = {
    OPENS_MOUTH: ("jawOpen", "mouthLowerDown", "mouthUpperUp"),
    "purses the lips more": ("mouthPucker", "mouthFunnel"),
    "smiles more": ("mouthSmile",),
    "raises the brows higher": ("browInnerUp", "browOuterUp"),
    "frowns more": ("browDown",),
    "shuts the eyes further": ("eyeBlink",),
    "looks further aside": ("eyeLook",),
}
BEYOND_MARGIN = 0.2  # of a weight, beyond the covered range: plain to see
MIN_BEYOND_SHARE = 0.02  # share of the frames beyond the target's that causes a warning
MIN_BEYOND_FRAMES = 5  # and their number: single frames are mistakes of the fit


def coverage(
    model: MorphableModel, person: Person, usable: np.ndarray, read: Callable[[int], np.ndarray], source_scale: float = 1.0
) -> list[Shown]:
    """What N frames show of a person.

    usable: bool [N], frames that show the person well; none: []. read: gives the picture of a frame, uint8 [H, W, 3] RGB.
    source_scale: pixels of the original video for one of a frame. Landmarks without pupils (nan) tell nothing of gaze.
    """
    frames = np.flatnonzero(usable)
    if not len(frames):
        return []
    person = replace(
        person,
        expression=person.expression[frames],
        cameras=person.cameras[frames],
        landmarks=person.landmarks[frames],
        joined=person.joined[frames] & (np.diff(frames, prepend=-2) == 1),
    )
    lids, seconds = _lids(model, person), len(frames) / float(person.fps)
    smile, brows = _expressions(model, person)
    yaw, pitch, roll = _turns(person)
    return [  # what matters most first
        Shown("length", _verdict(seconds, LENGTH_S), f"{seconds:.0f} s to learn from", "half a minute or more"),
        _sharpness(person, frames, read, source_scale),
        *(_mouth(model, person), yaw, pitch, _blinks(lids, person.joined), smile, *_gaze(model, person, lids), brows, roll),
    ]


def expressions_beyond(wanted: np.ndarray, covered: np.ndarray, names: Sequence[str]) -> list[str]:
    """What expressions [N, K] often do more than a covered range [2, K], in words (keys of BEYOND)."""
    beyond = wanted > covered[1] + BEYOND_MARGIN
    least = max(MIN_BEYOND_FRAMES, MIN_BEYOND_SHARE * len(wanted))
    return [words for words, shapes in BEYOND.items() if beyond[:, [n.startswith(shapes) for n in names]].any(1).sum() >= least]


def _verdict(value: float, limits: tuple[float, float]) -> str:
    return "well" if value >= limits[0] else "little" if value >= limits[1] else "not"


def _worst(verdicts: Sequence[str]) -> str:
    """The verdict of several parts together: a little, unless all are the same."""
    return verdicts[0] if len(set(verdicts)) == 1 else "little"


def _turns(person: Person) -> list[Shown]:
    found = []
    for axis, angles in zip(ANGLES, to_angles(head_rotation(person.cameras))):
        least, largest = np.percentile(angles, RANGE)
        what, film = TURNS[axis]
        found.append(Shown(what, _verdict(largest - least, TURNS_DEG[axis]), f"{round(least)}° to {round(largest)}°", film))
    return found


def _mouth(model: MorphableModel, person: Person) -> Shown:
    gap = openings(model, person.identity)[2].gap(person.expression)
    least, widest = np.percentile(gap, RANGE)
    share = float((gap > OPEN_CM).mean())
    verdict = _verdict(widest, MOUTH_CM)
    if verdict == "not":
        return Shown("open mouth", verdict, "hardly ever", "say A E I O U, mouth wide open")
    if verdict == "well" and share < MIN_OPEN_SHARE:
        verdict = "little"
    seen = f"{100 * share:.0f} % of the time, up to {widest:.1f} cm"
    if least > SHUT_CM:
        return Shown("open mouth", "little", f"{seen}, never shut", "speak and pause with shut lips; say A E I O U")
    return Shown("open mouth", verdict, seen, "speak, say A E I O U with the mouth wide open")


def _curve(model: MorphableModel, person: Person, *shapes: str) -> np.ndarray:
    """Mean of the weights of these shapes on both sides: [N]."""
    return person.expression[:, [name.startswith(shapes) for name in model.expression_names]].mean(1)


def _expressions(model: MorphableModel, person: Person) -> list[Shown]:
    smile = _verdict(float(np.percentile(_curve(model, person, "mouthSmile"), RANGE[1])), SMILE)
    raised = _verdict(np.ptp(np.percentile(_curve(model, person, "browInnerUp", "browOuterUp"), RANGE)), BROWS_RAISED)
    lowered = _verdict(np.ptp(np.percentile(_curve(model, person, "browDown"), (5, 95))), BROWS_LOWERED)
    words = {"well": "plain", "little": "a little", "not": "none"}
    film = [text for text, verdict in (("raise the brows", raised), ("frown", lowered)) if verdict != "well"]
    return [
        Shown("smile", smile, words[smile], "smile, with teeth and without"),
        Shown("brows", _worst([raised, lowered]), f"raised: {words[raised]}, lowered: {words[lowered]}", " and ".join(film)),
    ]


def _lids(model: MorphableModel, person: Person) -> np.ndarray:
    """Opening of both eyes together, the usual one taken as 1: [N]."""
    gaps = np.mean([lid.gap(person.expression) for lid in openings(model, person.identity)[:2]], 0)
    return gaps / np.median(gaps)


def _blinks(lids: np.ndarray, joined: np.ndarray) -> Shown:
    shut = lids < LIDS_SHUT
    blinks = sum(int((np.diff(shut[part].astype(int), prepend=0) == 1).sum()) for part in runs(joined))
    seen = f"{blinks} times" if blinks > 1 else "once" if blinks else "never"
    return Shown("shut eyes", _verdict(blinks, BLINKS), seen, "blink a few times, shut the eyes for a second")


def _gaze(model: MorphableModel, person: Person, lids: np.ndarray) -> list[Shown]:
    seen = (lids > LIDS_OPEN) & np.isfinite(person.landmarks[:, 68:]).all((1, 2))
    if not seen.any():
        return []
    person = replace(person, expression=person.expression[seen], cameras=person.cameras[seen], landmarks=person.landmarks[seen])
    place = gaze(model, person.identity, person).mean(1)
    width = 2 * np.rad2deg(np.arcsin(np.clip(np.ptp(np.percentile(place, RANGE, axis=0), 0) / 2 / EYE_RADIUS_CM, 0, 1)))
    verdict = _worst([_verdict(w, limits) for w, limits in zip(width, GAZE_DEG.values())])
    return [Shown("gaze", verdict, f"{width[0]:.0f}° wide, {width[1]:.0f}° high", "look around with the eyes alone")]


def _sharpness(person: Person, frames: np.ndarray, read: Callable[[int], np.ndarray], source_scale: float) -> Shown:
    chosen = np.unique(np.linspace(0, len(frames) - 1, SAMPLES).astype(int))
    value = float(np.median([sharpness(read(int(frames[i])), person.landmarks[i]) for i in chosen]))
    width = float(np.median(np.linalg.norm(person.landmarks[:, 0] - person.landmarks[:, 16], axis=1)))
    sharp, large = _verdict(value, SHARPNESS), _verdict(width * min(1, source_scale), FACE_PIXELS)
    words = {"well": "sharp", "little": "soft", "not": "blurred"}[sharp]
    film = [text for text, verdict in (("from closer", large), ("in more light, the focus fixed", sharp)) if verdict != "well"]
    verdict = min(sharp, large, key=("not", "little", "well").index)
    return Shown("sharpness", verdict, f"{words}, face {width * source_scale:.0f} pixels wide", " and ".join(film))


def sharpness(image: np.ndarray, landmarks: np.ndarray) -> float:
    """How sharp a face is, whatever its size in the picture, light and contrast.

    image: uint8 [H, W, 3]. landmarks: [70, 2], pixels. The face is brought to a fixed size, 64 pixels between the outer corners of
    the eyes; there the detail of one pixel is divided by that of two to four. Sharp faces have 0.6 to 1.
    """
    side, eyes, top = 128, 64.0, 44.0  # of the patch, pixels: it reaches from the forehead to the chin
    right, left = landmarks[36], landmarks[45]
    scale = eyes / max(float(interocular_distance(landmarks)), 1e-6)
    (a, b), middle = (left - right) * scale**2 / eyes, (left + right) / 2
    turn = np.array([[a, b], [-b, a]])
    if scale < 1:  # what is finer than the patch's pixels must not turn into other detail
        image = cv2.GaussianBlur(image, (0, 0), max(0.5 * np.sqrt(1 / scale**2 - 1), 0.1))
    patch = cv2.warpAffine(image, np.column_stack([turn, [side / 2, top] - turn @ middle]), (side, side), flags=cv2.INTER_CUBIC)
    grey = np.log(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32) + 8)  # a shadow changes the level, not the detail
    one, two, four = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1, 2, 4))
    inside = (slice(24, 112), slice(24, -24))
    return float((grey - one)[inside].std() / max((two - four)[inside].std(), 1e-6))
