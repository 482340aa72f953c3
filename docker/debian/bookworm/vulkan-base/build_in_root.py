"""Carry out the Dockerfile in a debootstrap root of the same Debian release, without a container engine, and try what comes out.

usage: python build_in_root.py     as root, with debootstrap installed; where that cannot be, it says why and ends with exit code 0

All mounts are made in a namespace of its own, which the kernel takes down with the process, however that ends: nothing stays mounted, and
what is deleted afterwards is deleted where no mount was ever seen. Python's packages are not downloaded where the checkout's .venv is
of Python 3.11 too: pip finds them installed, in a layer that is laid over them, and installs what differs into that layer.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
PACKAGES = Path("lib/python3.11/site-packages")  # of a virtual environment of bookworm's Python
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CALLER = 4242  # an id that the root does not know, as that of most who will run the image
# What an engine sets when an image does not.
DEFAULTS = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """(instruction, its arguments) of every line, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", dockerfile.read_text()).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, arguments = line.split(maxsplit=1)
        yield name, arguments.strip()


def pattern(text: str) -> re.Pattern[str]:
    """What a path of the Dockerfile or of .dockerignore stands for; it matches whole paths."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda m: words.get(m[0]) or re.escape(m[0]), text.strip("/")))


def context(folder: Path) -> list[str]:
    """The files of a folder that an engine would be given, by its .dockerignore, as paths relative to it.

    Folders that are left out are not entered, so a rule may not take back a file inside of one.
    """
    lines = [line.strip() for line in (folder / ".dockerignore").read_text().splitlines()]
    rules = [(pattern(line.lstrip("!") + "/**"), pattern(line.lstrip("!")), line[0] != "!") for line in lines if line and line[0] != "#"]

    def left_out(path: str) -> bool:
        return next((leaves for below, itself, leaves in reversed(rules) if itself.fullmatch(path) or below.fullmatch(path)), False)

    def walk(place: Path) -> Iterator[str]:
        for entry in sorted(place.iterdir()):
            path = entry.relative_to(folder).as_posix()
            if not left_out(path):
                if entry.is_dir() and not entry.is_symlink():
                    yield from walk(entry)
                else:
                    yield path

    return list(walk(folder))


class Root:
    """A folder with a Debian system in it, and what the Dockerfile has said so far."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = dict(DEFAULTS)
        self.workdir = "/"
        self.entrypoint: list[str] = []
        self.files = context(ROOT)

    def run(self, command: Sequence[str], user: int = 0) -> None:
        """Run a command in the root. Raises: CalledProcessError."""
        line = f"cd {shlex.quote(self.workdir)} && exec " + shlex.join(command)
        inside = ["chroot", f"--userspec={user}:{user}", "--groups=", str(self.folder), "/bin/sh", "-c", line]
        subprocess.run(inside, env=self.environment, stdin=subprocess.DEVNULL, check=True)

    def carry_out(self, instruction: str, arguments: str) -> None:
        if instruction == "RUN":
            if "setup_env.sh" in arguments:
                lend_packages(self)
            self.run(["/bin/sh", "-c", arguments])
        elif instruction == "COPY":
            *sources, target = arguments.split()
            self.copy(sources, target)
        elif instruction == "ENV":
            self.environment |= dict(word.split("=", 1) for word in shlex.split(arguments))
        elif instruction == "WORKDIR":
            self.workdir = arguments
            self.inside(arguments).mkdir(parents=True, exist_ok=True)
        elif instruction == "ENTRYPOINT":
            self.entrypoint = json.loads(arguments)
        elif instruction not in ("FROM", "USER", "CMD", "EXPOSE", "HEALTHCHECK"):
            sys.exit(f"error: the Dockerfile says {instruction}, which {Path(__file__).name} does not know; add it there")

    def inside(self, path: str) -> Path:
        return self.folder / os.path.normpath(f"{self.workdir}/{path}" if not path.startswith("/") else path).lstrip("/")

    def copy(self, sources: Sequence[str], target: str) -> None:
        """Copy the whole context, for '.', or single files into a folder or to a name."""
        to = self.inside(target)
        found = [file for file in self.files if "." in sources or any(pattern(source).fullmatch(file) for source in sources)]
        if not found:
            sys.exit(f"error: the Dockerfile copies {' '.join(sources)}, and .dockerignore leaves no such file")
        for file in found:
            place = to / file if "." in sources else to / Path(file).name if target.endswith("/") else to
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, place, follow_symlinks=False)


def lend_packages(root: Root) -> None:
    """Lay a virtual environment's packages, as they are in the checkout's, under those that will be installed."""
    if CERTIFICATES.is_file():  # of whoever stands between this machine and the packages
        place = root.folder / CERTIFICATES.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CERTIFICATES, place)
        root.environment["PIP_CERT"] = str(CERTIFICATES)
    lent = ROOT / ".venv" / PACKAGES
    if not lent.is_dir():
        return
    root.run(["python3", "-m", "venv", "--without-pip", ".venv"])
    layer = [root.folder.parent / name for name in ("changed", "work")]
    for folder in layer:
        folder.mkdir()
    options = f"lowerdir={lent.resolve()},upperdir={layer[0]},workdir={layer[1]}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", root.inside(f".venv/{PACKAGES}")], check=True)


IMPORT_ALL = r"""
import importlib, importlib.metadata, pathlib, re
modules = importlib.metadata.packages_distributions()
for name in re.findall(r"(?m)^[\w.-]+", "".join(p.read_text() for p in pathlib.Path().glob("requirements*.txt") if "ray" not in p.name)):
    for module, packages in modules.items():
        if name.lower() in map(str.lower, packages) and module.isidentifier() and not module.startswith("_"):
            importlib.import_module(module)
"""
VULKAN = """
from preprocessing.render.vulkan import _adapters
print("Vulkan:", *[a.info["device"] for a in _adapters()])
raise SystemExit(not _adapters())
"""
CHAIN = """
python scripts/make_demo_video.py --frames 20 --size 256 --output datasets/small/original_videos/ann.mp4
python preprocessing/detect.py --dataset_name small --original_videos_path datasets/small/original_videos --train_seq_length 10
python preprocessing/detect_landmarks70.py --dataset_name small
"""
TRIES = {  # run as a user without a name, through the image's entry point
    "every package can be imported": ["python", "-c", IMPORT_ALL],
    "Vulkan has a driver": ["python", "-c", VULKAN],
    "Vulkan draws what it should": ["python", "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-m", "vulkan", "tests/test_render.py"],
    "a face is found in a video": ["sh", "-ec", CHAIN],
    "the environment needs nothing more": ["sh", "-c", "test -z \"$(bash scripts/setup_env.sh 2>&1)\""],
    "Triton would find a compiler": ["sh", "-c", "echo '#include <Python.h>' | gcc -fsyntax-only -I /usr/include/python3.11 -x c -"],
    "the code is not the user's to change": ["sh", "-c", "! test -w . && ! test -w train.py && ! test -w .venv"],
    "what was written is the user's": ["sh", "-c", f"test -z \"$(find datasets /cache -mindepth 1 ! -user {CALLER})\""],
    "the health check passes": ["bash", HERE.relative_to(ROOT).as_posix() + "/healthcheck.sh"],
}  # fmt: skip


def mount(kind: str, place: Path, options: str = "") -> None:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), kind, place], check=True)


def build_and_try(work: Path) -> None:
    """In the namespace: everything."""
    start = time.monotonic()

    def done(what: str) -> None:
        print(f"[{time.monotonic() - start:3.0f} s] {what}", flush=True)

    lines = list(instructions(HERE / "Dockerfile"))
    release = re.fullmatch(r"debian:(\w+)-slim", dict(lines)["FROM"])[1]
    if (ROOT / ".venv" / PACKAGES).is_dir():  # then it is all small enough for memory, which is much faster
        mount("tmpfs", work)
    folder = work / "root"
    log = work / "debootstrap.log"
    with log.open("w") as out:
        made = subprocess.run(["debootstrap", "--variant=minbase", release, folder], stdout=out, stderr=out)
    if made.returncode:
        text = log.read_text()
        if "Failed getting release file" in text or "Couldn't download packages" in text:
            print(f"skipped: Debian's packages cannot be downloaded here ({text.strip().splitlines()[-1]})")
            return
        sys.exit(f"error: debootstrap failed:\n{text}")
    done(f"Debian {release}")

    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    mount("proc", folder / "proc")
    mount("sysfs", folder / "sys", "ro")
    mount("tmpfs", folder / "dev", "mode=755")
    for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
        subprocess.run(["mknod", "-m", "666", folder / "dev" / name, "c", "1", str(minor)], check=True)
    mount("tmpfs", folder / "dev/shm", "mode=1777")
    mount("devpts", folder / "dev/pts", "newinstance,ptmxmode=0666")
    (folder / "dev/ptmx").symlink_to("pts/ptmx")

    root = Root(folder)
    for instruction, arguments in lines:
        root.carry_out(instruction, arguments)
        if instruction == "RUN":
            done(f"RUN {arguments}")
    for what, command in TRIES.items():
        root.run([*root.entrypoint, *command], CALLER)
        done(what)


def main() -> int:
    reason = None
    if os.geteuid() != 0:
        reason = "only root can make a Debian root folder"
    elif not shutil.which("debootstrap"):
        reason = "debootstrap is not installed (apt-get install debootstrap)"
    elif subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode:
        reason = "this machine allows no mount namespaces"
    if reason:
        print(f"skipped: the container's installation was not tried, {reason}")
        return 0
    work = Path(tempfile.mkdtemp(prefix="head2head-root-"))
    try:
        unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        return subprocess.run([*unshare, sys.executable, __file__, "--in-namespace", work]).returncode
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-namespace"]:
        try:
            build_and_try(Path(sys.argv[2]))
        except subprocess.CalledProcessError as e:
            sys.exit(f"error: this failed in the root, with exit code {e.returncode}: {shlex.join(map(str, e.cmd))}")
    else:
        sys.exit(main())
