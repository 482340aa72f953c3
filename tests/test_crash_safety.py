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
def test_steps_go_on_from_any_moment(tmp_path):
    """In a process of its own: one that has threads cannot be forked."""
    video = write_video(tmp_path / "Ann.mp4", (face_frame((320, 240), (140 + k, 120), 1.0) for k in range(24)), 25)
    command = [sys.executable, root() / "scripts" / "bench" / "crashes.py", "--video", video, "--moments", "2", "--seed", "1"]
    command += ["--steps", "detect", "landmarks", "reconstruct"]  # with all the others: minutes
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("of 2 moments, 0 faults") == 3


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


def test_two_commands_at_once(tmp_path):
    """The second one says who works there, for each kind of thing that is worked on; nothing of the first one's is touched."""
    from fake_dataset import make_fitted
    from fake_run import load_command, make_run

    from preprocessing.face_models.registry import load_face_model
    from util.cli import UserError
    from util.layout import Dataset, Run
    from util.locks import locked

    model = load_face_model("mesh478")
    make_fitted(tmp_path)
    make_run(tmp_path, face_model={"name": model.name, "version": model.version})
    data, run = Dataset.open("fake", tmp_path), Run.open("fake", "head2head_Ann", tmp_path / "checkpoints", tmp_path / "results")
    (tmp_path / "take.csv").write_text("seconds," + ",".join(model.expression_names[:12]) + "\n0" + ",0" * 12 + "\n1" + ",0.5" * 12 + "\n")
    words = ["--dataset_name", "fake", "--datasets_dir", str(tmp_path)]
    runs = ["--target_id", "Ann", "--gpu_ids", "-1", "--checkpoints_dir", str(run.checkpoints.parent.parent)]
    results = run.test_folder("Ann")
    for path, command, more in (
        (data.lock_path("Ann"), "preprocessing/detect_landmarks70.py", []),
        (data.lock_path("Ann"), "preprocessing/reconstruct.py", ["--face_model", "mesh478"]),
        (data.lock_path("Ann_take"), "preprocessing/reenact.py", ["--target_id", "Ann", "--drive", str(tmp_path / "take.csv")]),
        (run.lock_path, "train.py", [*runs, "--preset", "preview"]),
        (results.with_name(".Ann.lock"), "test.py", [*runs, "--results_dir", str(run.results.parent.parent), "--backend", "torch"]),
    ):
        with locked(path, "it"), pytest.raises(UserError, match=f"is being worked on by process {os.getpid()} on .*; run again when"):
            load_command(command).main([*words, *more])
        assert not path.exists()
