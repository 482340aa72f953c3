"""Makes .venv in the repository and installs what Head2Head needs. Standard library only: it runs before anything is installed.

`requirements.lock` is what is installed: versions and hashes that were tested together, for the Pythons and the platform that it is for.
Elsewhere, or when asked for, it is the newest that the ranges of requirements.txt and requirements-nodeps.txt allow.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ("requirements.lock",)
RANGES = ("requirements.txt", "requirements-nodeps.txt")
TRACKER = "MediaPipe 0.10.21"  # the face tracker, as in requirements-nodeps.txt
OLDEST, NEWEST = (3, 10), (3, 12)  # Pythons of requirements.lock; NEWEST is also the last one that the tracker has packages for
_NEEDED_BYTES = 8e9  # of the finished .venv and what pip downloads meanwhile, on Linux
_WINDOWS = sys.platform == "win32"
_ASK = "import json, platform, sys; print(json.dumps([sys.version_info[:2], sys.platform, platform.machine()]))"
_LIST = "import importlib.metadata as m; print(*sorted({d.name for d in m.distributions() if d.name}), sep='\\n')"


class InstallationError(Exception):
    """Something that the user can mend. The message is one clear sentence: what is wrong, where, and the fix."""


@dataclass(frozen=True)
class Interpreter:
    """A Python and its machine, as sys and platform call them."""

    version: tuple[int, int]
    platform: str  # "linux", "darwin", "win32"
    machine: str  # "x86_64", "AMD64", "arm64", ...
    path: str

    def __str__(self) -> str:
        system = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}.get(self.platform, self.platform)
        return "Python {}.{} on {} ({})".format(*self.version, system, self.machine)

    def has_lock(self) -> bool:
        return OLDEST <= self.version <= NEWEST and (self.platform, self.machine) == ("linux", "x86_64")

    def has_tracker(self) -> bool:
        """Whether the tracker, without which no video can be preprocessed, has a package for it; as in requirements-nodeps.txt."""
        return self.version <= NEWEST and (self.platform == "darwin" or self.machine in ("x86_64", "AMD64"))


def call(command: Sequence[str | Path], *, capture: bool = False, cwd: Path = ROOT, env: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Run a command to its end: its exit code (128 + number when a signal ended it) and, with capture, what it printed on stdout.

    Ctrl-C reaches the command as well; it may have something to save and is waited for. SIGTERM is passed on to it.
    Raises: KeyboardInterrupt when there was a Ctrl-C, and the command did not end well.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def receive(number: int, _frame: object) -> None:
        received.append(number)
        if process is not None and number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen([str(c) for c in command], cwd=cwd, env=env, stdout=subprocess.PIPE if capture else None)
        if signal.SIGTERM in received:
            process.terminate()
        out, _ = process.communicate()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    if code and signal.SIGINT in received:
        raise KeyboardInterrupt
    return code, out or b""


def ask(python: str | Path) -> Interpreter | None:
    """What an interpreter is; None when it does not run, or is older than Python 3.10."""
    if str(python) == sys.executable:
        return this_interpreter()
    try:
        done = subprocess.run([str(python), "-c", _ASK], capture_output=True, text=True)
        version, system, machine = json.loads(done.stdout)
    except (OSError, ValueError):
        return None
    return Interpreter(tuple(version), system, machine, str(python)) if tuple(version) >= OLDEST else None


def this_interpreter() -> Interpreter:
    return Interpreter(sys.version_info[:2], sys.platform, platform.machine(), sys.executable)


def find_interpreter() -> Interpreter:
    """The Python to make .venv from: $PYTHON3, else one that the face tracker has packages for, this one if it will do.

    Raises: InstallationError when there is none.
    """
    if given := os.environ.get("PYTHON3"):
        if found := ask(shutil.which(given) or given):
            return found
        raise InstallationError(f"PYTHON3={given} is no Python of 3.10 or newer; set it to the path of one, or leave it unset")
    this = getattr(sys, "_base_executable", None) or sys.executable  # not of a virtual environment: that may be the one to replace
    names = [f"{major}.{minor}" for major, minor in ((3, 12), (3, 11), (3, 10))]
    candidates = [this, *filter(None, (shutil.which(f"python{name}") for name in names))]
    if _WINDOWS:  # where the launcher knows which ones there are
        for name in names:
            try:
                done = subprocess.run(["py", f"-{name}", "-c", "import sys; print(sys.executable)"], capture_output=True, text=True)
            except OSError:
                break
            candidates += [done.stdout.strip()] * (done.returncode == 0)
    for candidate in candidates:
        if (found := ask(candidate)) and found.version <= NEWEST:
            return found
    raise InstallationError(
        "Python 3.10, 3.11 or 3.12 is needed (newer ones lack the face tracker MediaPipe); install one (Debian/Ubuntu: apt-get install "
        "python3 python3-venv; macOS: brew install python@3.12; Windows: winget install Python.Python.3.12) or set PYTHON3 to its path"
    )


def venv_python(root: Path = ROOT) -> Path:
    return root / ".venv" / ("Scripts/python.exe" if _WINDOWS else "bin/python")


def planned_interpreter(root: Path = ROOT) -> Interpreter:
    """The Python that .venv has, or would be made with. Raises: InstallationError when there is none that will do."""
    return ask(venv_python(root)) or find_interpreter()


def make_environment(latest: bool = False, root: Path = ROOT) -> Path:
    """Make .venv and install the packages; does nothing when that is already done. Returns its Python.

    latest: the newest versions that the ranges allow. A .venv stays with them until it is deleted.
    Raises: InstallationError; what was finished before is kept, and the next call goes on.
    """
    python, mark = venv_python(root), root / ".venv" / ".installed"
    interpreter = ask(python)
    key, *names = _read_lines(mark) or [""]
    kept_latest = key.startswith("latest ")
    if interpreter and not latest and key == _key(root, kept_latest, interpreter) and set(names) <= set(_installed(python)):
        return python
    if interpreter is None or not _has_pip(python):
        interpreter, kept_latest = _make_venv(root), False
    latest = latest or kept_latest
    if not (latest or interpreter.has_lock()):
        _say(f"requirements.lock is not for {interpreter}: taking the newest versions that requirements.txt allows")
    if not interpreter.has_tracker():
        _say(f"{TRACKER} has no package for {interpreter}: no video can be preprocessed; all other steps do without it")
    _say(f"Installing packages into {root / '.venv'} (PyTorch is large: a few minutes the first time)")
    mark.unlink(missing_ok=True)
    if latest or not interpreter.has_lock():
        _pip(root, python, "--upgrade", "-r", RANGES[0])
        _pip(root, python, "--upgrade", "--no-deps", "-r", RANGES[1])
    else:
        _pip(root, python, "--require-hashes", "--no-deps", "-r", LOCK[0])
    mark.write_text("\n".join([_key(root, latest, interpreter), *_installed(python)]) + "\n", encoding="utf-8")
    return python


def _say(message: str) -> None:
    print(message, flush=True)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _key(root: Path, latest: bool, interpreter: Interpreter) -> str:
    """What .venv/.installed begins with: what was installed, from which lists."""
    locked = interpreter.has_lock() and not latest
    digest = hashlib.sha256(b"\0".join((root / name).read_bytes() for name in (LOCK if locked else RANGES))).hexdigest()
    return f"{'latest' if latest else 'lock' if locked else 'ranges'} {digest}"


def _installed(python: Path) -> list[str]:
    """Names of the packages that are installed."""
    return subprocess.run([python, "-I", "-c", _LIST], stdout=subprocess.PIPE, text=True).stdout.split()


def _has_pip(python: Path) -> bool:
    return subprocess.run([python, "-c", "import pip"], stderr=subprocess.DEVNULL).returncode == 0


def _make_venv(root: Path) -> Interpreter:
    venv, interpreter = root / ".venv", find_interpreter()
    free = shutil.disk_usage(root).free
    if interpreter.platform == "linux" and free < _NEEDED_BYTES:
        needed = f"{_NEEDED_BYTES / 1e9:.0f} GB are needed in {root}"
        raise InstallationError(f"{needed}, and {free / 1e9:.1f} GB are free; free some space and run this again")
    _say(f"Making {venv} with Python {'.'.join(map(str, interpreter.version))} ({interpreter.path})")
    told = ""
    for prepare in (lambda: True, lambda: _install_debian(root, "python3-venv")):
        _remove(venv)
        if prepare():
            command = [interpreter.path, "-m", "venv", str(venv)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            told = done.stdout.strip().rpartition("\n")[2]
            if done.returncode == 0 and (made := ask(venv_python(root))):
                return made
    _remove(venv)
    raise InstallationError(
        f"{interpreter.path} cannot make the virtual environment {venv} ({told}); check that the folder can be written, or install "
        "Python's venv module (Debian/Ubuntu: sudo apt-get install python3-venv), and run this again"
    )


def _remove(venv: Path) -> None:
    try:
        if venv.is_symlink() or venv.is_file():
            venv.unlink()
        elif venv.exists():
            shutil.rmtree(venv)
    except OSError as e:
        raise InstallationError(f"{venv} does not work and cannot be removed ({e.strerror}); remove it and run this again") from None


def _install_debian(root: Path, package: str) -> bool:
    """Install a Debian package where that is possible."""
    if not shutil.which("apt-get") or not shutil.which("bash"):
        return False
    return subprocess.run(["bash", str(root / "scripts" / "debian.sh"), package]).returncode == 0


def _pip(root: Path, python: Path, *arguments: str) -> None:
    # a hint that a newer pip exists is of no use to someone who wants a video
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    code, _ = call([python, "-m", "pip", "install", "-q", *arguments], cwd=root, env=quiet)
    if code == 128 + signal.SIGTERM:
        raise SystemExit(code)
    if code:
        newest = ", or take the newest versions: bash scripts/setup_env.sh --latest" if "--require-hashes" in arguments else ""
        raise InstallationError(
            f"pip could not install {arguments[-1]}; see its message above, check the connection and the free disk space (8 GB), and run "
            f"this again{newest}"
        )
