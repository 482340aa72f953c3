"""Steps that are killed or interrupted at any moment, and run again: the files are those of a run that nobody disturbed.

More moments: python scripts/bench/crashes.py
"""

import os
import signal
import subprocess
import sys
import time

import pytest
from synthetic_videos import face_frame, write_video

from util.layout import root

if not hasattr(os, "fork"):
    pytest.skip("commands are started by fork", allow_module_level=True)


@pytest.mark.slow
def test_every_step_goes_on_from_any_moment(tmp_path):
    """In a process of its own: one that has threads cannot be forked."""
    video = write_video(tmp_path / "Ann.mp4", (face_frame((320, 240), (140 + k, 120), 1.0) for k in range(24)), 25)
    command = [sys.executable, root() / "scripts" / "bench" / "crashes.py", "--video", video, "--moments", "2", "--seed", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("of 2 moments, 0 faults") == 9


@pytest.mark.parametrize("command", ["preprocessing/detect.py", "train.py", "demo.py"])
def test_ctrl_c_while_packages_are_imported(command, tmp_path):
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, root() / command, "--help"], stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if line.endswith(" numpy._core\n") or "cv2" in line:  # in the midst of them
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest = "\n".join(line for line in process.stderr.read().splitlines() if not line.startswith("import time:"))
    assert process.returncode in (130, 0), rest  # 0: it had printed its help
    assert "Traceback" not in rest
    assert process.returncode == 0 or "interrupted: run the same command again" in rest
