"""`ict`: ICT-FaceKit (USC ICT, MIT licence) as a morphable model, from the archive's OBJ files to one compact file.

Three things are changed on the way:
- Lashes, fluids and the layers around the eyes go (they would hide the eyes), and so does the bust below the neck: it
  would turn with the head, which shoulders do not.
- The archive's eyeLook shapes move the lids only; ours turn the eyeball by 30 degrees as well.
- Quads become two triangles each.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from preprocessing.face_models.morphable import MorphableModel
from util.cli import UserError, progress
from util.image_io import write_bytes

COMMIT = "da5f95a607f5e6b37755b38d3385d7f2853732e5"
ARCHIVE = f"ICT-FaceKit-{COMMIT}"  # name without ending, of the official archives and of a mirror's
URL = f"https://github.com/ICT-VGL/ICT-FaceKit/archive/{COMMIT}.zip"
VERSION = f"{COMMIT[:7]}-1"  # the archive's commit, then our conversion's number
ENDINGS = (".tar.xz", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar", ".txz", ".tbz2")

VERTICES, FACES, IDENTITIES, OBJ_FILES = 26719, 26384, 100, 158
# SHA-256 over neutral, identities, expressions (names, then float32 vertices) and faces (int32), as `_content_hash` takes it
CONTENT_SHA256 = "37978e381c50dc7ff0a492f5cd4921d14c3393db590e05a755f705360d0546d5"
KEPT_VERTICES = 24591  # fluids, eye layers and lashes come after
EYEBALLS = {"L": slice(21451, 23021), "R": slice(23021, 24591)}
SCLERA_VERTICES = 770  # the first of each eyeball: a sphere with the cornea's bulge
MOUTH = {1: (11248, 13294), 2: (14062, 17039), 3: (17039, 21451)}  # vertices by MorphableModel.inside: socket, gums and tongue, teeth
# With the jaw wide open the socket reaches through the chin's skin, on real faces by up to 1 cm.
MOUTH_BIAS_CM = 1.5
GAZE_DEG = 30.0  # turn of the eyeball at weight 1 of an eyeLook shape

LANDMARKS = Path(__file__).with_name("face_data") / "ict_landmarks478.txt"


def model_path(files_dir: Path) -> Path:
    """Where the converted model lies."""
    return files_dir / "ict_face_model.npz"


def is_converted(files_dir: Path) -> bool:
    """Whether the converted model is there, whole and of this version."""
    try:
        with np.load(model_path(files_dir)) as data:
            return str(data["version"]) == VERSION
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


# ---- the archive ----


def find_source(mirror: Path) -> Path:
    """The archive or unpacked tree that a local mirror offers.

    mirror: the archive itself, the unpacked tree, or a folder that holds either.
    Raises: UserError.
    """
    if mirror.is_file():
        return mirror
    if not mirror.is_dir():
        raise UserError(f"the mirror {mirror} is neither a folder nor a file; check --mirror")
    for folder in (mirror, *sorted(p for p in mirror.iterdir() if p.is_dir())):
        if (folder / "FaceXModel" / "generic_neutral_mesh.obj").is_file():
            return folder
    archives = [p for p in sorted(mirror.iterdir()) if p.is_file() and p.name.endswith(ENDINGS)]
    named = [p for p in archives if ARCHIVE in p.name] or [p for p in archives if "ict-facekit" in p.name.lower() or COMMIT[:7] in p.name]
    if not named:
        raise UserError(f"the mirror {mirror} holds neither {ARCHIVE}.zip (or .tar.xz, .tar.gz, ...) nor its unpacked tree; check --mirror")
    return named[0]


def _model_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files in FaceXModel/ of an archive or unpacked tree; nothing is unpacked to disk."""
    if source.is_dir():
        for path in sorted((source / "FaceXModel").iterdir()):
            if path.suffix in (".obj", ".json"):
                yield path.name, path.read_bytes()
        return

    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        return path.parent.name == "FaceXModel" and path.suffix in (".obj", ".json")

    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for info in archive.infolist():
                    if wanted(info.filename):
                        yield PurePosixPath(info.filename).name, archive.read(info)
        elif tarfile.is_tarfile(source):
            with tarfile.open(source) as archive:
                for member in archive:
                    if member.isfile() and wanted(member.name):
                        yield PurePosixPath(member.name).name, archive.extractfile(member).read()
        else:
            raise UserError(f"{source} is no archive that can be read (zip or tar expected); fetch it again")
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as e:
        raise UserError(f"{source} is damaged ({e}); fetch it again") from None


def parse_vertices(obj: bytes) -> np.ndarray:
    """The vertices of an OBJ file whose `v` lines are one block: float64 [V, 3].

    Raises: ValueError when there is no such block or it holds something else.
    """
    start = obj.find(b"\nv ") + 1
    end = obj.find(b"\n", obj.rfind(b"\nv ") + 1)
    if not start:
        raise ValueError("no vertices")
    values = np.array(obj[start : end if end > 0 else len(obj)].replace(b"v ", b" ").split(), np.float64)
    return values.reshape(-1, 3)


def parse_faces(obj: bytes) -> list[list[int]]:
    """Vertex indices from 0 of an OBJ file's faces."""
    return [[int(corner.split(b"/")[0]) - 1 for corner in line.split()[1:]] for line in obj.splitlines() if line.startswith(b"f ")]


def triangulate(faces: list[list[int]]) -> np.ndarray:
    """Fans of triangles: int32 [F, 3]."""
    return np.array([(f[0], f[k], f[k + 1]) for f in faces for k in range(1, len(f) - 1)], np.int32)


def _content_hash(names: list[str], shapes: list[np.ndarray], triangles: np.ndarray) -> str:
    digest = hashlib.sha256()
    for name, shape in zip(names, shapes):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(shape, "<f4").tobytes())
    digest.update(np.ascontiguousarray(triangles, "<i4").tobytes())
    return digest.hexdigest()


def read_archive(source: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Read an ICT-FaceKit archive or tree and check that it is the expected one.

    Returns: mean [26719, 3], identity offsets [100, 26719, 3], expression offsets [53, 26719, 3], all float32 in cm;
        expression names; triangles int32 [52220, 3].
    Raises: UserError when the archive is damaged, incomplete or another version.
    """
    wrong = f"{source} is not ICT-FaceKit at commit {COMMIT[:7]}"
    vertices: dict[str, np.ndarray] = {}
    faces, expressions = [], None
    with progress(desc="read ICT-FaceKit", total=OBJ_FILES, unit="file") as bar:
        for name, data in _model_files(source):
            try:
                if name == "vertex_indices.json":
                    expressions = [str(n) for n in json.loads(data)["expressions"]]
                    continue
                if name.endswith(".json"):
                    continue
                shape = parse_vertices(data).astype(np.float32)
                if name == "generic_neutral_mesh.obj":
                    faces = parse_faces(data)
            except (ValueError, KeyError, TypeError, IndexError) as e:
                raise UserError(f"{wrong}: {name} is damaged ({e}); fetch it again") from None
            if len(shape) != VERTICES:
                raise UserError(f"{wrong}: {name} has {len(shape)} vertices, not {VERTICES}; fetch it again")
            vertices[name.removesuffix(".obj")] = shape
            bar.update()
    if expressions is None or len(faces) != FACES:
        raise UserError(f"{wrong}: vertex_indices.json or the neutral mesh is missing or incomplete; fetch it again")
    names = ["generic_neutral_mesh", *(f"identity{i:03d}" for i in range(IDENTITIES)), *expressions]
    if missing := [n for n in names if n not in vertices]:
        raise UserError(f"{wrong}: {missing[0]}.obj is missing ({len(missing)} files in all); fetch it again")
    triangles = triangulate(faces)
    if _content_hash(names, [vertices[n] for n in names], triangles) != CONTENT_SHA256:
        raise UserError(f"{wrong}: its shapes differ from that version's; fetch that commit")
    mean = vertices[names[0]]
    offsets = np.stack([vertices[n] - mean for n in names[1:]])
    return mean, offsets[:IDENTITIES], offsets[IDENTITIES:], expressions, triangles


def read_indices(source: Path) -> dict[str, list]:
    """The archive's vertex_indices.json."""
    return json.loads(next(data for name, data in _model_files(source) if name == "vertex_indices.json"))


# ---- conversion ----


def turn_eyeballs(mean: np.ndarray, expression: np.ndarray, names: list[str]) -> None:
    """Add the eyeballs' turn to the eyeLook shapes, in place: GAZE_DEG about the middle of the eyeball's sphere."""
    angle = np.deg2rad(GAZE_DEG)
    for side, part in EYEBALLS.items():
        sphere = mean[part][:SCLERA_VERTICES]
        low, high = sphere.min(0), sphere.max(0)
        radius = (high[1] - low[1]) / 2
        centre = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2] + radius])  # the bulge is in front only
        outwards = 1.0 if side == "L" else -1.0
        for direction, axis in {"Up": (-1, 0, 0), "Down": (1, 0, 0), "Out": (0, outwards, 0), "In": (0, -outwards, 0)}.items():
            axis, p = np.array(axis, float), mean[part] - centre
            # Rodrigues' formula
            turned = p * np.cos(angle) + np.cross(axis, p) * np.sin(angle) + np.outer(p @ axis, axis) * (1 - np.cos(angle))
            expression[names.index(f"eyeLook{direction}_{side}"), part] = turned - p


def convert(source: Path, files_dir: Path) -> Path:
    """Convert an archive or unpacked tree to the compact file and return its path.

    Raises: UserError as `read_archive`.
    """
    mean, identity, expression, names, triangles = read_archive(source)
    turn_eyeballs(mean, expression, names)
    below_neck = mean[:, 1] < -12.0 - 0.3 * (mean[:, 2] - 5.0)
    triangles = triangles[(triangles < KEPT_VERTICES).all(1) & ~below_neck[triangles].any(1)]
    ids = np.unique(triangles)
    # float16: steps of at most 0.002 cm at the largest offset (3.8 cm), under a hundredth of a pixel in a 256 crop
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        version=VERSION,
        notice="ICT-FaceKit, Copyright (c) 2020 USC Institute for Creative Technologies, MIT License",
        mean=mean[ids],
        identity=identity[:, ids].astype(np.float16),
        expression=expression[:, ids].astype(np.float16),
        expression_names=names,
        triangles=np.searchsorted(ids, triangles).astype(np.int32),
        vertex_ids=ids.astype(np.int32),  # numbers in the archive
    )
    write_bytes(model_path(files_dir), buffer.getvalue())
    return model_path(files_dir)


def load(files_dir: Path) -> MorphableModel:
    """Load the converted model.

    Raises: UserError when it is damaged or of another version.
    """
    path = model_path(files_dir)
    try:
        with np.load(path) as data:
            if str(data["version"]) != VERSION:
                raise UserError(f"{path} is of version {data['version']}, not {VERSION}; run scripts/download_files.py again")
            mean, triangles, ids, names = data["mean"], data["triangles"], data["vertex_ids"], [str(n) for n in data["expression_names"]]
            identity, expression = data["identity"].astype(np.float32), data["expression"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise UserError(f"{path} is damaged ({e}); delete it and run scripts/download_files.py again") from None
    inside = np.zeros(len(ids), np.uint8)
    for part, (first, last) in MOUTH.items():
        inside[(ids >= first) & (ids < last)] = part
    table = np.loadtxt(LANDMARKS)  # dense point, three vertices of the archive, their weights, trust
    return MorphableModel(
        name="ict",
        version=VERSION,
        mean=mean,
        triangles=triangles,
        identity_basis=identity,
        expression_basis=expression,
        expression_names=tuple(names),
        expression_bounds=np.tile(np.float32([0, 1.2]), (len(names), 1)),
        landmark_ids=table[:, 0].astype(np.int32),
        landmark_triangles=np.searchsorted(ids, table[:, 1:4].astype(np.int32)).astype(np.int32),
        landmark_barycentric=table[:, 4:7].astype(np.float32),
        landmark_weights=table[:, 7].astype(np.float32),
        depth_bias=np.float32(MOUTH_BIAS_CM) * (inside > 0),
        inside=inside,
    )
