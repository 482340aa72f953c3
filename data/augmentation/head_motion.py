"""Training frames with the head in poses and the face in expressions that the video does not show.

The head is shifted, scaled, turned in the picture and out of it, and its expression changed (data.augmentation.expressions). Where the face
model's mesh is known, it is drawn anew and says for every pixel of the face where that was in the frame as filmed
(data.augmentation.mesh_motion); what was not seen there, as the inside of a mouth that was shut, takes the person's colour at that place of
the head. Hair and neck move by fields: points in proportion to their depth, which the NMFC image tells; the motion fades out along neck and
hair, so that shoulders and body stay where they are. The person is laid over the background, which stays as well. Real heads move like
that, and held-out or foreign poses are mostly such near neighbours of what was filmed.

Fields say how far points move, in pixels of the frame, on a coarse grid: small arrays that the loader makes (`head_fields`) from what the
frames show (data.augmentation.head_shapes). What is as large as a frame is moved on the device that trains (`move_heads`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from data.augmentation.grid import GRID, grid_points
from data.augmentation.head_shapes import HeadShapes
from util.face.appearance import cell_of

if TYPE_CHECKING:
    import torch

TRANSLATION = 0.05  # of the image's side, at most
SCALE = 0.05  # at most
ANGLE_DEG = 7.0  # at most
TURN_DEG = 12.0  # out of the picture, at most, sideways and up or down
_SAME_PLACE = 4  # grey levels of the NMFC image by which the same place of the head may differ between two frames: teeth lie 10 behind lips
_SOFT = 0.003  # of the image's side: blur between what was filmed and what takes the person's colours, as a lens makes it
_SPECK = 0.3  # part of a blurred pixel's surroundings that must be unseen
_MASK_BLUR = 0.012  # of the image's side: blur of the person's mask
_HAIR_MARGIN = 0.03  # of the image's side around the mask: may hold hair, which must not stay behind
_INVERSION_STEPS = 10  # of the fixed-point iteration that inverts a field
_FIXED_POINT_DAMPING = 0.6  # part of the way that each step goes: the field's slope may be large


@dataclass(frozen=True)
class HeadMotion:
    """One random motion of the head, constant over a clip."""

    affine: np.ndarray  # float64 [2, 3], maps points to points relative to the head's centre, in parts of the side
    turn: np.ndarray  # float64 [2], radians: how far what is near turns to the right and down in the picture


def random_head_motion(rng: np.random.Generator) -> HeadMotion:
    """Draw a motion: each part evenly up to its largest value, both ways."""
    angle, scale = np.radians(rng.uniform(-ANGLE_DEG, ANGLE_DEG)), rng.uniform(1 - SCALE, 1 + SCALE)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-TRANSLATION, TRANSLATION, 2)
    return HeadMotion(np.column_stack([linear, shift]), np.radians(rng.uniform(-TURN_DEG, TURN_DEG, 2)))


# ---- fields, on the processor ----


def head_fields(motion: HeadMotion, shapes: HeadShapes, size: int) -> np.ndarray:
    """How far every point of frames of `size` pixels moves if it moves with the head: float32 [N, G, G, 2], x and y in pixels.

    Frames without a face stay as they are.
    """
    there = np.isfinite(shapes.centre[:, 0])
    fields = no_motion(len(there))
    if there.any():
        place, near = grid_points(size, GRID) - shapes.centre[there].mean(0), shapes.nearer[there]
        angle = float(np.linalg.norm(motion.turn))
        towards = motion.turn / max(angle, 1e-9)
        turned = place + ((np.cos(angle) - 1) * (place @ towards) + np.sin(angle) * near)[..., None] * towards
        fields[there] = turned @ motion.affine[:, :2].T + motion.affine[:, 2] * size - place
    return fields


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

    batch, all on one device: `image` uint8 [B, T, H, H, 3]; `nmfc` uint8 [B, T + context, H, H, 3]; `flows` {s: [B, T - s, 2, h, w]} (if
    there are); and `motion`:
        frames      float32 [B, T, G, G, 2], fields of the frames
        masks       uint8 [B, T, any, any], 255 where the person is
        background  uint8 [B, H, H, 4] (util.caches)
    with, where the face model's mesh is known, `nmfc` as it is to be, and
        sources     float32 [B, T, g, g, 4], as data.augmentation.mesh_motion.ChangedMesh
        filmed      uint8 [B, T, H, H, 3], the NMFC images of the frames as filmed
    and, beside `motion`, `colours` uint8 [B, CELLS ** 3, 3], the person's (util.face.appearance); and else
        nmfcs       float32 [B, T + context, G, G, 2], fields of the NMFC images, as filmed.
    Returns the batch without `motion`, image, nmfc and flows replaced.
    """
    import torch

    motion = batch["motion"]
    moved = motion["frames"].flatten(1).any(1)
    rest = {k: v for k, v in batch.items() if k != "motion"}
    b, count, size = batch["image"].shape[:3]
    forwards = motion["frames"].movedim(-1, 2).flatten(0, 1)  # [B T, 2, G, G]
    backwards = _inverse(forwards, size)

    def keep(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return torch.where(moved.view(-1, *[1] * (old.dim() - 1)), new.to(old.dtype), old)

    unseen = painted = None
    if "sources" in motion:
        backwards = _with_mesh(backwards, motion["sources"].flatten(0, 1), size)
        unseen, painted = _unseen(batch["nmfc"][:, -count:], motion["filmed"], batch["colours"], motion["sources"], backwards)
    else:
        nmfc = batch["nmfc"].flatten(0, 1).movedim(-1, 1).float()
        source = _sources(_inverse(motion["nmfcs"].movedim(-1, 2).flatten(0, 1), size), size, size)
        nmfc = _sample(nmfc, source, size, "nearest", "zeros").movedim(1, -1)
        rest["nmfc"] = keep(nmfc.unflatten(0, (b, -1)), batch["nmfc"])
    masks = motion["masks"].flatten(0, 1)[:, None].float() / 255
    background = motion["background"].repeat_interleave(count, 0)
    image = _lay_over(batch["image"].flatten(0, 1), backwards, masks, background, unseen, painted)
    rest["image"] = keep(image.unflatten(0, (b, count)), batch["image"])
    if "flows" in batch:
        if "sources" in motion:
            forwards = _inverse(backwards, size)  # the way back of the way back
        forwards, backwards, masks = (x.unflatten(0, (b, count)) for x in (forwards, backwards, masks))
        rest["flows"] = {
            s: keep(_move_flow(f, forwards[:, : count - s], backwards[:, s:], masks[:, s:], size), f) if f.shape[1] else f
            for s, f in batch["flows"].items()
        }
    return rest


def look_up(colours: torch.Tensor, nmfc: torch.Tensor, backdrop: torch.Tensor | None = None) -> torch.Tensor:
    """The persons drawn by NMFC images: uint8 [B, CELLS ** 3, 3] and [B, n, H, W, 3] -> uint8 [B, n, H, W, 3].

    backdrop: uint8 [B, H, W, 3], shown where there is no head; None: the colour of its cell.
    """
    import torch

    cells = cell_of(nmfc.long()).flatten(1)[..., None]
    drawn = colours.gather(1, cells.expand(-1, -1, 3)).view(nmfc.shape)
    return drawn if backdrop is None else torch.where(cells.view(*nmfc.shape[:-1], 1) > 0, drawn, backdrop[:, None])


def _with_mesh(backwards: torch.Tensor, sources: torch.Tensor, size: int) -> torch.Tensor:
    """The field that leads back to the frames as filmed, [N, 2, g, g] in pixels: the mesh's on the face, [N, G, G] where it ends."""
    import torch
    import torch.nn.functional as F

    mesh, weight = sources[..., :2].movedim(-1, 1) * size, sources[..., 2][:, None]
    away = F.interpolate(backwards, size=mesh.shape[-2:], mode="bilinear", align_corners=False)
    return torch.lerp(away, mesh, weight)


def _unseen(
    nmfc: torch.Tensor, filmed: torch.Tensor, colours: torch.Tensor, sources: torch.Tensor, backwards: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the frame as filmed does not show the place of the head that is to be seen, [N, 1, H, H] in 0..1; and its colour there.

    NMFC images tell: the same place of the head has the same colour in both.
    """
    import torch
    import torch.nn.functional as F

    size = nmfc.shape[2]
    painted = look_up(colours, nmfc).flatten(0, 1).movedim(-1, 1).float()
    nmfc, filmed = (x.flatten(0, 1).movedim(-1, 1).float() for x in (nmfc, filmed))
    # triangles are of one colour, and so a pixel beside the right one may show another: what those around it span counts as shown
    span = filmed, -F.max_pool2d(-filmed, 3, stride=1, padding=1), F.max_pool2d(filmed, 3, stride=1, padding=1)
    places = _sources(backwards, size, size)
    then, low, high = (_sample(x, places, size, "nearest", "zeros") for x in span)
    away = torch.maximum(low - nmfc, nmfc - high).amax(1, keepdim=True)
    other = (away > _SAME_PLACE) & nmfc.any(1, keepdim=True) & then.any(1, keepdim=True)
    # soft as a lens makes it, and without single pixels
    here = F.interpolate(sources[..., 3].flatten(0, 1)[:, None], size=(size, size), mode="bilinear", align_corners=False)
    return here * ((_blurred(other.float(), _SOFT * size) - _SPECK) / (1 - 2 * _SPECK)).clamp(0, 1), painted


def _lay_over(
    image: torch.Tensor,
    backwards: torch.Tensor,
    mask: torch.Tensor,
    background: torch.Tensor,
    unseen: torch.Tensor | None = None,
    painted: torch.Tensor | None = None,
) -> torch.Tensor:
    """The moved person before the background, uint8 [N, H, H, 3]; mask: [N, 1, any, any] in 0..1; background: uint8 [N, H, H, 4].

    Where the background is not known the picture bends with the person: the generator would learn an inpainted guess as real.
    unseen, painted: as `_unseen` gives them.
    """
    import torch
    import torch.nn.functional as F

    size = image.shape[1]
    image, background, known = (x.movedim(-1, 1).float() for x in (image, background[..., :3], background[..., 3:] / 255))
    mask = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)
    reach = round(_HAIR_MARGIN * size)
    hidden = _blurred(F.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach), _MASK_BLUR * size)
    source = _sources(backwards, size, size)
    person = _sample(image, source, size, "bicubic")
    if unseen is not None:
        person = torch.lerp(person, painted, unseen)
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
