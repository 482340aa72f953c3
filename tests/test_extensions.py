"""Native builds: once, kept, whole or not at all, and failures that say why. The compiler is a script that calls g++, so that these
run without CUDA; the last tests build the real operators with the real nvcc."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from util import extensions
from util.cli import UserError
from util.extensions import Extension, ExtensionError

ROOT = Path(__file__).resolve().parents[1]
NVCC = """#!/bin/bash
if [ "$1" = --version ]; then echo "Cuda compilation tools, release 13.0, V13.0.88"; exit; fi
echo run >> "$(dirname "$0")/runs"
while [ $# -gt 0 ]; do
  case "$1" in
    -o) out="$2"; shift ;;
    *.cu) source="$2$1" ;;
  esac
  shift
done
if grep -q HALF "$source"; then echo half > "$out"; touch "$(dirname "$0")/started"; sleep 60; fi
exec g++ -shared -fPIC -x c++ "$source" -o "$out"
"""


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """A toolkit folder whose nvcc compiles for the CPU, and an empty cache."""
    if sys.platform == "win32":
        pytest.skip("the compiler's stand-in is a shell script")
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(NVCC)
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(tmp_path / "cache"))
    return nvcc.parent


def runs(toolkit):
    return len((toolkit / "runs").read_text().split()) if (toolkit / "runs").exists() else 0


def source(tmp_path, text='extern "C" int answer() { return 42; }'):
    path = tmp_path / "answer.cu"
    path.write_text(text)
    return path


def test_a_library_is_built_once_and_then_needs_no_compiler(toolkit, tmp_path, monkeypatch):
    path = source(tmp_path)
    first = Extension("answer", [path])
    assert first.load("9.0").answer() == 42
    assert first.load("9.0") is first.load("9.0")
    assert first.build("9.0").compiler is None and first.build("9.0").path == first.path("9.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setattr(extensions, "find_compiler", lambda: pytest.fail("the compiler is not needed"))
    assert Extension("answer", [path]).load("9.0").answer() == 42
    assert runs(toolkit) == 1
    assert {p.suffix for p in extensions.folder().iterdir()} == {".so", ".lock"}


def test_other_sources_and_architectures_are_other_libraries(toolkit, tmp_path):
    extension = Extension("answer", [source(tmp_path)])
    before = extension.load("9.0")
    source(tmp_path, 'extern "C" int answer() { return 43; }')
    assert (before.answer(), Extension("answer", [tmp_path / "answer.cu"]).load("9.0").answer()) == (42, 43)
    assert len({extension.path("9.0"), extension.path("8.9")}) == 2


def test_a_failed_build_is_tried_once_and_remembered_with_its_cause(toolkit, tmp_path):
    extension = Extension("answer", [source(tmp_path, 'extern "C" int answer() { return forty_two; }')])
    messages = []
    for _ in range(2):
        with pytest.raises(ExtensionError) as caught:
            extension.load("9.0")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "cannot compile answer for 9.0" in messages[0] and "forty_two" in messages[0]
    assert runs(toolkit) == 1
    log = Path(messages[0].split("all of it: ")[1].rstrip(")"))
    assert "forty_two" in log.read_text()
    assert not extension.path("9.0").exists()
    # what is put right works in the next process
    assert Extension("answer", [source(tmp_path)]).load("9.0").answer() == 42


def test_threads_and_processes_that_need_it_at_once_build_it_once(toolkit, tmp_path):
    path = source(tmp_path)
    extension = Extension("answer", [path])
    code = f"""
from pathlib import Path
from util.extensions import Extension
print(Extension("answer", [Path({str(path)!r})]).load("9.0").answer())
"""
    others = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: extension.load("9.0").answer(), range(4)))
    assert answers == [42] * 4
    assert [p.communicate()[0].strip() for p in others] == ["42"] * 3
    assert runs(toolkit) == 1


def test_a_killed_build_leaves_nothing_half_and_blocks_nobody(toolkit, tmp_path):
    path = source(tmp_path, '// HALF\nextern "C" int answer() { return 42; }')
    code = f"from pathlib import Path; from util.extensions import Extension; Extension('answer', [Path({str(path)!r})]).build('9.0')"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (toolkit / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (toolkit / "nvcc").write_text(NVCC.replace("HALF", "nothing of the kind"))
    extension = Extension("answer", [path])
    assert not extension.path("9.0").exists()
    assert extension.load("9.0").answer() == 42


def test_a_damaged_library_is_built_again(toolkit, tmp_path):
    extension = Extension("answer", [source(tmp_path)])
    path = extension.path("9.0")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no library")
    assert extension.load("9.0").answer() == 42
    assert runs(toolkit) == 1


def test_what_is_missing_is_named(toolkit, tmp_path, monkeypatch):
    extension = Extension("answer", [source(tmp_path)])
    with pytest.raises(ExtensionError, match="'9,0' is not a GPU architecture"):
        extension.build("9,0")
    monkeypatch.setenv("NVCC_CCBIN", "g++-0")
    with pytest.raises(ExtensionError, match="needs the C.. compiler g..-0"):
        extension.build("9.0")
    monkeypatch.delenv("NVCC_CCBIN")
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(tmp_path / "answer.cu"))  # a file
    with pytest.raises(ExtensionError, match="set HEAD2HEAD_CACHE"):
        extension.build("9.0")
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(extensions, "_TOOLKIT", tmp_path / "nowhere")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ExtensionError, match=r"no CUDA compiler \(nvcc\); install .* pip install 'cuda-toolkit\[nvcc,cccl\]"):
        extension.load("9.0")


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("host_config.h:163:2: error: #error -- unsupported GNU version! gcc versions later than 15 are not supported!", "NVCC_CCBIN=g"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_35'", "does not know this architecture"),
        ("nvcc fatal   : Value 'sm_130' is not defined for option 'gpu-code'", "does not know this architecture"),
        ("cuda_fp16.h:4492:10: fatal error: nv/target: No such file or directory", "cuda-toolkit[cccl]"),
        ("note: something\nx.cu(3): error: identifier y is undefined\n", "x.cu(3): error: identifier y is undefined"),
        ("Killed\n", "Killed"),
        ("", "it says nothing"),
    ],
)
def test_known_causes_come_with_their_fix(output, cause):
    assert cause in extensions._cause(output)


@pytest.fixture
def compile_flownet2():
    spec = importlib.util.spec_from_file_location("scripts.compile_flownet2", ROOT / "scripts/compile_flownet2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_operators_build_ahead_of_time_for_a_gpu_that_is_not_here(compile_flownet2, tmp_path, monkeypatch, capsys):
    try:
        compiler = extensions.find_compiler()
    except ExtensionError as e:
        pytest.skip(str(e))
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, ROOT / "scripts/compile_flownet2.py", "--arch", "9.0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "compute capability 9.0: built in" in done.stdout and f"nvcc {compiler.version}" in done.stdout
    (library,) = (tmp_path / "extensions").glob("*.so")
    assert str(library) in done.stdout
    compile_flownet2.main(["--arch", "9.0"])
    assert "was built before" in capsys.readouterr().out


def test_the_command_says_what_it_cannot_do(compile_flownet2, toolkit):
    (toolkit / "nvcc").write_text(NVCC.replace("exec g++", "echo \"nvcc fatal   : Unsupported gpu architecture 'compute_35'\"; exit 1 #"))
    with pytest.raises(UserError, match="does not know this architecture"):
        compile_flownet2.main(["--arch", "3.5"])
