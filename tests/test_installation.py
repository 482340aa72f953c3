"""util/installation.py, scripts/setup_env.sh and setup_env.py: an environment is made, kept, mended; what cannot be is said."""

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pip
import pytest
from fake_checkout import copy_scripts
from packaging.requirements import Requirement

from preprocessing.tracking.mediapipe_tools import load_solutions
from util import installation
from util.cli import UserError
from util.installation import InstallationError, Interpreter, find_interpreter, this_interpreter, venv_python

ROOT = Path(__file__).resolve().parents[1]
needs_lock = pytest.mark.skipif(not this_interpreter().has_lock(), reason="the lock is not for this Python or system")


def make_wheel(folder, name, version):
    """A package that holds nothing; returns a line of a lock."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: nothere\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def version_of(home, name):
    found = [p.stem.split("-")[1] for p in home.glob(f".venv/lib/python*/site-packages/{name}-*.dist-info")]
    return found[0] if found else None


@needs_lock
def test_the_life_of_an_environment(tmp_path):
    """By the shell script, with real pip, and packages made here: `lazy` is installed without what it says to need."""
    home, wheels = copy_scripts(tmp_path / "a home"), tmp_path / "wheels"
    wheels.mkdir()
    python = tmp_path / "python"  # its environments borrow pip: to install it takes as long as all else here
    borrow = f'ln -s "{Path(pip.__file__).parent}" "$3"/lib/python3*/site-packages'
    make = f'"{sys._base_executable}" -m venv --without-pip "$3" && {borrow}'
    python.write_text(f'#!/bin/sh\ncase "$*" in "-m venv "*) {make} ;; *) exec "{sys._base_executable}" "$@" ;; esac\n')
    python.chmod(0o755)
    lock = make_wheel(wheels, "lazy", "1.0")
    make_wheel(wheels, "lazy", "2.0")
    (home / "requirements.lock").write_text(lock)
    (home / "requirements-nodeps.txt").write_text("lazy\n")
    registry = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PYTHON3": str(python)}

    def setup(*arguments, script="setup_env.sh"):
        command = ["bash", home / "scripts" / script, *arguments]
        return subprocess.run(command, env={**os.environ, **registry}, cwd=tmp_path, capture_output=True, text=True)

    # a lock with another hash: nothing counts as installed
    (home / "requirements.lock").write_text(lock.replace("sha256:", "sha256:" + "0" * 8)[:-9] + "\n")
    done = setup()
    assert done.returncode == 1 and "error: pip could not install requirements.lock; see its message above" in done.stderr
    assert f"Making {home / '.venv'} with Python" in done.stdout and version_of(home, "lazy") is None

    (home / "requirements.lock").write_text(lock)
    done = setup()  # in the .venv that is there
    assert done.returncode == 0 and not done.stderr and version_of(home, "lazy") == "1.0"
    assert done.stdout == f"Installing packages into {home / '.venv'} (PyTorch is large: a few minutes the first time)\n"

    # sourced, as the other scripts do, whose arguments are not its own
    code = 'source "$(dirname "$0")/setup_env.sh"; "$PYTHON" -c "import lazy; print(lazy.__file__)"; echo "$ROOT $1"'
    (home / "scripts/other.sh").write_text(code)
    done = setup("--latest", script="other.sh")
    module = next(home.glob(".venv/lib/*/site-packages/lazy.py"))
    assert done.returncode == 0 and done.stdout == f"{module}\n{home} --latest\n"

    shutil.rmtree(next(home.glob(".venv/lib/*/site-packages/lazy-*")))  # a package that was removed comes back
    assert setup().returncode == 0 and version_of(home, "lazy") == "1.0"

    assert setup("--latest").returncode == 0 and version_of(home, "lazy") == "2.0"
    assert setup().stdout == "" and version_of(home, "lazy") == "2.0"  # until .venv is deleted


def test_elsewhere_the_ranges_are_taken(tmp_path):
    """A .venv whose Python says that it is another one, and prints what pip is called with."""
    home = copy_scripts(tmp_path)
    python = venv_python(home)
    python.parent.mkdir(parents=True)
    other = """echo '[[3, 13], "linux", "aarch64"]'"""
    cases = f'*json*) {other} ;; *"-m pip"*) echo "$@" ;; *) exec "{sys.executable}" "$@" ;;'
    python.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
    python.chmod(0o755)
    setup, again, quickstart = (
        subprocess.run(["bash", home / "scripts" / name], capture_output=True, text=True)
        for name in ("setup_env.sh", "setup_env.sh", "quickstart.sh")
    )
    assert (
        setup.returncode == 0
        and not setup.stderr
        and setup.stdout.splitlines()
        == [
            "requirements.lock is not for Python 3.13 on Linux (aarch64): taking the newest versions that requirements.txt allows",
            "MediaPipe 0.10.21 has no package for Python 3.13 on Linux (aarch64): no video can be preprocessed; all other steps "
            "do without it",
            f"Installing packages into {home / '.venv'} (PyTorch is large: a few minutes the first time)",
            "-m pip install -q --upgrade -r requirements.txt",
            "-m pip install -q --upgrade --no-deps -r requirements-nodeps.txt",
        ]
    )
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert quickstart.returncode == 1 and not quickstart.stdout
    assert quickstart.stderr.startswith(
        "error: the face tracker MediaPipe 0.10.21 has no package for Python 3.13 on Linux (aarch64); README"
    )


def test_the_options_are_explained():
    for arguments in (["--help"], ["--newest"]):
        command = [sys.executable, "-S", "-E", ROOT / "scripts/setup_env.py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == (0 if "--help" in arguments else 2) and "--latest" in done.stdout + done.stderr


def test_the_interpreter_is_chosen(tmp_path, monkeypatch):
    old = tmp_path / "python3.11"
    old.write_text('#!/bin/sh\necho \'[[3, 9], "linux", "x86_64"]\'\n')
    old.chmod(0o755)
    for given in (str(old), str(tmp_path / "none"), "/bin/false"):
        monkeypatch.setenv("PYTHON3", given)
        with pytest.raises(InstallationError, match=f"^PYTHON3={given} is no Python of 3.10 or newer; set it"):
            find_interpreter()
    monkeypatch.setenv("PYTHON3", sys.executable)
    assert find_interpreter().version == sys.version_info[:2]
    # not given: this one is too new, and of those on the path only 3.10 is what it seems to be
    monkeypatch.delenv("PYTHON3")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, version in (("new", "[3, 13]"), ("python3.10", "[3, 10]")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho \'[{version}, "linux", "x86_64"]\'\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "_base_executable", str(tmp_path / "new"))
    assert find_interpreter() == Interpreter((3, 10), "linux", "x86_64", str(tmp_path / "python3.10"))
    (tmp_path / "python3.10").unlink()
    with pytest.raises(InstallationError, match=r"^Python 3.10, 3.11 or 3.12 is needed \(newer ones lack the face tracker MediaPipe\)"):
        find_interpreter()


def test_what_cannot_be_made_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    """A Python without its venv module; a disk that is full; a .venv that cannot be removed is not the one to install into."""
    home = copy_scripts(tmp_path / "home")
    python = tmp_path / "python"
    this = """echo '[[3, 11], "linux", "x86_64"]'"""
    python.write_text(f'#!/bin/sh\ncase "$*" in *json*) {this} ;; *) /bin/mkdir $3; echo "No venv."; exit 1 ;; esac\n')
    python.chmod(0o755)
    monkeypatch.setenv("PYTHON3", str(python))
    monkeypatch.setenv("PATH", "/nothere")  # no apt-get
    (tmp_path / "elsewhere").mkdir()
    (home / ".venv").symlink_to(tmp_path / "elsewhere")  # a link is removed, not what it leads to
    with pytest.raises(InstallationError, match=r"cannot make the virtual environment .*/home/.venv \(No venv.\); check that"):
        installation.make_environment(root=home)
    assert not (home / ".venv").is_symlink() and (tmp_path / "elsewhere").is_dir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9e9, 8e9, 1.25e9))
    with pytest.raises(InstallationError, match=r"^8 GB are needed in .*home, and 1.2 GB are free; free some space"):
        installation.make_environment(root=home)


def test_where_the_face_tracker_is_to_be_had_stands_in_the_lists_as_well():
    line = next(line for line in (ROOT / "requirements-nodeps.txt").read_text().splitlines() if line.startswith("mediapipe"))
    marker = Requirement(line).marker
    systems = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"), ("win32", "ARM64"))
    for (system, machine), minor in itertools.product(systems, (10, 12, 13, 14)):
        facts = {"python_version": f"3.{minor}", "sys_platform": system, "platform_machine": machine}
        assert marker.evaluate(facts) == Interpreter((3, minor), system, machine, "").has_tracker(), facts
    assert line.split(" ")[0] == installation.TRACKER.lower().replace(" ", "==")


def test_a_command_says_that_there_is_no_face_tracker_for_this_system(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(UserError, match=r"^MediaPipe cannot be used \(.*\); install it with: pip install --no-deps mediapipe==0.10.21$"):
        load_solutions()
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(UserError, match=r"; MediaPipe 0.10.21 has no package for Python 3.13 on .*: take Python 3.10 to 3.12 on macOS"):
        load_solutions()
