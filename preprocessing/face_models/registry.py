"""The face models by name.

- `mesh478`: the mesh of the dense landmark detector itself, embedded in the repository (preprocessing/face_models/mesh478.py);
- `ict`: ICT-FaceKit, 26,719 vertices, fetched and converted by scripts/download_files.py (preprocessing/face_models/ict.py);
- `lsfm`: the original system's model, for those who hold its file all_all_all.mat (preprocessing/face_models/lsfm.py);
- `auto`: `ict` when its converted file is there, else `mesh478`.
"""

from __future__ import annotations

from pathlib import Path

from preprocessing.face_models import ict, lsfm, mesh478
from preprocessing.face_models.morphable import MorphableModel
from util.cli import UserError
from util.layout import root

FACE_MODELS = ("ict", "mesh478", "lsfm")


def default_files_dir() -> Path:
    """Folder of the converted face models (not tracked by git)."""
    return root() / "preprocessing" / "files"


def resolve_kind(kind: str, files_dir: str | Path | None = None) -> str:
    """Turn 'auto' into the model it stands for; check that a named one can be had, without loading it.

    Raises: UserError.
    """
    files = Path(files_dir) if files_dir else default_files_dir()
    if kind == "auto":
        return "ict" if ict.model_path(files).is_file() else "mesh478"
    if kind not in FACE_MODELS:
        raise UserError(f"--face_model {kind} is unknown; use auto, {', '.join(FACE_MODELS)}")
    if kind == "ict" and not ict.model_path(files).is_file():
        raise UserError(
            f"the face model ict is not there ({ict.model_path(files)}); run scripts/download_files.py, or use --face_model mesh478"
        )
    if kind == "lsfm" and not lsfm.model_path(files).is_file():
        raise UserError(
            f"the face model lsfm is not there; put its owners' file at {lsfm.model_path(files)}, or use ict (scripts/download_files.py)"
        )
    return kind


def model_version(kind: str, files_dir: str | Path | None = None) -> str:
    """Version of a model that `resolve_kind` has accepted, without loading it."""
    if kind == "lsfm":
        return lsfm.version(Path(files_dir) if files_dir else default_files_dir())
    return {"ict": ict, "mesh478": mesh478}[kind].VERSION


def model_files(kind: str) -> list[Path]:
    """The files outside of the repository that a model is loaded from."""
    files = default_files_dir()
    named = {"ict": [ict.model_path(files)], "lsfm": [lsfm.model_path(files), lsfm.landmarks_path(files)]}
    return [path for path in named.get(kind, []) if path.is_file()]


def load_face_model(kind: str = "auto", files_dir: str | Path | None = None) -> MorphableModel:
    """Load a face model.

    kind: auto, ict, mesh478 or lsfm. files_dir: where download_files.py put the converted files, and LSFM's is (preprocessing/files).
    Raises: UserError when the model is unknown, missing or damaged.
    """
    kind = resolve_kind(kind, files_dir)
    if kind == "mesh478":
        return mesh478.load()
    return {"ict": ict, "lsfm": lsfm}[kind].load(Path(files_dir) if files_dir else default_files_dir())
