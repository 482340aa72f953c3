"""The synthesised head put back into the full original frames: the target's video with another motion of its head.

Per frame: the synthesised crop is enlarged to the crop box, its colours are matched to the original's, and it is laid over the
original frame under a soft mask. The mask comes from the rendered mesh (NMFC not black), filled, widened to take in hair (more above
than at the sides) and feathered; when the head moves otherwise than in the original frame, it takes in the original head's place as
well, so that no second edge shows. Of what it was widened by, only what shows a person in either picture is taken, if something tells
that (tracking/person_matte.py): the background stays the original's. At the crop's own border it fades to nothing, except where that is
the border of the frame.

Which original frame belongs to which synthesised one follows from time stamps, never from frame counts: in self reenactment it is the
frame that the crop was cut from; of a driven pair, pair.json says it (the target's frame of that moment, played there and back).

Memory does not grow with length: frames pass through one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from util.ahead import map_ahead
from util.caches.persons import PersonMask
from util.cli import UserError, progress
from util.downloads import sha256_of
from util.image_io import crop, read_image
from util.layout import Dataset, Record
from util.metrics import face_mask
from util.numeric import smoothstep
from util.results.folder import Results
from util.results.panels import find_source
from util.video.reading import VideoWriter, frames_at, probe

AUDIO = ("source", "target", "none")
# Parts of the head's width (of the mesh's, as drawn).
HAIR = (0.45, 0.22, 0.06)  # room above, beside, below
CLOSE = (0.04, 0.04, 0.04)  # the same around the mesh itself, whatever shows a person
FEATHER = 0.2
PERSON_MARGIN = 0.05  # around what shows a person
RING = 0.5  # how far around the head the colours are compared
BORDER = 0.08  # of the crop's side: how far the mask fades towards the crop's border
_COARSE = 64  # pixels a side of the images in which colours are compared
_LOCAL = 0.12  # of the crop's side: standard deviation of the blur that makes the local correction smooth
_LOCAL_LIMIT = 24.0  # grey levels that the local correction may add
_OUTLIER = 12.0  # grey levels: what differs more after the match is something else than colour
_COLOUR_S = 0.5  # seconds over which the match is averaged: it must not flicker


@dataclass(frozen=True)
class Plan:
    """Which original frame each synthesised frame goes into."""

    target: Record
    fps: Fraction  # of the result
    numbers: list[int]  # of the synthesised frames
    originals: list[int]  # as many: frame of the target's source video(s), counted over all parts from 0
    # as many: the NMFC image of the target's own head in that frame; [] when it moves as the synthesised one (the same pose)
    own_nmfcs: list[Path]
    aligned: bool  # whether pose and place of the head are the original frame's
    sound: tuple[Path, float] | None  # file, and the moment in it (seconds from its first picture) of the first frame


def write_paste_back(
    results: Results,
    datasets_dir: str | Path | None = None,
    audio: str = "source",
    person: PersonMask | None = None,
    path: Path | None = None,
) -> Path:
    """Write paste_back.mp4 beside finished results: the synthesised head in the target's original frames, with sound.

    datasets_dir: where the dataset lies, if not where test.py found it.
    audio: 'source', the sound of the video that drives (in self reenactment the target's own); 'target'; or 'none'.
    person: tells which pixels show a person, so that the mask takes no background around the hair.
    path: another name for the video.
    Returns: the video's path.
    Raises: UserError when the results are unfinished, the source video is missing or changed, or the dataset does not say where the
        crops come from.
    """
    facts = results.read()
    if facts is None:
        raise UserError(f"{results.folder} holds no finished results; run test.py (again)")
    plan = make_plan(facts, datasets_dir, audio)
    path = path or results.paste_back
    who = f"{facts['target']} driven by {facts['source'] or 'own held-out frames'}"
    sound, start_s = plan.sound or (None, 0.0)
    box, blender = plan.target.crop_box, None
    with VideoWriter(path, plan.fps, audio_from=sound, audio_start_s=start_s, title=f"Head2Head: {who}") as video:
        pictures = zip(original_frames(plan.target, plan.originals), _read_ahead(results, plan))
        for frame, (fake, nmfc, own) in progress(pictures, desc=path.name, total=len(plan.numbers)):
            if blender is None:
                blender = Blender(box, frame.shape[:2], float(plan.fps), plan.aligned, person)
            video.write(blender(frame, fake, nmfc, own))
    return path


# ---- which frame goes where ----


def make_plan(facts: dict[str, Any], datasets_dir: str | Path | None, audio: str) -> Plan:
    """The plan of finished results, from complete.json's facts. Raises: UserError as write_paste_back does."""
    dataset = Dataset.open(facts["dataset_name"], datasets_dir or facts["datasets_dir"])
    target, source = facts["target"], facts["source"]
    record = dataset.read_record(target)
    if record is None or not record.sources or len(record.crop_box) != 4 or not record.source_start:
        raise UserError(
            f"dataset {facts['dataset_name']} does not record where {target}'s crops come from, so they cannot be put back; "
            "run preprocessing/detect.py on the original video"
        )
    numbers = list(range(facts["frames"][0], facts["frames"][1] + 1))
    rate, own_sound, start_s = find_source(facts, datasets_dir)
    sound = (own_sound, start_s) if own_sound else None
    own_nmfcs: list[Path] = []
    if source is None:
        wanted, fps, aligned = numbers, record.fps, True
    else:
        pair = dataset.read_pair(target, source)
        if pair is None or not pair.complete:
            raise UserError(
                f"there is no complete record of {source} driving {target} in {dataset.pair_path(target, source)}; run "
                f"preprocessing/reenact.py --dataset_name {facts['dataset_name']} --source_id {source} --target_id {target}, then test.py"
            )
        if numbers[0] < pair.frames[0] or numbers[-1] - pair.frames[0] >= len(pair.target_frames):
            raise UserError(f"the results of {source} driving {target} are older than the pair; run test.py again")
        first = numbers[0] - pair.frames[0]
        wanted = pair.target_frames[first : first + len(numbers)]
        fps, aligned = pair.fps, pair.mode == "face"
        if not aligned:
            places = {n: s for s in dataset.sequences(pair.target_split, target, "nmfcs") for n in s.frames("nmfcs")}
            if lacking := sorted(set(wanted) - set(places)):
                raise UserError(f"the NMFC image of {target}'s frame {lacking[0]} is missing; run preprocessing/reconstruct.py again")
            own_nmfcs = [places[n].path("nmfcs", n) for n in wanted]
        if audio == "target":
            sound = record.sound_source(pair.target_split)
            if sound:
                begins = wanted[0] + record.source_start["train"]
                in_part, _ = _part_of(record, max(0, begins))
                sound = (Path(record.sources[in_part]["file"]), _seconds_in_part(record, begins))
    originals = [source_index(record, n) for n in wanted]
    for part in sorted({_part_of(record, i)[0] for i in originals}):
        if not (file := Path(record.sources[part]["file"])).is_file():
            raise UserError(f"{target}'s original video {file} is gone; put it back, or run preprocessing/detect.py on it where it is now")
    return Plan(record, fps, numbers, originals, own_nmfcs, aligned, None if audio == "none" else sound)


def source_index(record: Record, number: int) -> int:
    """The frame of the source (counted over all parts from 0) that a frame of this number was cut from."""
    # numbers count the repetitions of the first frame (detect.py --n_replicate_first), the source does not
    return max(0, number + record.source_start["train"])


def _part_of(record: Record, index: int) -> tuple[int, int]:
    """Part and frame within it of a source frame. Raises: UserError when the record has no such frame."""
    for part, source in enumerate(record.sources):
        if index < source["frames"]:
            return part, index
        index -= source["frames"]
    raise UserError(f"dataset.json of {record.name} knows fewer frames than there are results; run preprocessing/detect.py again")


def _seconds_in_part(record: Record, index: int) -> float:
    """The moment of a source frame within its own file; negative for a repetition of the first."""
    return float((_part_of(record, index)[1] if index >= 0 else index) / record.fps)


def original_frames(record: Record, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """The source's frames of these numbers, uint8 [H, W, 3], over all parts, as detect.py counted them.

    Raises: UserError when a file is not the one that detect.py read.
    """
    infos: dict[int, Any] = {}
    places = [_part_of(record, i) for i in indices]
    for part in sorted({p for p, _ in places}):
        source = record.sources[part]
        path = Path(source["file"])
        if sha256_of(path) != source["sha256"]:
            raise UserError(f"{path} is not the file any more that {record.name}'s crops were cut from; run preprocessing/detect.py again")
        infos[part] = probe(path).at_rate(record.fps)
    for part, run in groupby(places, key=lambda place: place[0]):
        yield from frames_at(record.sources[part]["file"], infos[part], [index for _, index in run])


def _read_ahead(results: Results, plan: Plan) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Synthesised frame, its NMFC image, and that of the target's own head there (None when it is aligned), read on threads."""

    def read(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        own = read_image(plan.own_nmfcs[i]) if plan.own_nmfcs else None
        return read_image(results.path("fake", plan.numbers[i])), read_image(results.path("nmfc", plan.numbers[i])), own

    return map_ahead(read, range(len(plan.numbers)))


# ---- one frame ----


class Blender:
    """Lays synthesised crops over original frames, one after the other: the match of colours is averaged over time.

    box: left, top, right, bottom of the crop in the frame; may reach outside.
    frame_size: height and width of the frames.
    aligned: whether the original frame shows the head in the same pose (its own frame, or face reenactment): then all of the crop
        tells about the colours, else what surrounds both heads, and the spread of colours on either face.
    person: see write_paste_back.
    """

    def __init__(self, box: Sequence[int], frame_size: tuple[int, int], fps: float, aligned: bool, person: PersonMask | None = None):
        self.box, self.frame_size, self.aligned, self.person = tuple(box), frame_size, aligned, person
        self.side = box[2] - box[0]
        self.match = ColourMatch(1 - math.exp(-1 / (_COLOUR_S * fps)))

    def __call__(self, frame: np.ndarray, fake: np.ndarray, nmfc: np.ndarray, own_nmfc: np.ndarray | None = None) -> np.ndarray:
        """frame: uint8 [H, W, 3]. fake, nmfc: uint8 [S, S, 3]. own_nmfc: of the frame's own head, any size, when not aligned.

        Returns: a new frame.
        """
        size = fake.shape[0]
        heads = [fill(face_mask(nmfc))]
        if own_nmfc is not None:
            heads.append(fill(cv2.resize(face_mask(own_nmfc).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0))
        original = crop(frame, self.box, size)
        mask = soft_mask(heads)
        if self.person is not None:
            mask = np.maximum(soft_mask(heads, CLOSE), mask * self._people(fake, original, _width(heads[0])))
        mask = mask * crop_window(self.box, self.frame_size, size)
        fake = self.match(fake, original, self._trust(heads), None if self.aligned else (heads[0], heads[-1]))
        return self._lay(frame, fake, mask)

    def _people(self, fake: np.ndarray, original: np.ndarray, width: float) -> np.ndarray:
        """What shows a person in either picture, with a soft margin; float32 [S, S], 0..1."""
        margin = max(1, round(PERSON_MARGIN * width))
        shown = np.maximum(self.person(fake), self.person(original))
        shown = cv2.dilate(shown, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1)))
        return cv2.GaussianBlur(shown, (0, 0), margin / 2)

    def _trust(self, heads: list[np.ndarray]) -> np.ndarray:
        """Where synthesised and original picture should agree, 0..1, float32 [S, S]; never where the crop lies outside of the frame."""
        size = heads[0].shape[0]
        inside = inside_frame(self.box, self.frame_size, size)
        if self.aligned:
            return inside
        head = np.logical_or.reduce([widen(h) for h in heads])
        distance = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, 3)
        return inside * (~head & (distance < RING * _width(heads[0])))

    def _lay(self, frame: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Blend a float32 crop [S, S, 3] over the frame."""
        height, width = self.frame_size
        left, top, right, bottom = self.box
        way = cv2.INTER_CUBIC if self.side > fake.shape[0] else cv2.INTER_AREA
        fake = cv2.resize(fake, (self.side, self.side), interpolation=way)
        mask = np.clip(cv2.resize(mask, (self.side, self.side), interpolation=cv2.INTER_LINEAR), 0, 1)
        y, x = slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
        within = slice(y.start - top, y.stop - top), slice(x.start - left, x.stop - left)
        result = frame.copy()
        part = frame[y, x].astype(np.float32)
        part += mask[within][..., None] * (fake[within] - part)
        result[y, x] = np.clip(np.rint(part), 0, 255).astype(np.uint8)
        return result


@lru_cache(maxsize=4)
def crop_window(box: tuple[int, ...], frame_size: tuple[int, int], size: int) -> np.ndarray:
    """1 in a crop, falling to 0 at those of its sides that lie within the frame; float32 [size, size]."""
    (height, width), (left, top, right, bottom) = frame_size, box
    place = (np.arange(size, dtype=np.float32) + 0.5) / (size * BORDER)
    columns, rows = np.ones((2, size), np.float32)
    for line, low, high, end in ((columns, left, right, width), (rows, top, bottom, height)):
        if low > 0:
            line *= smoothstep(place)
        if high < end:
            line *= smoothstep(place[::-1])
    return rows[:, None] * columns


@lru_cache(maxsize=4)
def inside_frame(box: tuple[int, ...], frame_size: tuple[int, int], size: int) -> np.ndarray:
    """Which pixels of a crop lie in the frame; float32 [size, size], 0 or 1."""
    (height, width), (left, top, right, _) = frame_size, box
    centre = (np.arange(size) + 0.5) / size * (right - left)
    x, y = centre + left, centre + top
    return np.outer((y > 0) & (y < height), (x > 0) & (x < width)).astype(np.float32)


def fill(mask: np.ndarray) -> np.ndarray:
    """A mask [H, W] with its holes (an open mouth) and its gaps of single pixels filled."""
    closed = cv2.morphologyEx(np.pad(mask.astype(np.uint8), 1), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(closed), outlines, -1, 1, cv2.FILLED)[1:-1, 1:-1] > 0


def _width(head: np.ndarray) -> float:
    """Width of a head in pixels; of an empty mask a third of the image."""
    columns = np.flatnonzero(head.any(0))
    return float(columns[-1] - columns[0] + 1) if columns.size else head.shape[1] / 3


def widen(head: np.ndarray, room: tuple[float, float, float] = HAIR) -> np.ndarray:
    """A head's mask [H, W] with room above, beside and below, in parts of its width."""
    width = _width(head)
    up, beside, down = (max(1, round(part * width)) for part in room)
    # an egg: each point of the head grows upwards by `up`, sidewards by `beside`, downwards by `down`
    y, x = np.mgrid[-up : down + 1, -beside : beside + 1].astype(np.float32)
    kernel = ((x / beside) ** 2 + (y / np.where(y < 0, up, down)) ** 2 <= 1).astype(np.uint8)
    # dilation takes the maximum under the kernel, so the kernel stands on its head
    grown = cv2.dilate(head.astype(np.uint8), kernel[::-1].copy(), anchor=(beside, down), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return grown > 0


def soft_mask(heads: Sequence[np.ndarray], room: tuple[float, float, float] = HAIR) -> np.ndarray:
    """float32 [H, W], 0..1: 1 on all heads and the room around them, falling smoothly to 0 over FEATHER of the head's width."""
    core = np.logical_or.reduce([widen(h, room) for h in heads])
    feather = min(FEATHER, 2 * room[0])
    distance = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, 5)
    return smoothstep(1 - distance / (feather * _width(heads[0]))).astype(np.float32)


class ColourMatch:
    """Matches the colours of synthesised crops to those of the original frames, slowly changing over time.

    Per channel `original ~ gain * fake + offset + field(x, y)`: gain and offset by robust least squares (Cauchy weights) over the
    pixels that should agree, drawn to 1 and 0 where those leave them open; then a field of low frequency from what is left, by
    normalised convolution (Knutsson and Westin 1993), which vanishes where nothing is known.

    rate: share of each new frame in the running average.
    """

    def __init__(self, rate: float):
        self.rate = rate
        self._line: np.ndarray | None = None  # [3, 2] gain, offset
        self._field: np.ndarray | None = None  # [_COARSE, _COARSE, 3]

    def __call__(
        self, fake: np.ndarray, original: np.ndarray, trust: np.ndarray, faces: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        """fake, original: uint8 [S, S, 3]. trust: [S, S], 0..1, where they should agree. faces: the heads' masks in fake and original
        when they show the same face in different poses; their colours' percentiles are matched besides.

        Returns: float32 [S, S, 3], 0..255 and a little beyond.
        """
        size = (_COARSE, _COARSE)
        small = [cv2.resize(i, size, interpolation=cv2.INTER_AREA).astype(np.float32) for i in (fake, original)]
        weight = cv2.resize(trust.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        line = np.stack(
            [self._fit(small[0][..., c], small[1][..., c], weight, self._quantiles(fake, original, faces, c)) for c in range(3)]
        )
        self._line = line if self._line is None else self._line + self.rate * (line - self._line)
        rest = small[1] - (small[0] * self._line[:, 0] + self._line[:, 1])
        agree = weight[..., None] / (1 + (rest / _OUTLIER) ** 2) ** 2
        blur = _LOCAL * _COARSE
        known = cv2.GaussianBlur(agree, (0, 0), blur, borderType=cv2.BORDER_CONSTANT)
        field = cv2.GaussianBlur(agree * rest, (0, 0), blur, borderType=cv2.BORDER_CONSTANT) / (known + 0.05)
        field = np.clip(field, -_LOCAL_LIMIT, _LOCAL_LIMIT)
        self._field = field if self._field is None else self._field + self.rate * (field - self._field)
        wide = cv2.resize(self._field, fake.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return (fake * self._line[:, 0].astype(np.float32) + self._line[:, 1].astype(np.float32) + wide).astype(np.float32)

    @staticmethod
    def _quantiles(fake: np.ndarray, original: np.ndarray, faces: tuple[np.ndarray, np.ndarray] | None, channel: int) -> np.ndarray:
        """Percentiles 10, 20, ... 90 of a channel on both faces: [2, 9], or [2, 0]."""
        if faces is None or min(f.sum() for f in faces) < 50:
            return np.zeros((2, 0))
        levels = np.arange(10, 100, 10)
        return np.stack([np.percentile(i[..., channel][f], levels) for i, f in zip((fake, original), faces)])

    @staticmethod
    def _fit(fake: np.ndarray, original: np.ndarray, weight: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Gain and offset of one channel."""
        some = weight > 0.05
        x, y = np.r_[fake[some], faces[0]].astype(np.float64), np.r_[original[some], faces[1]].astype(np.float64)
        # the face counts as much as all that surrounds it
        w = np.r_[weight[some], np.full(faces.shape[1], max(weight[some].sum(), 1.0) / max(faces.shape[1], 1))].astype(np.float64)
        if w.sum() < 10:
            return np.array([1.0, 0.0])
        w /= w.sum()
        line = np.array([1.0, 0.0])
        if abs(float(np.median(y - x))) > 2 * _OUTLIER:  # begin where not everything is an outlier
            line[0] = np.clip(np.median(y) / max(np.median(x), 1.0), 0.4, 2.5)
        # Against a mean squared error of 3 grey levels a gain off by 0.3, or an offset of 10: where a plain background leaves open
        # which of both it is, it is exposure.
        prior = 3.0**2 * np.diag([1 / 0.3**2, 1 / 10.0**2])
        for _ in range(8):
            rest = y - (line[0] * x + line[1])
            robust = w / (1 + (rest / (2 * _OUTLIER)) ** 2)
            a = np.stack([x, np.ones_like(x)], 1)
            line = np.linalg.solve(a.T @ (robust[:, None] * a) + prior, a.T @ (robust * y) + prior @ [1.0, 0.0])
            line[0] = np.clip(line[0], 0.4, 2.5)
        return line
