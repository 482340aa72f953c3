"""What test_distributed.py runs in two processes: a step on half a batch each, against the whole batch in one."""

import torch
from test_losses import CPU, TINY, make_clip

from models.clip import Clip
from models.head2head_model import Head2HeadModel
from util.distributed import Processes


def main():
    torch.set_num_threads(1)
    processes = Processes.of_environment()
    processes.connect(CPU)
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
    processes.wait()
    processes.disconnect()
    if processes.is_first:
        print("equal")


if __name__ == "__main__":
    main()
