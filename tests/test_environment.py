"""util/environment.py: every command without its packages, or with an old Python, ends in one sentence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BARE = [sys.executable, "-S", "-E"]  # without site-packages
REMEDY = "bash scripts/setup_env.sh, then: source .venv/bin/activate"


def commands():
    """Every file that runs something when it is called, but those that make the environment (test_installation.py, test_quickstart.py)."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py"), *ROOT.glob("scripts/bench/*.py")]
    others = {ROOT / "scripts" / "setup_env.py", ROOT / "scripts" / "quickstart.py", *ROOT.glob("tests/*")}
    return [f for f in sorted(set(files) - others) if '__name__ == "__main__"' in f.read_text()]


def test_every_command_without_packages_says_what_to_run():
    found = commands()
    assert {ROOT / "train.py", ROOT / "example.py", ROOT / "preprocessing/detect.py", ROOT / "scripts/bench/train.py"} < set(found)
    runs = {f: subprocess.Popen([*BARE, f, "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for f in found}
    for file, process in runs.items():
        out, err = process.communicate()
        start, _, end = err.partition("(")
        assert start == "error: Head2Head's packages are missing ", f"{file}: {err}"
        assert end.split("); run: ") == [end.split(")")[0], REMEDY + "\n"] and not out and process.returncode == 1


def test_the_advice_is_for_the_folder_from_which_the_command_was_called(tmp_path):
    done = subprocess.run([*BARE, ROOT / "train.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.endswith(f"; run: cd {ROOT}, then: {REMEDY}\n") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_the_wrappers_say_the_same(tmp_path, gpus):
    """A checkout without .venv, where python3 has no packages."""
    for name in ("scripts", "util", "options", "data", "models", "preprocessing"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "requirements.txt", "requirements-nodeps.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(f'#!/bin/sh\nexec {" ".join(BARE)} "$@"\n')
    (tmp_path / "bin" / "python3").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = ["bash", "scripts/train/train_on_target.sh", "ann", "D"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PATH": path, "GPUS": gpus}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.endswith(f"; run: {REMEDY}\n")


def test_an_old_python_is_named():
    code = "import sys; sys.version_info = (3, 9, 18); import util.environment"
    done = subprocess.run([*BARE, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error: Head2Head needs Python 3.10 to 3.12, this is 3.9; run: {REMEDY}\n")


def test_a_single_missing_package_is_named_also_when_it_is_needed_late(tmp_path):
    """PyAV is imported when the first video is opened."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['av'] = None\n")
    (tmp_path / "a.mp4").write_bytes(b"x")
    command = [sys.executable, "preprocessing/detect.py", "--dataset_name", "D", "--datasets_dir", tmp_path]
    command += ["--original_videos_path", tmp_path / "a.mp4"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == f"error: Head2Head's packages are missing (av); run: {REMEDY}\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("import scipy", "scipy"),
        ("import cv2", "cv2"),
        ("from PIL import Image", "PIL"),
        ("import installed", "attr"),  # which a package needs
        ("import util.renamed", None),
        ("from util.environment import nothing", None),
        ("import renamed", None),
        ("import tkinter.nothing", None),
        ("from installed.half import x", None),
        ("1 / 0", None),
    ],
)
def test_a_bug_of_ours_keeps_its_traceback(tmp_path, line, sentence):
    """A small repository with a command of one line, and packages in its .venv."""
    packages = tmp_path / ".venv" / "lib" / "site-packages"
    (tmp_path / "util").mkdir()
    (packages / "installed").mkdir(parents=True)
    (packages / "installed" / "__init__.py").write_text("import attr\n")
    if "half" in line:
        (packages / "installed" / "__init__.py").write_text("")
    for name in ("util/__init__.py", "util/environment.py", "requirements.txt", "requirements-nodeps.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "command.py").write_text(f"import sys\nimport util.environment\nsys.path.append({str(packages)!r})\n{line}\n")
    done = subprocess.run([*BARE, "command.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    if sentence:
        assert done.stderr == f"error: Head2Head's packages are missing ({sentence}); run: {REMEDY}\n"
    else:
        assert done.stderr.startswith("Traceback") and "Head2Head" not in done.stderr
