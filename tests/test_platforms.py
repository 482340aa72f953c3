"""What only POSIX has is used in few places, each of which does without it. (Neither macOS nor Windows is at hand: it is taken away.)"""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from worker_jobs import square_or_die

from util import environment, installation, locks, workers
from util.ahead import usable_cores
from util.caches.memory import quarter_of_memory
from util.locks import only_one

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
OF_OS = """chown chroot fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getresuid getsid
    getuid getxattr killpg lchown listxattr lockf mkfifo mknod nice openpty posix_fadvise posix_fallocate posix_spawn pread preadv pwrite
    readv sched_getaffinity sched_setaffinity sched_yield sendfile setgid setpgid setpriority setsid setuid setxattr statvfs sync sysconf
    ttyname uname wait wait3 wait4 waitid waitpid writev""".split()
OF_SIGNAL = """SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH alarm pause pthread_kill
    pthread_sigmask setitimer sigwait""".split()


def uses(code):
    """What a module uses that Windows lacks."""
    found = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} & MODULES
            lacking = {"os": OF_OS, "signal": OF_SIGNAL}.get(node.module, ())
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name in lacking}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            lacking = {"os": OF_OS, "signal": OF_SIGNAL}.get(node.value.id, ())
            found |= {f"{node.value.id}.{node.attr}"} if node.attr in lacking else set()
    return found


def test_only_these_places_use_what_windows_lacks():
    """Whoever adds one guards it, and adds a test of what happens without it below."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [line for line in listed.stdout.split() if not line.startswith(("tests/", "docker/")) and (ROOT / line).is_file()]
    found = {(file, name) for file in files for name in uses(ast.parse((ROOT / file).read_text()))}
    assert found == {
        ("util/ahead.py", "os.sched_getaffinity"),
        ("util/caches/memory.py", "os.sysconf"),
        ("util/locks.py", "fcntl"),
        ("util/workers.py", "signal.pthread_sigmask"),
        *(("scripts/bench/crashes.py", name) for name in ("os.fork", "os.killpg", "os.setpgid", "os.waitpid", "signal.SIGKILL")),
        *(("scripts/bench/load.py", name) for name in ("os.getloadavg", "os.killpg", "os.nice", "os.sysconf", "signal.SIGKILL")),
        ("scripts/bench/paste_back.py", "resource"),
        ("scripts/bench/streaming.py", "resource"),
    }
    example = (
        "import os, fcntl\nfrom signal import SIGHUP\ndef f():\n    os.fork()\n    os.kill(1, 2)\n    from resource import getrusage\n"
    )
    assert uses(ast.parse(example)) == {"fcntl", "signal.SIGHUP", "os.fork", "resource"}


def test_cores_and_memory_are_guessed(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sysconf")
    assert usable_cores() == os.cpu_count()
    assert 0 < quarter_of_memory() <= 2e9  # of the 8 GB that are assumed


def test_work_goes_on_without_file_locks(monkeypatch, tmp_path):
    monkeypatch.setattr(locks, "fcntl", None)
    with only_one(tmp_path / "a.lock"):
        assert not list(tmp_path.iterdir())


def test_identities_and_workers_do_without_locks_and_signal_masks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(locks, "fcntl", None)
    with locks.locked(tmp_path / ".Ann.lock", "'Ann'"):
        assert "knows no locks" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    # for our module alone: Python's own uses it where it is there
    monkeypatch.setattr(workers, "signal", SimpleNamespace(**{k: v for k, v in vars(signal).items() if k != "pthread_sigmask"}))
    (square, *_), (other, *_) = (result for _, result in workers.map_on_workers(square_or_die, [(3, tmp_path, 0), (4, tmp_path, 0)], 2))
    assert {square, other} == {9, 16}


def test_the_benchmark_says_that_it_cannot_tell_the_memory():
    """It is imported in another process, for its `resource` cannot be taken out of this one."""
    code = "import math, queue, sys; sys.modules['resource'] = None\nfrom scripts.bench import paste_back as b\n"
    code += "b.write_paste_back = lambda _: None; q = queue.Queue(); b.measure(None, q); print(math.isnan(q.get()[1]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
    code = "import sys; sys.modules['resource'] = None; from scripts.bench import streaming; print(streaming.resource)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_paths_and_advice_are_those_of_windows(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(installation, "_WINDOWS", True)
    monkeypatch.setattr(sys, "platform", "win32")
    assert installation.venv_python(Path("/r")) == Path("/r/.venv/Scripts/python.exe")
    assert environment._remedy() == "run: python scripts/setup_env.py, then: .venv\\Scripts\\activate"
