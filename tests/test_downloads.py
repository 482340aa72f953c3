"""util/downloads.py, preprocessing/face_models/ict.py and scripts/download_files.py: against a local server, and on the real archive."""

import hashlib
import http.server
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from preprocessing.face_models import ict
from preprocessing.face_models.registry import load_face_model, resolve_kind
from util import downloads
from util.cli import UserError

ROOT = Path(__file__).resolve().parents[1]
MIRROR = ROOT.parent / "shared" / "mirror"
DATA = np.random.default_rng(0).integers(0, 256, 700_000, np.uint8).tobytes()
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"the archive's copy {MIRROR} is not here")


class Server(http.server.BaseHTTPRequestHandler):
    """Serves DATA at /file; /cut breaks off once; /busy is out of order once; /plain knows no ranges."""

    log: list[tuple[str, str | None]] = []
    seen: set[str] = set()

    def do_GET(self):
        asked = self.headers.get("Range")
        self.log.append((self.path, asked))
        first = self.path not in self.seen
        self.seen.add(self.path)
        if self.path == "/busy" and first:
            return self.send_error(503)
        if self.path not in ("/file", "/cut", "/busy", "/plain"):
            return self.send_error(404)
        start = int(asked[6:-1]) if asked and self.path != "/plain" else 0
        if start >= len(DATA):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(DATA)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start:][: 300_000 if self.path == "/cut" and first else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.log.clear()
    Server.seen.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_fetch_whole_and_keep(server, tmp_path):
    target = tmp_path / "new" / "a.bin"
    digest = hashlib.sha256(DATA).hexdigest()
    assert downloads.fetch(f"{server}/file", target, sha256=digest).read_bytes() == DATA
    downloads.fetch(f"{server}/file", target, sha256=digest)
    assert len(Server.log) == 1 and [p.name for p in target.parent.iterdir()] == ["a.bin"]


def test_fetch_goes_on_after_a_broken_connection(server, tmp_path):
    target = downloads.fetch(f"{server}/cut", tmp_path / "a.bin", pauses_s=(0.0,))
    assert target.read_bytes() == DATA
    assert Server.log == [("/cut", None), ("/cut", "bytes=300000-")]


def test_fetch_goes_on_in_a_later_call(server, tmp_path):
    with pytest.raises(UserError, match="run again to go on"):
        downloads.fetch(f"{server}/cut", tmp_path / "a.bin", pauses_s=())
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.part").stat().st_size == 300_000
    assert downloads.fetch(f"{server}/cut", tmp_path / "a.bin", pauses_s=()).read_bytes() == DATA
    assert Server.log[-1] == ("/cut", "bytes=300000-")


def test_fetch_finishes_a_part_that_is_already_whole(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(DATA)
    assert downloads.fetch(f"{server}/file", tmp_path / "a.bin", pauses_s=()).read_bytes() == DATA


def test_fetch_starts_again_where_ranges_are_unsupported(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"old")
    assert downloads.fetch(f"{server}/plain", tmp_path / "a.bin", pauses_s=()).read_bytes() == DATA


def test_fetch_tries_again_when_the_server_is_busy_but_not_when_the_file_is_missing(server, tmp_path):
    assert downloads.fetch(f"{server}/busy", tmp_path / "a.bin", pauses_s=(0.0,)).read_bytes() == DATA
    with pytest.raises(UserError, match="404"):
        downloads.fetch(f"{server}/none", tmp_path / "b.bin", pauses_s=(0.0, 0.0))
    assert [p for p, _ in Server.log].count("/none") == 1 and not list(tmp_path.glob("b.bin*"))


def test_fetch_refuses_another_file(server, tmp_path):
    with pytest.raises(UserError, match="not the expected file"):
        downloads.fetch(f"{server}/file", tmp_path / "a.bin", sha256="0" * 64)
    assert not list(tmp_path.iterdir())


def test_fetch_says_in_one_sentence_that_there_is_no_network(tmp_path):
    with pytest.raises(UserError, match="host is unknown") as e:
        downloads.fetch("http://no-such-host.invalid/a", tmp_path / "a")
    assert "\n" not in str(e.value)


def command(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "scripts" / "download_files.py", *map(str, arguments)], capture_output=True, text=True)


def test_command_fails_in_one_line_for_bad_mirrors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / f"{ict.ARCHIVE}.zip").write_bytes(b"PK no archive")
    for mirror, words in {"absent": "neither a folder nor a file", "empty": "holds neither", "bad": "no archive that can be read"}.items():
        done = command("--mirror", tmp_path / mirror, "--files_dir", tmp_path / "files")
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "files").exists() or not list((tmp_path / "files").iterdir())
    assert (tmp_path / "bad" / f"{ict.ARCHIVE}.zip").is_file()  # the user's own file stays


def test_an_archive_with_other_content_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / f"{ict.ARCHIVE}.zip", "w") as archive:
        archive.writestr("x/FaceXModel/generic_neutral_mesh.obj", "# a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    with pytest.raises(UserError, match="3 vertices, not 26719"):
        ict.read_archive(ict.find_source(tmp_path))


def test_parse_obj():
    obj = b"# c\nmtllib m\nv 1 -2.5 3e-1\nv 0 0 1\nvt 0.5 0.5\nf 1/1 2/2 3/3 4/4\nf 2/1 3/2 5/3\n"
    np.testing.assert_allclose(ict.parse_vertices(obj), [[1, -2.5, 0.3], [0, 0, 1]])
    assert ict.triangulate(ict.parse_faces(obj)).tolist() == [[0, 1, 2], [0, 2, 3], [1, 2, 4]]
    with pytest.raises(ValueError):
        ict.parse_vertices(b"nothing here")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The real archive converted by the real command; its folder of converted files."""
    files = tmp_path_factory.mktemp("files")
    done = command("--mirror", MIRROR, "--files_dir", files)
    assert done.returncode == 0, done.stderr
    return files


@needs_mirror
def test_command_converts_the_real_archive_once(converted):
    assert [p.name for p in converted.iterdir()] == ["ict_face_model.npz"]
    before = ict.model_path(converted).stat().st_mtime_ns
    done = command("--mirror", "/nowhere", "--files_dir", converted)
    assert done.returncode == 0 and "already complete" in done.stdout
    assert ict.model_path(converted).stat().st_mtime_ns == before
    assert resolve_kind("auto", converted) == "ict"


@needs_mirror
def test_a_damaged_converted_file_is_said_and_made_again(converted, tmp_path):
    ict.model_path(tmp_path).write_bytes(ict.model_path(converted).read_bytes()[:100_000])
    with pytest.raises(UserError, match="damaged"):
        load_face_model("ict", tmp_path)
    assert not ict.is_converted(tmp_path)


@needs_mirror
def test_ict_model(converted):
    model = load_face_model("auto", converted)
    assert model.name == "ict" and model.identity_basis.shape[0] == 100 and len(model.expression_names) == 53
    assert 20_000 < len(model.mean) < ict.KEPT_VERTICES and len(np.unique(model.triangles)) == len(model.mean)
    assert sorted(model.landmark_ids) == list(range(478))
    np.testing.assert_allclose(model.landmark_barycentric.sum(1), 1, atol=1e-3)
    rest = model.landmarks(np.zeros(100), np.zeros(53))
    # right eye on the image's left (-x), brow above chin, nose in front of the eyes: in centimetres
    assert rest[33, 0] < -3 < 3 < rest[263, 0] and rest[10, 1] > rest[152, 1] + 12 and rest[1, 2] > rest[33, 2] + 3

    def move(**weights):
        e = np.array([weights.get(n, weights.get(n[:-2], 0.0)) for n in model.expression_names])
        return model.landmarks(np.zeros(100), e) - rest

    assert move(jawOpen=1)[17, 1] < -2 and abs(move(jawOpen=1)[10]).max() < 0.05  # the lower lip drops, the forehead stays
    assert move(eyeBlink=1)[159, 1] < -0.4 and move(eyeBlink=1)[386, 1] < -0.4  # upper lids
    left = move(eyeLookOut_L=1, eyeLookIn_R=1)[[468, 473], 0]  # both irises to the subject's left
    assert (left > 0.5).all()
    assert (move(eyeLookUp=1)[[468, 473], 1] > 0.5).all()


@needs_mirror
def test_an_unpacked_tree_and_a_shifted_vertex(tmp_path):
    with tarfile.open(next(MIRROR.glob("*.tar.xz"))) as archive:
        names = [m for m in archive.getmembers() if "FaceXModel" in m.name]
        archive.extractall(tmp_path / "mirror", members=names)  # without a filter: Python 3.11.2 knows none
    tree = ict.find_source(tmp_path / "mirror")
    assert tree.name == ict.ARCHIVE
    path = tree / "FaceXModel" / "jawOpen.obj"
    path.write_bytes(path.read_bytes().replace(b"\nv ", b"\nv 1", 1))
    with pytest.raises(UserError, match="differ"):
        ict.read_archive(tree)
    path.unlink()
    with pytest.raises(UserError, match="jawOpen"):
        ict.read_archive(tree)
    shutil.rmtree(tmp_path / "mirror")
