"""Make the embedded tables of preprocessing/face_models/face_data/ again (nobody needs to, they are in the repository).

    python scripts/make_face_data.py --archive ICT-FaceKit.zip [--output DIR] [--heads 400]

1. Heads of random identity, expression and pose are drawn from ICT-FaceKit, and MediaPipe finds its 478 points on them.
2. Each point gets the place on the surface whose projections are nearest to its detections, over all heads at once. Heads
   in motion tell upper from lower lip, lids from brows and front from back, so no depth or visibility is needed. Every
   head counts a second time as its mirror image, so the result is symmetric.
3. ict_landmarks478.txt holds those places; mesh478.npz the mean, expressions and first identity modes of ICT at them.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import cv2
import numpy as np

from preprocessing.face_models import ict, mesh478
from preprocessing.face_models.dense_points import LEFT_IRIS, N_POINTS, RIGHT_IRIS, RIGHT_LIDS, SKIN
from preprocessing.render import create_renderer
from preprocessing.tracking.mediapipe_tools import load_solutions, silent_stderr
from util.cli import UserError, progress, run, say
from util.geometry import FRONTAL, Cameras, rotation_matrix
from util.image_io import write_bytes

SIZE = 576  # pixels of a drawn head
IDENTITY_MODES = 40  # of ICT's, kept for mesh478
FACE_VERTICES = 9409  # of ICT: face, first in the list
LANDMARKS_68 = "idx_to_landmark_verts"

UPPER_LID = (246, 161, 160, 159, 158, 157, 173)  # right eye, from the outer corner
LOWER_LID = (7, 163, 144, 145, 153, 154, 155)
INNER_UPPER_LIP = (191, 80, 81, 82, 13, 312, 311, 310, 415)
INNER_LOWER_LIP = (95, 88, 178, 87, 14, 317, 402, 318, 324)
MOUTH_LOOP = (78, *INNER_UPPER_LIP, 308, *INNER_LOWER_LIP[::-1])
IRIS_SWAP = (473, 476, 475, 474, 477, 468, 471, 470, 469, 472)  # mirror images of 468..477
NOT_FACES = {(49, 64, 129), (279, 294, 358)}  # 3-cycles of the tesselation that enclose others


# ---- drawing heads ----


def vertex_colours(mean: np.ndarray, triangles: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """A plausible paint for ICT's mean head, enough for a landmark detector: float [V, 3], RGB 0..255."""
    colour = np.tile([205.0, 160, 140], (len(mean), 1))
    for first, last, rgb in (
        (11248, 13294, (50, 18, 18)),  # mouth socket
        (13294, 14062, (150, 90, 80)),  # eye sockets
        (14062, 17039, (130, 60, 60)),  # gums and tongue
        (17039, 21451, (230, 225, 215)),  # teeth
    ):
        colour[first:last] = rgb
    for part in ict.EYEBALLS.values():
        ball = mean[part]
        centre = (ball.min(0) + ball.max(0)) / 2
        radius, front = np.linalg.norm((ball - centre)[:, :2], axis=1), ball[:, 2] > centre[2]
        paint = np.tile([235.0, 232, 230], (len(ball), 1))
        paint[front & (radius < 0.62)] = (70, 50, 35)
        paint[front & (radius < 0.25)] = (8, 8, 8)
        colour[part] = paint
    face = np.arange(len(mean)) < FACE_VERTICES

    def inside(polygon: np.ndarray) -> np.ndarray:
        shape = polygon.astype(np.float32).reshape(-1, 1, 2)
        return np.array([cv2.pointPolygonTest(shape, (float(x), float(y)), True) for x, y in mean[:, :2]])

    # only the lips' front is red: what lies behind the surface that a frontal view shows is the mouth's dark
    view = np.stack([SIZE / 2 + 20 * mean[:, 0], SIZE / 2 - 20 * mean[:, 1], -20 * mean[:, 2]], 1).astype(np.float32)
    ids = create_renderer("cpu", triangles, _number_colours(len(triangles)), (SIZE, SIZE)).draw(view)
    ids = ids.astype(int) @ [1, 256, 65536] - 1
    x, y = np.clip(view[:, :2].round().astype(int), 0, SIZE - 1).T
    hit = ids[y, x]
    behind = np.where(hit >= 0, mean[triangles[np.maximum(hit, 0)]].mean(1)[:, 2] - mean[:, 2], 0)
    mouth = inside(mean[landmarks[48:60], :2])
    colour[face & (mouth > 0) & (mean[:, 2] > 8) & (behind < 0.25)] = (165, 75, 75)
    colour[face & (mouth > -0.3) & (mean[:, 2] > 5) & (behind >= 0.25)] = (70, 25, 25)
    for brow in (landmarks[17:22], landmarks[22:27]):
        line = mean[brow, :2]
        colour[face & (inside(np.concatenate([line + [0, 0.25], (line - [0, 0.3])[::-1]])) > 0) & (mean[:, 2] > 5)] = (50, 35, 25)
    colour[(np.arange(len(mean)) < 11248) & ((mean[:, 1] > 10) | ((mean[:, 2] < 2.5) & (mean[:, 1] > 1)))] = (45, 32, 25)  # hair
    return colour


def _number_colours(count: int) -> np.ndarray:
    """A colour for each number from 1 on: uint8 [count, 3]."""
    n = np.arange(1, count + 1)
    return np.stack([n & 255, n >> 8 & 255, n >> 16], 1).astype(np.uint8)


def draw(vertices: np.ndarray, triangles: np.ndarray, colours: np.ndarray, camera: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Draw a head shaded: the picture uint8 [SIZE, SIZE, 3], and its vertices in the image [V, 3]."""
    view = camera.project(vertices)[0]
    a, b, c = (view[triangles[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    light = np.array([0.25, -0.45, -0.85]) / np.linalg.norm([0.25, 0.45, 0.85])
    shade = 0.45 + 0.6 * np.abs(normal @ light)
    paint = np.clip(colours[triangles].mean(1) * shade[:, None], 1, 255).astype(np.uint8)
    picture = create_renderer("cpu", triangles, paint, (SIZE, SIZE)).draw(view.astype(np.float32))
    picture[~picture.any(2)] = (140, 150, 155)
    return cv2.GaussianBlur(picture, (0, 0), 1.0), view


def random_expression(names: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """A sparse expression with the jaw, lids and gaze that landmarks must tell apart: float [K]."""
    weights = np.zeros(len(names))

    def put(name: str, weight: float) -> None:
        for n in (name,) if name in names else (f"{name}_L", f"{name}_R"):
            weights[names.index(n)] = max(weight, 0)

    put("jawOpen", rng.choice([0, 0.15, 0.3, 0.5, 0.8]))
    put("eyeBlink", rng.choice([0, 0, 0, 0.5, 1.0]))
    up, left = rng.uniform(-1, 1, 2) * (rng.random() < 0.5)
    put("eyeLookUp", up)
    put("eyeLookDown", -up)
    for a, b in (("L", "R"), ("R", "L")):
        put(f"eyeLookOut_{a}", left if a == "L" else -left)
        put(f"eyeLookIn_{b}", left if a == "L" else -left)
    others = "mouthSmile mouthPucker mouthFunnel browInnerUp browOuterUp browDown mouthUpperUp mouthLowerDown mouthLeft mouthRight"
    for name in (others + " mouthFrown mouthStretch mouthPress eyeWide eyeSquint").split():
        if rng.random() < 0.15:
            put(name, rng.uniform(0.3, 1))
    return weights


def detect_on_heads(mean, identity, expression, names, triangles, landmarks, heads: int):
    """Draw heads and find the dense points on them.

    Returns: detections [H, 478, 2] and vertices [H, V, 2] in centimetres of the picture, and weights [H] that prefer
    frontal heads.
    """
    triangles = triangles[(triangles < ict.KEPT_VERTICES).all(1)]
    colours, rng = vertex_colours(mean, triangles, landmarks), np.random.default_rng(1)
    found, vertices, weights = [], [], []
    with silent_stderr():
        mesh = load_solutions().face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True, min_detection_confidence=0.2)
    with mesh:
        for i in progress(range(heads), desc="heads", unit="head"):
            yaw, pitch, roll = np.deg2rad(rng.normal(0, (16, 9, 4)))
            turn = rotation_matrix([0, yaw, 0]) @ rotation_matrix([pitch, 0, 0]) @ rotation_matrix([0, 0, roll])
            weight = random_expression(names, rng) if i % 4 else np.zeros(len(names))
            head = mean + np.tensordot(rng.normal(0, 0.7, len(identity)), identity, 1) + np.tensordot(weight, expression, 1)
            scale = rng.uniform(17, 22)
            camera = Cameras(np.array([scale]), (turn @ FRONTAL)[None], np.array([[SIZE / 2, SIZE / 2 - scale, 0]]))
            picture, view = draw(head, triangles, colours, camera)
            result = mesh.process(picture)
            if result.multi_face_landmarks:
                found.append([(p.x * SIZE / scale, p.y * SIZE / scale) for p in result.multi_face_landmarks[0].landmark])
                vertices.append((view[:, :2] / scale).astype(np.float32))
                weights.append(np.exp(-((yaw / np.deg2rad(18)) ** 2) - (pitch / np.deg2rad(15)) ** 2))
    if len(found) < heads / 2:
        raise UserError(f"the detector found only {len(found)} of {heads} heads; check the installation of MediaPipe")
    return np.array(found), np.array(vertices), np.array(weights)


# ---- where the points lie ----


class Embedding:
    """Places on ICT's surface: three vertices and their weights for each of the 478 points."""

    def __init__(self, found: np.ndarray, vertices: np.ndarray, weights: np.ndarray, triangles: np.ndarray):
        self.found, self.vertices, self.triangles = found, vertices, triangles
        self.candidates = [(np.arange(FACE_VERTICES), range(SKIN))]
        self.candidates += [(np.arange(part.start, part.stop), points) for part, points in zip(
            (ict.EYEBALLS["R"], ict.EYEBALLS["L"]), (RIGHT_IRIS, LEFT_IRIS))]  # fmt: skip
        self.around: dict[int, list[int]] = {}
        for t, corners in enumerate(triangles):
            for v in corners:
                self.around.setdefault(int(v), []).append(t)
        # heads on which the detector failed count little
        quality = np.ones(len(found))
        for _ in range(3):
            self.weights = weights * quality
            nearest = {p: v[0] for p, v in self.nearest_vertices(1).items()}
            residual = np.linalg.norm(vertices[:, [nearest[p] for p in range(N_POINTS)]] - found, axis=-1)
            typical = np.median(residual, 1)
            quality = 1 / (1 + (typical / np.median(typical)) ** 4)

    def nearest_vertices(self, count: int) -> dict[int, np.ndarray]:
        """For each point the vertices with the least mean squared distance to its detections."""
        out = {}
        for candidates, points in self.candidates:
            p, d, w = self.vertices[:, candidates].astype(np.float64), self.found[:, list(points)], self.weights
            mixed = np.einsum("hlc,hvc->lv", d * w[:, None, None], p, optimize=True)
            cost = np.einsum("h,hvc->v", w, p**2)[None] - 2 * mixed
            for row, point in zip(cost, points):
                out[point] = candidates[np.argsort(row)[:count]]
        return out

    def place(self, point: int, corners: np.ndarray) -> tuple[float, np.ndarray]:
        """Best barycentric weights of one point in a triangle (or on an edge, with two corners): mean squared distance, weights."""
        root = np.sqrt(np.repeat(self.weights, 2))
        a = self.vertices[:, corners].astype(np.float64).transpose(0, 2, 1).reshape(-1, len(corners)) * root[:, None]
        y = self.found[:, point].reshape(-1) * root
        best = (np.inf, np.zeros(len(corners)))
        # the optimum lies inside, on an edge or in a corner: try all supports, keep the best allowed
        for support in range(1, 2 ** len(corners)):
            use = [k for k in range(len(corners)) if support >> k & 1]
            base, rest = a[:, use[0]], a[:, use[1:]] - a[:, use[:1]]
            share = np.linalg.lstsq(rest, y - base, rcond=None)[0] if len(use) > 1 else np.zeros(0)
            share = np.concatenate([[1 - share.sum()], share])
            if (share >= 0).all():
                cost = ((y - a[:, use] @ share) ** 2).sum() / self.weights.sum()
                if cost < best[0]:
                    full = np.zeros(len(corners))
                    full[use] = share
                    best = (cost, full)
        return best

    def solve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Corners [478, 3], weights [478, 3] and rms distances [478] in cm."""
        corners, shares, rms = np.zeros((N_POINTS, 3), int), np.zeros((N_POINTS, 3)), np.zeros(N_POINTS)
        near = self.nearest_vertices(12)
        for point in progress(range(N_POINTS), desc="places", unit="point"):
            tried = sorted({t for v in near[point] for t in self.around[int(v)]})
            options = [(*self.place(point, self.triangles[t]), t) for t in tried]
            cost, share, t = min(options, key=lambda o: o[0])
            corners[point], shares[point], rms[point] = self.triangles[t], share, np.sqrt(cost)
        return corners, shares, rms


def mirror_pairs(places: np.ndarray) -> np.ndarray:
    """Which of the 478 points is which one's mirror image.

    places: [478, S, 3], where the points lie on the neutral head and how far some shapes move them.
    """
    from scipy.optimize import linear_sum_assignment

    places = places - np.array([np.median(places[[1, 4, 5, 6, 10, 152, 168], 0, 0]), 0, 0]) * (np.arange(places.shape[1]) == 0)[:, None]
    distance = np.linalg.norm((places * [-1, 1, 1])[:, None] - places[None], axis=(-1, -2))
    pair = linear_sum_assignment((distance + distance.T) ** 2)[1]
    pair[SKIN:] = IRIS_SWAP
    if (pair[pair] != np.arange(N_POINTS)).any():
        raise UserError("the points found are too irregular to be paired left and right; use more --heads")
    return pair


def shortest_path(mean: np.ndarray, triangles: np.ndarray, via: Sequence[int]) -> list[int]:
    """Vertices along the mesh's edges through the given ones."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    edges = np.unique(np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1), axis=0)
    length = np.linalg.norm(mean[edges[:, 0]] - mean[edges[:, 1]], axis=1)
    graph = coo_matrix((length, (edges[:, 0], edges[:, 1])), shape=(len(mean), len(mean))).tocsr()
    path = [int(via[0])]
    for goal in via[1:]:
        before = dijkstra(graph, directed=False, indices=path[-1], return_predecessors=True)[1]
        leg = [int(goal)]
        while leg[-1] != path[-1]:
            leg.append(int(before[leg[-1]]))
        path += leg[::-1][1:]
    return path


def embed(archive: Path, heads: int):
    """Find the 478 points' places on ICT's surface.

    Returns: (mean, identity, expression, names) of ICT with turning eyeballs, corners, shares, mirror pairs.
    """
    from scipy.spatial import cKDTree

    mean, identity, expression, names, triangles = ict.read_archive(archive)
    landmarks = ict.read_indices(archive)[LANDMARKS_68]
    ict.turn_eyeballs(mean, expression, names)
    found, vertices, weights = detect_on_heads(mean, identity, expression, names, triangles, np.array(landmarks), heads)

    say("places without symmetry, for the pairs")
    corners, shares, _ = Embedding(found, vertices, weights, triangles).solve()
    shapes = [mean] + [3 * sum(expression[names.index(n)] for n in group) for group in (
        ("jawOpen",), ("eyeBlink_L", "eyeBlink_R"), ("mouthPucker",))]  # fmt: skip
    pair = mirror_pairs(np.stack([(s[corners] * shares[..., None]).sum(1) for s in shapes], 1))

    # every head a second time, mirrored about its own middle
    twin = cKDTree(mean).query(mean * [-1, 1, 1])[1]
    middle = vertices[..., :1].mean(1, keepdims=True)

    def mirrored(a: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return np.concatenate([2 * middle - a[:, numbers, :1], a[:, numbers, 1:]], -1)

    found = np.concatenate([found, mirrored(found, pair)])
    vertices = np.concatenate([vertices, mirrored(vertices, twin)])
    embedding = Embedding(found, vertices, np.tile(weights, 2), triangles)
    corners, shares, rms = embedding.solve()

    # Lids: real eyes close, but on drawn ones the detector keeps a slit, which moves its points off the lids' edge. They
    # are put back on it: the line through the lid vertices among ICT's own 68 landmarks.
    face = triangles[(triangles < FACE_VERTICES).all(1)]
    for first, upper in ((36, True), (39, False)):
        line = shortest_path(mean, face, [landmarks[36 + (first - 36 + k) % 6] for k in range(4)])
        for point in UPPER_LID if upper else LOWER_LID:
            cost, share, edge = min(((*embedding.place(point, np.array(e)), e) for e in zip(line, line[1:])), key=lambda o: o[0])
            corners[point], shares[point], rms[point] = (*edge, edge[1]), (*share, 0), np.sqrt(cost)
            corners[pair[point]], shares[pair[point]] = twin[corners[point]], shares[point]
    say(f"distance of the points to their places, cm: median {np.median(rms):.2f}, largest {rms.max():.2f}")
    return mean, identity, expression, names, corners, shares, pair


# ---- the files ----


def write_embedding(path: Path, corners: np.ndarray, shares: np.ndarray) -> None:
    """The table of ict.LANDMARKS."""
    lines = [
        "# Where the 478 points of MediaPipe's face mesh lie on ICT-FaceKit's neutral mesh; made by scripts/make_face_data.py.",
        "# point, three vertices of the archive (from 0), their weights, trust in the point",
    ]
    for point, (corner, share) in enumerate(zip(corners, shares.round(4))):
        share[0] = 1 - share[1:].sum()
        lines.append(f"{point} {corner[0]} {corner[1]} {corner[2]} {share[0]:.4f} {share[1]:.4f} {share[2]:.4f} 1")
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def face_triangles() -> np.ndarray:
    """Triangles of the detector's tesselation: the 3-cycles of its edges, int [852, 3], in any orientation."""
    edges = {tuple(sorted(e)) for e in load_solutions().face_mesh_connections.FACEMESH_TESSELATION}
    near: dict[int, set[int]] = {}
    for a, b in edges:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    return np.array(sorted({tuple(sorted((a, b, c))) for a, b in edges for c in near[a] & near[b]} - NOT_FACES))


def orient(triangles: np.ndarray, mean: np.ndarray) -> list[list[int]]:
    """Turn all triangles of a connected surface the same way round, outwards (counter-clockwise from the front)."""
    faces = [list(map(int, t)) for t in triangles]
    beside: dict[frozenset, list[int]] = {}
    for i, f in enumerate(faces):
        for k in range(3):
            beside.setdefault(frozenset((f[k], f[k - 1])), []).append(i)
    normal = np.cross(mean[triangles[:, 1]] - mean[triangles[:, 0]], mean[triangles[:, 2]] - mean[triangles[:, 0]])[:, 2]
    done, stack = {int(normal.argmax())}, [int(normal.argmax())]
    while stack:
        f = faces[stack.pop()]
        for k in range(3):
            a, b = f[k], f[(k + 1) % 3]
            for j in beside[frozenset((a, b))]:
                if j not in done:
                    g = faces[j]
                    if g[(g.index(a) + 1) % 3] == b:  # a neighbour must run along the common edge the other way
                        g[1], g[2] = g[2], g[1]
                    done.add(j)
                    stack.append(j)
    return faces


def fill_eye(loop: Sequence[int], ring: Sequence[int], centre: int, places: np.ndarray) -> list[list[int]]:
    """Triangles between the lids' line and the iris' ring, and within the ring."""

    def angle(i: int) -> float:
        return float(np.arctan2(*(places[i] - places[centre])[[1, 0]]))

    outer, inner = sorted(loop, key=angle), sorted(ring, key=angle)
    turn_o = [angle(i) for i in outer] + [angle(outer[0]) + 2 * np.pi]
    turn_i = [angle(i) for i in inner] + [angle(inner[0]) + 2 * np.pi]
    faces, o, i = [], 0, 0
    while o < len(outer) or i < len(inner):
        if o < len(outer) and (i == len(inner) or turn_o[o + 1] <= turn_i[i + 1]):
            faces.append([inner[i % len(inner)], outer[o], outer[(o + 1) % len(outer)]])
            o += 1
        else:
            faces.append([inner[i], outer[o % len(outer)], inner[(i + 1) % len(inner)]])
            i += 1
    faces += [[centre, a, b] for a, b in zip(inner, inner[1:] + inner[:1])]
    for f in faces:
        if np.cross(places[f[1]] - places[f[0]], places[f[2]] - places[f[0]])[2] < 0:
            f[1], f[2] = f[2], f[1]
    return faces


def write_mesh478(path: Path, mean, identity, expression, names, corners, shares, pair) -> None:
    """The file of mesh478.DATA."""

    def sampled(a: np.ndarray) -> np.ndarray:
        return (a[..., corners, :] * shares[..., None]).sum(-2)

    flip = np.array([-1, 1, 1.0])
    rest = sampled(mean)
    rest = (rest + rest[pair] * flip) / 2
    moves = sampled(expression)
    swap = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}
    twin = [names.index(n[:-1] + "LR"[n.endswith("_L")] if n[-2:] in ("_L", "_R") else swap.get(n, n)) for n in names]
    moves = (moves + moves[twin][:, pair] * flip) / 2

    for up, down in zip(INNER_UPPER_LIP, INNER_LOWER_LIP):  # the mouth is closed at rest: both lines meet half way
        middle = (rest[up] + rest[down]) / 2
        rest[up], rest[down] = middle + [0, 0.012, 0], middle - [0, 0.012, 0]
    # a full blink brings the upper lid's line onto the lower's
    blink = moves[names.index("eyeBlink_R")]
    low = (rest + blink)[[33, *LOWER_LID, 133]]
    for u in UPPER_LID:
        y, z = (np.interp(rest[u, 0] + blink[u, 0], low[:, 0], low[:, k]) for k in (1, 2))
        blink[u, 1:] = y + 0.03 - rest[u, 1], z + 0.05 - rest[u, 2]
    moves[names.index("eyeBlink_L")] = blink[pair] * flip

    # eyes: the iris again, behind the lids; mouth: the lips' inner line again, 2 cm deeper
    places = np.concatenate([rest, rest[SKIN:] - [0, 0, 0.2], rest[list(MOUTH_LOOP)] * [0.85, 1, 1] - [0, 0, 2.0]])
    faces = orient(face_triangles(), rest)
    for loop, iris in ((RIGHT_LIDS, RIGHT_IRIS), (pair[list(RIGHT_LIDS)].tolist(), LEFT_IRIS)):
        faces += fill_eye(loop, [i + 10 for i in iris[1:]], iris[0] + 10, places)
    bag = list(range(488, 508))
    for k in range(20):
        a, b, c, d = MOUTH_LOOP[k], MOUTH_LOOP[(k + 1) % 20], bag[k], bag[(k + 1) % 20]
        faces += [[a, b, c], [b, d, c]]
    upper, lower = bag[:11], [bag[0], *bag[:9:-1]]
    for k in range(10):
        faces += [f for f in ([upper[k], lower[k], lower[k + 1]], [upper[k], lower[k + 1], upper[k + 1]]) if len(set(f)) == 3]

    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        mean=places.astype(np.float32),
        triangles=np.array(faces, np.int16),
        source=np.array([*range(N_POINTS), *range(SKIN, N_POINTS), *MOUTH_LOOP], np.int16),
        identity=sampled(identity[:IDENTITY_MODES]).astype(np.float16),
        expression=moves.astype(np.float16),
        expression_names=names,
        mirror=pair.astype(np.int16),
        notice="Sampled from ICT-FaceKit (github.com/ICT-VGL/ICT-FaceKit), Copyright (c) 2020 USC Institute for Creative "
        "Technologies, MIT License; see LICENSE-ICT-FaceKit.txt",
    )
    write_bytes(path, buffer.getvalue())


def main(argv: Sequence[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="ICT-FaceKit: the archive, its unpacked tree, or a folder with either")
    parser.add_argument("--output", type=Path, default=ict.LANDMARKS.parent, help="folder to write to (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=400, help="heads to draw (default: %(default)s)")
    args = parser.parse_args(argv)
    *model, corners, shares, pair = embed(ict.find_source(args.archive), args.heads)
    write_embedding(args.output / ict.LANDMARKS.name, corners, shares)
    write_mesh478(args.output / mesh478.DATA.name, *model, corners, shares, pair)
    say(f"written: {args.output / ict.LANDMARKS.name}, {args.output / mesh478.DATA.name}")
    return 0


if __name__ == "__main__":
    run(main)
