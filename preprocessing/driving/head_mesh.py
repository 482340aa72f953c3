"""A person's face model as training takes it (data.augmentation.mesh_motion.HeadMesh): vertices, landmarks and drawing in one object."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

import numpy as np

from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model, model_version, resolve_kind
from preprocessing.render.cpu import CpuRenderer
from util.cli import UserError, warn_once
from util.face.appearance import MouthParts
from util.geometry import Cameras
from util.layout import Dataset, read_table

_KEPT = 1024  # identities whose meshes stay in memory: 300 kB each


class HeadMesh:
    """model: the face model, of this identity alone. renderer: for its triangles. mouth: what its triangles show of the mouth's inside."""

    def __init__(self, model: MorphableModel, renderer: CpuRenderer, mouth: MouthParts) -> None:
        self._model, self._renderer, self.mouth = model, renderer, mouth
        self.names, self.bounds, self.triangles = model.expression_names, model.expression_bounds, model.triangles
        self.size = renderer.size[0]

    def vertices(self, expression: np.ndarray, cameras: Cameras) -> np.ndarray:
        """In pixels, z away from the camera: float32 [N, V, 3] of expressions [N, K]."""
        return self._model.in_image(np.zeros(1), expression, cameras)

    def landmarks(self, expression: np.ndarray, cameras: Cameras) -> np.ndarray:
        """The 70 landmarks, with their depth: float64 [N, 70, 3] in pixels."""
        points = cameras.project(self._model.landmarks(np.zeros(1), expression))
        return np.concatenate([from_dense(points), from_dense(points[..., 1:])[..., 1:]], -1).astype(np.float64)

    def draw_ids(self, vertices: np.ndarray) -> np.ndarray:
        """The triangle seen at each pixel, int32 [H, H], -1 for none, of vertices [V, 3]."""
        return self._renderer.draw_ids(vertices)

    def paint(self, ids: np.ndarray) -> np.ndarray:
        """The NMFC image, uint8 [H, H, 3]."""
        return self._renderer.paint(ids)


class HeadMeshes:
    """The meshes of a dataset's identities, by name; to be called from several threads."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._parts: dict[tuple[str, int], tuple[MorphableModel, CpuRenderer, MouthParts]] = {}
        self._lock = Lock()
        self._get = lru_cache(_KEPT)(self._make)

    def __call__(self, name: str) -> HeadMesh | None:
        """The mesh of an identity; None, with a warning, where it was not fitted with a face model that is here."""
        return self._get(name)

    def _make(self, name: str) -> HeadMesh | None:
        record = self._dataset.read_record(name)
        made_with = record.face_model if record else None
        if not made_with or not record.crop_size:
            return None  # a dataset of the original system
        try:
            kind = resolve_kind(made_with["name"])
            if made_with["version"] != model_version(kind):
                raise UserError(f"the fits were made with version {made_with['version']} of the face model {kind}")
            model, renderer, mouth = self._drawing(kind, record.crop_size)
            identity = read_table(self._dataset.id_coeffs_path("train", name))[:, 0]
        except UserError as e:
            warn_once(f"training without changed expressions: {e}")
            return None
        if len(identity) != len(model.identity_basis):
            return None
        return HeadMesh(model.of_person(identity), renderer, mouth)

    def _drawing(self, kind: str, size: int) -> tuple[MorphableModel, CpuRenderer, MouthParts]:
        with self._lock:
            if (kind, size) not in self._parts:
                model = load_face_model(kind)
                colours, inside = model.nmfc_colours(), model.mouth_inside()
                self._parts[kind, size] = model, CpuRenderer(model.triangles, colours, (size, size)), MouthParts(colours, *inside)
            return self._parts[kind, size]
