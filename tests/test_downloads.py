"""util/downloads/fetching.py against a local server; preprocessing/face_models/ict.py and scripts/download_files.py on the real archive."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from file_server import Handler, serving

from preprocessing.face_models import ict
from preprocessing.face_models.registry import load_face_model, resolve_kind
from util import downloads
from util.cli import UserError
from util.downloads import fetching

ROOT = Path(__file__).resolve().parents[1]
MIRROR = ROOT.parent / "shared" / "mirror"
DATA = np.random.default_rng(0).integers(0, 256, 700_000, np.uint8).tobytes()
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason=f"the archive's copy {MIRROR} is not here")


@pytest.fixture
def server():
    """Serves DATA at /file, and at a path for every way in which it goes wrong."""
    with serving() as running:
        for how in [name for name in vars(Handler) if not name.startswith(("_", "do_"))]:
            path = "/" + how.replace("_", "-")
            for once in ("", "-once"):
                running.files[path + once] = DATA
                running.how[path + once] = how.replace("_", " ") + once.replace("-", " ")
        running.files["/file"] = DATA
        yield running


def test_fetch_whole_and_keep(server, tmp_path):
    target = tmp_path / "new" / "a.bin"
    digest = hashlib.sha256(DATA).hexdigest()
    assert downloads.fetch(f"{server.url}/file", target, sha256=digest).read_bytes() == DATA
    downloads.fetch(f"{server.url}/file", target, sha256=digest)
    assert len(server.log) == 1 and [p.name for p in target.parent.iterdir()] == ["a.bin"]


def test_fetch_goes_on_after_a_broken_connection(server, tmp_path):
    target = downloads.fetch(f"{server.url}/cut-once", tmp_path / "a.bin", pauses_s=(0.0,))
    assert target.read_bytes() == DATA
    assert server.log == [("/cut-once", None), ("/cut-once", "bytes=300000-")]


def test_fetch_goes_on_in_a_later_call(server, tmp_path):
    with pytest.raises(UserError, match="run again to go on"):
        downloads.fetch(f"{server.url}/cut-once", tmp_path / "a.bin", pauses_s=())
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.part").stat().st_size == 300_000
    assert downloads.fetch(f"{server.url}/cut-once", tmp_path / "a.bin", pauses_s=()).read_bytes() == DATA
    assert server.log[-1] == ("/cut-once", "bytes=300000-") and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_fetch_does_not_give_up_while_something_comes(server, tmp_path):
    server.files["/cut"] = DATA + DATA  # five tries, and one pause
    assert downloads.fetch(f"{server.url}/cut", tmp_path / "a.bin", pauses_s=(0.0,)).read_bytes() == DATA + DATA
    assert [asked for _, asked in server.log] == [None, *(f"bytes={n * 300_000}-" for n in range(1, 5))]


def test_fetch_finishes_a_part_that_is_already_whole(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(DATA)
    assert downloads.fetch(f"{server.url}/file", tmp_path / "a.bin", pauses_s=()).read_bytes() == DATA


@pytest.mark.parametrize("how", ["plain", "wrong-range", "nameless-range", "gzip", "file"])
def test_fetch_begins_anew_where_the_rest_cannot_be_had(server, tmp_path, how):
    """No ranges, ranges answered wrongly, in another encoding, a right range of another file; also when the part is too long."""
    digest = hashlib.sha256(DATA).hexdigest()
    for old in (b"old", bytes(len(DATA) + 5)):
        (tmp_path / "a.bin.part").write_bytes(old)
        assert downloads.fetch(f"{server.url}/{how}", tmp_path / "a.bin", sha256=digest, pauses_s=()).read_bytes() == DATA
        (tmp_path / "a.bin").unlink()


def test_a_page_in_between_costs_nothing_of_what_arrived(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(DATA[:1000])
    with pytest.raises(UserError, match="web page.*what arrived is kept"):
        downloads.fetch(f"{server.url}/page-once", tmp_path / "a.bin", pauses_s=())
    assert downloads.fetch(f"{server.url}/page-once", tmp_path / "a.bin", pauses_s=()).read_bytes() == DATA
    assert server.log[-1] == ("/page-once", "bytes=1000-")


@pytest.mark.parametrize("how", ["tagged", "tagged-but-deaf"])
def test_fetch_begins_anew_when_the_file_was_changed_between_two_tries(server, tmp_path, how):
    with pytest.raises(UserError, match="run again to go on"):
        downloads.fetch(f"{server.url}/{how}", tmp_path / "a.bin", pauses_s=())
    server.files[f"/{how}"] = DATA[::-1]  # of the same size
    assert downloads.fetch(f"{server.url}/{how}", tmp_path / "a.bin", pauses_s=()).read_bytes() == DATA[::-1]


def test_fetch_goes_on_when_the_file_is_still_the_same(server, tmp_path):
    assert downloads.fetch(f"{server.url}/tagged", tmp_path / "a.bin", pauses_s=(0.0,)).read_bytes() == DATA
    assert server.log[-1] == ("/tagged", "bytes=300000-") and server.headers[-1]["If-Range"] == f'"{hash(DATA)}"'


def test_fetch_goes_on_with_the_part_of_another_address_only_if_it_can_be_verified(server, tmp_path):
    server.files["/file"] = DATA[::-1]
    for digest, expected in ((None, DATA[::-1]), (hashlib.sha256(DATA[::-1]).hexdigest(), DATA[::-1])):
        with pytest.raises(UserError, match="run again"):
            downloads.fetch(f"{server.url}/cut", tmp_path / "a.bin", pauses_s=())
        assert downloads.fetch(f"{server.url}/file", tmp_path / "a.bin", sha256=digest, pauses_s=()).read_bytes() == expected
        (tmp_path / "a.bin").unlink()
    asked = [asked for path, asked in server.log if path == "/file"]
    assert asked == [None, "bytes=300000-", None]  # verified: tried, found wrong, begun anew


@pytest.mark.parametrize("how", "slow silent reset busy later nothing unasked-range gzip-cut".split())
def test_fetch_tries_again(server, tmp_path, monkeypatch, how):
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.2)
    assert downloads.fetch(f"{server.url}/{how}-once", tmp_path / "a.bin", pauses_s=(0.0,)).read_bytes() == DATA
    assert len(server.log) == 2 and [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert how == "reset" or server.log[1][1] == ("bytes=300000-" if how == "slow" else None)  # what is not read yet is lost by a reset


@pytest.mark.parametrize("how", "moved gzip unsized chunked".split())
def test_fetch_takes_what_is_sent_in_another_way(server, tmp_path, how):
    assert downloads.fetch(f"{server.url}/{how}", tmp_path / "a.bin", pauses_s=()).read_bytes() == DATA


FAULTS = {
    "none": "the server answers 404 Not Found",
    "forbidden": "the server answers 403 Forbidden",
    "busy": "the server answers 503",
    "much-later": r"the server answers 429 .*, and asks to come back in 120 minutes",
    "silent": "nothing came for 0 s",
    "slow": r"nothing came for 0 s; what arrived is kept in .*a\.bin\.part, run again to go on",
    "cut": r"the connection ended before the end of the file; what arrived is kept",
    "reset": "Connection reset by peer",
    "unsized-cut": "the connection ended before the end of the file; what arrived is kept",
    "gzip-cut": "the connection ended before the end of the file$",
    "page": r"it gives a web page \('Dropbox - File Deleted'\) instead of the file",
    "page-of-another-kind": "it gives a web page instead of the file",
    "nothing": "what it sends is empty",
    "brotli": "it is sent in the encoding 'br', which was not asked for",
    "circle": "it redirects in a circle, or to nowhere",
    "to-a-file": "it redirects in a circle, or to nowhere",
    "unasked-range": "it sends a part of the file though all of it was asked for",
}


@pytest.mark.parametrize("how", FAULTS)
def test_fetch_says_in_one_sentence_what_is_wrong(server, tmp_path, monkeypatch, how):
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.2)
    url, target = f"{server.url}/{how}", tmp_path / "a.bin"
    with pytest.raises(UserError, match=f"^cannot download {url}: {FAULTS[how]}") as e:
        downloads.fetch(url, target, size=len(DATA), pauses_s=())
    assert "\n" not in str(e.value) and not target.exists()
    assert isinstance(e.value, downloads.Absent) == (how in ("none", "forbidden", "page", "page-of-another-kind"))
    assert target.with_name("a.bin.part").exists() == ("is kept" in str(e.value))
    if "is kept" not in str(e.value):
        assert not list(tmp_path.iterdir())


def test_fetch_tries_again_when_the_server_is_busy_but_not_when_the_file_is_missing(server, tmp_path):
    assert downloads.fetch(f"{server.url}/busy-once", tmp_path / "a.bin", pauses_s=(0.0,)).read_bytes() == DATA
    with pytest.raises(UserError, match="404"):
        downloads.fetch(f"{server.url}/none", tmp_path / "b.bin", pauses_s=(0.0, 0.0))
    assert [p for p, _ in server.log].count("/none") == 1 and not list(tmp_path.glob("b.bin*"))


def test_fetch_refuses_another_file(server, tmp_path):
    with pytest.raises(UserError, match="not the expected file"):
        downloads.fetch(f"{server.url}/file", tmp_path / "a.bin", sha256="0" * 64)
    with pytest.raises(UserError, match="it has 700000 bytes, not 5, so it is another file"):
        downloads.fetch(f"{server.url}/file", tmp_path / "a.bin", size=5)
    with pytest.raises(UserError, match=r"not the expected file \(700000 bytes, not 5\)"):
        downloads.fetch(f"{server.url}/unsized", tmp_path / "a.bin", size=5)
    assert not list(tmp_path.iterdir())


def test_two_that_want_the_same_file_wait_for_one_another(server, tmp_path):
    with ThreadPoolExecutor() as pool:
        files = list(pool.map(lambda _: downloads.fetch(f"{server.url}/slow-once", tmp_path / "a.bin"), range(3)))
    assert {file.read_bytes() for file in files} == {DATA} and [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert server.log == [("/slow-once", None), ("/slow-once", "bytes=300000-")]


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
