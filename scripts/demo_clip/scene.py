"""The built-in demo clip: scikit-image's `astronaut` portrait (Eileen Collins, NASA, public domain) made to move and talk.

The portrait is taken apart into layers, from back to front:

- the plate: the photograph without the head. What the head hid is filled in, and the neck goes on behind the chin;
- the inside of the mouth (the photographed upper teeth, painted lower teeth, tongue and cavity) and the two eyeballs;
- the head: a fine mesh with depth, with holes at the mouth and the eyes, textured with the photograph.

The face model mesh478 is fitted to the portrait. Its expression shapes move the 468 face points of the mesh, and the rest
follows smoothly; so the true head rotation and expression of every frame are known in the model's own terms.

Lengths are in pixels of the CROP of the photograph ("photo pixels") unless a name says otherwise: x right, y down, z away
from the camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.face_models.dense_points import SKIN
from preprocessing.render.cpu import CpuRenderer
from scripts.demo_clip.contours import FOLDS, JAW, LOWER_LIDS, LOWER_LIP, SIDES, UPPER_LIDS, UPPER_LIP
from scripts.demo_clip.head_mesh import HeadMesh
from scripts.demo_clip.images import blur, disc, fill, look_up
from scripts.demo_clip.inner_parts import Eye, Mouth
from scripts.demo_clip.motion import Motion
from scripts.demo_clip.portrait import CROP, load_portrait
from scripts.demo_clip.portrait_fit import fit_portrait
from scripts.demo_clip.rig import Rig
from util.numeric import smoothstep

# Measured in the crop: the neck's outline (its left and right edge and their slant, x per y), and the collar.
NECK = (96.0, 163.3)
NECK_SLANT = 0.16  # of the right edge, upwards; the left one is upright
COLLAR_Y = 186.0
RING_Y = 146.5  # where the suit's ring comes out from behind the jaw, on the left
SHUT_LIPS = np.float32([0.27, 0.13, 0.11])  # colour of the line between them
SHUT_LIDS = np.float32([0.16, 0.10, 0.07])
TEETH_DEPTH = 3.0  # behind the lips
EYEBALL_CM = 1.2  # radius


def head_rotation(rotation_deg: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] in camera axes for pitch (chin up +), yaw (to the picture's right +) and roll (clockwise +) in degrees."""
    pitch, yaw, roll = np.deg2rad(rotation_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Frame:
    image: np.ndarray  # uint8 [size, size, 3] RGB
    points: np.ndarray  # float32 [468, 3]: true positions of the detector's points, pixels of the image


class DemoScene:
    """The portrait ready to be moved. size: side of the pictures in pixels."""

    def __init__(self, size: int = 512) -> None:
        self.size = size
        self.portrait = load_portrait(2 * size)
        self.fit = fit_portrait(self.portrait.landmarks)
        self.mesh = HeadMesh(self.portrait)
        self.rig = Rig(self.portrait, self.fit, self.mesh)
        self.eyes = [Eye(self.portrait, i) for i in range(2)]
        self.mouth = Mouth(self.portrait)
        self.pivot = np.array([*self.portrait.landmarks[[234, 454, 132, 361], :2].mean(0) + [0, 6], self.rig.ear_depth - 5])
        self._zoom = size / CROP[2]
        self._rasteriser = CpuRenderer(self.mesh.triangles, np.zeros(self.mesh.triangles.shape, np.uint8), (size, size))
        self._grid = np.mgrid[:size, :size][::-1].astype(np.float32) + 0.5  # x, y of the pixels' centres
        self._make_head()
        self._make_plate()

    def _make_head(self) -> None:
        """Texture of the head, RGBA with colours multiplied by opacity, and what expressions change of it."""
        p = self.portrait
        opacity = p.person * blur(p.head_area, 0.5 * p.zoom)
        self.head_opacity = opacity
        for outline, width in zip(p.holes, (0.7, 0.5, 0.5)):  # soft edges; the mesh ends at the outline
            opacity = opacity * np.clip(p.distance(p.polygon(outline)) / width, 0, 1)
        inner = cv2.erode((self.head_opacity > 0.97).astype(np.uint8), disc(0.8 * p.zoom))
        colour = fill(p.photo, inner)  # no background shines through the rim
        self._head = np.dstack([colour * opacity[..., None], opacity])
        self._changes = []  # (rows and columns, change of the texture, curve: weights by name -> 0..1)

        def add(mask: np.ndarray, changed: np.ndarray, curve) -> None:
            rows, columns = np.flatnonzero(mask.max(1) > 0.01), np.flatnonzero(mask.max(0) > 0.01)
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            change = ((changed - colour) * (mask * opacity)[..., None])[box]
            self._changes.append((box, change.astype(np.float32), curve))

        # The folds of the photographed smile flatten without it.
        lines = np.zeros(opacity.shape, np.uint8)
        for fold in FOLDS:
            cv2.polylines(lines, [np.round(p.landmarks[list(fold), :2] * p.zoom).astype(np.int32)], False, 255)
        distance = p.distance(lines > 0)
        flat = fill(colour, distance > 3.5)
        add(0.65 * smoothstep(-distance, -4.5, -1.5), flat, lambda w: 1 - min(0.5 * (w["mouthSmile_L"] + w["mouthSmile_R"]) / 0.8, 1))
        # A falling lid shows smooth skin and, along its edge, the lashes.
        for side, upper, lower, outline in zip(SIDES, UPPER_LIDS, LOWER_LIDS, p.holes[1:]):
            contour = p.landmarks[list(upper), :2]
            middle = (contour + p.landmarks[list(lower), :2]) / 2
            columns = (np.arange(len(opacity)) + 0.5) / p.zoom
            above = np.arange(len(opacity))[:, None] / p.zoom < np.interp(columns, *middle.T) + 0.3
            distance = p.distance(p.polygon(outline))
            skin = 0.96 * fill(colour, distance > 4.5)
            lashes = np.exp(-((distance / 0.9) ** 2))[..., None]
            skin = skin + (SHUT_LIDS - skin) * 0.8 * lashes
            mask = smoothstep(-distance, -4.5, -3.0) * blur(above.astype(np.float32), 0.3 * p.zoom)
            add(mask, skin, lambda w, name=f"eyeBlink_{side}": float(smoothstep(w[name], 0.1, 0.7)))

    def _make_plate(self) -> None:
        """The photograph without the head, and how its parts follow the torso and the neck."""
        p = self.portrait
        hidden = cv2.dilate((self.head_opacity > 0.02).astype(np.uint8), disc(1.8 * p.zoom))
        plate = fill(p.photo, 1.0 - hidden)
        # The collar's ring meets the neck behind the jaw: every row goes on in the colour just left of it.
        left = round(NECK[0] * p.zoom)
        for row in range(round(RING_Y * p.zoom), round(p.landmarks[JAW[2], 1] * p.zoom)):
            jaw = np.argmax(hidden[row])
            plate[row, jaw:left] = p.photo[row, jaw - round(p.zoom) : jaw].mean(0)
        # The neck goes on behind the chin: every column in the colours just below it, blurred.
        rows = np.arange(len(plate))
        slope = NECK_SLANT * (COLLAR_Y - p.landmarks[JAW[0], 1] + 12)
        right = round((NECK[1] + slope) * p.zoom)
        below = len(rows) - np.argmax(hidden[::-1, left:right] > 0, 0) + round(3.5 * p.zoom)  # below the chin's shadow
        skin = np.stack([p.photo[y : y + round(2.5 * p.zoom), left + i].mean(0) for i, y in enumerate(below)])
        skin[round(NECK[1] * p.zoom) - left :] = skin[round(NECK[1] * p.zoom) - left - 1]  # beside the collar there is no skin
        skin = cv2.GaussianBlur(skin[None], (0, 0), 7 * p.zoom, borderType=cv2.BORDER_REPLICATE)[0]
        neck, column = np.zeros_like(plate), np.zeros(hidden.shape, np.float32)
        neck[:, left:right] = skin
        column[:, left:right] = rows[:, None] < below
        top = p.landmarks[JAW[0], 1] - 12
        column *= p.polygon([(NECK[0], top), (NECK[1] + slope, top), (NECK[1], COLLAR_Y), (NECK[0], COLLAR_Y)])
        column = blur(column, 0.6 * p.zoom)[..., None]
        plate += (fill(neck, column[..., 0] > 0.5) - plate) * column

        def shrink(image: np.ndarray) -> np.ndarray:
            return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)

        self._plate = plate.astype(np.float32)
        y = self._grid[1] / self._zoom
        chin = p.landmarks[152, 1]
        torso = shrink(blur(p.person * (1 - p.head_area), 8 * p.zoom))
        self._follows_torso = torso * smoothstep(y, chin - 45, chin - 10)
        x = self._grid[0] / self._zoom
        across = smoothstep(x, NECK[0] - 14, NECK[0]) * smoothstep(-x, -NECK[1] - 14, -NECK[1])
        self._follows_neck = across * smoothstep(-y, -COLLAR_Y - 4, -chin + 10)
        right_edge = NECK[1] + NECK_SLANT * (COLLAR_Y - y)
        inside = smoothstep(x, NECK[0] - 1, NECK[0] + 1) * smoothstep(right_edge - x, -1, 1)
        self._shaded = inside * smoothstep(-y, -COLLAR_Y - 2, -COLLAR_Y + 2)

    def render(self, motion: Motion, index: int) -> Frame:
        """Draw a frame of a motion."""
        percent = CROP[2] / 100
        rotation = head_rotation(motion.rotation_deg[index])
        scale = motion.scale[index]
        sway, camera = motion.sway[index] * percent, motion.camera[index] * percent
        offset = motion.translation[index] * percent + sway + camera
        weights = self.rig.weights({name: curve[index] for name, curve in motion.expression.items()})
        relaxed = self.rig.pose(weights)
        posed = scale * (relaxed - self.pivot) @ rotation.T + self.pivot
        posed[:, :2] += offset

        def plane(depth: float) -> tuple[np.ndarray, np.ndarray]:
            """Where a point at this depth of the unmoved head lands: A, b of A @ [x, y] + b."""
            a = scale * rotation[:2, :2]
            b = scale * rotation[:2, 2] * (depth - self.pivot[2]) - a @ self.pivot[:2] + self.pivot[:2] + offset
            return a, b

        head = self._draw_head(posed, dict(zip(self.rig.names, weights)))
        a, b = plane(self.rig.ear_depth)
        neck_top = np.array([np.mean(NECK), self.portrait.landmarks[152, 1] - 8])
        image = self._draw_plate(camera, sway, 0.6 * (a @ neck_top + b - neck_top - sway - camera), head[..., 3])

        gaze = np.sin(np.deg2rad(motion.gaze_deg[index])) * EYEBALL_CM * self.fit.scale * [1, -1]
        for eye, upper, lower in zip(self.eyes, UPPER_LIDS, LOWER_LIDS):
            around = [*upper, *lower]
            box, x, y = self._behind(posed[around, :2], *plane(self.rig.base[around, 2].mean() + 1))
            # The upper lid and its lashes throw a shadow; the lower one has an edge.
            lids = [np.interp(self._grid[0][box], *(posed[list(lid), :2] * self._zoom).T) for lid in (upper, lower)]
            from_upper, from_lower = (np.maximum(d, 0) / self._zoom for d in (self._grid[1][box] - lids[0], lids[1] - self._grid[1][box]))
            shadow = np.maximum(0.55 * np.exp(-((from_upper / 1.6) ** 2)), 0.3 * np.exp(-((from_lower / 0.7) ** 2)))[..., None]
            image[box] = eye.colour(x, y, gaze) * (1 - shadow) + SHUT_LIDS * shadow
        around = [*UPPER_LIP, *LOWER_LIP]
        box, x, y = self._behind(posed[around, :2], *plane(self.rig.base[around, 2].mean() + TEETH_DEPTH))
        jaw = (relaxed - self.rig.base)[17, 1] + 3  # the jaw of the photographed smile is open a little
        light = smoothstep(blur(1 - head[box][..., 3], 1.7 * self._zoom), 0.05, 0.8)  # the wider open, the more comes in
        image[box] = SHUT_LIPS + (self.mouth.colour(x, y, jaw) - SHUT_LIPS) * light[..., None]

        image = image * (1 - head[..., 3:]) + head[..., :3]
        picture = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return Frame(picture, (posed[:SKIN] * self._zoom).astype(np.float32))

    def _draw_head(self, posed: np.ndarray, weights: dict[str, float]) -> np.ndarray:
        """The head alone, RGBA with colours multiplied by opacity."""
        texture = self._head
        for k, (box, change, curve) in enumerate(self._changes):
            amount = curve(weights)
            if amount > 0:
                texture = texture.copy() if k == 0 or texture is self._head else texture
                texture[box][..., :3] += amount * change
        # An affine map of every triangle takes pixels of the picture to pixels of the texture.
        vertices = (posed + self.rig.order[:, None] * [0, 0, 1]) * self._zoom
        ids = self._rasteriser.draw_ids(vertices)
        a, b, c = (vertices[self.mesh.triangles[:, i], :2] for i in range(3))
        ta, tb, tc = (self.mesh.points[self.mesh.triangles[:, i]] * self.portrait.zoom for i in range(3))
        edges, texture_edges = np.stack([b - a, c - a], -1), np.stack([tb - ta, tc - ta], -1)
        determinant = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
        adjugate = np.stack([edges[:, 1, 1], -edges[:, 0, 1], -edges[:, 1, 0], edges[:, 0, 0]], -1).reshape(-1, 2, 2)
        determinant = np.where(np.abs(determinant) < 1e-9, 1e-9, determinant)
        linear = texture_edges @ adjugate / determinant[:, None, None]
        shift = ta - np.einsum("nij,nj->ni", linear, a) - 0.5
        maps = np.concatenate([linear, shift[..., None]], -1).reshape(-1, 6).astype(np.float32)
        maps = np.concatenate([maps, np.float32([[0, 0, -1e4, 0, 0, -1e4]])])  # the last, for id -1, leads outside
        box = self._box(vertices)
        m = maps[ids[box]]
        x, y = self._grid[0][box], self._grid[1][box]
        at_x, at_y = (m[..., i] * x + m[..., i + 1] * y + m[..., i + 2] for i in (0, 3))
        head = np.zeros((self.size, self.size, 4), np.float32)
        head[box] = cv2.remap(texture, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return head

    def _draw_plate(self, camera: np.ndarray, sway: np.ndarray, neck: np.ndarray, head: np.ndarray) -> np.ndarray:
        """The plate with the torso moved by sway and the neck by neck, photo pixels; the head's shadow falls on the neck."""
        x, y = self._grid / self._zoom
        x, y = (g - camera[i] - sway[i] * self._follows_torso - neck[i] * self._follows_neck for i, g in enumerate((x, y)))
        plate = look_up(self._plate, x, y, self.portrait.zoom)
        small = cv2.resize(head, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        drop = 3.0 * self._zoom / 4
        small = cv2.warpAffine(blur(small, 4.0 * self._zoom / 4), np.float32([[1, 0, 0], [0, 1, drop]]), small.shape[::-1])
        shadow = cv2.resize(small, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return plate * (1 - 0.5 * shadow * self._shaded)[..., None]

    def _box(self, points: np.ndarray) -> tuple[slice, slice]:
        """Rows and columns of the picture around points [n, 2 or more] of it."""
        low = np.clip(np.floor(points.min(0) - 4).astype(int), 0, self.size)
        high = np.clip(np.ceil(points.max(0) + 4).astype(int), 0, self.size)
        return slice(low[1], high[1]), slice(low[0], high[0])

    def _behind(self, points: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The picture's part around points [n, 2] and, for its pixels, the photo pixels of a plane that A, b place."""
        box = self._box(points * self._zoom)
        x, y = (g[box] / self._zoom - b[i] for i, g in enumerate(self._grid))
        inverse = np.linalg.inv(a)
        return box, inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y

    def frames(self, motion: Motion) -> Iterator[Frame]:
        """All frames of a motion."""
        for i in range(len(motion)):
            yield self.render(motion, i)

    def truth(self, motion: Motion) -> dict[str, np.ndarray]:
        """What is known of every frame, in the face model's terms (see docs/demo_clip.md)."""
        relative = np.stack([head_rotation(r) for r in motion.rotation_deg])
        curves = [{n: c[i] for n, c in motion.expression.items()} for i in range(len(motion))]
        expression = np.stack([self.rig.weights(c) for c in curves])

        def curve(name: str) -> np.ndarray:
            return expression[:, self.rig.names.index(name)].astype(np.float32)

        return {
            "fps": np.array(motion.fps),
            "head_rotation_relative": relative.astype(np.float32),
            "head_rotation": (relative @ self.fit.rotation @ np.diag([1, -1, -1])).astype(np.float32),
            "rotation_deg": motion.rotation_deg.astype(np.float32),
            "scale": (motion.scale * self.fit.scale * self._zoom).astype(np.float32),
            "expression": expression.astype(np.float32),
            "expression_names": np.array(self.rig.names),
            "jaw_open": curve("jawOpen"),
            "blink_right": curve("eyeBlink_R"),
            "blink_left": curve("eyeBlink_L"),
            "gaze_deg": motion.gaze_deg.astype(np.float32),
        }
