"""The project's own promises: lists of packages that agree, a README whose commands and paths exist."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    files = ("requirements.txt", "requirements-nodeps.txt", "requirements-ray.txt")
    listed = set().union(*(names((ROOT / file).read_text()) for file in files))
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
