"""Training frames with the head in poses that the video does not show: frame, NMFC image, landmarks and flow are moved together.

The head is shifted, scaled, turned in the picture, and turned a little out of it (points move in proportion to their depth, which the
NMFC image tells). The frame may show that in perspective, as the person's camera does; the NMFC image, drawn by a parallel camera, never.
In the frame the motion fades out along neck and hair, so that shoulders and body stay where they are, and the person is laid over the
background, which stays as well. Real heads move like that, and held-out or foreign poses are mostly such near neighbours of what was
filmed. In half of the moved heads the brows are raised or lowered too, by an amount that changes in the course of the clip: brows that
hardly move in the video would otherwise be learnt as fixed to the skull.

Fields say how far points move, in pixels of the frame, on a coarse grid: small arrays that the loader makes (`head_fields`) from what the
frames show (data.augmentation.head_shapes). What is as large as a frame is moved on the device that trains (`move_heads`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from data.augmentation.head_geometry import GRID, grid_points
from data.augmentation.head_shapes import HeadShapes

if TYPE_CHECKING:
    import torch

TRANSLATION = 0.05  # of the image's side, at most
SCALE = 0.05  # at most
ANGLE_DEG = 7.0  # at most
TURN_DEG = 5.0  # out of the picture, at most, sideways and up or down
BROWS_RAISED = -0.04, 0.09  # lowered and raised, in distances of the outer eye corners, at most
BROWS_ENDS = 0.03  # how much their ends may differ from that
BROWS_CHANGE = 0.05  # in the course of a clip, at most
_BROWS_SHARE = 0.5  # share of the motions that move the brows
_MASK_BLUR = 0.012  # of the image's side: blur of the person's mask
_HAIR_MARGIN = 0.03  # of the image's side around the mask: may hold hair, which must not stay behind
_INVERSION_STEPS = 10  # of the fixed-point iteration that inverts a field
_FIXED_POINT_DAMPING = 0.6  # part of the way that each step goes: the field's slope may be above 1 below raised brows


@dataclass(frozen=True)
class HeadMotion:
    """One random motion of the head, constant over a clip except for the brows."""

    affine: np.ndarray  # float64 [2, 3], maps points to points relative to the head's centre, in parts of the side
    turn: np.ndarray  # float64 [2], radians: how far what is near turns to the right and down in the picture
    # float64 [2, 4]: by how much the brows' ends (right outer, right inner, left inner, left outer) are raised at the clip's first and
    # last frame, in distances of the outer eye corners
    brows: np.ndarray


def random_head_motion(rng: np.random.Generator) -> HeadMotion:
    """Draw a motion: each part evenly up to its largest value, both ways; brows in some motions only."""
    angle, scale = np.radians(rng.uniform(-ANGLE_DEG, ANGLE_DEG)), rng.uniform(1 - SCALE, 1 + SCALE)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-TRANSLATION, TRANSLATION, 2)
    turn = np.radians(rng.uniform(-TURN_DEG, TURN_DEG, 2))
    brows = np.zeros((2, 4))
    if rng.random() < _BROWS_SHARE:
        first = rng.uniform(*BROWS_RAISED)
        last = np.clip(first + rng.uniform(-BROWS_CHANGE, BROWS_CHANGE), *BROWS_RAISED)
        brows = np.array([[first], [last]]) + rng.uniform(-BROWS_ENDS, BROWS_ENDS, 4)
    return HeadMotion(np.column_stack([linear, shift]), turn, brows)


# ---- fields, on the processor ----


def head_fields(motion: HeadMotion, shapes: HeadShapes, size: int, perspective: float) -> tuple[np.ndarray, np.ndarray]:
    """How far every point of frames of `size` pixels moves if it moves with the head: float32 [N, G, G, 2], x and y in pixels.

    And the same of the NMFC images: their camera is a parallel one, and the model's brows do not draw the scalp down.
    Frames without a face stay as they are. perspective: as in data.augmentation.head_geometry.Head.
    """
    parallel = _posed(motion, shapes, size, 0.0)
    seen = _posed(motion, shapes, size, perspective) if perspective else parallel
    if not motion.brows.any():
        return seen, parallel
    raised = _raised(motion, shapes)

    def brows(share: np.ndarray) -> np.ndarray:
        return ((share * raised)[..., None] * shapes.up[:, None, None]).astype(np.float32)

    return seen + brows(shapes.brows), parallel + brows(np.maximum(shapes.brows, 0))


def _posed(motion: HeadMotion, shapes: HeadShapes, size: int, perspective: float) -> np.ndarray:
    there = np.isfinite(shapes.centre[:, 0])
    fields = no_motion(len(there))
    if there.any():
        centre, strength = shapes.centre[there].mean(0), perspective / size
        place, near = grid_points(size, GRID) - centre, shapes.nearer[there]
        flat = place * (1 - strength * near)[..., None]  # as a parallel camera would see it
        angle = float(np.linalg.norm(motion.turn))
        towards = motion.turn / max(angle, 1e-9)
        along = flat @ towards
        turned = flat + ((np.cos(angle) - 1) * along + np.sin(angle) * near)[..., None] * towards
        near = np.cos(angle) * near - np.sin(angle) * along
        scale = np.sqrt(np.linalg.det(motion.affine[:, :2]))
        turned = turned / (1 - strength * scale * near)[..., None]
        fields[there] = turned @ motion.affine[:, :2].T + motion.affine[:, 2] * size - place
    return fields


def _raised(motion: HeadMotion, shapes: HeadShapes) -> np.ndarray:
    """By how much brows are raised at each place, if it is on them: [N, G, G] in distances of the outer eye corners."""
    done = np.arange(len(shapes.along))[:, None] / max(len(shapes.along) - 1, 1)
    ends = (1 - done) * motion.brows[0] + done * motion.brows[1]
    return np.stack([np.interp(along, range(4), e) for along, e in zip(shapes.along, ends)])


def move_points(field: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """Points [K, 2] in pixels of a frame of `size` pixels, moved by a field [G, G, 2]."""
    on_grid = (points * (field.shape[0] / size) - 0.5).astype(np.float32)
    return points + cv2.remap(field, on_grid[None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def no_motion(frames: int) -> np.ndarray:
    """The fields of a head that stays."""
    return np.zeros((frames, GRID, GRID, 2), np.float32)


# ---- pictures and flow, on the device that trains ----


def move_heads(batch: dict[str, Any]) -> dict[str, Any]:
    """Move what is as large as a frame in a batch of clips; a clip whose fields are zero stays exactly as it is.

    batch: `image` uint8 [B, T, H, H, 3], `nmfc` uint8 [B, T + 2, H, H, 3], `flows` {s: [B, T - s, 2, h, w]} (if there are), and `motion`:
    `frames` float32 [B, T, G, G, 2] fields of the frames, `nmfcs` [B, T + 2, G, G, 2] those of the NMFC images, `masks` uint8 [B, T, any,
    any], `background` uint8 [B, H, H, 4] (util.caches). All on one device. Returns the batch without `motion`, image, nmfc and flows
    replaced.
    """
    import torch

    motion = batch["motion"]
    moved = motion["nmfcs"].flatten(1).any(1)
    rest = {k: v for k, v in batch.items() if k != "motion"}
    b, count, size = batch["image"].shape[:3]
    forwards = motion["frames"].movedim(-1, 2)  # [B, T, 2, G, G]
    backwards = _inverse(forwards.flatten(0, 1), size).unflatten(0, (b, count))

    def keep(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return torch.where(moved.view(-1, *[1] * (old.dim() - 1)), new.to(old.dtype), old)

    masks = motion["masks"].flatten(0, 1)[:, None].float() / 255
    image = _lay_over(batch["image"].flatten(0, 1), backwards.flatten(0, 1), masks, motion["background"].repeat_interleave(count, 0))
    rest["image"] = keep(image.unflatten(0, (b, count)), batch["image"])
    nmfc = batch["nmfc"].flatten(0, 1).movedim(-1, 1).float()
    source = _sources(_inverse(motion["nmfcs"].movedim(-1, 2).flatten(0, 1), size), size, size)
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

    Where the background is not known the picture bends with the person: the generator would learn an inpainted guess as real.
    """
    import torch.nn.functional as F

    size = image.shape[1]
    image, background, known = (x.movedim(-1, 1).float() for x in (image, background[..., :3], background[..., 3:] / 255))
    mask = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)
    reach = round(_HAIR_MARGIN * size)
    hidden = _blurred(F.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach), _MASK_BLUR * size)
    source = _sources(backwards, size, size)
    person = _sample(image, source, size, "bicubic")
    filled = person + _blurred(known, _MASK_BLUR * size) * (background - person)
    behind = image + hidden * (filled - image)  # the frame's own background where it shows
    # whole where the person is likely, so that the background does not shine through
    cover = (2 * _sample(_blurred(mask, _MASK_BLUR * size), source, size)).clamp(0, 1)
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

    It is -forwards where a point comes from: backwards(p) = -forwards(p + backwards(p)), by damped fixed-point iteration.
    """
    import torch

    grid = _grid(forwards, size)
    backwards = -forwards
    for _ in range(_INVERSION_STEPS):
        backwards = torch.lerp(backwards, -_sample(forwards, grid + backwards, size), _FIXED_POINT_DAMPING)
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
