"""What the training frames of a person say about the head as a whole: how deep it is, how strongly the camera foreshortens it, and what
in the frame goes with it.

A fit's camera is a parallel one (weak perspective). A real one shows what is near larger than what is far: hair, 10 cm behind the eyes,
grows less than the face when the head comes nearer, and more when it is bowed. How much so depends on the camera's distance, which one
picture does not tell but the outline of a head that moves does.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from util.landmarks import LEFT_EYE, RIGHT_EYE

GRID = 64  # points a side of a field, and places a side at which NMFC images are looked at
_ABOVE = 0.0, 0.6  # in distances between the eyes' middles: how far above the eyes the head's outline is looked at,
_ROWS = 6  # in so many rows
_OUTLINE_ERROR = 0.004  # of the image's side,
_WIDTH_ERROR = 0.006  # and of the outline's width, in frames that count as independent: one in
_ALIKE = 10
_ROUNDS = 10
# What is usual, and how far heads and cameras differ from it.
_USUAL_BOX = 1.0, 1.42, 1.18  # ICT's mean face
_USUAL_DEPTH = 0.5, 0.15  # of the outline: from the edge of the mesh (0) to the mean of the face (1)
_USUAL_PERSPECTIVE = 0.5, 0.3  # a frame 26 cm wide at the head, filmed from half a metre
_MOST_PERSPECTIVE = 1.0
_KNOWN_TURN = 0.05  # sine of the turns from which on a video's frames say more about the model's box than what is usual
_SIDEWAYS = 0.1  # of its width: a face that shows less does not say which place of the head is seen beside it
_PAIRS = 150  # of frames between which optical flow is looked at,
_APART = 0.012, 0.055  # in which the face is so far from where it was, in parts of the image's side
_FLOW_SIZE = 128  # of the frames, in pixels
_FLOW_ERROR = 0.004  # of the image's side
_SWAY_PRIOR = 5e-4  # how small the changes of a pose are that say nothing about the body, squared
_SWAY_BLUR = 0.05  # of the image's side: shoulders move as a whole
_THREADS = 4


@dataclass(frozen=True)
class Head:
    """A person's head as the camera sees it. Places on it are colours: NMFC colours, 0..1 on each axis."""

    box: np.ndarray  # float64 [3], what the colours' axes span, in widths of the face model
    outline: float  # depth of the head's outline above the ears: 0..1 from the farthest to the nearest vertex of the model's mean
    perspective: float  # the frame's side where the head is, in distances of the camera; 0 if that is very far
    # float32 [G, G] over the frame, 0..1: does what is seen there go with the head (1), or does it stay (0)? 0.5 where that is not known
    follows: np.ndarray
    # float32 [G, G, 2, 6] over the frame: how far, in sides of the frame, what does not go with the head moves in the video when the
    # head's pose changes by one (`pose_change`); it is what shoulders do
    sway: np.ndarray


USUAL_HEAD = Head(
    np.array(_USUAL_BOX), 0.5, _USUAL_PERSPECTIVE[0], np.full((GRID, GRID), 0.5, np.float32), np.zeros((GRID, GRID, 2, 6), np.float32)
)


@dataclass(frozen=True)
class View:
    """One frame and its parallel camera, which sees the place on the head with colour c at across @ c + start, in pixels."""

    colours: np.ndarray  # float32 [G, G, 3], of the NMFC image at the grid's points
    face: np.ndarray  # bool [G, G], where it shows the face
    points: np.ndarray  # float32 [G, G, 2], the grid's points in pixels
    across: np.ndarray  # float64 [2, 3]
    start: np.ndarray  # float64 [2]
    nearer: np.ndarray  # float64 [3]: how many pixels nearer to the camera places are, as nearer @ c
    width: float  # of the face model, in pixels
    box: np.ndarray  # as in Head

    @classmethod
    def of(cls, small: np.ndarray, size: int, box: np.ndarray) -> View:
        """small: uint8 [G, G, 3], an NMFC image of `size` pixels at the grid's points (`on_grid`); box: as in Head. By least squares."""
        colours, face, points = small.astype(np.float32) / 255, small.any(-1), grid_points(size, GRID)
        *across, start = np.linalg.lstsq(np.column_stack([colours[face], np.ones(face.sum())]), points[face], rcond=None)[0]
        x, y = across = np.transpose(across)
        away = np.cross(x / box, y / box)
        width = max(float(np.sqrt(np.linalg.norm(away))), 1e-6)
        return cls(colours, face, points, across, start, -away / width * box, width, box)

    def see(self, places: np.ndarray) -> np.ndarray:
        """Where places on the head [..., 3] are seen, [..., 2] in pixels."""
        return places @ self.across.T + self.start

    @property
    def rotation(self) -> np.ndarray:
        """Of the head, [3, 3]; x to the right, y down and z away from the camera."""
        x, y = self.across / self.box / self.width
        left, _, right = np.linalg.svd([x, y, np.cross(x, y)])
        return left @ right

    def head(self, outline: float) -> np.ndarray:
        """The place on the head that each of the grid's points shows: float32 [G, G, 3].

        Beyond the face's edge it is as deep as the nearest place on it, if that is not behind the head's outline (Head.outline).
        """
        _, labels = cv2.distanceTransformWithLabels((~self.face).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        of_label = np.zeros((labels.max() + 1, 3), np.float32)
        of_label[labels[self.face]] = self.colours[self.face]
        places = of_label[labels]
        places[..., 2] = np.where(self.face, places[..., 2], np.maximum(places[..., 2], np.float32(outline)))
        # from the nearest place on the face, at that depth, to the sides and upwards
        sideways = self.across[:, :2]
        solve = np.linalg.solve(sideways.T @ sideways + (_SIDEWAYS * self.width) ** 2 * np.eye(2), sideways.T)
        places[..., :2] += np.where(self.face[..., None], 0, (self.points - self.see(places)) @ solve.T)
        return places


def measure_head(
    nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray, images: np.ndarray | None = None, cameras: np.ndarray | None = None
) -> Head:
    """The head of a person, from N frames of the whole video.

    Where they say little (the head hardly moves, its outline is not in the picture) the answer is near to what is usual.
    nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: uint8 [N, any, any], 255 where the person is. images: uint8
    [N, H, H, 3]; without them it is not known what goes with the head. cameras: the fits' scales times their rotations, [N, 3, 3];
    without them the face model's box is taken to be a usual one.
    """
    size = nmfcs.shape[1]
    small, faces = on_grid(nmfcs)
    shown = [i for i, face in enumerate(faces) if face.sum() >= GRID]
    if not shown:
        return USUAL_HEAD
    small, landmarks, masks = small[shown], landmarks[shown], masks[shown]
    box = USUAL_HEAD.box
    if cameras is not None:
        box = _box(np.array([View.of(x, size, box).across for x in small]), cameras[shown, :2])
    views = [View.of(x, size, box) for x in small]
    outline = _outline_depth(views, landmarks, masks, size)
    perspective = _perspective(views, landmarks, masks, size, outline)
    if images is None:
        return Head(box, outline, perspective, USUAL_HEAD.follows, USUAL_HEAD.sway)
    return Head(box, outline, perspective, *_follows_and_sways(views, masks, images[shown], size, outline))


def pose_change(shift: np.ndarray, scale: float, rotation: np.ndarray) -> np.ndarray:
    """[6]: by how much a head moves right and down, in sides of the frame, grows (logarithm), and turns, as a rotation vector."""
    return np.concatenate([shift, [np.log(scale)], rotation])


def _box(seen: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """As in Head: what makes the colours' cameras [N, 2, 3] those that the fits have for the model, [N, 2, 3]."""
    product, square = (seen * fitted).sum((0, 1)), (fitted**2).sum((0, 1))
    width = product[0] / max(square[0], 1e-9)
    prior = (fitted[:, 0] ** 2).sum() * _KNOWN_TURN**2
    box = (product + prior * width * np.array(_USUAL_BOX)) / (square + prior)
    return box / box[0] if (box > 0).all() else USUAL_HEAD.box


def _outline_depth(views: Sequence[View], landmarks: np.ndarray, masks: np.ndarray, size: int) -> float:
    """As in Head, from how the outline moves when the head turns.

    A view tells where the camera sees each place on the head, so also where it would see the middle between the outlines left and
    right, if that were a place on the head; the place that explains the frames best is found by least squares.
    """
    normal, right, edges, means = np.zeros((3, 3)), np.zeros(3), [], []
    for view, points, mask in zip(views, landmarks, masks, strict=True):
        right_eye, left_eye = points[RIGHT_EYE].mean(0), points[LEFT_EYE].mean(0)
        up = np.array([0, -np.linalg.norm(left_eye - right_eye)])
        rows = [(right_eye + left_eye) / 2 + share * up for share in np.linspace(*_ABOVE, _ROWS)]
        ends = [e for e in (_outline_ends(mask, row, np.array([1.0, 0]), size) for row in rows) if e]
        if len(ends) <= _ROWS // 2:
            continue
        middle = rows[0][0] + np.median([(b - a) / 2 for a, b in ends])
        normal += np.outer(view.across[0], view.across[0])
        right += view.across[0] * (middle - view.start[0])
        depth = view.colours[view.face][:, 2]
        edges.append(np.percentile(depth, 5))
        means.append(depth.mean())
    if not means:
        return USUAL_HEAD.outline
    edge, mean = np.mean(edges), np.mean(means)
    usual, spread = edge + _USUAL_DEPTH[0] * (mean - edge), _USUAL_DEPTH[1]
    prior = np.diag([1e-6, 1e-6, ((_OUTLINE_ERROR * size) / spread) ** 2 * _ALIKE])
    found = np.linalg.solve(normal + prior, right + prior @ (0.5, 0.5, usual))
    return float(np.clip(found[2], edge, 1))


def _perspective(views: Sequence[View], landmarks: np.ndarray, masks: np.ndarray, size: int, outline: float) -> float:
    """As in Head, from how the outline's width, measured by the face's, goes with how far it is before or behind the face.

    At a depth z, in sides of the frame nearer than the face, a pinhole camera shows things 1 / (1 - perspective * z) times as large.
    """
    rows = _rows_above_the_eyes(views, landmarks)
    places = np.column_stack([np.full(_ROWS, 0.5), rows, np.full(_ROWS, outline)])
    sizes, nears = [], []
    for view, mask in zip(views, masks, strict=True):
        across = view.across[:, 0] / max(np.linalg.norm(view.across[:, 0]), 1e-6)
        ends = [_outline_ends(mask, row, across, size) for row in view.see(places)]
        if None not in ends:
            sizes.append(np.log(np.sum(ends) / view.width))
            nears.append((places.mean(0) - view.colours[view.face].mean(0)) @ view.nearer / size)
    usual, spread = _USUAL_PERSPECTIVE
    if len(sizes) < _ALIKE:
        return usual
    larger, near, found = np.array(sizes), np.array(nears), usual
    prior, trust = (_WIDTH_ERROR / spread) ** 2 * _ALIKE, np.ones(len(near))
    for _ in range(_ROUNDS):  # Gauss-Newton, with less trust in frames that do not fit, as where the mask is wrong
        error = larger + np.log(1 - found * near)
        error -= np.average(error, weights=trust)
        trust = 1 / np.maximum(1, np.abs(error) / (2 * np.median(np.abs(error)) + 1e-9))
        slope = near / (1 - found * near)
        slope -= np.average(slope, weights=trust)
        found += ((trust * slope * error).sum() + prior * (usual - found)) / ((trust * slope**2).sum() + prior)
        found = float(np.clip(found, 0, _MOST_PERSPECTIVE))
    return found


def _rows_above_the_eyes(views: Sequence[View], landmarks: np.ndarray) -> np.ndarray:
    """The colours' second axis in some rows from the eyes upwards."""
    eyes, apart = [], []
    for view, points in zip(views, landmarks, strict=True):
        pair = np.array([points[RIGHT_EYE].mean(0), points[LEFT_EYE].mean(0)])
        nearest = np.argmin(np.sum((pair[:, None] - view.points[view.face]) ** 2, -1), 1)
        eyes.append(view.colours[view.face][nearest, 1].mean())
        apart.append(np.linalg.norm(pair[1] - pair[0]) / np.linalg.norm(view.across[:, 1]))
    return np.median(eyes) + np.linspace(*_ABOVE, _ROWS) * np.median(apart)


def _outline_ends(mask: np.ndarray, start: np.ndarray, across: np.ndarray, size: int) -> tuple[float, float] | None:
    """How far from a point of the frame the person ends, against and along a direction, in pixels; None where the picture ends before."""
    step = mask.shape[0] / size
    along = np.arange(2 * mask.shape[0])[:, None] * across
    ends = []
    for way in (-along, along):
        points = start * step - 0.5 + way
        points = points[((points >= 0) & (points <= mask.shape[0] - 1)).all(1)].astype(np.float32)
        row = cv2.remap(mask, points[None], None, cv2.INTER_LINEAR)[0] / 255 if len(points) else np.empty(0)
        below = np.flatnonzero(row < 0.5)
        if not len(below) or below[0] == 0:
            return None
        i = int(below[0])
        ends.append((i - (0.5 - row[i]) / (row[i - 1] - row[i])) / step)
    return ends[0], ends[1]


def _follows_and_sways(
    views: Sequence[View], masks: np.ndarray, images: np.ndarray, size: int, outline: float
) -> tuple[np.ndarray, np.ndarray]:
    """Head.follows and Head.sway, from the optical flow between pairs of frames in which the head has moved.

    follows: is the flow rather that of the head, or none? Of squared differences, the share that is from none.
    sway: regression of the flow on the change of the pose, where the person is.
    """
    small = [cv2.resize(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), (_FLOW_SIZE, _FLOW_SIZE), interpolation=cv2.INTER_AREA) for x in images]
    persons = [cv2.resize(x, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32) / 255 for x in masks]
    pairs = _pairs(views, size)

    def flow(pair: tuple[int, int]) -> np.ndarray:
        estimate = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # each call its own: they keep their pictures
        found = estimate.calc(small[pair[0]], small[pair[1]], None)
        return cv2.resize(found, (GRID, GRID), interpolation=cv2.INTER_AREA) / _FLOW_SIZE

    from_none, from_head = np.full((2, GRID, GRID), _ALIKE * _FLOW_ERROR**2)
    normal, right = np.zeros((GRID, GRID, 6, 6)), np.zeros((GRID, GRID, 6, 2))
    middle = np.mean([v.colours[v.face].mean(0) for v in views], axis=0)
    with ThreadPoolExecutor(_THREADS) as pool:
        for (i, j), moved in zip(pairs, pool.map(flow, pairs), strict=True):
            before, after, person = views[i], views[j], persons[i]
            head = before.head(outline)
            going = (after.see(head) - before.see(head)) / size
            from_none += person * (moved**2).sum(-1)
            from_head += person * ((moved - going) ** 2).sum(-1)
            turn = cv2.Rodrigues(after.rotation @ before.rotation.T)[0][:, 0]
            change = pose_change((after.see(middle) - before.see(middle)) / size, after.width / before.width, turn)
            normal += person[..., None, None] * np.outer(change, change)
            right += person[..., None, None] * (change[:, None] * moved[..., None, :])
    follows = from_none / (from_none + from_head)
    extent = (round(6 * _SWAY_BLUR * GRID) // 2 * 2 + 1,) * 2  # of three times the blur: what is beyond knows nothing of the shoulders

    def blurred(x: np.ndarray) -> np.ndarray:
        planes = [cv2.GaussianBlur(p, extent, _SWAY_BLUR * GRID) for p in np.moveaxis(x.reshape(GRID, GRID, -1), -1, 0)]
        return np.stack(planes, -1).reshape(x.shape)

    stays = 1 - cv2.GaussianBlur(follows, (0, 0), 1)[..., None, None]
    normal, right = blurred(normal * stays), blurred(right * stays)
    sway = np.linalg.solve(normal + _SWAY_PRIOR * max(len(pairs), 1) * np.eye(6), right)
    return cv2.GaussianBlur(follows, (0, 0), 1).astype(np.float32), np.swapaxes(sway, -1, -2).astype(np.float32)


def _pairs(views: Sequence[View], size: int) -> list[tuple[int, int]]:
    """Pairs of frames, at random, in which the face is neither near to where it was nor too far for optical flow."""
    every = [(i, j) for i in range(len(views)) for j in range(len(views)) if i != j]
    chosen: list[tuple[int, int]] = []
    for k in np.random.default_rng(0).permutation(len(every)):
        i, j = every[k]
        face = views[i].colours[views[i].face]
        distance = np.sqrt(np.mean(np.sum((views[j].see(face) - views[i].see(face)) ** 2, -1))) / size
        if _APART[0] < distance < _APART[1]:
            chosen.append((i, j))
        if len(chosen) == _PAIRS:
            break
    return chosen


def on_grid(nmfcs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NMFC images [N, H, H, 3] at the grid's points, [N, G, G, 3], and where they show the face, bool [N, G, G]."""
    along = ((np.arange(GRID) + 0.5) * (nmfcs.shape[1] / GRID)).astype(int)
    small = nmfcs.take(along, 1).take(along, 2)
    return small, (small[..., 0] | small[..., 1] | small[..., 2]) > 0


def grid_points(size: int, count: int) -> np.ndarray:
    """Centres of a grid's cells on a frame, float32 [count, count, 2], x and y in pixels."""
    along = (np.arange(count, dtype=np.float32) + 0.5) * (size / count)
    return np.stack(np.meshgrid(along, along), -1)
