"""Several processes that train one model, one GPU each, started by torchrun.

Every process computes the gradients of its own clips; their mean is what all optimisers get (Li et al. 2020, "PyTorch Distributed"), so
the weights stay the same everywhere. PyTorch's DistributedDataParallel does that for one backward pass over one module; a step here
takes several networks, partial backward passes and recorded CUDA graphs, so the gradients are averaged by one call per network instead.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from util.cli import UserError, say

if TYPE_CHECKING:
    import torch

ANSWER_S = 600.0  # a step, a checkpoint or an item of the preparation takes seconds; a process that is silent for so long hangs
_REPORT_INTERVAL_S = 1.0  # reports that come faster are left out
_POLL_S = 0.05  # between two polls of who has arrived: a negligible delay and load
_MESSAGE_INTERVAL_S = 60.0  # between two messages about the processes waited for


@dataclass
class Processes:
    """This process among all of a run. Alone (size 1) every method does nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine: the number of its GPU
    _store: torch.distributed.Store | None = field(default=None, init=False, repr=False, compare=False)
    _waits: int = field(default=0, init=False, repr=False, compare=False)  # calls of `wait` so far, the same in all processes
    _reported: float = field(default=0.0, init=False, repr=False, compare=False)  # time.monotonic

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and messages."""
        return self.rank == 0

    @classmethod
    def of_environment(cls) -> Processes:
        """From torchrun's RANK, WORLD_SIZE and LOCAL_RANK; a single process without them."""
        return cls(*(int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))

    def connect(self, device: torch.device, timeout_s: float = ANSWER_S) -> None:
        """Find the others, through NCCL between GPUs, else gloo; returns when all are there.

        timeout_s: how long any later step may wait for another process. Raises: UserError when they do not come within that time.
        """
        if self.size == 1:
            return
        import torch.distributed

        if device.type == "cuda":
            torch.cuda.set_device(device)
        timeout = timedelta(seconds=timeout_s)
        try:
            store, _, _ = next(torch.distributed.rendezvous("env://", timeout=timeout))
            backend = "nccl" if device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=timeout)
        except torch.distributed.DistError as e:
            raise UserError(f"the {self.size} processes did not find one another ({_first_line(e)}); start them with torchrun") from None
        self._store = torch.distributed.PrefixStore("head2head", store)
        self.wait("starting", timeout_s)

    def disconnect(self) -> None:
        if self.size > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()

    def report_alive(self) -> None:
        """Tell the processes in `wait` that this one is alive. Cheap: may be called after every item."""
        now = time.monotonic()
        if self._store is not None and now - self._reported >= _REPORT_INTERVAL_S:
            self._reported = now
            self._store.add(f"alive/{self.rank}", 1)

    def wait(self, what: str = "working", timeout_s: float = ANSWER_S) -> None:
        """Wait until all processes have called this.

        what: what the others are doing meanwhile, in words, for the messages.
        timeout_s: how long another process may take without arriving or reporting that it is alive.
        Raises: UserError that names the process that timed out.
        """
        if self._store is None:
            return
        import torch.distributed

        self._waits += 1
        begun = said = time.monotonic()
        missing = set(range(self.size)) - {self.rank}
        heard = {rank: (-1, begun) for rank in missing}  # its last report, and when that was seen first
        try:
            self._store.set(f"arrived/{self._waits}/{self.rank}", "")
            while True:
                missing = {rank for rank in missing if not self._store.check([f"arrived/{self._waits}/{rank}"])}
                if not missing:
                    return
                now = time.monotonic()
                for rank in missing:
                    report = self._store.add(f"alive/{rank}", 0)
                    if report != heard[rank][0]:
                        heard[rank] = report, now
                    elif now - heard[rank][1] > timeout_s:
                        raise UserError(
                            f"process {rank} did not answer within {timeout_s:g} s ({what}); see its messages, then run the same "
                            "command again, which goes on from what is finished"
                        )
                if now - said >= _MESSAGE_INTERVAL_S:
                    say(f"waiting for process {', '.join(map(str, sorted(missing)))} ({what})")
                    said = now
                time.sleep(_POLL_S)
        except torch.distributed.DistError as e:
            raise UserError(f"the connection to the other processes is lost ({_first_line(e)}); run the same command again") from None

    def average(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its mean over all processes."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.all_reduce(tensor)
            tensor /= self.size

    def copy_from_first(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by that of the first process."""
        if self.size > 1:
            import torch.distributed

            plain = tensor.contiguous()  # networks in channels-last layout are not
            torch.distributed.broadcast(plain, 0)
            tensor.copy_(plain)

    def smallest(self, value: int, device: torch.device) -> int:
        """The smallest value over all processes."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed

        shared = torch.tensor(value, dtype=torch.int64, device=device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MIN)
        return int(shared)

    def agree(self, done: float, stop: int, device: torch.device) -> tuple[float, int]:
        """The values that all processes use: the first one's fraction of the schedule done, and the largest signal number received."""
        if self.size == 1:
            return done, stop
        import torch
        import torch.distributed

        values = torch.tensor([done if self.is_first else 0.0, float(stop)], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        done, stop = values.tolist()
        return done, int(stop)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
