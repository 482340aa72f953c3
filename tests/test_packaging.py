"""The project's own promises: lists of packages that agree, a README whose commands and paths exist."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from util import VERSION

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("util", "preprocessing", "models", "data", "options", "live")


def python_files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.split() if (ROOT / line).is_file()]


def names(text):
    return {re.split(r"[<>=!~\[ ]", line)[0].lower() for line in text.splitlines() if line.strip() and not line.startswith("#")}


def test_lists_of_packages_agree():
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'dependencies = { file = ["requirements.txt"] }' in pyproject  # one list, read by both
    required = re.search(r'requires-python = "(.+)"', pyproject)[1]
    conda = (ROOT / "conda-env.txt").read_text()
    assert f"python{required}" in conda
    for file in ("requirements.txt", "requirements-nodeps.txt"):
        assert f"-r {file}" in conda
        assert file in (ROOT / "scripts/setup_env.sh").read_text()


def test_every_import_is_in_the_list_of_packages():
    listed = names((ROOT / "requirements.txt").read_text()) | names((ROOT / "requirements-nodeps.txt").read_text())
    called = {
        "cv2": "opencv-python-headless",
        "skimage": "scikit-image",
        "facenet_pytorch": "facenet-pytorch",
        "PIL": "pillow",
        "dlib": None,
        "h5py": None,  # for LSFM files of MATLAB 7.3 only
        "torch_fidelity": None,  # optional: FID's network
        "triton": None,  # comes with PyTorch
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
                    or top in (*PACKAGES, "scripts", "tests", "train", "test", "example", "conftest")
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
    pyprojecttoml = pytest.importorskip("setuptools.config.pyprojecttoml")
    assert pyprojecttoml.read_configuration(ROOT / "pyproject.toml")["project"]["version"] == VERSION  # what an installed package says
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


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothere.mp4"], 1, "there is no video file nothere.mp4"),
        (["--minutes", "soon"], 2, "not a number"),
        (["--preset", "best"], 2, "default or preview"),
        (["--speed"], 2, "unknown option"),
        (["--minutes"], 2, "needs a value"),
    ],
)
def test_quickstart_checks_its_arguments_before_it_installs_anything(arguments, code, message):
    run = subprocess.run(["bash", ROOT / "scripts/quickstart.sh", *arguments], capture_output=True, text=True)
    assert run.returncode == code and message in run.stderr
