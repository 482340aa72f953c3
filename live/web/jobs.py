"""New persons: preprocessing and training as jobs, one at a time, which go on when the page is closed or its server ends.

A job is a file, `<name>.json`, that says what is to be done and how it stands. live/web/run_job.py, a process of its own, does it with the
project's commands and holds the lock `working.lock` meanwhile: a job that says that it runs, while nobody holds the lock, was cut off.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from live.web.uploads import Upload, Uploads
from util.cli import UserError
from util.identities import composed, identity_name
from util.image_io import write_bytes
from util.layout import Dataset, PageFiles, Run, root
from util.locks import is_locked

DATASET = "people"  # that persons of the page are learnt in
LEAST_CONSENT, MOST_CONSENT = 15, 500  # characters: a sentence, not a keystroke; what detect.py takes
STEPS = {"detect": "finding the face", "landmarks": "tracking the face", "reconstruct": "fitting the 3D face model", "train": "training"}
PREPARING = ("detect", "landmarks", "reconstruct")
PREPARE_S = 60.0  # of a video that are used where there is no GPU, as in the quick start
SAMPLES = 12  # pictures of training that are shown
STARTING_S = 10.0  # in which a job's process takes its lock


class Jobs:
    """All jobs of this server. Methods may be called from any thread; they raise UserError with a sentence for the page."""

    def __init__(self, files: PageFiles, datasets_dir: Path | None, checkpoints_dir: Path | None) -> None:
        self._files, self._datasets_dir, self._checkpoints_dir = files, datasets_dir, checkpoints_dir
        self._started: dict[str, float] = {}  # job -> when its process was started (time.monotonic)

    @cached_property
    def has_gpu(self) -> bool:
        import torch

        return torch.cuda.is_available()

    @property
    def working(self) -> bool:
        """Whether a job's process is at work, or about to be."""
        recent = any(time.monotonic() - started < STARTING_S for started in self._started.values())
        return recent or is_locked(self._files.jobs_lock)

    # ---- what there is ----

    def all(self) -> list[dict[str, Any]]:
        """All jobs, the newest first, with how far they are."""
        jobs = [job for name in self._files.jobs() if (job := self._read(name))]
        return sorted((self._told(job) for job in jobs), key=lambda job: -job["made"])

    def details(self, name: str) -> dict[str, Any]:
        """A job with what its video covers, and pictures of its training."""
        job = self._get(name)
        told = self._told(job)
        record = self._dataset().read_record(job["identity"])
        done = record is not None and "reconstruct" in record.steps
        told["coverage"] = record.coverage if done else []
        told["frames"] = record.splits if done else {}
        told["samples"] = self._samples(job["identity"])
        return told

    def _told(self, job: dict[str, Any]) -> dict[str, Any]:
        told = {
            key: job.get(key) for key in ("id", "name", "identity", "made", "state", "step", "error", "minutes", "consent", "video_name")
        }
        told["state"] = self._state(job)
        told["step_text"] = STEPS.get(job.get("step", ""), "")
        told["steps"] = [STEPS[s] for s in PREPARING]
        if told["state"] == "running":
            with suppress(OSError, ValueError):
                told["progress"] = json.loads(self._files.job_progress_path(job["id"]).read_text(encoding="utf-8"))
        elif told["state"] == "cut off":
            told["error"] = "this was cut off, by a restart of the machine say; what is finished is kept"
        return told

    def _state(self, job: dict[str, Any]) -> str:
        if job["state"] != "running":
            return job["state"]
        started = self._started.get(job["id"], -STARTING_S)
        if time.monotonic() - started < STARTING_S or is_locked(self._files.jobs_lock):
            return "running"
        job = self._read(job["id"]) or job  # it may have ended just now
        return "cut off" if job["state"] == "running" else job["state"]

    def _samples(self, identity: str) -> list[dict[str, Any]]:
        """Pictures of the training, an even choice from the first to the newest."""
        steps: dict[int, dict[str, str]] = {}
        for path in sorted((self._run(identity).web / "images").glob("*_*.jpg")):
            step, _, kind = path.stem.partition("_")
            if step.isdigit() and kind in ("real", "fake"):
                steps.setdefault(int(step), {})[kind] = path.stem
        whole = [{"step": step, **kinds} for step, kinds in sorted(steps.items()) if len(kinds) == 2]
        if len(whole) > SAMPLES:
            whole = [whole[round(i * (len(whole) - 1) / (SAMPLES - 1))] for i in range(SAMPLES)]
        return whole

    def sample(self, name: str, stem: str) -> Path:
        """The file of a picture that `details` listed."""
        identity = self._get(name)["identity"]
        if stem not in {s[kind] for s in self._samples(identity) for kind in ("real", "fake")}:
            raise UserError("this picture is not there any more")
        return self._run(identity).web / "images" / f"{stem}.jpg"

    # ---- what is done ----

    def new(self, uploads: Uploads, upload: Upload, name: str, consent: str) -> dict[str, Any]:
        """Begin a person: the video goes into the dataset, and its preprocessing starts."""
        if upload.kind != "video":
            raise UserError("choose a video of the person")
        if len(consent) < LEAST_CONSENT:
            raise UserError("write a whole sentence that says who agrees to what")
        identity = identity_name("".join(c for c in composed(name) if c.isalnum() or c in "-."))  # no sign that some file system refuses
        if not any(c.isalnum() for c in name):
            raise UserError("give a name with letters or digits")
        self._must_be_free()
        dataset = self._dataset()
        taken = {*dataset.identities(), *(p.stem for p in dataset.original_videos.glob("*")), *(j["identity"] for j in self.all())}
        if identity.casefold() in {t.casefold() for t in taken} or self._run(identity).checkpoints.exists():
            raise UserError(f"there is a person {identity} already; choose another name")
        id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        video = uploads.take(upload, (dataset.original_videos / identity).with_name(f"{identity}{upload.path.suffix}"))
        job = {
            "id": id,
            "name": name,
            "identity": identity,
            "made": time.time(),
            "video": str(video.absolute()),
            "video_name": upload.name,
            "consent": " ".join(consent.split()),
            "dataset": DATASET,
            "datasets_dir": str(dataset.home.parent.absolute()),
            "checkpoints_dir": str(self._run(identity).checkpoints.parent.parent.absolute()),
            "gpu": self.has_gpu,
            "phase": "prepare",
            "state": "stopped",
            "step": "detect",
            "minutes": None,
            "trained_s": 0.0,
            "error": "",
        }
        return self._start(job)

    def train(self, name: str, minutes: float | None) -> dict[str, Any]:
        """Train a person whose preprocessing is complete. minutes: None with a GPU: the whole recipe."""
        job = self._get(name)
        if job["state"] != "ready":
            raise UserError(f"{job['name']} is not ready to be trained")
        if minutes is None and not job["gpu"]:
            raise UserError("say for how many minutes to train")
        return self._start({**job, "phase": "train", "step": "train", "minutes": minutes})

    def stop(self, name: str) -> dict[str, Any]:
        """Stop a job that runs: it saves, and can be resumed."""
        job = self._get(name)
        if self._state(job) == "running":
            with suppress(OSError, ValueError, IndexError):
                process = int(self._files.jobs_lock.read_text().split()[1])  # "process N on MACHINE"
                os.kill(process, signal.SIGTERM)
        return self._told(job)

    def resume(self, name: str) -> dict[str, Any]:
        job = self._get(name)
        if self._state(job) not in ("stopped", "cut off", "failed"):
            raise UserError(f"{job['name']} needs not be resumed")
        return self._start(job)

    def delete(self, name: str) -> dict[str, Any]:
        """Take a job off the list; frames and networks of the person stay. A video that nothing was made of goes as well."""
        job = self._get(name)
        if self._state(job) == "running":
            raise UserError("stop it first")
        dataset = self._dataset()
        if job["identity"] not in dataset.identities():
            for video in dataset.original_videos.glob("*"):
                if video.stem == job["identity"]:
                    video.unlink(missing_ok=True)
        for path in (self._files.job_path(name), self._files.job_progress_path(name), self._files.job_log_path(name)):
            path.unlink(missing_ok=True)
        return {}

    # ---- parts ----

    def _start(self, job: dict[str, Any]) -> dict[str, Any]:
        self._must_be_free()
        job = {**job, "state": "running", "error": ""}
        self._files.job_progress_path(job["id"]).unlink(missing_ok=True)
        write_job(self._files, job)
        self._started[job["id"]] = time.monotonic()
        # a session of its own: Ctrl-C for the server is not meant for it
        subprocess.Popen(
            [sys.executable, "-m", "live.web.run_job", str(self._files.home.absolute()), job["id"]],
            cwd=root(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self._told(job)

    def _must_be_free(self) -> None:
        if self.working:
            busy = next((job["name"] for job in self.all() if job["state"] == "running"), "another person")
            raise UserError(f"one person at a time: {busy} is being learnt; stop that, or wait until it is done")

    def _get(self, name: str) -> dict[str, Any]:
        job = self._read(name) if name in self._files.jobs() else None
        if job is None:
            raise UserError("this person is not in the list any more")
        return job

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            job = json.loads(self._files.job_path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return job if isinstance(job, dict) and job.keys() >= {"id", "name", "identity", "state", "made"} and job["id"] == name else None

    def _dataset(self) -> Dataset:
        return Dataset.open(DATASET, self._datasets_dir)

    def _run(self, identity: str) -> Run:
        return Run.open(DATASET, f"head2head_{identity}", self._checkpoints_dir)


def write_job(files: PageFiles, job: dict[str, Any]) -> None:
    """Write a job's file, whole or not at all."""
    write_bytes(files.job_path(job["id"]), json.dumps(job, indent=1).encode())


def commands(job: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The steps of a job's phase, each with its command line after the interpreter. Values follow `=`: none is taken for an option."""
    person = [f"--dataset_name={job['dataset']}", f"--datasets_dir={job['datasets_dir']}"]
    one = [*person, f"--name={job['identity']}"]
    if job["phase"] == "prepare":
        seconds = [] if job["gpu"] else [f"--max_seconds={PREPARE_S:g}"]
        source = [f"--original_videos_path={job['video']}", "--split=train", f"--consent={job['consent']}"]
        return [
            ("detect", ["preprocessing/detect.py", *one, *source, *seconds]),
            ("landmarks", ["preprocessing/detect_landmarks70.py", *one]),
            ("reconstruct", ["preprocessing/reconstruct.py", *one]),
        ]
    training = [
        *person,
        f"--target_id={job['identity']}",
        f"--name=head2head_{job['identity']}",
        f"--checkpoints_dir={job['checkpoints_dir']}",
    ]
    training.append(f"--preset={'default' if job['gpu'] else 'preview'}")
    if job["minutes"] is not None:  # what is left of them
        training.append(f"--max_minutes={max(1.0, job['minutes'] - job['trained_s'] / 60):.2f}")
    return [("train", ["train.py", *training])]
