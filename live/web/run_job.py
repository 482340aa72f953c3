"""Does one job of the page (live/web/jobs.py): runs its commands one after the other, and writes down how it goes.

python -m live.web.run_job results/live JOB
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from live.web.jobs import commands, write_job
from util.cli import UserError, run
from util.image_io import write_bytes
from util.layout import PageFiles, root
from util.locks import locked

LOCK_WAIT_S = 5.0  # who asks whether the lock is held has it for a moment
WRITE_S = 1.0  # between two updates of the progress
SAID_LINES = 8  # of the commands' output, that are shown
_BAR = re.compile(r"(?P<title>[^|\r\n]{1,60}?): +(?P<percent>\d{1,3})%\|[^|]*\|.*?\[?(?P<elapsed>[\d:]+)<(?P<left>[\d:]+|\?)")


def main(argv: list[str]) -> int:
    home, name = argv
    files = PageFiles(Path(home))
    with locked(files.jobs_lock, "another person", LOCK_WAIT_S):
        job = json.loads(files.job_path(name).read_text(encoding="utf-8"))
        Work(files, job).run()
    return 0


class Work:
    """A job that is being done."""

    def __init__(self, files: PageFiles, job: dict[str, Any]) -> None:
        self._files, self._job = files, job
        self._child: subprocess.Popen | None = None
        self._stopped = False
        self._end_s: float | None = None  # time.monotonic() when a training of limited time ends
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def run(self) -> None:
        """All steps of the phase; the job's file says how it ended."""
        job = self._job
        try:
            for step, command in commands(job):
                self._write(step=step)
                error = self._do(step, command)
                if self._stopped:
                    self._write(state="stopped")
                    return
                if error:
                    self._write(state="failed", error=error)
                    return
            self._write(state="ready" if job["phase"] == "prepare" else "done")
        except (OSError, UserError) as e:
            self._write(state="failed", error=str(e))

    def _do(self, step: str, command: list[str]) -> str:
        """Run a command; returns what went wrong, "" for nothing."""
        began = time.monotonic()
        limit = next((c.partition("=")[2] for c in command if c.startswith("--max_minutes=")), None)
        self._end_s = None if limit is None else began + 60 * float(limit)
        log_path = self._files.job_log_path(self._job["id"])
        with log_path.open("ab") as log:
            if self._stopped:
                return ""
            self._child = subprocess.Popen(
                [sys.executable, "-u", *command], cwd=root(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            if self._stopped:  # between the two lines above
                self._child.terminate()
            said = self._follow(self._child.stdout, log)
            code = self._child.wait()
        if step == "train":
            self._write(trained_s=self._job["trained_s"] + time.monotonic() - began)
        if code == 0:
            return ""
        told = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        return told[-1] if told else f"{Path(command[0]).name} ended with code {code}; {log_path} says more"

    def _follow(self, output: IO[bytes], log: IO[bytes]) -> list[str]:
        """Read a command's output to its end, and show it; returns its last lines."""
        said: list[str] = []
        bar: dict[str, Any] = {}
        rest, written = "", 0.0
        while data := os.read(output.fileno(), 65536):
            log.write(data)
            log.flush()
            *lines, rest = re.split(r"[\r\n]+", rest + data.decode("utf-8", "replace"))
            rest = rest[-2000:]
            for line in [*lines, rest]:
                if found := _BAR.search(line):
                    bar = {"title": found["title"].strip(), "percent": min(int(found["percent"]), 100), "left_s": _seconds(found["left"])}
            said = [*said, *(line.strip() for line in lines if line.strip() and not _BAR.search(line))][-SAID_LINES:]
            if time.monotonic() - written > WRITE_S:
                written = time.monotonic()
                self._show(bar, said)
        if rest.strip() and not _BAR.search(rest):
            said.append(rest.strip())
        self._show(bar, said)
        return said

    def _show(self, bar: dict[str, Any], said: list[str]) -> None:
        told = {**bar, "said": said, "time": time.time()}
        if bar and self._end_s is not None:  # the bar's own guess is wrong at first where a training goes on
            told["left_s"] = max(0.0, self._end_s - time.monotonic())
        write_bytes(self._files.job_progress_path(self._job["id"]), json.dumps(told).encode())

    def _write(self, **changes: Any) -> None:
        self._job.update(changes)
        write_job(self._files, self._job)

    def _stop(self, *_: object) -> None:
        self._stopped = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()


def _seconds(text: str) -> float | None:
    """Seconds of tqdm's 01:23 or 1:02:03; None when it does not know."""
    if text == "?":
        return None
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part or 0)
    return float(total)


if __name__ == "__main__":
    run(main, sys.argv[1:])
