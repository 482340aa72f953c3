"""Native code: compiled with nvcc on first use, once, and loaded without the compiler from then on.

A library speaks plain C (ctypes), so it depends neither on PyTorch's nor on Python's version, and compiling takes seconds. It lies
in the user's cache (folder()), under a name that holds a digest of its sources and the GPU architecture it is for.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util.cli import say
from util.locks import only_one
from util.user_cache import user_cache

_TOOLKIT = Path("/usr/local/cuda")  # where the system's CUDA toolkit lies
_WINDOWS = sys.platform == "win32"
_FLAGS = ("-shared", "-O3", "-std=c++17", *(() if _WINDOWS else ("-Xcompiler", "-fPIC,-fvisibility=hidden")))


class ExtensionError(RuntimeError):
    """Native code cannot be built or loaded; the message says why and what to install."""


def folder() -> Path:
    """Where compiled libraries lie."""
    return user_cache() / "extensions"


@dataclass(frozen=True)
class Compiler:
    path: Path
    version: str  # of nvcc, "13.0"
    host: str  # the C++ compiler that nvcc drives


@dataclass(frozen=True)
class Build:
    path: Path
    arch: str
    compiler: Compiler | None  # None: the library was there already
    seconds: float


def find_compiler() -> Compiler:
    """The CUDA compiler: of $CUDA_HOME or $CUDA_PATH, on the PATH, installed by pip, or in /usr/local/cuda.

    Raises: ExtensionError, naming what to install, when it or the C++ compiler that it needs is missing.
    """
    name = "nvcc.exe" if _WINDOWS else "nvcc"
    roots = [Path(os.environ[v]) for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    if on_path := shutil.which("nvcc"):
        roots.append(Path(on_path).parent.parent)
    roots += [root for p in map(Path, sys.path) if p.name == "site-packages" for root in sorted(p.glob("nvidia/cu[0-9]*"), reverse=True)]
    roots.append(_TOOLKIT)
    path = next((r / "bin" / name for r in roots if (r / "bin" / name).is_file()), None)
    if path is None:
        raise ExtensionError(
            "there is no CUDA compiler (nvcc); install one of your driver's version or older, for example with "
            "pip install 'cuda-toolkit[nvcc,cccl]==13.0.*', or set CUDA_HOME to the toolkit's folder"
        )
    host = os.environ.get("NVCC_CCBIN") or ("cl" if _WINDOWS else "g++")
    if shutil.which(host) is None:
        fix = "Visual Studio's C++ build tools, and run in their prompt" if _WINDOWS else "g++ (apt-get install g++)"
        raise ExtensionError(f"nvcc needs the C++ compiler {host}, which is not there; install {fix}")
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as e:
        raise ExtensionError(f"{path} does not run ({e}); install the CUDA toolkit again") from None
    version = re.search(r"release (\d+\.\d+)", told)
    return Compiler(path, version[1] if version else "of unknown version", host)


class Extension:
    """A library made of CUDA sources, one file per GPU architecture ("9.0").

    Nothing is read, compiled or loaded before it is asked for. Safe to use from several threads and processes.
    """

    def __init__(self, name: str, sources: Sequence[Path]):
        """sources: .cu files to compile, and the headers that they include."""
        self.name = name
        self.sources = tuple(sources)
        self._lock = threading.Lock()
        self._loaded: dict[str, ctypes.CDLL] = {}
        self._failed: dict[str, str] = {}

    def path(self, arch: str) -> Path:
        """Where the library for this architecture lies once it is built."""
        digest = hashlib.blake2b(repr(_FLAGS).encode(), digest_size=8)
        for source in self.sources:
            digest.update(source.read_bytes())
        suffix = ".dll" if _WINDOWS else ".so"
        return folder() / f"{self.name}-{digest.hexdigest()}-sm{arch.replace('.', '')}-{platform.machine().lower()}{suffix}"

    def build(self, arch: str, force: bool = False) -> Build:
        """Compile for an architecture, unless that is done already.

        arch: compute capability, such as "9.0". force: compile again.
        Raises: ExtensionError when it cannot be compiled.
        """
        if not re.fullmatch(r"\d+\.\d", arch):
            raise ExtensionError(f"'{arch}' is not a GPU architecture; give its compute capability, such as 9.0")
        path = self.path(arch)
        if path.is_file() and not force:
            return Build(path, arch, None, 0.0)
        compiler = find_compiler()
        start = time.perf_counter()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with only_one(path.with_suffix(".lock")):
                if not path.is_file() or force:  # another process may have built it while we waited
                    self._compile(compiler, arch, path)
        except OSError as e:
            raise ExtensionError(
                f"cannot write {e.filename or path}: {e.strerror}; set HEAD2HEAD_CACHE to a folder that can be written"
            ) from None
        return Build(path, arch, compiler, time.perf_counter() - start)

    def _compile(self, compiler: Compiler, arch: str, path: Path) -> None:
        say(f"compiling {self.name} for GPUs of compute capability {arch}, once")
        sm = arch.replace(".", "")
        toolkit = compiler.path.resolve().parents[1]
        with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=path.parent) as scratch:
            made = Path(scratch) / path.name
            command = [compiler.path, *_FLAGS, f"-gencode=arch=compute_{sm},code=sm_{sm}", "-o", made]
            if (toolkit / "lib").is_dir() and not _WINDOWS:  # pip's toolkit keeps its libraries there, and nvcc looks in lib64
                command.append(f"-L{toolkit / 'lib'}")
            command += [s for s in self.sources if s.suffix == ".cu"]
            done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            if done.returncode:
                log = path.with_suffix(".log")
                log.write_text(" ".join(map(str, command)) + "\n" + done.stdout)
                raise ExtensionError(
                    f"nvcc {compiler.version} cannot compile {self.name} for {arch}: {_cause(done.stdout)} (all of it: {log})"
                )
            made.replace(path)

    def load(self, arch: str) -> ctypes.CDLL:
        """The library for an architecture, built if need be.

        Raises: ExtensionError when it cannot be had; this is tried once in a process, later calls raise the same cause at once.
        """
        with self._lock:
            if arch in self._failed:
                raise ExtensionError(self._failed[arch])
            if arch not in self._loaded:
                try:
                    self._loaded[arch] = self._open(arch)
                except ExtensionError as e:
                    self._failed[arch] = str(e)
                    raise
            return self._loaded[arch]

    def _open(self, arch: str) -> ctypes.CDLL:
        path = self.build(arch).path
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # damaged, or made on another system
            path = self.build(arch, force=True).path
        try:
            return ctypes.CDLL(str(path))
        except OSError as e:
            raise ExtensionError(f"cannot load {path}: {e}") from None

    def refuse(self, arch: str, cause: str) -> None:
        """Remember that the loaded library does not work here, so that load() raises this cause from now on."""
        with self._lock:
            self._failed[arch] = cause


def _cause(output: str) -> str:
    """The cause of a failed compilation, and its fix where it is known, from the compiler's output."""
    if re.search(r"unsupported (GNU|clang|Microsoft Visual Studio) version", output):
        return "your C++ compiler is newer than it knows; install an older one and name it in NVCC_CCBIN (such as NVCC_CCBIN=g++-12)"
    if re.search(r"[Uu]nsupported gpu architecture|is not defined for option 'gpu-", output):
        return "it does not know this architecture; install a CUDA toolkit that does, and set CUDA_HOME to it"
    if "nv/target" in output:
        return "its C++ core headers are missing; pip install 'cuda-toolkit[cccl]' of the same version"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\b(error|fatal|cannot)\b", line)), lines[-1] if lines else "it says nothing")[:300]
