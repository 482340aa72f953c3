"""A morphable face model: mean, triangles, identity and expression bases, landmark embedding.

Axes of every model: x to the subject's left (the image's right when frontal), y up, z out of the face towards the camera,
in centimetres. preprocessing/face_models/registry.py loads the models by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from preprocessing.face_models.dense_points import DENSE_INDICES, INNER_LIPS
from util.compiled import compiled
from util.geometry import Cameras

BATCH = 32  # frames whose vertices are computed at once


@lru_cache(maxsize=1)
def _place_function():
    """Compiled: a fifth of the time that numpy needs for products with matrices of 3 x 3."""

    def place(vertices, turn, translation, scale, depth_bias):
        """Project vertices [N, V, 3] in place by turn [N, 3, 3] and translation [N, 3]; scale [N] * depth_bias [V] is added in depth."""
        for n in range(vertices.shape[0]):
            for v in range(vertices.shape[1]):
                x, y, z = vertices[n, v, 0], vertices[n, v, 1], vertices[n, v, 2]
                for axis in range(3):
                    vertices[n, v, axis] = turn[n, axis, 0] * x + turn[n, axis, 1] * y + turn[n, axis, 2] * z + translation[n, axis]
                vertices[n, v, 2] += scale[n] * depth_bias[v]

    return compiled(place)


@dataclass(frozen=True)
class MorphableModel:
    """A linear face model: vertices = mean + identity . identity_basis + expression . expression_basis."""

    name: str
    version: str  # changes whenever coefficients of one version mean something else in the other
    mean: np.ndarray  # float32 [V, 3]
    triangles: np.ndarray  # int32 [F, 3]
    identity_basis: np.ndarray  # float32 [K_id, V, 3]; a coefficient of 1 is about one standard deviation
    expression_basis: np.ndarray  # float32 [K_exp, V, 3]
    expression_names: tuple[str, ...]  # ARKit names (left and right as _L and _R), then smooth_* of the model's own
    expression_bounds: np.ndarray  # float32 [K_exp, 2]
    landmark_ids: np.ndarray  # int32 [L]: which of the detector's 478 dense points are embedded
    landmark_triangles: np.ndarray  # int32 [L, 3]: vertices between which a dense point lies
    landmark_barycentric: np.ndarray  # float32 [L, 3]: weights of the corners, sum 1
    landmark_weights: np.ndarray  # float32 [L]: how far a fit may trust the point (1 is usual, 0 not at all)
    depth_bias: np.ndarray  # float32 [V], model units: drawn that much farther away, so that the mouth's inside never pierces the skin
    inside: np.ndarray  # uint8 [V]: 0 not of the mouth's inside, 1 its wall, 2 gums and tongue, 3 teeth

    def __post_init__(self) -> None:
        v, k = len(self.mean), len(self.expression_names)
        bases = self.identity_basis.shape[1:] == (v, 3) and self.expression_basis.shape == (k, v, 3)
        if not (bases and self.expression_bounds.shape == (k, 2) and self.triangles.max() < v):
            raise ValueError(f"the arrays of the face model {self.name} do not fit one another")
        # row by row in memory: `shape` takes rows, and models derived from this one share them
        for name in ("identity_basis", "expression_basis"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name)))

    def shape(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Vertices for coefficients.

        identity: [K_id]; expression: [K_exp] or [N, K_exp]. Returns float32 [V, 3] or [N, V, 3].
        """
        person = self.mean.reshape(-1) + np.asarray(identity, np.float32) @ self.identity_basis.reshape(len(self.identity_basis), -1)
        vertices = np.asarray(expression, np.float32) @ self.expression_basis.reshape(len(self.expression_basis), -1)
        vertices += person
        return vertices.reshape(*vertices.shape[:-1], -1, 3)

    def in_image(self, identity: np.ndarray, expression: np.ndarray, cameras: Cameras) -> np.ndarray:
        """Vertices of N frames as a renderer takes them (x, y in pixels, larger z farther away): float32 [N, V, 3].

        identity: [K_id]; expression: [N, K_exp].
        """
        vertices = self.shape(identity, expression)
        turn = (cameras.scale[:, None, None] * cameras.rotation).astype(np.float32)
        _place_function()(vertices, turn, cameras.translation.astype(np.float32), cameras.scale.astype(np.float32), self.depth_bias)
        return vertices

    def in_images(self, identity: np.ndarray, expression: np.ndarray, cameras: Cameras) -> Iterator[np.ndarray]:
        """As `in_image`, frame by frame, float32 [V, 3]; computed some frames at a time, so that memory does not grow with their number."""
        for start in range(0, len(cameras), BATCH):
            part = slice(start, start + BATCH)
            yield from self.in_image(identity, expression[part], cameras[part])

    def at_landmarks(self, values: np.ndarray) -> np.ndarray:
        """Interpolate per-vertex values [..., V, 3] at the embedded dense points: [..., L, 3]."""
        return np.einsum("lk,...lkc->...lc", self.landmark_barycentric, values[..., self.landmark_triangles, :])

    @cached_property
    def landmark_model(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean [L, 3], identity basis [K_id, L, 3] and expression basis [K_exp, L, 3] at the embedded dense points."""
        return self.at_landmarks(self.mean), self.at_landmarks(self.identity_basis), self.at_landmarks(self.expression_basis)

    @cached_property
    def _contiguous_landmark_model(self) -> tuple[np.ndarray, ...]:
        """`landmark_model` row by row in memory: from any other order a product copies the bases first, 3 ms each time."""
        return tuple(np.ascontiguousarray(part) for part in self.landmark_model)

    def landmarks(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """The embedded dense points for coefficients as in `shape`: float32 [L, 3] or [N, L, 3], in model space."""
        mean, id_basis, exp_basis = self._contiguous_landmark_model
        person = mean + np.tensordot(np.asarray(identity, np.float32), id_basis, 1)
        return person + np.tensordot(np.asarray(expression, np.float32), exp_basis, 1)

    @cached_property
    def _model_of_70(self) -> list[np.ndarray]:
        return [part[..., DENSE_INDICES, :].reshape(*part.shape[:-2], -1) for part in self.landmark_model]

    def landmarks70(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """The 70 landmarks of all 478 dense points, [N, 70, 3]; else as `landmarks`."""
        mean, id_basis, exp_basis = self._model_of_70
        flat = mean + np.asarray(identity, np.float32) @ id_basis + np.asarray(expression, np.float32) @ exp_basis
        return flat.reshape(*flat.shape[:-1], -1, 3)

    def with_points(self, triangles: np.ndarray, first_id: int) -> tuple[MorphableModel, np.ndarray]:
        """The model with the middles of triangles [P, 3] embedded as well, as dense points first_id, first_id + 1, ...; and those ids."""
        ids = first_id + np.arange(len(triangles), dtype=self.landmark_ids.dtype)
        middles, trust = np.full((len(ids), 3), 1 / 3, np.float32), np.ones(len(ids), np.float32)
        more = replace(
            self,
            landmark_ids=np.concatenate([self.landmark_ids, ids]),
            landmark_triangles=np.concatenate([self.landmark_triangles, triangles]).astype(np.int32),
            landmark_barycentric=np.concatenate([self.landmark_barycentric, middles]),
            landmark_weights=np.concatenate([self.landmark_weights, trust]),
        )
        return more, ids

    def of_person(self, identity: np.ndarray) -> MorphableModel:
        """The model of one person alone, whose identity is zeros(1): the face without expression is computed once, not for every frame."""
        neutral = self.shape(identity, np.zeros(len(self.expression_names)))
        person = replace(self, mean=neutral, identity_basis=np.zeros_like(self.identity_basis[:1]))
        # what expressions do at the landmarks is the same for all: shared as well, so that a thousand persons fit into memory
        landmarks = (np.ascontiguousarray(self.at_landmarks(part)) for part in (person.mean, person.identity_basis))
        vars(person)["_contiguous_landmark_model"] = (*landmarks, self._contiguous_landmark_model[2])
        return person

    def without_unused(self, triangles: np.ndarray) -> MorphableModel:
        """The model of these triangles [F, 3] alone, to be drawn: without the vertices that they do not need, and without landmarks."""
        used, renumbered = np.unique(triangles, return_inverse=True)
        return replace(
            self,
            mean=self.mean[used],
            triangles=renumbered.reshape(-1, 3).astype(np.int32),
            identity_basis=self.identity_basis[:, used],
            expression_basis=self.expression_basis[:, used],
            depth_bias=self.depth_bias[used],
            inside=self.inside[used],
            landmark_ids=self.landmark_ids[:0],
            landmark_triangles=self.landmark_triangles[:0],
            landmark_barycentric=self.landmark_barycentric[:0],
            landmark_weights=self.landmark_weights[:0],
        )

    def mouth_inside(self) -> tuple[np.ndarray, np.ndarray]:
        """Which triangles show the mouth's inside, uint8 [F] as `inside`, and how far behind the lips they are, float32 [F]."""
        lips = self.at_landmarks(self.mean)[np.isin(self.landmark_ids, INNER_LIPS), 2]
        depths = lips.mean() - self.mean[self.triangles, 2].mean(1) if len(lips) else np.zeros(len(self.triangles))
        return self.inside[self.triangles].max(1), depths.astype(np.float32)

    def nmfc_colours(self) -> np.ndarray:
        """Normalised mean face coordinates of every triangle: uint8 [F, 3].

        A vertex' colour is its mean position scaled to 0..1 per axis, a triangle's is the mean of its corners; so the
        colour says which point of the face it is and never depends on person, pose or expression.
        """
        low, high = self.mean.min(0), self.mean.max(0)
        vertex = (self.mean - low) / (high - low)
        return np.round(vertex[self.triangles].mean(1) * 255).astype(np.uint8)
