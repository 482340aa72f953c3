"""`mesh478`: the mesh of the dense landmark detector (468 points and 10 of the irises) as a morphable model.

preprocessing/face_models/face_data/mesh478.npz holds the mean, ICT-FaceKit's expression shapes and first identity modes sampled at
the 478 points (MIT, see LICENSE-ICT-FaceKit.txt; made by scripts/make_face_data.py). On top come smooth modes: the
low eigenvectors of the mesh's graph Laplacian, which let person and frame differ from ICT's space.

Vertices 0..477 are the detector's points. 478..487 repeat the iris points slightly behind the lids, so that closed lids
hide them; 488..507 are the inner lip line set back by 2 cm, the wall and back of the mouth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from preprocessing.face_models.dense_points import LEFT_IRIS, N_POINTS, RIGHT_IRIS, RIGHT_LIDS, SKIN
from preprocessing.face_models.morphable import MorphableModel

VERSION = "2"
DATA = Path(__file__).with_name("face_data") / "mesh478.npz"

MOUTH_BAG = 488  # first vertex of the mouth's wall

IDENTITY_MODES = 40  # smooth modes per axis
EXPRESSION_MODES = 24
# Standard deviation of the smoothest mode of all, rms over the mesh; others have less, in proportion to their wave length.
IDENTITY_CM = 0.35
EXPRESSION_CM = 0.15
EXPRESSION_LIMIT = 3.0  # standard deviations


def laplacian_modes(triangles: np.ndarray, points: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The smoothest non-constant functions on a mesh: eigenvectors of its graph Laplacian.

    triangles: int [F, 3], of which those within 0..points-1 count. Returns modes [count, points] with rms 1, and their
    frequencies (square roots of the eigenvalues), ascending.
    """
    faces = triangles[(triangles < points).all(1)]
    adjacency = np.zeros((points, points))
    for a, b in ((0, 1), (1, 2), (2, 0)):
        adjacency[faces[:, a], faces[:, b]] = adjacency[faces[:, b], faces[:, a]] = 1
    values, vectors = np.linalg.eigh(np.diag(adjacency.sum(1)) - adjacency)
    modes = vectors[:, 1 : count + 1].T * np.sqrt(points)
    modes *= np.sign(modes[np.arange(count), np.abs(modes).argmax(1)])[:, None]  # eigenvectors have no sign of their own
    return modes, np.sqrt(values[1 : count + 1])


def _per_axis(modes: np.ndarray, sigma: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Modes [K, P] scaled by sigma [K] along each axis: [K * len(axes), P, 3]."""
    basis = np.zeros((len(modes), len(axes), modes.shape[1], 3))
    for i, axis in enumerate(axes):
        basis[:, i, :, axis] = modes * sigma[:, None]
    return basis.reshape(-1, modes.shape[1], 3)


def load() -> MorphableModel:
    """Build the model from its embedded file (about 0.2 s)."""
    with np.load(DATA) as data:
        mean, triangles, source = data["mean"], data["triangles"].astype(np.int32), data["source"].astype(np.int32)
        named, ict_identity = data["expression"].astype(np.float64), data["identity"].astype(np.float64)
        names, mirror = [str(n) for n in data["expression_names"]], data["mirror"]

    modes, frequency = laplacian_modes(triangles, SKIN, max(IDENTITY_MODES, EXPRESSION_MODES + 3))
    fall = frequency[0] / frequency
    # What the camera does to the skin (shift, turn, scale) is no expression: it is taken out of the modes, of which the
    # first three are hardly more.
    affine = np.linalg.qr(np.column_stack([np.ones(SKIN), mean[:SKIN]]))[0]
    free = modes[3 : EXPRESSION_MODES + 3]
    free = free - free @ affine @ affine.T
    mirror_loop = mirror[list(RIGHT_LIDS)]

    def with_irises(modes: np.ndarray) -> np.ndarray:
        """The irises follow the middle of their eye."""
        right, left = modes[:, RIGHT_LIDS].mean(1), modes[:, mirror_loop].mean(1)
        return np.concatenate([modes, np.repeat(right[:, None], 5, 1), np.repeat(left[:, None], 5, 1)], 1)

    irises = np.zeros((4, N_POINTS, 3))  # where a person's irises rest
    for k, (iris, axis) in enumerate(((RIGHT_IRIS, 0), (RIGHT_IRIS, 1), (LEFT_IRIS, 0), (LEFT_IRIS, 1))):
        irises[k, iris, axis] = 0.1
    personal = _per_axis(with_irises(modes[:IDENTITY_MODES]), IDENTITY_CM * fall[:IDENTITY_MODES], (0, 1, 2))
    identity = np.concatenate([ict_identity, personal, irises])
    # Depth is left to the named shapes: the image hardly shows it, so smooth modes would only follow noise.
    smooth = _per_axis(with_irises(free), EXPRESSION_CM * fall[3 : EXPRESSION_MODES + 3], (0, 1))
    names += [f"smooth_{k:02d}{axis}" for k in range(EXPRESSION_MODES) for axis in "xy"]
    bounds = np.concatenate([np.tile([0, 1.2], (len(named), 1)), np.tile([-EXPRESSION_LIMIT, EXPRESSION_LIMIT], (len(smooth), 1))])

    points = np.arange(N_POINTS, dtype=np.int32)
    return MorphableModel(
        name="mesh478",
        version=VERSION,
        mean=mean,
        triangles=triangles,
        identity_basis=identity[:, source].astype(np.float32),
        expression_basis=np.concatenate([named, smooth])[:, source].astype(np.float32),
        expression_names=tuple(names),
        expression_bounds=bounds.astype(np.float32),
        landmark_ids=points,
        landmark_triangles=np.repeat(points[:, None], 3, 1),
        landmark_barycentric=np.tile(np.float32([1, 0, 0]), (N_POINTS, 1)),
        landmark_weights=np.ones(N_POINTS, np.float32),
        depth_bias=np.zeros(len(mean), np.float32),
        inside=(np.arange(len(mean)) >= MOUTH_BAG).astype(np.uint8),
    )
