"""`lsfm`: the Large Scale Facial Model (Booth et al. 2018) with expressions, from its owners' file all_all_all.mat.

The file is a MATLAB struct `fmod`: `mean` [3N], `faces` [M, 3], `id_basis` [3N, about 157], `exp_basis` [3N, about 30]. It says neither
which unit and axes it has, nor how much its modes vary, nor where landmarks are. So, on loading:

- mesh478 is registered to the mean face: a similarity found by ICP (Besl and McKay 1992) from many starts, then with mesh478's
  identity modes as deformation. The 478 points' places on the mean are the landmark embedding, and the similarity gives the unit
  (made centimetres) and the axes. Axes that are the usual ones up to a tilt are kept: NMFC images stay those of the original system.
- Modes keep the file's proportions, and are scaled as a whole to what faces vary by (IDENTITY_CM, EXPRESSION_CM). Where all have the
  same size (an orthonormal basis), they are taken to fall off as those of face models usually do.
- Expressions get ARKit's names: for each of mesh478's named shapes, the combination of the file's modes that moves the 478 points most
  like it. The file's own modes follow as smooth_*. So everything that goes by these names works with this model, too.

Where registration fails, the file lsfm_landmarks68.txt beside the model can help: 68 numbers of vertices (from 0), in the order of 300-W.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from preprocessing.face_models import mesh478
from preprocessing.face_models.dense_points import (
    DENSE_INDICES,
    LEFT_EYE_CORNERS,
    LEFT_IRIS,
    N_POINTS,
    OVAL,
    RIGHT_EYE_CORNERS,
    RIGHT_IRIS,
    SKIN,
)
from preprocessing.face_models.morphable import MorphableModel
from util.cli import UserError
from util.geometry import nearest_rotation, rotation_matrix
from util.hashing import sha256_of

READING = 1  # number of our way to read it: another one gives coefficients another meaning
FIELDS = ("mean", "faces", "id_basis", "exp_basis")
IDENTITY_CM = 0.45  # rms of all identity modes at one standard deviation, over the face
EXPRESSION_CM = 0.3  # likewise, of what the named shapes leave to the file's own expression modes
EXPRESSION_LIMIT = 3.0  # standard deviations
DECAY = 0.8  # standard deviation of mode k falls as k ** -DECAY where the file does not say it

_TILT_DEG = 25.0  # of the file's axes, up to which they are kept
_NORMAL_CM = 2.0  # a normal that is off by one radian counts as so many centimetres of distance
_FACE_CM = 0.5  # of `_score`: before any deformation, faces come to at most 0.32 and ellipsoids to no less than 0.65
_TRUSTED_CM = 0.6
_DAMPING_CM = 0.005  # of the search for named shapes: modes that hardly move the points are not to be used a hundredfold
_STARTS = 3  # best starts that are looked at closely
_FEW = 4000  # vertices that rough searches look at
_ROUNDS = 25  # of the deformation


def model_path(files_dir: Path) -> Path:
    """Where the owners' file is expected."""
    return files_dir / "all_all_all.mat"


def landmarks_path(files_dir: Path) -> Path:
    """Where 68 landmark vertices may be given."""
    return files_dir / "lsfm_landmarks68.txt"


def version(files_dir: Path) -> str:
    """The file's digest, then our reading's number."""
    path = model_path(files_dir)
    facts = path.stat()
    return f"{_digest(path, facts.st_size, facts.st_mtime_ns)[:10]}-{READING}"


@lru_cache(maxsize=2)
def _digest(path: Path, _size: int, _changed: int) -> str:
    return sha256_of(path)


def load(files_dir: Path) -> MorphableModel:
    """Load the model and register mesh478 to it (some seconds).

    Raises: UserError when the file is damaged, is no such model, or its face cannot be found.
    """
    path = model_path(files_dir)
    raw = read_file(path)
    surface = Surface(raw.mean, raw.triangles)
    found = register(surface, _given_landmarks(files_dir, len(raw.mean)), str(path))
    axes = _own_axes(found.rotation)
    corners, shares, trust = _embed(surface, found)
    modes = _scaled(raw.expression, axes, EXPRESSION_CM)
    at_points = np.einsum("pk,mpkc->mpc", shares, modes[:, corners])
    names, mixture = _named_shapes(at_points, trust, axes @ found.rotation.T)
    bounds = np.concatenate([np.tile([0, 1.2], (len(names), 1)), np.tile([-EXPRESSION_LIMIT, EXPRESSION_LIMIT], (len(modes), 1))])
    return MorphableModel(
        name="lsfm",
        version=version(files_dir),
        mean=((raw.mean - found.shift) @ axes.T / found.unit).astype(np.float32),
        triangles=surface.triangles.astype(np.int32),
        identity_basis=_scaled(raw.identity, axes, IDENTITY_CM),
        expression_basis=np.concatenate([np.tensordot(mixture.astype(np.float32), modes, 1), modes]),
        expression_names=(*names, *(f"smooth_lsfm{k:02d}" for k in range(len(modes)))),
        expression_bounds=bounds.astype(np.float32),
        landmark_ids=np.arange(N_POINTS, dtype=np.int32),
        landmark_triangles=corners.astype(np.int32),
        landmark_barycentric=shares.astype(np.float32),
        landmark_weights=trust.astype(np.float32),
        depth_bias=np.zeros(len(raw.mean), np.float32),
        inside=np.zeros(len(raw.mean), np.uint8),
    )


def _named_shapes(modes: np.ndarray, trust: np.ndarray, turn: np.ndarray) -> tuple[list[str], np.ndarray]:
    """mesh478's named expression shapes as mixtures of modes.

    modes: [K, 478, 3], what they do to the dense points. turn: from mesh478's axes to the model's. Returns names, and weights [S, K].
    """
    wanted = template().shapes @ turn.T
    a, b = ((x * np.sqrt(trust)[:, None]).reshape(len(x), -1).astype(np.float64) for x in (modes, wanted))
    normal = a @ a.T + trust.sum() * _DAMPING_CM**2 * np.eye(len(a))
    return template().names, np.linalg.solve(normal, a @ b.T).T


def _scaled(basis: np.ndarray, axes: np.ndarray, total_cm: float) -> np.ndarray:
    """Modes [K, N, 3] turned to our axes, of which all together have the rms `total_cm`: float32."""
    rms = np.sqrt(np.square(basis).sum(2).mean(1))
    wanted = rms if rms.min() < 0.98 * rms.max() else np.arange(1, len(rms) + 1.0) ** -DECAY
    factor = total_cm * wanted / np.linalg.norm(wanted) / np.maximum(rms, 1e-30)
    return (basis @ axes.T.astype(np.float32)) * factor[:, None, None].astype(np.float32)


def _own_axes(rotation: np.ndarray) -> np.ndarray:
    """The rotation from the file's axes to ours; a tilt is left in, so that axes stay axes."""
    nearest = min(_cube_rotations(), key=lambda r: np.linalg.norm(r - rotation))
    tilt = np.rad2deg(Rotation.from_matrix(nearest.T @ rotation).magnitude())
    return nearest if tilt < _TILT_DEG else rotation


# ---- the file ----


@dataclass(frozen=True)
class RawModel:
    """The file's content, in its own unit and axes."""

    mean: np.ndarray  # float64 [N, 3]
    triangles: np.ndarray  # int [M, 3], from 0
    identity: np.ndarray  # float32 [K, N, 3]
    expression: np.ndarray  # float32 [K, N, 3]


def read_file(path: Path) -> RawModel:
    """Read all_all_all.mat of any MATLAB version; transposed arrays and both orders of coordinates are understood.

    Raises: UserError that says what is wrong with it.
    """
    wrong = f"{path} is not the LSFM file (struct fmod with {', '.join(FIELDS)})"
    fields = _read_struct(path, wrong)
    if missing := [f for f in FIELDS if f not in fields]:
        raise UserError(f"{wrong}: there is no field {missing[0]}, only {', '.join(sorted(fields)) or 'nothing'}; use the original file")
    try:
        mean, faces, *bases = (np.asarray(fields[f], np.float64 if f in ("mean", "faces") else np.float32).squeeze() for f in FIELDS)
    except (TypeError, ValueError) as e:
        raise UserError(f"{wrong}: a field holds no numbers ({e}); use the original file") from None
    for name, values in zip(FIELDS, (mean, faces, *bases)):
        if not np.isfinite(values).all():
            raise UserError(f"{wrong}: {name} holds values that are no numbers; use the original file")
    if faces.ndim != 2 or 3 not in faces.shape or mean.size % 3 or mean.size < 300:
        raise UserError(f"{wrong}: mean {list(mean.shape)} and faces {list(faces.shape)} are no mesh; use the original file")
    count = mean.size // 3
    triangles = (faces if faces.shape[1] == 3 else faces.T).astype(np.int64)
    triangles = triangles - (triangles.min() >= 1)  # MATLAB counts from 1
    if triangles.min() < 0 or triangles.max() >= count:
        raise UserError(f"{wrong}: faces number vertices up to {triangles.max()} of {count}; use the original file")
    shapes = []
    for name, basis in zip(FIELDS[2:], bases):
        basis = basis[:, None] if basis.ndim == 1 else basis
        if basis.ndim != 2 or (basis.shape[0] == mean.size) == (basis.shape[1] == mean.size):
            raise UserError(f"{wrong}: {name} is {list(basis.shape)} where [{mean.size}, modes] is expected; use the original file")
        shapes.append(_as_points(basis.T if basis.shape[0] == mean.size else basis, triangles))
    return RawModel(_as_points(mean.reshape(1, -1), triangles)[0], triangles, *shapes)


def _as_points(rows: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Rows [K, 3N] as [K, N, 3]: of x y z x y z ... and x x ... y y ... z z ... the order in which neighbours are alike."""
    k = len(rows)
    orders = [rows.reshape(k, -1, 3), rows.reshape(k, 3, -1).swapaxes(1, 2)]
    few = slice(0, k, max(1, k // 8))
    best = min(orders, key=lambda p: float(np.square(p[few][:, triangles[:, 0]] - p[few][:, triangles[:, 1]]).sum()))
    return np.ascontiguousarray(best)


def _read_struct(path: Path, wrong: str) -> dict[str, Any]:
    """The fields of `fmod`."""
    from scipy.io import loadmat

    try:
        fmod = loadmat(path, variable_names=["fmod"], squeeze_me=True, struct_as_record=False).get("fmod")
    except NotImplementedError:  # MATLAB 7.3
        return _read_struct_73(path, wrong)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; put the LSFM file all_all_all.mat there, or use another --face_model") from None
    except (ValueError, TypeError, KeyError, IndexError, EOFError, OSError, zlib.error) as e:
        raise UserError(f"{wrong}, or is damaged ({e}); use the original file") from None
    if not hasattr(fmod, "_fieldnames"):
        raise UserError(f"{wrong}: it has no struct fmod; use the original file")
    return {name: getattr(fmod, name) for name in fmod._fieldnames}


def _read_struct_73(path: Path, wrong: str) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path} is in MATLAB's format 7.3, which needs h5py (pip install h5py), or save it with -v7 in MATLAB") from None
    try:
        with h5py.File(path) as file:
            return {name: np.asarray(value) for name, value in file["fmod"].items() if isinstance(value, h5py.Dataset)}
    except (OSError, KeyError, AttributeError) as e:
        raise UserError(f"{wrong}, or is damaged ({e}); use the original file") from None


def _given_landmarks(files_dir: Path, count: int) -> np.ndarray | None:
    """Vertices of the 68 landmarks, if a file gives them."""
    path = landmarks_path(files_dir)
    if not path.is_file():
        return None
    try:
        numbers = np.array(path.read_text().replace(",", " ").split(), np.int64)
    except ValueError:
        numbers = np.empty(0)
    if numbers.shape != (68,) or numbers.min() < 0 or numbers.max() >= count:
        raise UserError(f"{path} must hold 68 numbers of vertices (0 to {count - 1}); mend or delete it")
    return numbers


# ---- registration ----


class Tree(NamedTuple):
    search: cKDTree  # of [place in cm, normal]
    vertices: np.ndarray  # int: which are in it
    unit: float  # file units in 1 cm


class Surface:
    """A triangle mesh that closest points are looked for on. Triangles are turned outwards."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray):
        """vertices: [N, 3]. triangles: int [M, 3], all the same way round. Raises: UserError when the triangles have no area."""
        a, b, c = (vertices[triangles[:, k]] for k in range(3))
        normals, middles = np.cross(b - a, c - a), (a + b + c) / 3
        areas = np.linalg.norm(normals, axis=1)
        if not areas.sum() > 0:
            raise UserError("the face model's triangles have no area; use the original file")
        self.centre = (middles * areas[:, None]).sum(0) / areas.sum()
        self.area = areas.sum() / 2
        if (normals * (middles - self.centre)).sum() < 0:  # an open shell bulges outwards
            triangles, normals = triangles[:, ::-1], -normals
        self.vertices, self.triangles = vertices, triangles
        self.normals = vertex_normals(vertices, triangles)
        # triangles around every vertex, the last one repeated to fill the table
        order = np.argsort(triangles.ravel(), kind="stable")
        owner = triangles.ravel()[order]
        first, number = np.searchsorted(owner, np.arange(len(vertices))), np.bincount(owner, minlength=len(vertices))
        self.used = np.flatnonzero(number)
        slots = np.minimum(np.arange(min(int(number.max()), 12)), np.maximum(number - 1, 0)[:, None])
        self._around = (order // 3)[np.minimum(first[:, None] + slots, len(order) - 1)]

    def tree(self, unit: float, most: int | None = None) -> Tree:
        """A search tree of vertices with their normals, for `unit` file units a centimetre; of about `most` vertices."""
        chosen = self.used[:: max(1, len(self.used) // most) if most else 1]
        return Tree(cKDTree(np.hstack([self.vertices[chosen] / unit, _NORMAL_CM * self.normals[chosen]])), chosen, unit)

    def closest(self, near: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places on the triangles around vertices `near` [P, k] that are closest to points [P, 3]: triangle [P], weights [P, 3]."""
        candidates = self._around[near].reshape(len(points), -1)
        a, b, c = (self.vertices[self.triangles[candidates][..., k]] for k in range(3))
        u, v, w = b - a, c - a, points[:, None] - a
        uu, uv, vv, wu, wv = ((x * y).sum(-1) for x, y in ((u, u), (u, v), (v, v), (w, u), (w, v)))
        scale = np.maximum(uu * vv - uv * uv, 1e-30)
        s, t = (vv * wu - uv * wv) / scale, (uu * wv - uv * wu) / scale
        shares = np.stack([1 - s - t, s, t], -1).clip(0)  # beside a triangle: on its edge, not quite at the closest place
        shares /= shares.sum(-1, keepdims=True)
        found = shares[..., :1] * a + shares[..., 1:2] * b + shares[..., 2:] * c
        best = np.linalg.norm(found - points[:, None], axis=-1).argmin(1)
        rows = np.arange(len(points))
        return candidates[rows, best], shares[rows, best]


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals of vertices [N, 3], by the area of the triangles around them."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    flat = np.repeat(np.cross(b - a, c - a)[:, None], 3, 1).reshape(-1, 3)
    normals = np.stack([np.bincount(triangles.ravel(), flat[:, k], minlength=len(vertices)) for k in range(3)], 1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)


@dataclass(frozen=True)
class Template:
    """What of mesh478 is registered."""

    mean: np.ndarray  # [478, 3], cm
    skin: np.ndarray  # int [F, 3]: triangles between the first 468
    identity: np.ndarray  # [K, 478, 3]
    names: list[str]  # of the named expression shapes
    shapes: np.ndarray  # [S, 478, 3]


@lru_cache(maxsize=1)
def template() -> Template:
    model = mesh478.load()
    names = [n for n in model.expression_names if not n.startswith("smooth_")]
    mean, identity, shapes = (a[..., :N_POINTS, :].astype(np.float64) for a in (model.mean, model.identity_basis, model.expression_basis))
    return Template(mean, model.triangles[(model.triangles < SKIN).all(1)], identity, names, shapes[: len(names)])


@dataclass(frozen=True)
class Registration:
    """Where the points of mesh478 lie in the file: unit * rotation.T @ shape + shift."""

    shape: np.ndarray  # [478, 3], mesh478 deformed to the file's mean face, cm
    rotation: np.ndarray  # [3, 3], from the file's axes to ours
    unit: float  # of the file, in 1 cm
    shift: np.ndarray  # [3], file units

    @property
    def places(self) -> np.ndarray:
        """The points in the file's coordinates [478, 3]."""
        return self.unit * self.shape @ self.rotation + self.shift

    def to_model(self, points: np.ndarray) -> np.ndarray:
        """The file's points in the frame of `shape`."""
        return (points - self.shift) @ self.rotation.T / self.unit


def register(surface: Surface, landmarks: np.ndarray | None, source: str) -> Registration:
    """Find mesh478 on a face: similarity, then deformation. landmarks: vertices of the 68 landmarks, if they are known.

    Raises: UserError when no face is found.
    """
    if landmarks is not None:
        starts = [_similarity(template().mean[DENSE_INDICES[17:68]], surface.vertices[landmarks[17:]], template().mean)]
    else:
        starts = _starts(surface, _cube_rotations())
        if not starts or _score(surface, starts[0]) > _FACE_CM:  # perhaps its axes are far from ours in any order
            starts = _starts(surface, Rotation.random(96, random_state=0).as_matrix())
        starts = [s for s in starts if _score(surface, s) < min(_FACE_CM, 1.5 * _score(surface, starts[0]))]
    ends = [_deform(surface, start, landmarks) for start in starts[:_STARTS]]
    best = min(ends, key=lambda r: _score(surface, r), default=None)
    if best is None or _score(surface, best) > _FACE_CM:
        raise UserError(
            f"the face of {source} is not found; put the vertices of its 68 landmarks (numbers from 0, in the order of 300-W) into "
            f"{landmarks_path(Path(source).parent)}"
        )
    return best


def _cube_rotations() -> list[np.ndarray]:
    """The 24 rotations that turn axes into axes."""
    signed = (np.eye(3)[list(p)] * s for p in permutations(range(3)) for s in product((1, -1), repeat=3))
    return [m for m in signed if np.linalg.det(m) > 0]


def _similarity(ours: np.ndarray, theirs: np.ndarray, shape: np.ndarray) -> Registration:
    """The best unit, rotation and shift from our points [P, 3] to theirs (Umeyama 1991)."""
    a, b = ours - ours.mean(0), theirs - theirs.mean(0)
    rotation = nearest_rotation(a.T @ b)
    unit = float((b * (a @ rotation)).sum() / np.square(a).sum())
    return Registration(shape, rotation, unit, theirs.mean(0) - unit * ours.mean(0) @ rotation)


def _starts(surface: Surface, rotations: Iterable[np.ndarray]) -> list[Registration]:
    """Rough similarities from many rotations and sizes by a few steps of ICP, best first."""
    mean = template().mean
    a, b, c = (mean[template().skin[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    found = []
    few = np.arange(0, SKIN, 3)
    for ratio in (1.0, 1.6, 2.4):  # a file may have ears and neck as well
        unit = np.sqrt(surface.area / ratio / area)
        tree = surface.tree(unit, _FEW)
        for rotation in rotations:
            start = Registration(mean, rotation, unit, surface.centre - unit * mean[:SKIN].mean(0) @ rotation)
            for _ in range(15):
                moved = _icp_step(surface, tree, start, few)
                if moved is None:
                    break
                start = moved
            else:
                found.append(start)
    return _distinct(sorted(found, key=lambda r: _score(surface, r)))


def _distinct(starts: list[Registration]) -> list[Registration]:
    """Leave out what has come out the same as an earlier one."""
    kept: list[Registration] = []
    for r in starts:
        if not any(abs(r.unit / k.unit - 1) < 0.05 and np.linalg.norm(r.rotation - k.rotation) < 0.15 for k in kept):
            kept.append(r)
    return kept


def _match(tree: Tree, at: Registration, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The `count` vertices most like every skin point, in place and normal: [468, count], and the points' normals in the file's axes."""
    normals = vertex_normals(at.shape, template().skin)[:SKIN] @ at.rotation
    near = tree.search.query(np.hstack([at.places[:SKIN] / tree.unit, _NORMAL_CM * normals]), k=count)[1]
    return tree.vertices[near.reshape(SKIN, count)], normals


def _icp_step(surface: Surface, tree: Tree, at: Registration, few: np.ndarray) -> Registration | None:
    near, normals = _match(tree, at)
    near, normals, places = near[few, 0], normals[few], at.places[few]
    distance = np.linalg.norm(surface.vertices[near] - places, axis=1)
    good = ((surface.normals[near] * normals).sum(1) > 0.3) & (distance <= np.quantile(distance, 0.85))
    if good.sum() < 30:
        return None
    moved = _similarity(at.shape[few[good]], surface.vertices[near[good]], at.shape)
    unit = np.clip(moved.unit, 0.9 * at.unit, 1.1 * at.unit)
    shift = surface.vertices[near[good]].mean(0) - unit * at.shape[few[good]].mean(0) @ moved.rotation
    return Registration(at.shape, moved.rotation, unit, shift)


def _score(surface: Surface, at: Registration) -> float:
    """How far the inner points are from the surface, cm, normals counted in: 0 is best."""
    near, normals = _match(surface.tree(at.unit, _FEW), at)
    inner = np.setdiff1d(np.arange(SKIN), OVAL)
    triangle, shares = surface.closest(near[inner], at.places[inner])
    found = (surface.vertices[surface.triangles[triangle]] * shares[..., None]).sum(1)
    distance = np.linalg.norm(found - at.places[inner], axis=1) / at.unit
    apart = 1 - (surface.normals[near[inner, 0]] * normals[inner]).sum(1)
    return float(np.mean(np.minimum(distance, 2.0)) + 0.5 * np.mean(apart))


def _deform(surface: Surface, at: Registration, landmarks: np.ndarray | None) -> Registration:
    """Fit mesh478's identity modes and the similarity together to the surface (Gauss-Newton on closest points)."""
    mean, basis = template().mean, template().identity
    coefficients = np.zeros(len(basis))
    inner = np.setdiff1d(np.arange(SKIN), OVAL)
    tree = surface.tree(at.unit)
    for i in range(_ROUNDS):
        near, normals = _match(tree, at, 4)
        triangle, shares = surface.closest(near, at.places[:SKIN])
        corners = surface.triangles[triangle]
        found = at.to_model((surface.vertices[corners] * shares[..., None]).sum(1))
        theirs = (surface.normals[corners] * shares[..., None]).sum(1)
        x = at.shape[:SKIN]
        distance = np.linalg.norm(found - x, axis=1)
        agree = (theirs * normals).sum(1) / np.maximum(np.linalg.norm(theirs, axis=1), 1e-30)
        weight = np.where(agree > 0.3, 1 / (1 + (distance / 0.5) ** 2), 0.0)
        weight[np.setdiff1d(np.arange(SKIN), inner)] *= 0.2
        # across the surface a point is drawn to it; along it hardly, so that the deformation's smoothness decides
        n = theirs @ at.rotation.T
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)
        modes = basis[:, :SKIN].transpose(2, 1, 0)  # [3, P, K]
        rows = np.concatenate([np.einsum("pc,cpk->pk", n, modes), *(0.3 * modes)])
        gap = found - x
        right = np.concatenate([(n * gap).sum(1), *(0.3 * gap).T])
        moves = _small_moves(x)  # [P, 3, 7]
        rigid = np.concatenate([np.einsum("pc,pcm->pm", n, moves), *(0.3 * moves).transpose(1, 0, 2)])
        weights = np.tile(weight, 4)
        if landmarks is not None:
            points = DENSE_INDICES[17:68]
            given = at.to_model(surface.vertices[landmarks[17:]]) - at.shape[points]
            rows = np.concatenate([rows, *basis[:, points].transpose(2, 1, 0)])
            rigid = np.concatenate([rigid, *_small_moves(at.shape[points]).transpose(1, 0, 2)])
            right, weights = np.concatenate([right, *given.T]), np.concatenate([weights, np.full(3 * len(points), 5.0)])
        a = np.hstack([rigid, rows]) * weights[:, None]
        stiffness = np.concatenate([np.full(7, 1e-6), np.full(len(basis), max(0.3, 4.0 * 0.8**i))])
        pull = np.concatenate([np.zeros(7), -stiffness[7:] * coefficients])
        change = np.linalg.solve(a.T @ np.hstack([rigid, rows]) + np.diag(stiffness), a.T @ right + pull)
        coefficients += change[7:]
        at = _moved(at, change[:7], mean + np.tensordot(coefficients, basis, 1))
    return at


def _small_moves(x: np.ndarray) -> np.ndarray:
    """How points [P, 3] move with a small rotation, change of log scale, and shift: [P, 3, 7]."""
    zero = np.zeros(len(x))
    turn = np.stack(
        [np.stack([zero, -x[:, 2], x[:, 1]], 1), np.stack([x[:, 2], zero, -x[:, 0]], 1), np.stack([-x[:, 1], x[:, 0], zero], 1)], 2
    )
    return np.concatenate([turn, x[..., None], np.tile(np.eye(3), (len(x), 1, 1))], 2)


def _moved(at: Registration, change: np.ndarray, shape: np.ndarray) -> Registration:
    """Let a small motion [7] of the model's points change the registration instead of the shape."""
    turn, factor, shift = rotation_matrix(change[:3]), np.exp(change[3]), change[4:]
    # places = unit * (factor * turn @ x + shift) in our axes, then to the file's
    rotation = turn.T @ at.rotation
    return Registration(shape, nearest_rotation(rotation), at.unit * factor, at.shift + at.unit * shift @ at.rotation)


# ---- embedding ----


def _embed(surface: Surface, found: Registration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 478 points on the surface: vertices [478, 3], weights [478, 3], trust [478]."""
    near, _ = _match(surface.tree(found.unit), found, 4)
    triangle, shares = surface.closest(near, found.places[:SKIN])
    corners = surface.triangles[triangle]
    on_surface = (surface.vertices[corners] * shares[..., None]).sum(1)
    distance = np.linalg.norm(on_surface - found.places[:SKIN], axis=1) / found.unit
    trust = (distance < _TRUSTED_CM).astype(np.float64)
    # Irises: the file has no eyeballs that turn. They stay between the corners of the eye, and a fit does not look at them.
    for iris, outer, inner in ((RIGHT_IRIS, *RIGHT_EYE_CORNERS), (LEFT_IRIS, *LEFT_EYE_CORNERS)):
        a, b = (corners[p][shares[p].argmax()] for p in (outer, inner))
        line = found.shape[inner] - found.shape[outer]
        for point in iris:
            share = float(np.clip((found.shape[point] - found.shape[outer]) @ line / (line @ line), 0, 1))
            corners, shares = np.vstack([corners, [a, b, b]]), np.vstack([shares, [1 - share, share, 0]])
    return corners, shares, np.concatenate([trust, np.zeros(N_POINTS - SKIN)])
