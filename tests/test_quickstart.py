"""scripts/quickstart.py and quickstart.sh: checks before anything is installed, the chain of steps, how it ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_checkout import copy_scripts, fake_checkout

from scripts.quickstart import USAGE, Options, Refused, parse

ROOT = Path(__file__).resolve().parents[1]
BARE = [sys.executable, "-S", "-E"]  # without site-packages


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothere.mp4"], 1, "there is no video file nothere.mp4"),
        (["--minutes", "soon"], 2, "'soon' is not a number of minutes or seconds; see --help"),
        (["--seconds", "."], 2, "'.' is not a number"),
        (["--minutes=1e3"], 2, "'1e3' is not a number"),
        (["--preset", "best"], 2, "--preset is default or preview, not 'best'"),
        (["--speed"], 2, "unknown option --speed; see --help"),
        (["--speed=2"], 2, "unknown option --speed=2"),
        (["--minutes"], 2, "--minutes needs a value; see --help"),
        (["a.mp4", "b.mp4"], 2, "one video at a time; see --help"),
        (["--certificate", "a.pem"], 2, "--certificate and --key belong together; see --help"),
        (["--certificate", "nothere.pem", "--key", "k.pem"], 1, "--certificate nothere.pem: there is no such file"),
        (["--mirror", "nothere"], 1, "--mirror nothere: there is no such file or folder"),
    ],
)
def test_arguments_are_refused_in_one_sentence(arguments, code, message):
    with pytest.raises(Refused, match="^" + message.replace(".", r"\.")) as refusal:
        parse(arguments)
    assert refusal.value.code == code


def test_arguments_are_checked_before_anything_is_installed(tmp_path, monkeypatch):
    """Both ways to call it, in a checkout without .venv."""
    monkeypatch.setenv("PYTHON3", sys.executable)
    home = copy_scripts(tmp_path / "home")
    for command in (["bash", home / "scripts/quickstart.sh"], [*BARE, home / "scripts/quickstart.py"]):
        refused = subprocess.run([*command, "--minutes", "soon"], capture_output=True, text=True)
        assert refused.returncode == 2 and refused.stderr == "error: 'soon' is not a number of minutes or seconds; see --help\n"
        helped = subprocess.run([*command, "--help"], capture_output=True, text=True)
        assert helped.returncode == 0 and helped.stdout == USAGE
    assert not (home / ".venv").exists()


def test_number_of_gpus_is_checked(monkeypatch):
    monkeypatch.setenv("GPUS", "two")
    with pytest.raises(Refused, match="GPUS=two is no number of GPUs"):
        parse([])


def test_paths_are_of_the_folder_from_which_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "-a b.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("-a b.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAD2HEAD_MIRROR", ".")
    assert parse(["-a b.mp4", "--seconds", "2.5"]) == Options(tmp_path / "-a b.mp4", seconds="2.5", mirror=str(tmp_path))
    found = parse(["--mirror=https://example.org/x", "link.mp4", "--minutes", ".5", "--preset=preview"])
    assert found == Options(tmp_path / "link.mp4", ".5", "preview", "", "https://example.org/x")


def test_without_any_python(tmp_path):
    """Help is shown; all else says what to install. No apt-get is in reach."""
    home = copy_scripts(tmp_path / "home")
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname", "sed"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    command, bare = ["bash", home / "scripts/quickstart.sh"], {"PATH": str(tmp_path / "bin")}
    assert subprocess.run([*command, "-h"], env=bare, capture_output=True, text=True).stdout == USAGE
    done = subprocess.run(command, env=bare, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: Python 3.10, 3.11 or 3.12 is needed; install it")


def test_the_chain_calls_every_step_in_its_order(tmp_path):
    steps = ("download_files", "make_demo_video", "detect", "detect_landmarks70", "reconstruct", "train", "test", "images_to_video")
    home = fake_checkout(tmp_path / "a home", **dict.fromkeys(steps, 'echo "> $*"'))
    (tmp_path / "ann.mp4").touch()
    command = ["bash", home / "scripts/quickstart.sh", "ann.mp4", "--minutes", "3", "--seconds", "7"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    result = home / "results/quickstart/head2head_ann/latest_epoch/test/ann"
    of_ann = "--dataset_name quickstart --name ann"
    assert done.stdout.splitlines() == [
        "",
        "== Face model (minute 0)",
        "> scripts/download_files.py",
        "",
        "== Face detection (minute 0)",
        f"> preprocessing/detect.py {of_ann} --original_videos_path {tmp_path / 'ann.mp4'} --split train --max_seconds 7",
        "",
        "== Landmarks (minute 0)",
        f"> preprocessing/detect_landmarks70.py {of_ann}",
        "",
        "== 3D reconstruction (minute 0)",
        f"> preprocessing/reconstruct.py {of_ann}",
        "",
        "== Training (preview) (minute 0)",
        "> train.py --dataset_name quickstart --target_id ann --name head2head_ann --preset preview --max_minutes 3",
        "",
        "== Self-reenactment of the frames kept back (minute 0)",
        "> test.py --dataset_name quickstart --target_id ann",
        f"> scripts/images_to_video.py --output_mode all --results_dir {result}",
        "",
        "== Done (minute 0)",
        f"video:  {result / 'all.mp4'}",
        f"report: {result / 'index.html'}",
    ]
    # the demo clip, without a face model to be had; what is left of 15 minutes; two GPUs asked for
    script = home / ".venv/bin/python"
    script.write_text(script.read_text().replace('*download_files.py*) echo "> $*" ;;', "*download_files.py*) exit 1 ;;"))
    done = subprocess.run(["bash", home / "scripts/quickstart.sh"], env={**os.environ, "GPUS": "2"}, capture_output=True, text=True)
    clip = home / "datasets/quickstart/original_videos/demo.mp4"
    assert done.returncode == 0 and "could not be had: going on with the embedded one" in done.stdout
    assert (
        f"> scripts/make_demo_video.py --output {clip}\n" in done.stdout and f" --name demo --original_videos_path {clip} " in done.stdout
    )
    assert "> -m torch.distributed.run --standalone --nproc_per_node 2 train.py " in done.stdout
    assert "--preset preview --max_minutes 12\n" in done.stdout or "--preset preview --max_minutes 13\n" in done.stdout


def test_the_certificate_is_tried_before_the_chain(tmp_path, monkeypatch):
    """And every step gets it, by paths that hold from wherever it is called."""
    home = fake_checkout(tmp_path / "home", download_files="echo $HEAD2HEAD_CERTIFICATE $HEAD2HEAD_KEY")
    for name in ("a.mp4", "c.pem", "k.pem"):
        (tmp_path / name).touch()
    command = [*BARE, home / "scripts/quickstart.py", "a.mp4", "--certificate=c.pem", "--key=k.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path}/c.pem with {tmp_path}/k.pem cannot sign")
    script = home / ".venv/bin/python"
    script.write_text(script.read_text().replace('case "$*" in\n', 'case "$*" in\n  *find_sealer*) exit 0 ;;\n'))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and f"\n{tmp_path}/c.pem {tmp_path}/k.pem\n" in done.stdout


def test_a_step_that_fails_ends_it_with_its_code(tmp_path):
    home = fake_checkout(tmp_path / "home", detect_landmarks70="echo 'error: no face' >&2; exit 3", reconstruct="echo reconstructed")
    (tmp_path / "a.mp4").touch()
    done = subprocess.run([*BARE, home / "scripts/quickstart.py", tmp_path / "a.mp4"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "error: no face\n") and "reconstruct" not in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_step_is_waited_for_when_it_is_stopped(tmp_path, number, code):
    """What it saves then is not cut off. SIGTERM goes to the quickstart alone, Ctrl-C to all processes of the terminal."""
    saving = (
        "trap 'sleep 0.3; echo saved; exit 143' TERM; trap 'sleep 0.3; echo saved; exit 130' INT; echo begun; while :; do sleep 0.05; done"
    )
    home = fake_checkout(tmp_path / "home", train=saving)
    (tmp_path / "a.mp4").touch()
    command = [sys.executable, home / "scripts/quickstart.py", tmp_path / "a.mp4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if line == "begun\n":
            break
    time.sleep(0.1)
    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("saved\n", "", code)
