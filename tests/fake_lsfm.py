"""A file in LSFM's format, made of ICT-FaceKit's face: other vertices in another order, unit and axes, and another person's mean."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import savemat

from preprocessing.face_models import ict, lsfm
from preprocessing.face_models.registry import default_files_dir, load_face_model

FACE_VERTICES = 9409  # of ICT's archive: the face
WARP_CM = 0.25
UNIT = 1e4  # file units in a centimetre: micrometres


@dataclass
class FakeLSFM:
    """The arrays of the file, vertices [N, 3] in centimetres and ICT's axes, and what is true of them."""

    mean: np.ndarray
    triangles: np.ndarray
    identity: np.ndarray  # [K, N, 3]
    expression: np.ndarray  # [K, N, 3]
    landmarks: np.ndarray  # [468, 3]: where ICT's embedding has the dense points
    moves: dict[str, np.ndarray]  # ICT's own shapes on these vertices, [N, 3]
    landmark_moves: dict[str, np.ndarray]  # the same at the dense points, [468, 3]
    at_vertices: np.ndarray  # [478]: vertex nearest to each dense point


def make(seed=0, identities=40, expressions=30):
    """The mean differs from ICT's by random identity modes of ICT, and by a smooth warp that is none."""
    model, rng = load_face_model("ict"), np.random.default_rng(seed)
    with np.load(ict.model_path(default_files_dir())) as data:
        face = np.flatnonzero(data["vertex_ids"] < FACE_VERTICES)
    coefficients = 0.7 * rng.standard_normal(len(model.identity_basis))
    weights = np.abs(rng.standard_normal((400, len(model.expression_names)))) * (rng.random((400, len(model.expression_names))) < 0.15)
    names = ("jawOpen", "eyeBlink_R", "mouthSmile_L", "browInnerUp_L")
    picked = [model.expression_names.index(n) for n in names]

    # the face alone, every triangle cut into four, vertices in random order
    inside = np.isin(model.triangles, face).all(1)
    ids = np.unique(model.triangles[inside])
    triangles = np.searchsorted(ids, model.triangles[inside])
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
    pairs, of_edge = np.unique(edges, axis=0, return_inverse=True)
    ab, bc, ca = (len(ids) + of_edge.reshape(3, -1)).astype(int)
    a, b, c = triangles.T
    triangles = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    order = rng.permutation(len(ids) + len(pairs))
    triangles = np.argsort(order)[triangles]

    def cut(values):
        kept = values[..., ids, :]
        return np.concatenate([kept, (kept[..., pairs[:, 0], :] + kept[..., pairs[:, 1], :]) / 2], -2)[..., order, :]

    def modes(samples, count):
        flat = samples - samples.mean(0)
        u, sizes, vt = np.linalg.svd(flat @ flat.T)
        basis = (u[:, :count].T @ flat) / np.sqrt(sizes[:count, None])  # orthonormal
        return basis, np.sqrt(sizes[:count] / len(samples))

    shapes = cut(np.tensordot(rng.standard_normal((80, len(model.identity_basis))), model.identity_basis, 1))
    moves = cut(np.tensordot(weights.astype(np.float32), model.expression_basis, 1))
    id_modes, id_sizes = modes(shapes.reshape(len(shapes), -1), identities)
    exp_modes, exp_sizes = modes(moves.reshape(len(moves), -1), expressions)
    person = model.mean + np.tensordot(coefficients.astype(np.float32), model.identity_basis, 1)
    person = person + WARP_CM * np.sin(person @ rng.normal(0, 0.35, (3, 3)) + rng.uniform(0, 6, 3)).astype(np.float32)
    mean = cut(person)
    at = model.at_landmarks(person)
    return FakeLSFM(
        mean,
        triangles,
        (id_modes * id_sizes[:, None]).reshape(identities, -1, 3),
        (exp_modes * exp_sizes[:, None]).reshape(expressions, -1, 3),
        at[:468],
        {n: cut(model.expression_basis[k]) for n, k in zip(names, picked)},
        {n: model.at_landmarks(model.expression_basis[k])[:468] for n, k in zip(names, picked)},
        np.array([np.linalg.norm(mean - p, axis=1).argmin() for p in at]),
    )


def write(
    folder: Path,
    fake: FakeLSFM,
    turn=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    unit=UNIT,
    shift=(0.0, 0.0, 0.0),
    base=1,
    planar=False,
    transposed=False,
    **changes,
):
    """Write all_all_all.mat. turn: from ICT's axes to the file's. planar: x x ... y y ... z z; transposed: every array the other way."""

    def flat(points):
        points = points @ np.asarray(turn).T * unit
        return points.swapaxes(-1, -2).reshape(*points.shape[:-2], -1) if planar else points.reshape(*points.shape[:-2], -1)

    whole = np.tile(np.asarray(shift) * unit, (len(fake.mean), 1))
    mean = flat(fake.mean) + (whole.T if planar else whole).reshape(-1)
    fields = {
        "mean": mean[:, None],
        "faces": (fake.triangles + base).astype(np.float64),
        "id_basis": flat(fake.identity).T,
        "exp_basis": flat(fake.expression).T,
    }
    fields = {k: v.T if transposed else v for k, v in fields.items()} | changes
    folder.mkdir(parents=True, exist_ok=True)
    savemat(lsfm.model_path(folder), {"fmod": {k: v for k, v in fields.items() if v is not None}}, do_compression=False)
    return lsfm.model_path(folder)
