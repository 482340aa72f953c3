"""Kills every step at random moments and runs it again: the files must be those of a run that nobody disturbed.

    python scripts/bench/crashes.py                                   the demo clip, 20 moments a step
    python scripts/bench/crashes.py --video a.mp4 --steps detect train --moments 5

Each step works on copies of what the steps before left. A process is killed by SIGKILL, then the same command runs to its end. What differs
by right is not compared: dates, durations, and signatures with their time; videos are compared picture by picture. Training is killed and
resumed: its losses and weights must be those of the training that went through. Then SIGINT: exit code 130, one sentence, and the next run
ends with the same files. Needs Linux or macOS: commands are started by fork, so that a kill hits work, not the import of packages.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from util.cli import UserError, run, say
from util.layout import root

NAME = "Ann"
TRAINING = "--preset published --loadSize 32 --ngf 4 --n_downsample_G 2 --n_blocks 2 --ndf 4 --n_layers_D 2 --no_vgg --batch_size 1"
TRAINING += " --niter 6 --niter_decay 2 --n_frames_total 6 --niter_step 1 --max_frames_per_gpu 4 --no_tensorboard --epoch_frames 0"
TRAINING += " --save_latest_freq 1 --gpu_ids -1 --move_heads 0 --ema 0.9 --lambda_L1 0 --lambda_gradient 0"
# Fields of JSON files, and attributes of pages, that tell when or how long, or what the file system says of a file.
_VOLATILE = {"made", "seconds", "stamp", "checkpoint_made", "frames_per_s", "frames_per_s_written"}
_DATES = re.compile(rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?( UTC|Z)?|[\d.]+ (s|ms|minutes|frames/s)\b|data:video[^\"]*|(?<=\?)\d{9,}")
_BY_THE_CLOCK = ("web", "digests")  # folders of what is shown of a training every few seconds, and of digests of files that are old enough
_FRAMES = 30  # of the demo clip
_LONGEST_S = 600  # of a step that nobody disturbs; beyond, it hangs


@dataclass(frozen=True)
class Step:
    """A command."""

    name: str
    command: str  # its file
    arguments: tuple[str, ...]


def steps(place: Path, video: Path) -> list[Step]:
    """The steps in order, on the folders datasets, checkpoints and results of a place."""
    data = ("--dataset_name", "D", "--datasets_dir", str(place / "datasets"))
    runs = ("--checkpoints_dir", str(place / "checkpoints"))
    target, results = ("--target_id", NAME), place / "results"
    test = (*data, *runs, *target, "--results_dir", str(results), "--gpu_ids", "-1", "--backend", "torch")
    split = ("--split", "train", "--train_seq_length", "8", "--cropped_image_size", "64")
    consent = ("--consent", "demo")
    return [
        Step("detect", "preprocessing/detect.py", (*data, "--original_videos_path", str(video), *split, *consent)),
        Step("landmarks", "preprocessing/detect_landmarks70.py", data),
        Step("reconstruct", "preprocessing/reconstruct.py", (*data, "--face_model", "mesh478", "--renderer", "cpu")),
        Step("prepare_training", "scripts/prepare_training.py", (*data, "--workers", "0", "--loadSize", "32")),
        Step("train", "train.py", (*data, *runs, *target, *TRAINING.split())),
        Step("reenact", "preprocessing/reenact.py", (*data, *runs, *target, "--source_id", NAME, "--renderer", "cpu")),
        Step("test", "test.py", test),
        Step("paste_back", "scripts/paste_back.py", ("--results_dir", str(results), "--datasets_dir", str(place / "datasets"))),
        Step("export", "scripts/export.py", (str(place / "checkpoints" / "D" / f"head2head_{NAME}"), "--format", "onnx")),
    ]


# ---- processes ----


def start(step: Step, log: Path) -> int:
    """Start a command in a process of its own, which is given."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        with suppress(OSError):  # it did so itself, or has ended
            os.setpgid(process, process)
        return process
    code = 70  # a bug of this script
    try:
        os.setpgid(0, 0)
        with log.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = [step.command, *step.arguments]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import traceback

        try:
            run(lambda argv: load(step.command)(argv), step.arguments)
        except SystemExit as e:
            code = int(e.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
    finally:
        os._exit(code)


def load(command: str) -> Callable[[Sequence[str] | None], int | None]:
    """A command's main."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("command_" + Path(command).stem, root() / command)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def wait(process: int, seconds: float = _LONGEST_S) -> int | None:
    """The exit code of a process (below 0: the signal that ended it); None when it still runs after so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def complete(step: Step, log: Path) -> float:
    """Run a step to its end; how long it took, seconds. Raises: UserError when it fails."""
    begun = time.monotonic()
    process = start(step, log)
    code = wait(process)
    if code != 0:
        if code is None:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
        raise UserError(f"{step.name} ended with {code}: {log.read_text(errors='replace')[-3000:]}")
    return time.monotonic() - begun


# ---- files ----


def content(place: Path) -> dict[str, str]:
    """A digest of what every file below a place holds, without what differs by right.

    Read by a process of its own: this one must not import what starts threads, as it goes on to fork.
    """
    answer = place.parent / "content.json"
    answer.unlink(missing_ok=True)
    process = os.fork()
    if not process:
        try:
            answer.write_text(json.dumps(_content(place)))
        finally:
            os._exit(0)
    wait(process)
    return json.loads(answer.read_text())


def _content(place: Path) -> dict[str, str]:
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and path.parent.name not in _BY_THE_CLOCK and path.parent.parent.name not in _BY_THE_CLOCK:
            found[path.relative_to(place).as_posix()] = hashlib.sha256(_lasting(path)).hexdigest()[:16]
    return found


def _lasting(path: Path) -> bytes:
    """A file's bytes without what may differ."""
    if path.suffix == ".mp4":
        from util.video.reading import read_frames

        return b"".join(hashlib.sha256(frame.tobytes()).digest() for frame in read_frames(path))
    if path.suffix == ".c2pa":
        return b"credentials"
    if path.suffix in (".pt", ".pth"):
        return _weights(path)
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(_without(json.loads(data)), sort_keys=True).encode()
    if path.name == "loss_log.txt":
        return "\n".join(json.dumps(_without(json.loads(line)), sort_keys=True) for line in data.decode().splitlines()).encode()
    if path.name in ("opt.txt", "iter.txt"):
        return data
    return _DATES.sub(b"", data) if path.suffix in (".html", ".js", ".md") else data


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _VOLATILE}
    return [_without(v) for v in value] if isinstance(value, list) else value


def _weights(path: Path) -> bytes:
    """All tensors of a checkpoint, by name: the file itself holds its own name."""
    import torch

    digest = hashlib.sha256()

    def add(value: Any, name: str = "") -> None:
        if isinstance(value, torch.Tensor):
            digest.update(name.encode() + value.contiguous().view(-1).numpy().tobytes())
        elif isinstance(value, dict):
            for key, part in value.items():
                if key not in _VOLATILE:
                    add(part, f"{name}.{key}")
        elif isinstance(value, list | tuple):
            for i, part in enumerate(value):
                add(part, f"{name}.{i}")
        elif not isinstance(value, float):  # durations
            digest.update(f"{name}={value}".encode())

    add(torch.load(path, map_location="cpu", weights_only=True))
    return digest.digest()


def differences(found: dict[str, str], expected: dict[str, str]) -> str:
    """What differs, in words; '' if nothing does."""
    kinds = {
        "missing": [n for n in expected if n not in found],
        "left over": [n for n in found if n not in expected],
        "other content": [n for n in found if n in expected and found[n] != expected[n]],
    }
    return "; ".join(f"{kind}: {', '.join(names[:4])} ({len(names)})" for kind, names in kinds.items() if names)


# ---- the tries ----


def try_step(step: Step, place: Path, before: Path, moments: int, random_: np.random.Generator) -> list[str]:
    """Kill a step at so many moments, and once interrupt it; what went wrong. Afterwards the place is as a whole run leaves it."""
    log = place.parent / "log.txt"

    def begin() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(before, place, symlinks=True)

    begin()
    seconds = complete(step, log)
    begin()
    seconds = min(seconds, complete(step, log))  # the first one's files may have had to be read from the disk
    expected = content(place)
    faults = []
    killed = 0
    for _ in range(moments):
        begin()
        process = start(step, log)
        at = random_.uniform(0, seconds)
        if wait(process, at) is None:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            killed += 1
        try:
            complete(step, log)
        except UserError as e:
            faults.append(f"{step.name}, killed after {at:.2f} s: {e}")
            continue
        if wrong := differences(content(place), expected):
            faults.append(f"{step.name}, killed after {at:.2f} s: {wrong}")
    begin()
    faults += interrupt(step, place, log, seconds * random_.uniform(0.2, 0.7), expected)
    say(f"{step.name}: {seconds:.1f} s; killed at {killed} of {moments} moments, {len(faults)} faults")
    return faults


def interrupt(step: Step, place: Path, log: Path, at: float, expected: dict[str, str]) -> list[str]:
    """Interrupt a step as Ctrl-C does, then run it again."""
    process = start(step, log)
    if wait(process, at) is not None:
        return []
    os.killpg(process, signal.SIGINT)
    code = wait(process, 60)
    text = log.read_text(errors="replace")
    faults = []
    if code is None:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
    wanted = (130, 0) if step.name == "train" else (130,)  # training saves and ends of its own
    if code not in wanted or "Traceback" in text:
        faults.append(f"{step.name}, interrupted after {at:.2f} s: exit code {code}, {text[-1500:]}")
    left = [p.name for p in place.rglob(".*.part")]
    if left:
        faults.append(f"{step.name}, interrupted after {at:.2f} s, leaves {left}")
    try:
        complete(step, log)
    except UserError as e:
        return [*faults, f"{step.name}, interrupted after {at:.2f} s: {e}"]
    if wrong := differences(content(place), expected):
        faults.append(f"{step.name}, interrupted after {at:.2f} s: {wrong}")
    return faults


def try_all(video: Path, folder: Path, moments: int, wanted: Sequence[str] = (), seed: int = 0) -> list[str]:
    """All steps, or those wanted; the others run once. Gives what went wrong."""
    # one place for all: records and logs hold absolute paths
    place, before = folder / "place", folder / "before"
    for kind in ("datasets", "checkpoints", "results"):
        (before / kind).mkdir(parents=True, exist_ok=True)
    faults, random_ = [], np.random.default_rng(seed)
    for step in steps(place, video):
        if wanted and step.name not in wanted:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(before, place, symlinks=True)
            complete(step, folder / "log.txt")
        else:
            faults += try_step(step, place, before, moments, random_)
        shutil.rmtree(before)
        shutil.copytree(place, before, symlinks=True)
        if wanted and step.name == list(wanted)[-1]:
            break
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    names = [step.name for step in steps(Path(), Path())]
    parser.add_argument("--video", type=Path, metavar="FILE", help="short video of a face (default: the demo clip, a second of it)")
    parser.add_argument("--steps", nargs="+", choices=names, default=[], help="only these, in their order (default: all)")
    parser.add_argument("--moments", type=int, default=20, metavar="N", help="kills a step (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    o = parser.parse_args(argv)
    with TemporaryDirectory() as folder:
        video = o.video and o.video.resolve()
        if video is None:
            video = Path(folder) / f"{NAME}.mp4"
            words = [sys.executable, root() / "scripts" / "make_demo_video.py", "--output", video, "--frames", _FRAMES, "--size", 256]
            subprocess.run([str(word) for word in words], check=True)  # not here: a process with threads cannot be forked
        else:
            video = Path(shutil.copy(video, Path(folder) / f"{NAME}{video.suffix}"))
        faults = try_all(video, Path(folder) / "work", o.moments, o.steps, o.seed)
    for fault in faults:
        say(f"FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
