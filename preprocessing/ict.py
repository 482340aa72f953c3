"""`ict`: ICT-FaceKit as a morphable model, from the archive's OBJ files to one compact file."""

from __future__ import annotations

from pathlib import Path


def model_path(files_dir: Path) -> Path:
    """Where the converted model lies."""
    return files_dir / "ict_face_model.npz"
