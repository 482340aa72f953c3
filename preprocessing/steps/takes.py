"""What is taken of an identity's videos: the shots that show the person, with the boxes of the face."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from preprocessing.tracking.crop_box import drifts
from preprocessing.tracking.detectors import FaceDetector
from preprocessing.tracking.follower import FaceChoice
from preprocessing.tracking.same_person import SAMPLES, Appearance, appearance, same_person
from preprocessing.tracking.scan import Scan, Shot, scan
from util.ahead import read_ahead
from util.cli import UserError, listed, progress, warn
from util.sampling import spread
from util.video.reading import frames_at, read_frames
from util.video.sources import Part

MAX_ZOOM = 1.5  # factor between the sizes of a face in shots that share a crop
MAX_NAMED = 6  # times in a message
DETECT_SIDE = 640  # px; longer sides are shrunk to this for detection


@dataclass(frozen=True, eq=False)
class Take:
    """A run of a part's frames that is taken."""

    part: int
    first: int  # frame of the part
    boxes: np.ndarray  # float64 [frames, 4]: boxes of the face in pixels of the source's frames, nan where it was not found
    dark: np.ndarray  # bool [frames]: too dark or blank

    def __len__(self) -> int:
        return len(self.boxes)


def find_takes(
    detector: FaceDetector, parts: list[Part], name: str, face: FaceChoice, all_shots: bool, limit: int | None = None
) -> tuple[list[Take], list[int]]:
    """What is taken of each part, in order, and how many frames of each part were read.

    limit: number of frames to read in all; parts after them are left out.
    Raises: UserError when a part shows no face, or shows it in less than half of the frames taken.
    """
    takes: list[Take] = []
    counts: list[int] = []
    total = sum(p.info.frames for p in parts)
    with progress(desc=f"{name}: faces", total=total if limit is None else min(total, limit)) as bar:
        for number, part in enumerate(parts):
            left = None if limit is None else limit - sum(counts)
            if left == 0:
                break
            longer_side = max(part.info.width, part.info.height)
            scale = longer_side / min(longer_side, DETECT_SIDE)
            width, height = part.info.width, part.info.height
            if not isinstance(face, str) and not (0 <= face[0] < width and 0 <= face[1] < height):
                raise UserError(f"--face {face[0]:g},{face[1]:g} lies outside of {part.path}, which is {width}x{height} pixels")
            wanted = face if isinstance(face, str) else (face[0] / scale, face[1] / scale)
            frames = read_ahead(islice(read_frames(part.path, part.info, max_side=DETECT_SIDE), left))
            found = scan(frames, detector, max(1, round(part.info.fps)), bar.update)
            counts.append(found.follower.frames)
            for shot in choose_shots(part, found, wanted, all_shots, scale):
                takes.append(Take(number, shot.first, shot.boxes() * scale, found.dark(shot)))
    return takes, counts


def choose_shots(part: Part, found: Scan, face: FaceChoice, all_shots: bool, scale: float) -> list[Shot]:
    """The longest shot of a part that shows the face, or all in which it is the same person's. Raises: UserError when there is none.

    scale: of the part's frames, relative to the scanned ones.
    """
    shots = found.shots(face)
    longest = max(shots, key=lambda s: s.seen)
    if not longest.seen:
        raise UserError(f"no face was found in {part.path}; the video must show one person's face, upright and well lit")
    if longest.seen < len(longest) / 2:
        raise UserError(
            f"{part.path} shows a face in only {longest.seen} of {len(longest)} frames; cut it to the part where the face is visible"
        )
    kept = [longest]
    if len(shots) > 1 and all_shots:
        kept = [s for s in shots if s is longest or s.seen > len(s) / 2]
        looks = [shot_appearance(part, s, scale) for s in kept]
        own = looks[kept.index(longest)]
        kept = [s for s, look in zip(kept, looks) if s is longest or (own and look and same_person(own, look))]
    if len(shots) > 1:
        cuts = [clock(s.first / part.info.fps) for s in shots[1:]]
        named = listed(cuts, MAX_NAMED)
        took_all = listed([f"{clock(s.first / part.info.fps)} to {clock(s.end / part.info.fps)}" for s in kept], MAX_NAMED)
        if all_shots:
            warn(f"{part.path.name} has cuts at {named}; {len(kept)} of {len(shots)} shots show the person and are taken ({took_all})")
        else:
            warn(f"{part.path.name} has cuts at {named}; only the longest shot is taken ({took_all}), --all_shots takes all of the person")
    for shot in kept:
        missing = np.isnan(shot.boxes()[:, 0])
        if missing.any():
            warn(f"{part.path.name}: no face in {missing.sum()} of {len(shot)} frames; their boxes are taken from their neighbours")
    if longest.faces > 1:
        which = "largest and longest in the picture is taken; --face takes another" if face == "largest" else "asked for by --face is taken"
        warn(f"{part.path.name} shows {longest.faces} faces; the one that is {which}")
    return kept


def shot_appearance(part: Part, shot: Shot, scale: float) -> Appearance | None:
    boxes = shot.boxes() * scale
    seen = np.flatnonzero(~np.isnan(boxes[:, 0]))
    chosen = seen[spread(len(seen), SAMPLES)]
    return appearance(frames_at(part.path, part.info, (shot.first + chosen).tolist()), boxes[chosen])


def fitting_takes(takes: list[Take], main: Take, smooth: dict[Take, np.ndarray], size: tuple[int, int], dst_threshold: float) -> list[Take]:
    """Those whose face fits the main one's crop; a line tells of the others."""
    height = np.median(smooth[main][:, 3] - smooth[main][:, 1])
    kept = []
    for take in takes:
        zoom = np.median(smooth[take][:, 3] - smooth[take][:, 1]) / height
        if take is main or (max(zoom, 1 / zoom) < MAX_ZOOM and drifts([smooth[main], smooth[take]], size)[1] <= dst_threshold):
            kept.append(take)
    if len(kept) < len(takes):
        warn(f"{len(takes) - len(kept)} of {len(takes)} shots show the face elsewhere or at another size, so no crop fits all; left out")
    return kept


def clock(seconds: float) -> str:
    """m:ss.ss"""
    return f"{int(seconds // 60)}:{float(seconds) % 60:05.2f}"
