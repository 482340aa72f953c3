"""What test_distributed.py runs in two processes, by name: `two_processes.py halves` or `two_processes.py waiting`."""

import sys
import time

import torch
from test_losses import CPU, TINY, make_clip

from models.clip import Clip
from models.head2head_model import Head2HeadModel
from util.cli import UserError
from util.distributed import Processes


def halves(processes):
    """A step on half a batch each, against the whole batch in one."""
    torch.manual_seed(processes.rank)  # different weights, until the first process's are taken
    model = Head2HeadModel(TINY, CPU, processes=processes)
    model.copy_from_first()
    model.set_lr(0.0)
    torch.manual_seed(3)
    clip = make_clip(length=22, batch=2)
    mine = slice(processes.rank, processes.rank + 1)
    half = Clip(*(x[mine] if torch.is_tensor(x) else {k: v[mine] for k, v in x.items()} for x in vars(clip).values()))
    history = torch.rand(2, 18, 3, 32, 32) * 2 - 1
    losses, _ = model.step(half.chunk(18, 22, history[mine]))

    alone = Head2HeadModel(TINY, CPU)
    alone.load_state_dict(model.state_dict())
    alone.set_lr(0.0)
    want, _ = alone.step(clip.chunk(18, 22, history))
    for name, value in want.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for label, gradient in alone.flat_gradients.items():
        error = (model.flat_gradients[label] - gradient).norm() / gradient.norm()
        assert error < 1e-4, f"{label}: {error}"
    share, stop = processes.agree(0.25 if processes.is_first else 0.75, 15 if processes.rank == 1 else 0, CPU)
    assert (share, stop) == (0.25, 15)
    assert processes.smallest(4 if processes.is_first else 2, CPU) == 2
    processes.wait()


def waiting(processes):
    """A process that reports is waited for beyond the time limit; one that is silent is named."""
    if processes.is_first:
        processes.wait("long work", timeout_s=2.5)  # the other one takes 4 s, and reports
        try:
            processes.wait("a nap", timeout_s=0.5)
        except UserError as e:
            assert str(e).startswith("process 1 did not answer within 0.5 s (a nap)"), e
        else:
            raise AssertionError("a silent process was waited for")
        processes.wait("a nap", timeout_s=60)
    else:
        for _ in range(8):
            time.sleep(0.5)
            processes.report_alive()
        processes.wait("long work")
        time.sleep(3)
        processes.wait("a nap")
        processes.wait("a nap")


def main():
    torch.set_num_threads(1)
    processes = Processes.of_environment()
    processes.connect(CPU)
    {"halves": halves, "waiting": waiting}[sys.argv[1]](processes)
    processes.disconnect()
    if processes.is_first:
        print("done")


if __name__ == "__main__":
    main()
