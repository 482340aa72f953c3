"""util/part_files.py, util/image_io.py, util/cli.py: files are whole or not there, leftovers go, and what cannot be written is said."""

import itertools
import os
import platform
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from util import cli
from util.cli import DiskFull, UserError
from util.downloads import fetch
from util.identities import for_each
from util.image_io import replacing, write_bytes
from util.layout import Run
from util.part_files import begin_part
from util.report.training_page import Visualizer
from util.results.folder import Results
from util.video.writing import VideoWriter

ROOT = Path(__file__).resolve().parents[1]
NOISE = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
IS_ROOT = os.geteuid() == 0


def write_video(path):
    with VideoWriter(path, 25) as video:
        for k in range(12):
            video.write(np.roll(NOISE, 31 * k, (0, 1)))


WRITERS = {"file": lambda path: write_bytes(path, NOISE.tobytes() * 4), "video": write_video}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@contextmanager
def largest_file(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@writers
def test_a_full_disk_is_said_and_leaves_the_older_file(small_disk, write):
    path = small_disk / "all.mp4"
    path.write_bytes(b"older")
    with pytest.raises(DiskFull, match=f"^cannot write {path}: the disk is full; free some space and run again$"):
        write(path)
    assert [p.name for p in small_disk.iterdir()] == ["all.mp4"] and path.read_bytes() == b"older"


def test_a_full_disk_ends_the_loop_over_identities_and_a_download(small_disk):
    tried = []

    def process(name):
        tried.append(name)
        WRITERS["file"](small_disk / name)

    with pytest.raises(DiskFull, match="Ann: the disk is full"):
        for_each(["Ann", "Bob"], process)
    assert tried == ["Ann"]
    large = small_disk.parent / "large.bin"
    large.write_bytes(bytes(300_000))
    with pytest.raises(DiskFull, match=r"cannot write .*/got\.bin: 300 kB are needed, but its disk has only [0-9]+ kB free; free some"):
        fetch(large.as_uri(), small_disk / "got.bin")
    assert not list(small_disk.glob("got.bin*"))


@writers
def test_a_limit_of_the_files_size_is_said(tmp_path, write):
    with largest_file(60_000), pytest.raises(UserError, match=r"cannot write .*/new/a\.mp4: a file may not become that large.*ulimit -f"):
        write(tmp_path / "new" / "a.mp4")
    assert not list((tmp_path / "new").iterdir())


def test_the_log_of_a_training_is_named(tmp_path):
    page = Visualizer(Run(tmp_path, tmp_path))
    page._next_update = float("inf")  # the log alone
    with largest_file(40), pytest.raises(UserError, match=r"cannot write .*/loss_log\.txt: a file may not become that large"):
        page.log(1, 1, {"G": 1.0}, 0.1)


@writers
def test_folders_and_files_in_each_others_place_are_said_and_the_advice_works(tmp_path, write):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "there.mp4").mkdir()
    for path, message, remedy in (
        (tmp_path / "file" / "a.mp4", "/file is not a folder; move it away", lambda: (tmp_path / "file").rename(tmp_path / "f1")),
        (tmp_path / "there.mp4", "there.mp4: a folder has this name; move that", lambda: (tmp_path / "there.mp4").rename(tmp_path / "t")),
    ):
        with pytest.raises(UserError, match=message):
            write(path)
        remedy()
        write(path)
        assert path.stat().st_size > 1000
    (tmp_path / "g").write_text("mine")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for path, message in (
        (tmp_path / "g" / "deep" / "a.mp4", rf"cannot write .*a\.mp4: {tmp_path}/g is not a folder"),
        (tmp_path / "lost" / "a.mp4", rf"{tmp_path}/lost is not a folder"),
        (tmp_path / f"{'n' * 252}.mp4", "the name is too long; choose a shorter one"),
    ):
        with pytest.raises(UserError, match=message):
            write(path)
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/g/x: {tmp_path}/g is not a folder"):
        Results(tmp_path / "g" / "x").begin()
    assert not list(tmp_path.rglob("*.part")) and (tmp_path / "g").read_text() == "mine"


def test_the_longest_possible_name_is_written(tmp_path):
    path = tmp_path / ("é" * 125 + ".json")
    write_bytes(path, b"{}")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@writers
def test_a_folder_without_rights_is_said_and_the_advice_works(tmp_path, write):
    inside = itertools.takewhile(lambda folder: not folder.name.startswith("pytest-of-"), tmp_path.parents)
    for folder in (tmp_path, *inside, *[p for p in tmp_path.parents if p.name.startswith("pytest-of-")]):
        folder.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    if IS_ROOT:  # whom no mode stops
        os.chown(home, 65534, -1)
        os.seteuid(65534)
    try:
        for path in (home / "a.mp4", home / "new" / "a.mp4"):
            with pytest.raises(UserError, match=rf"cannot write {path}: permission denied; allow it \(chmod u\+rwX {home}, as its owner\)"):
                write(path)
            subprocess.run(["chmod", "u+rwX", home], check=True, **({"user": 65534} if IS_ROOT else {}))
            write(path)
            assert path.stat().st_size > 1000
            home.chmod(0o555)
    finally:
        if IS_ROOT:
            os.seteuid(0)
        home.chmod(0o755)


def test_a_command_ends_in_one_sentence(tmp_path, capsys):
    def main(argv):
        (tmp_path / "x").mkdir()
        (tmp_path / "x").read_text()

    with pytest.raises(SystemExit) as end:
        cli.run(main, [])
    assert end.value.code == 1
    assert (
        capsys.readouterr().err == f"error: cannot use {tmp_path}/x: a folder has this name; move that folder away or choose another name\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_output_that_takes_no_more_is_said():
    code = "from util.cli import run, say; run(lambda argv: say('hello'))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: cannot use the standard output: the disk is full; free some space and run again\n")


# ---- leftovers ----


@pytest.fixture(scope="module")
def processes():
    """The numbers of a process that is over and of one that runs."""
    over = subprocess.Popen(["true"])
    over.wait()
    with subprocess.Popen(["sleep", "60"]) as alive:
        yield over.pid, alive.pid
        alive.kill()


@writers
def test_parts_of_killed_processes_are_removed_and_no_others(tmp_path, processes, write):
    over, alive = processes
    here, days_old = platform.node(), 2 * 24 * 3600
    gone = [f".all.mp4.{over}.part", f".000007.png.3.{over}@{here}.part", f".a.{os.getpid()}.part", f".b c.npz.{10**12}.part"]
    kept = [f".all.mp4.{alive}.part", f".x.pth.0.{alive}@{here}.part", f".all.mp4.1.{over}@elsewhere.part"]
    kept += ["model.tar.part", f"all.mp4.{over}.part", f".all.mp4.{over}.partial", ".hidden.part"]  # a download, and no parts of ours
    forgotten = [f".c.mp4.{alive}.part", f".c.mp4.1.{over}@elsewhere.part"]
    for name in gone + kept + forgotten:
        (tmp_path / name).touch()
    for name in forgotten:
        os.utime(tmp_path / name, (0, (tmp_path / name).stat().st_mtime - days_old))
    for name in ("one.mp4", "two.mp4"):
        write(tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {*kept, "one.mp4", "two.mp4"}


def test_a_killed_writer_leaves_nothing_once_the_next_has_written_there(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from util.image_io import replacing
with replacing(Path(sys.argv[1])) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "latest_state.pt"
    subprocess.run([sys.executable, "-c", code, path], cwd=ROOT)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".latest_state.pt.") and left.suffix == ".part"
    write_bytes(path, b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["latest_state.pt"]


def test_the_parts_that_this_process_is_writing_stay(tmp_path):
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        first.write_text("1")
        second.write_text("2")
        write_bytes(tmp_path / "." / "b", b"")
        assert first.exists() and second.exists() and begin_part(tmp_path / "a") not in (first, second)


def test_folders_of_killed_processes_are_removed_too(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True).stdout.strip()
    left = tmp_path / f".onnx.0.{ended}@{platform.node()}.part"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "generator.onnx").touch()
    (tmp_path / "onnx").mkdir()
    part = begin_part(tmp_path / "onnx", is_folder=True)  # an earlier one may be there
    assert part.parent == tmp_path and [p.name for p in tmp_path.iterdir()] == ["onnx"]
    with pytest.raises(UserError, match="a folder has this name"):
        begin_part(tmp_path / "onnx")
