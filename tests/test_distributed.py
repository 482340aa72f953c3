"""Several processes that train one model: real processes through torchrun, with gloo on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from util.distributed import Processes


@pytest.mark.parametrize("what", ["halves", "waiting"])
def test_two_processes(what):
    """halves: halves of a batch give the gradients of the whole. waiting: with a time limit for those that do not answer."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).with_name("two_processes.py")
    paths = os.pathsep.join(map(str, (script.parents[1], script.parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([*torchrun, str(script), what], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout.split() == ["done"], done.stderr[-3000:]


def test_alone_there_is_nothing_to_do():
    processes = Processes.of_environment()
    assert processes.is_first and processes.size == 1
    x = torch.ones(3)
    processes.connect(x.device)
    processes.average(x)
    processes.copy_from_first(x)
    processes.report_alive()
    processes.wait()
    assert processes.smallest(4, x.device) == 4
    assert x.tolist() == [1, 1, 1] and processes.agree(0.5, 2, x.device) == (0.5, 2)
    processes.disconnect()
