"""docker/: what the scripts tell docker, by a stand-in that records it; what the image is given; its health. Carrying out the Dockerfile
itself is build_in_root.py's, which CI runs."""

import contextlib
import csv
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACE = Path("docker/debian/bookworm/vulkan-base")
SPECIFICATION = importlib.util.spec_from_file_location("build_in_root", ROOT / PLACE / "build_in_root.py")
build_in_root = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(build_in_root)

TOOLS = "bash cat chown dirname env grep id mkdir realpath stat tee timeout true uname".split()
FOLDERS = ("datasets", "checkpoints", "results", "preprocessing/files")
DOCKER = r"""#!/usr/bin/env bash
case "$1" in
  version) if [ -n "${FAULT:-}" ]; then echo "$FAULT" >&2; exit 1; fi; echo 28.2.2 ;;
  info) case "$*" in *Runtimes*) echo "${RUNTIMES:-{\}}" ;; *SecurityOptions*) echo "${SECURITY:-[]}" ;; esac ;;
  image) exit "${NO_IMAGE:-0}" ;;
  *) printf '%s\0' "$@" >"$RECORD"; exit "${CODE:-0}" ;;
esac
"""
REFUSED = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
STOPPED = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
FAULTS = [
    (None, "docker is not installed; run: bash {place}/pre_docker_install.sh"),
    (REFUSED, "user {user} may not use docker; run: sudo usermod -aG docker {user}, then log out and in again"),
    (STOPPED, "docker is installed, but its service does not run; run: sudo systemctl start docker"),
    ("client is too new\nsecond line", "docker does not answer: client is too new"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


class Host:
    """A checkout, and a machine that has nothing but the tools put into its `bin`."""

    def __init__(self, tmp_path: Path):
        self.checkout = tmp_path / 'a, "checkout": mine'
        self.bin, self.record = tmp_path / "bin", tmp_path / "recorded"
        self.bin.mkdir()
        shutil.copytree(ROOT / PLACE, self.checkout / PLACE, ignore=shutil.ignore_patterns("__pycache__"))
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.environment = {"PATH": str(self.bin), "HOME": str(tmp_path / "home"), "RECORD": str(self.record)}

    @property
    def place(self) -> Path:
        return self.checkout / PLACE

    def tool(self, name: str, text: str) -> None:
        (self.bin / name).unlink(missing_ok=True)  # never through a link, into the machine's own
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def docker(self, **settings: str) -> None:
        self.tool("docker", DOCKER)
        self.environment |= settings

    def gpu(self) -> None:
        self.tool("nvidia-smi", "#!/usr/bin/env bash\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")

    def call(self, script: str, *arguments: str | Path, before: tuple[str, ...] = (), **more) -> subprocess.CompletedProcess:
        command = [*before, "bash", self.place / script, *arguments]
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "env": self.environment} | more
        return subprocess.run(command, **options)

    def recorded(self) -> list[str]:
        return self.record.read_text().split("\0")[:-1]


class Started:
    """What a recorded `docker run` means."""

    def __init__(self, words: list[str]):
        assert words.pop(0) == "run"
        self.flags, self.values = set(), {}
        while words[0].startswith("--"):
            option = words.pop(0)
            if option in ("--rm", "--init", "--interactive", "--tty"):
                self.flags.add(option)
            else:
                self.values.setdefault(option, []).append(words.pop(0))
        self.image, *self.command = words
        self.mounts, self.readonly = {}, set()
        for value in self.values.get("--mount", []):
            fields = dict(field.partition("=")[::2] for field in next(csv.reader([value])))  # as docker reads it
            assert fields["type"] == "bind"
            self.mounts[fields["target"]] = fields["source"]
            if "readonly" in fields:
                self.readonly.add(fields["target"])


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def start(host: Host, *arguments, **more) -> tuple[Started, str]:
    done = host.call("run.sh", *arguments, **more)
    assert done.returncode == 0, done.stderr
    return Started(host.recorded()), done.stderr


def test_a_command_runs_on_the_processor_as_the_caller_on_this_checkouts_data(host):
    host.docker()
    started, told = start(host, "python", "train.py", "--name", "my ann", "*", "--cpu", "")
    assert told == "No NVIDIA GPU here: running on the processor.\n"
    assert started.image == "head2head:bookworm" and started.command == ["python", "train.py", "--name", "my ann", "*", "--cpu", ""]
    assert started.flags == {"--rm", "--init", "--interactive"}  # no terminal: it is no terminal that calls
    assert started.values["--user"] == [f"{os.getuid()}:{os.getgid()}"] and started.values["--shm-size"] == ["8g"]
    expected = {f"/head2head/{folder}": str(host.checkout / folder) for folder in FOLDERS}
    expected["/cache"] = host.environment["HOME"] + "/.cache/head2head/container"
    assert started.mounts == expected and not started.readonly
    assert all(Path(source).is_dir() for source in started.mounts.values())  # or docker would make them as root
    assert not started.values.keys() & {"--gpus", "--device", "--publish", "--env"}


def test_without_a_command_it_is_a_shell_in_the_callers_terminal(host):
    host.docker()
    outer, inner = os.openpty()
    host.call("run.sh", stdin=inner, stdout=inner, stderr=subprocess.PIPE, capture_output=False)
    os.close(inner), os.close(outer)
    started = Started(host.recorded())
    assert "--tty" in started.flags and started.command == []  # the image's own command is bash
    assert 'CMD ["bash"]' in (ROOT / PLACE / "Dockerfile").read_text()


@pytest.mark.parametrize("toolkit", ["runtime", "hook"])
def test_the_gpu_is_passed_in_with_vulkan_where_docker_can(host, toolkit):
    host.docker(RUNTIMES='{"io.containerd.runc.v2":{},"nvidia":{"path":"nvidia-container-runtime"}}' if toolkit == "runtime" else "{}")
    host.gpu()
    if toolkit == "hook":
        host.tool("nvidia-container-runtime-hook", "#!/bin/sh\n")
    started, told = start(host, "true")
    assert told == "" and started.values["--gpus"] == ["all"] and started.values["--env"] == ["NVIDIA_DRIVER_CAPABILITIES=all"]
    started, told = start(host, "--cpu", "true")
    assert told == "" and "--gpus" not in started.values and started.values["--env"] == ["NVIDIA_VISIBLE_DEVICES=void"]


def test_a_gpu_that_docker_cannot_pass_in_is_told(host):
    host.docker()
    host.gpu()
    started, told = start(host, "true")
    remedy = f"To change that: bash {host.place}/pre_docker_install.sh"
    assert told == f"Docker cannot pass on the NVIDIA GPU: running on the processor. {remedy}\n" and "--gpus" not in started.values


def test_a_driver_without_a_gpu_counts_as_none(host):
    host.docker(RUNTIMES='{"nvidia":{}}')
    host.tool("nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'\nexit 9\n")
    started, told = start(host, "true")
    assert told == "No NVIDIA GPU here: running on the processor.\n" and "--gpus" not in started.values


@pytest.mark.parametrize("option", ["-p", "--port"])
def test_the_page_is_for_this_machine_alone(host, option):
    host.docker()
    started, _ = start(host, option, "9000", "python", "demo.py", "-p", "1")
    assert started.values["--publish"] == ["127.0.0.1:9000:8000"] and started.command == ["python", "demo.py", "-p", "1"]


def test_a_folder_of_videos_is_lent_and_not_written(host, tmp_path):
    host.docker()
    videos = tmp_path / "My, videos"
    videos.mkdir()
    started, _ = start(host, "--videos", "My, videos", "--", "--odd", "/videos/a b.mp4", cwd=tmp_path)
    assert started.mounts["/videos"] == str(videos) and started.readonly == {"/videos"} and started.command == ["--odd", "/videos/a b.mp4"]


def test_what_links_lead_to_is_passed_in(host, tmp_path):
    """Of datasets that lie on another disk, and of FlowNet2's weights, there are often only links in the checkout."""
    host.docker()
    disk = tmp_path / "big disk"
    (disk / "D").mkdir(parents=True)
    (disk / "flow.tar").touch()
    (host.checkout / "datasets").mkdir()
    (host.checkout / "datasets" / "D").symlink_to(os.path.relpath(disk / "D", host.checkout / "datasets"))
    (host.checkout / "datasets" / "gone").symlink_to(disk / "gone")
    (host.checkout / "datasets" / "plain").mkdir()
    (host.checkout / "models/flownet2_pytorch").mkdir(parents=True)
    (host.checkout / "models/flownet2_pytorch/FlowNet2_checkpoint.pth.tar").symlink_to(disk / "flow.tar")
    (host.checkout / "results").symlink_to(disk)
    started, _ = start(host, "true")
    weights = "/head2head/models/flownet2_pytorch/FlowNet2_checkpoint.pth.tar"
    assert started.mounts["/head2head/datasets/D"] == str(disk / "D") and started.mounts[weights] == str(disk / "flow.tar")
    assert started.readonly == {weights} and started.mounts["/head2head/results"] == str(host.checkout / "results")
    assert not started.mounts.keys() & {"/head2head/datasets/gone", "/head2head/datasets/plain"}


def test_settings_of_the_caller_go_in(host):
    host.docker(GPUS="2", https_proxy="http://proxy:3128", HEAD2HEAD_CACHE=str(host.bin.parent / "kept"))
    started, _ = start(host, "true")
    assert started.values["--env"] == ["GPUS", "https_proxy"]  # docker takes their values from the environment
    assert started.mounts["/cache"] == str(host.bin.parent / "kept" / "container")


@needs_root
def test_cameras_are_passed_in_with_their_group(host):
    """On a /dev of its own, which the rest of the machine does not see."""
    host.docker()
    devices = "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && mknod /dev/video0 c 81 0 && mknod /dev/video11 c 81 1"
    devices += " && chgrp 44 /dev/video0 && chgrp 45 /dev/video11 && touch /dev/video.txt"
    before = (shutil.which("unshare"), "--mount", "--propagation", "private", shutil.which("sh"), "-c")
    outside = f'export PATH="$0"; {devices} && PATH="{host.bin}" && exec "$@"'
    if subprocess.run([*before, "mount -t tmpfs tmpfs /dev"], capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    started, _ = start(host, "true", before=(*before, outside, os.environ["PATH"]))
    assert started.values["--device"] == ["/dev/video0", "/dev/video11"] and started.values["--group-add"] == ["44", "45"]


@needs_root
def test_root_of_sudo_and_of_a_rootless_docker_is_the_caller(host):
    host.docker(SUDO_UID="4321", SUDO_GID="4322")
    started, _ = start(host, "true")
    assert started.values["--user"] == ["4321:4322"]
    made = [Path(source).stat() for source in started.mounts.values()]
    assert {(folder.st_uid, folder.st_gid) for folder in made} == {(4321, 4322)}
    host.docker(SECURITY='["name=seccomp,profile=builtin","name=rootless"]')
    assert start(host, "true")[0].values["--user"] == ["0:0"]


@pytest.mark.parametrize(("fault", "sentence"), FAULTS)
@pytest.mark.parametrize("script", ["run.sh", "build.sh"])
def test_no_docker_is_said_in_a_sentence(host, script, fault, sentence):
    if fault:
        host.docker(FAULT=fault)
    done = host.call(script)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    assert done.returncode == 1 and done.stderr == f"error: {sentence.format(place=host.place, user=user)}\n"
    assert not host.record.exists() and not (host.checkout / "datasets").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--port"], 2, "--port needs a value"),
        (["--port", "0"], 2, "'0' is not a port"),
        (["-p", "65536"], 2, "'65536' is not a port"),
        (["-p", "80a"], 2, "'80a' is not a port"),
        (["--fast"], 2, "unknown option --fast"),
        (["--videos", "no such folder"], 1, "there is no folder no such folder"),
    ],
)
def test_wrong_options_are_said_before_docker_is_asked(host, arguments, code, sentence):
    done = host.call("run.sh", *arguments)
    assert done.returncode == code and sentence in done.stderr and done.stderr.count("\n") == 1


def test_a_missing_image_is_not_looked_for_elsewhere(host):
    host.docker(NO_IMAGE="1")
    done = host.call("run.sh", "true")
    assert done.stderr == f"error: there is no image head2head:bookworm yet; run: bash {host.place}/build.sh\n"
    assert done.returncode == 1 and not host.record.exists()


def test_a_folder_that_cannot_be_made_is_named(host):
    host.docker()
    (host.checkout / "datasets").write_text("a file in its place")
    done = host.call("run.sh", "true")
    assert done.returncode == 1 and done.stderr.startswith(f"error: cannot make the folder {host.checkout}/datasets; ")


def test_the_exit_code_is_the_commands(host):
    host.docker(CODE="7")
    assert host.call("run.sh", "false").returncode == 7


def test_the_image_is_made_of_the_whole_checkout(host):
    host.docker(https_proxy="http://proxy:3128")
    done = host.call("build.sh", "--no-cache", "--label", "a b")
    expected = ["build", "--tag", "head2head:bookworm", "--file", f"{host.place}/Dockerfile", "--build-arg", "https_proxy"]
    assert host.recorded() == [*expected, "--no-cache", "--label", "a b", str(host.checkout)]
    assert done.returncode == 0 and done.stdout == f"Made head2head:bookworm. Now: bash {host.place}/run.sh\n"


def test_a_failed_build_says_what_it_needs(host):
    host.docker(CODE="1")
    done = host.call("build.sh")
    assert done.returncode == 1 and "error: the image could not be made" in done.stderr and not done.stdout


RECORDER = '#!/usr/bin/env bash\necho "${0##*/} $*" >>"$RECORD"\n'
PREPARES = "apt-get systemctl usermod nvidia-ctk curl sudo tee".split()


@pytest.fixture
def bare(host):
    """A Debian machine on which nothing is installed, and nothing is changed."""
    if "debian" not in Path("/etc/os-release").read_text():
        pytest.skip("not on Debian or Ubuntu")
    for tool in PREPARES:
        host.tool(tool, RECORDER)
    host.tool("sudo", '#!/usr/bin/env bash\nexec "$@"\n')
    host.tool("tee", RECORDER + 'cat >>"$RECORD"\n')
    host.tool("apt-cache", '#!/usr/bin/env bash\n[[ "$2" = docker-compose ]]\n')
    host.environment["SUDO_USER"] = "ann"
    return host


def changes(host: Host) -> list[str]:
    return host.record.read_text().splitlines() if host.record.exists() else []


def test_a_bare_machine_gets_docker(bare):
    if any("0x10de" in vendor.read_text() for vendor in Path("/sys/bus/pci/devices").glob("*/vendor")):
        pytest.skip("this machine has an NVIDIA GPU, which the script sees")
    shown = bare.call("pre_docker_install.sh", "--dry-run")
    assert shown.returncode == 0 and not changes(bare)
    assert "docker: not installed\n" in shown.stdout and "NVIDIA GPU: none; containers will use the processor\n" in shown.stdout
    done = bare.call("pre_docker_install.sh", "--yes")
    assert done.returncode == 0, done.stderr
    assert changes(bare) == ["apt-get update", "apt-get install -y docker.io docker-compose", "usermod -aG docker ann"]
    for step in changes(bare):
        assert step in shown.stdout and step in done.stdout.partition("What is to be done:")[2]
    assert done.stdout.endswith(f"Log out and in again, for docker to let ann in.\nDone. Now: bash {bare.place}/build.sh\n")


def test_a_gpu_gets_the_container_toolkit(bare):
    bare.docker()
    bare.gpu()
    done = bare.call("pre_docker_install.sh", "--yes")
    assert done.returncode == 0 and "docker: there, and answers\n" in done.stdout
    commands = [line.split()[0] for line in changes(bare)]
    assert commands == ["apt-get", "apt-get", "curl", "tee", "deb", "apt-get", "apt-get", "nvidia-ctk", "systemctl"]
    key = re.search(r"-o (\S+)", changes(bare)[2])[1]
    assert changes(bare)[4].startswith(f"deb [signed-by={key}] https://") and changes(bare)[4].endswith("/$(ARCH) /")
    end = ["apt-get install -y nvidia-container-toolkit", "nvidia-ctk runtime configure --runtime=docker", "systemctl restart docker"]
    assert changes(bare)[-3:] == end


def test_a_prepared_machine_is_left_alone(bare):
    bare.docker(RUNTIMES='{"nvidia":{}}')
    bare.gpu()
    done = bare.call("pre_docker_install.sh")
    assert done.returncode == 0 and done.stdout.endswith(f"Nothing to do. Now: bash {bare.place}/build.sh\n") and not changes(bare)


@pytest.mark.parametrize(
    ("fault", "step"), [(STOPPED, "systemctl enable --now docker"), (REFUSED, "usermod -aG docker ann")], ids=["stopped", "refused"]
)
def test_a_docker_that_does_not_answer_is_mended(bare, fault, step):
    bare.docker(FAULT=fault)
    assert bare.call("pre_docker_install.sh", "--yes").returncode == 0 and changes(bare) == [step]


def test_nothing_is_done_unasked(bare):
    done = bare.call("pre_docker_install.sh")
    assert done.returncode == 1 and done.stderr.startswith("error: nobody is there to be asked; run it with --yes") and not changes(bare)
    outer, inner = os.openpty()
    os.write(outer, b"n\n")
    done = bare.call("pre_docker_install.sh", stdin=inner)
    os.close(inner), os.close(outer)
    assert done.returncode == 1 and done.stdout.endswith("Nothing was changed.\n") and not changes(bare)


def test_a_step_that_fails_is_named_and_the_last(bare):
    bare.tool("apt-get", RECORDER + 'echo "E: no such package" >&2\n[ "$1" = update ]\n')
    done = bare.call("pre_docker_install.sh", "--yes")
    assert done.returncode == 1 and changes(bare)[-1].startswith("apt-get install")
    assert done.stderr.splitlines()[-1].startswith("error: this failed: ") and "run this script again" in done.stderr


@needs_root
def test_other_systems_are_told_what_is_missing(bare, tmp_path):
    (tmp_path / "os-release").write_text('ID=fedora\nID_LIKE="rhel"\nPRETTY_NAME="Fedora Linux 42"\n')
    before = (shutil.which("unshare"), "--mount", "--propagation", "private", shutil.which("sh"), "-c")
    bind = f"{shutil.which('mount')} --bind '{tmp_path}/os-release' /etc/os-release"
    if subprocess.run([*before, bind], capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    done = bare.call("pre_docker_install.sh", "--yes", before=(*before, bind + ' && exec "$@"', "sh"))
    assert done.returncode == 1 and "this is Fedora Linux 42; install docker" in done.stderr and not changes(bare)


def test_the_image_is_given_all_of_the_code(tmp_path):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    tracked = {name for name in listed if name and (ROOT / name).is_file()}
    missing = tracked - set(build_in_root.context(ROOT))
    # what is for developers alone, at the top
    assert {name for name in missing if not name.startswith(".") and name != "CITATION.cff"} == set(), "add it to .dockerignore"


def test_the_image_is_given_nothing_else(tmp_path):
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    wanted = ["train.py", "requirements.lock", "util/video/reading.py", "preprocessing/face_models/face_data/a.npz", "scripts/a b.sh"]
    made = [".git/config", ".venv/bin/python", "datasets/D/images/a.py", "checkpoints/D/a.pth", "results/a.mp4", "my_video.mp4"]
    made += ["preprocessing/files/all_all_all.mat", "models/flownet2_pytorch/a.tar", "util/__pycache__/a.pyc", "util/a.pyc", "runs/a.txt"]
    for name in wanted + made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert set(build_in_root.context(tmp_path)) == set(wanted)


def test_code_is_copied_after_packages_are_installed():
    """Or each change of the code would install them anew."""
    lines = [f"{name} {rest}" for name, rest in build_in_root.instructions(ROOT / PLACE / "Dockerfile")]
    steps = ("RUN bash /usr/local/sbin/head2head-install", "RUN PIP_NO_CACHE_DIR=1 bash scripts/setup_env.sh", "COPY . .")
    system, python, code = map(lines.index, steps)
    assert system < python < code and lines[-1] == 'CMD ["bash"]' and "USER 1000:1000" in lines[code:]


def test_compose_has_the_settings_of_run(host):
    host.docker()
    started, _ = start(host, "true")
    text = (ROOT / PLACE / "compose.yaml").read_text()
    places = dict(re.findall(r"^    - (?!127)(\S+):(/\S+)$", text, re.M))
    assert set(places.values()) == set(started.mounts)
    for source, target in places.items():
        if target != "/cache":
            assert os.path.normpath(ROOT / PLACE / source) == str(ROOT / target.removeprefix("/head2head/"))
    assert f"image: {started.image}\n" in text and "shm_size: 8g" in text and "init: true" in text and "127.0.0.1:8000:8000" in text


def test_compose_is_understood_by_docker():
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode if shutil.which("docker") else True:
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "-f", ROOT / PLACE / "compose.yaml", "--profile", "gpu", "config"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "gpu:" in done.stdout, done.stderr


@contextlib.contextmanager
def page(status: int):
    """A page on a free port; status 0: it takes the question and says nothing."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if not status:
                return
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (302, True), (401, True), (500, False), (0, False)])
def test_a_page_that_is_served_has_to_answer(host, status, healthy):
    with page(status) as port:
        done = host.call("healthcheck.sh", str(port))
    assert (done.returncode == 0) is healthy and f"port {port}" in done.stdout and not done.stderr


def test_without_a_page_the_container_is_healthy_until_it_loses_its_gpu(host):
    with page(0) as port:
        pass  # nobody is there any more
    assert host.call("healthcheck.sh", str(port)).returncode == 0
    host.gpu()
    assert host.call("healthcheck.sh", str(port)).returncode == 0
    host.tool("nvidia-smi", "#!/bin/sh\necho 'Failed to initialize NVML: Unknown Error'\nexit 255\n")
    done = host.call("healthcheck.sh", str(port))
    assert done.returncode == 1 and done.stdout == "the GPU is gone; start the container anew\n"


def test_the_entry_point_warns_of_folders_and_becomes_the_command(host):
    (host.bin / "printf").symlink_to(shutil.which("printf"))
    done = host.call("entrypoint.sh", "printf", "%s|", "a b", "*")
    assert done.returncode == 0 and done.stdout == "a b|*|"
    if not Path("/head2head").exists() and not Path("/cache").exists():  # i.e. not in the container itself
        folders = " ".join(f"/head2head/{folder}" for folder in FOLDERS)
        told = f"warning: user {os.getuid()}:{os.getgid()} cannot write to {folders} /cache, of nobody; "
        assert done.stderr.startswith(told) and done.stderr.count("\n") == 1


def test_what_cannot_be_done_here_is_said(host):
    host.tool("id", "#!/bin/sh\necho 1000\n")
    done = host.call("install.sh")
    assert done.returncode == 1 and done.stderr.startswith("error: installing packages needs root")
    done = subprocess.run([sys.executable, ROOT / PLACE / "build_in_root.py"], capture_output=True, text=True, env=host.environment)
    assert done.returncode == 0 and done.stdout.startswith("skipped: ") and done.stdout.count("\n") == 1
