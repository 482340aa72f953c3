"""Training frames with the head in poses that the video does not show: frame, NMFC image, landmarks and flow are moved together.

The head is shifted, scaled, turned in the picture, and turned a little out of it (points move in proportion to their depth, which the
NMFC image tells). In the frame the motion fades out along the neck and the hair, so that the body stays where it is, and the person
is laid over the background, which stays as well. Real heads move like that, and held-out or foreign poses are mostly such near
neighbours of what was filmed.

Fields say how far points move, in pixels of the frame, on a coarse grid: small arrays that the loader makes (`head_shapes`, `head_fields`).
What is as large as a frame is moved on the device that trains (`move_heads`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from util.landmarks import EYES

if TYPE_CHECKING:
    import torch

TRANSLATION = 0.05  # of the image's side, at most
SCALE = 0.05  # at most
ANGLE_DEG = 7.0  # at most
DEPTH_SHIFT = 0.07  # of the image's side, at most: how far the mesh's nearest vertex moves past its farthest; some 5 degrees
_STILL = 0.04, 0.30  # of the image's side around the NMFC: the motion is whole up to the first distance, and over at the second
_NECK = 0.0, 0.6  # the same below the chin, in distances between eyes and chin
_SHOULDERS = 0.16  # of the image's side: so far from the shoulders the motion is whole again
_EDGE = 0.012  # of the image's side: blur of the person's mask
_FRINGE = 0.03  # of the image's side: so near to the person hair may still be seen, which must not stay behind
_DEPTH_BLUR = 0.02  # of the image's side: depth jumps behind the nose, and a picture must not tear there
_ABOVE = 0.0, 0.6  # in distances between the eyes' middles: how far above the eyes the head's outline is looked at,
_ROWS = 6  # in so many rows
_OUTLINE_ERROR = 0.004  # of the image's side, in frames that count as independent: one in
_ALIKE = 10
_USUAL_DEPTH = 0.5, 0.15  # of the outline: mean, from the edge of the mesh (0) to the mean of the face (1), and spread, of all depth
_GRID = 64  # points a side of a field
_INVERSIONS = 6


@dataclass(frozen=True)
class HeadMotion:
    """How a head is to be moved, for a whole clip."""

    affine: np.ndarray  # float64 [2, 3], maps points to points relative to the head's centre, in parts of the side
    depth_shift: np.ndarray  # float64 [2], in parts of the side


def random_head_motion(rng: np.random.Generator) -> HeadMotion:
    """Draw a motion: each part evenly up to its largest value, both ways."""
    angle, scale = np.radians(rng.uniform(-ANGLE_DEG, ANGLE_DEG)), rng.uniform(1 - SCALE, 1 + SCALE)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-TRANSLATION, TRANSLATION, 2)
    return HeadMotion(np.column_stack([linear, shift]), rng.uniform(-DEPTH_SHIFT, DEPTH_SHIFT, 2))


# ---- fields, on the processor ----


@dataclass(frozen=True)
class HeadShapes:
    """What N frames say about how their heads can move, whatever the motion."""

    depth: np.ndarray  # float32 [N, G, G], 0..1 from the farthest to the nearest vertex of the model's mean, less the face's mean
    fade: np.ndarray  # float32 [N, G, G], how far what a frame shows follows the head: 1 on the face, 0 on the body
    centre: np.ndarray  # float32 [N, 2], of the face, in pixels; nan where there is none

    def __getitem__(self, part: slice) -> HeadShapes:
        return HeadShapes(self.depth[part], self.fade[part], self.centre[part])


def head_shapes(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray, outline: float) -> HeadShapes:
    """nmfcs: uint8 [N, H, H, 3]. landmarks: [N, 70, 2] in pixels. masks: uint8 [N, any, any], 255 where the person is.

    outline: the depth of the head's outline (`outline_depth`).
    """
    size = nmfcs.shape[1]
    small, faces = _on_grid(nmfcs)
    shapes = HeadShapes(*(np.zeros((len(small), _GRID, _GRID), np.float32) for _ in range(2)), np.full((len(small), 2), np.nan, np.float32))
    places = grid_points(size, _GRID)
    for i, (face, nmfc, points, mask) in enumerate(zip(faces, small, landmarks, masks, strict=True)):
        if face.any():
            shapes.depth[i] = _smooth_depth(nmfc[..., 2].astype(np.float32) / 255, face, outline)
            shapes.fade[i] = _fade(face, points, mask, places)
            shapes.centre[i] = places[face].mean(0)
    return shapes


def head_fields(motion: HeadMotion, shapes: HeadShapes, size: int) -> np.ndarray:
    """How far every point of frames of `size` pixels moves if it moves with the head: float32 [N, G, G, 2], x and y in pixels.

    Frames without a face stay as they are.
    """
    there = np.isfinite(shapes.centre[:, 0])
    fields = no_motion(len(there))
    if there.any():
        place = grid_points(size, _GRID) - shapes.centre[there].mean(0)
        moved = place @ motion.affine[:, :2].T + motion.affine[:, 2] * size - place
        for axis in range(2):
            fields[there, ..., axis] = moved[..., axis] + shapes.depth[there] * np.float32(motion.depth_shift[axis] * size)
    return fields


def outline_depth(nmfcs: np.ndarray, landmarks: np.ndarray, masks: np.ndarray) -> float:
    """At what depth the outline of a person's head lies above the ears, 0..1 from the farthest to the nearest vertex of the model's mean.

    From how it moves when the head turns: an NMFC image tells where the camera sees each point (X, Y, Z) of the model, so also where it
    would see the middle between the outlines left and right, if that were a point of the head; the point that explains N frames best is
    found by least squares. Frames that hardly turn say little; then the answer is near to what is usual.
    nmfcs, landmarks, masks: as for `head_shapes`, of frames from the whole video.
    """
    size = nmfcs.shape[1]
    places = grid_points(size, _GRID)
    normal, right, edges, means = np.zeros((3, 3)), np.zeros(3), [], []
    for nmfc, face, points, mask in zip(*_on_grid(nmfcs), landmarks, masks, strict=True):
        middle = _outline_middle(mask, points, size)
        if middle is None or face.sum() < _GRID:
            continue
        model = np.column_stack([nmfc[face] / 255, np.ones(face.sum())])
        *camera, start = np.linalg.lstsq(model, places[face][:, 0], rcond=None)[0]
        normal += np.outer(camera, camera)
        right += np.multiply(camera, middle - start)
        edges.append(np.percentile(model[:, 2], 5))
        means.append(model[:, 2].mean())
    if not means:
        return 0.5
    edge, mean = np.mean(edges), np.mean(means)
    usual, spread = edge + _USUAL_DEPTH[0] * (mean - edge), _USUAL_DEPTH[1]
    prior = np.diag([1e-6, 1e-6, ((_OUTLINE_ERROR * size) / spread) ** 2 * _ALIKE])
    found = np.linalg.solve(normal + prior, right + prior @ (0.5, 0.5, usual))
    return float(np.clip(found[2], edge, 1))


def _outline_middle(mask: np.ndarray, landmarks: np.ndarray, size: int) -> float | None:
    """x of the middle between the head's outlines above the eyes, in pixels of the frame; None where they are not in the picture."""
    right, left = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    step = mask.shape[0] / size
    x, y = (right + left) / 2 * step
    middles = []
    for up in np.linspace(*_ABOVE, _ROWS) * np.linalg.norm(left - right) * step:
        if not (0 <= y - up < len(mask) and 0 <= x < len(mask)):
            continue
        row = mask[int(y - up)] / 255
        ends = [_half_way(row[int(x) :: -1]), _half_way(row[int(x) :])]
        if None not in ends:
            middles.append(int(x) + 0.5 + (ends[1] - ends[0]) / 2)
    return float(np.median(middles)) / step if len(middles) > _ROWS // 2 else None


def _half_way(row: np.ndarray) -> float | None:
    """How far along a row, which begins inside, its values fall below a half; None if they do not."""
    below = np.flatnonzero(row < 0.5)
    if not len(below) or below[0] == 0:
        return None
    i = int(below[0])
    return i - (0.5 - row[i]) / (row[i - 1] - row[i])


def _on_grid(nmfcs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images at the grid's points, uint8 [N, G, G, 3], and where they show the face, bool [N, G, G]."""
    along = ((np.arange(_GRID) + 0.5) * (nmfcs.shape[1] / _GRID)).astype(int)
    small = nmfcs.take(along, 1).take(along, 2)
    return small, (small[..., 0] | small[..., 1] | small[..., 2]) > 0


def _smooth_depth(depth: np.ndarray, face: np.ndarray, outline: float) -> np.ndarray:
    """Depth of the face less its mean, [G, G]; beyond its edge that of the nearest place on it, if that is not behind the outline."""
    _, nearest = cv2.distanceTransformWithLabels((~face).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros(nearest.max() + 1, np.float32)
    of_label[nearest[face]] = depth[face]
    whole = np.where(face, depth, np.maximum(of_label[nearest], np.float32(outline)))
    return cv2.GaussianBlur(whole, (0, 0), _DEPTH_BLUR * _GRID) - depth[face].mean()


def _fade(face: np.ndarray, landmarks: np.ndarray, mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """As in HeadShapes. face: bool [G, G]; landmarks: [70, 2] in pixels; mask: uint8 [any, any]; places: the grid's points."""
    away = cv2.distanceTransform((~face).astype(np.uint8), cv2.DIST_L2, 5) / _GRID
    chin, eyes = landmarks[8], landmarks[EYES].mean(0)
    down = (chin - eyes) / max(float(np.sum((chin - eyes) ** 2)), 1e-6)
    below = (places - chin) @ down
    ramps = [np.clip((last - x) / (last - first), 0, 1) for x, (first, last) in ((away, _STILL), (below, _NECK))]
    shoulders = _shoulders(mask, (eyes - places[0, 0]) / (places[1, 1] - places[0, 0]))
    if shoulders.any():
        ramps.append(np.minimum(cv2.distanceTransform((~shoulders).astype(np.uint8), cv2.DIST_L2, 5) / (_SHOULDERS * _GRID), 1))
    fade = np.prod(ramps, axis=0)
    return fade * fade * (3 - 2 * fade)


def _shoulders(mask: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """Where a straight line from the eyes reaches the person only across the background, unlike neck and hair: bool [G, G].

    mask: uint8 [any, any]; eyes: point between them, in cells of the grid.
    """
    person = cv2.resize(mask, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    reach, angles, centre = int(1.5 * _GRID), 4 * _GRID, (float(eyes[0]), float(eyes[1]))
    rays = cv2.warpPolar(person, (reach, angles), centre, reach, cv2.WARP_POLAR_LINEAR)  # [angles, distance]
    seen = np.minimum.accumulate(rays, axis=1)
    seen = cv2.warpPolar(seen, (_GRID, _GRID), centre, reach, cv2.WARP_POLAR_LINEAR | cv2.WARP_INVERSE_MAP)
    hidden = ((person > 127) & (seen < 128)).astype(np.uint8)
    return cv2.morphologyEx(hidden, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0  # without specks at the outline


def move_points(field: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """Points [K, 2] in pixels of a frame of `size` pixels, moved by a field [G, G, 2]."""
    on_grid = (points * (field.shape[0] / size) - 0.5).astype(np.float32)
    return points + cv2.remap(field, on_grid[None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def grid_points(size: int, count: int) -> np.ndarray:
    """Centres of a grid's cells on a frame, float32 [count, count, 2], x and y in pixels."""
    along = (np.arange(count, dtype=np.float32) + 0.5) * (size / count)
    return np.stack(np.meshgrid(along, along), -1)


def no_motion(frames: int) -> np.ndarray:
    """The fields of a head that stays."""
    return np.zeros((frames, _GRID, _GRID, 2), np.float32)


# ---- pictures and flow, on the device that trains ----


def move_heads(batch: dict[str, Any]) -> dict[str, Any]:
    """Move what is as large as a frame in a batch of clips; a clip whose fields are zero stays exactly as it is.

    batch: `image` uint8 [B, T, H, H, 3], `nmfc` uint8 [B, T + 2, H, H, 3], `flows` {s: [B, T - s, 2, h, w]} (if there are), and `motion`:
    `heads` float32 [B, T + 2, G, G, 2] fields of the conditioning's frames, `fades` float32 [B, T, G, G], `masks` uint8 [B, T, any, any],
    `background` uint8 [B, H, H, 4] (util.persons). All on one device. Returns the batch without `motion`, image, nmfc and flows replaced.
    """
    import torch

    motion = batch["motion"]
    moved = motion["heads"].flatten(1).any(1)
    rest = {k: v for k, v in batch.items() if k != "motion"}
    b, count, size = batch["image"].shape[:3]
    heads = motion["heads"].movedim(-1, 2)  # [B, T + 2, 2, G, G]
    forwards = heads[:, -count:] * motion["fades"][:, :, None]
    backwards = _inverse(forwards.flatten(0, 1), size).unflatten(0, (b, count))

    def keep(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return torch.where(moved.view(-1, *[1] * (old.dim() - 1)), new.to(old.dtype), old)

    masks = motion["masks"].flatten(0, 1)[:, None].float() / 255
    image = _lay_over(batch["image"].flatten(0, 1), backwards.flatten(0, 1), masks, motion["background"].repeat_interleave(count, 0))
    rest["image"] = keep(image.unflatten(0, (b, count)), batch["image"])
    nmfc = batch["nmfc"].flatten(0, 1).movedim(-1, 1).float()
    source = _sources(_inverse(heads.flatten(0, 1), size), size, size)
    nmfc = _sample(nmfc, source, size, "nearest", "zeros").movedim(1, -1)
    rest["nmfc"] = keep(nmfc.unflatten(0, (b, count + 2)), batch["nmfc"])
    if "flows" in batch:
        masks = masks.unflatten(0, (b, count))
        rest["flows"] = {
            s: keep(_move_flow(f, forwards[:, : count - s], backwards[:, s:], masks[:, s:], size), f) if f.shape[1] else f
            for s, f in batch["flows"].items()
        }
    return rest


def _lay_over(image: torch.Tensor, backwards: torch.Tensor, mask: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """The moved person before the background, uint8 [N, H, H, 3]; mask: [N, 1, any, any] in 0..1; background: uint8 [N, H, H, 4].

    Where the background is not known the picture bends with the person: a guess would be learnt for true.
    """
    import torch.nn.functional as F

    size = image.shape[1]
    image, background, known = (x.movedim(-1, 1).float() for x in (image, background[..., :3], background[..., 3:] / 255))
    mask = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)
    reach = round(_FRINGE * size)
    hidden = _blurred(F.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach), _EDGE * size)
    source = _sources(backwards, size, size)
    person = _sample(image, source, size, "bicubic")
    filled = person + _blurred(known, _EDGE * size) * (background - person)
    behind = image + hidden * (filled - image)  # the frame's own background where it shows
    # whole where the person is likely, so that the background does not shine through
    cover = (2 * _sample(_blurred(mask, _EDGE * size), source, size)).clamp(0, 1)
    return (behind + cover * (person - behind) + 0.5).clamp(0, 255).byte().movedim(1, -1)


def _move_flow(flow: torch.Tensor, forwards: torch.Tensor, backwards: torch.Tensor, masks: torch.Tensor, size: int) -> torch.Tensor:
    """The flow between moved frames, from that between the frames as filmed; target(p) ~ source(p + flow(p)), in pixels.

    flow: [B, n, 2, h, w]. forwards: of the sources. backwards, masks [B, n, 1, any, any]: of the targets.
    """
    import torch

    shape = flow.shape
    flow, forwards, backwards, masks = (x.flatten(0, 1).float() for x in (flow, forwards, backwards, masks))
    grid, before = _grid(flow, size), _sources(backwards, flow.shape[-1], size)
    matched = before + _sample(flow, before, size)
    after = matched + _sample(forwards, matched, size)
    return torch.where(_sample(masks, before, size) > 0.5, after - grid, flow).view(shape)


def _inverse(forwards: torch.Tensor, size: int) -> torch.Tensor:
    """The field that undoes a field [N, 2, G, G].

    It is -forwards where a point comes from: backwards(p) = -forwards(p + backwards(p)), iterated; the field's slope is below 1.
    """
    grid = _grid(forwards, size)
    backwards = -forwards
    for _ in range(_INVERSIONS):
        backwards = -_sample(forwards, grid + backwards, size)
    return backwards


def _sources(backwards: torch.Tensor, count: int, size: int) -> torch.Tensor:
    """Where the pixels of count x count come from, by a field [N, 2, G, G]: points [N, 2, count, count] in pixels of the frame."""
    import torch.nn.functional as F

    away = F.interpolate(backwards, size=(count, count), mode="bilinear", align_corners=False)
    return _grid(away, size) + away


def _sample(x: torch.Tensor, points: torch.Tensor, size: int, mode: str = "bilinear", padding: str = "border") -> torch.Tensor:
    """x [N, C, h, w], which spans a frame of `size` pixels, at points [N, 2, h', w'] in pixels: [N, C, h', w']."""
    import torch.nn.functional as F

    return F.grid_sample(x, points.movedim(1, -1) * (2 / size) - 1, mode=mode, padding_mode=padding, align_corners=False)


def _grid(like: torch.Tensor, size: int) -> torch.Tensor:
    """Centres of the pixels of [N, C, h, h] on a frame of `size` pixels: [1, 2, h, h]."""
    import torch

    count = like.shape[-1]
    along = (torch.arange(count, device=like.device) + 0.5) * (size / count)
    return torch.stack(torch.meshgrid(along, along, indexing="xy"))[None]


def _blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of [N, 1, H, W]."""
    import torch
    import torch.nn.functional as F

    reach = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma) ** 2)
    weights = weights / weights.sum()
    x = F.pad(x, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
