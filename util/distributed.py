"""Several processes that train one model, one GPU each, started by torchrun.

Every process computes the gradients of its own clips; their mean is what all optimisers get (Li et al. 2020, "PyTorch Distributed"), so
the weights stay the same everywhere. PyTorch's DistributedDataParallel does that for one backward pass over one module; a step here
takes several networks, partial backward passes and recorded CUDA graphs, so the gradients are averaged by one call per network instead.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Processes:
    """This process among all of a run. Alone (size 1) every method does nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine: the number of its GPU

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and messages."""
        return self.rank == 0

    @classmethod
    def of_environment(cls) -> Processes:
        """As torchrun says in RANK, WORLD_SIZE and LOCAL_RANK; alone without them."""
        return cls(*(int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))

    def connect(self, device: torch.device) -> None:
        """Find the others: through NCCL between GPUs, else gloo."""
        if self.size > 1:
            import torch.distributed

            if device.type == "cuda":
                torch.cuda.set_device(device)
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")

    def disconnect(self) -> None:
        if self.size > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.barrier()

    def average(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its mean over all processes."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.all_reduce(tensor)
            tensor /= self.size

    def copy_from_first(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by the first process's."""
        if self.size > 1:
            import torch.distributed

            plain = tensor.contiguous()  # networks in channels-last layout are not
            torch.distributed.broadcast(plain, 0)
            tensor.copy_(plain)

    def smallest(self, value: int, device: torch.device) -> int:
        """The smallest value that a process gives."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed

        shared = torch.tensor(value, dtype=torch.int64, device=device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MIN)
        return int(shared)

    def agree(self, done: float, stop: int, device: torch.device) -> tuple[float, int]:
        """What all processes go by: the first one's fraction of the schedule that is over, and the largest signal number received."""
        if self.size == 1:
            return done, stop
        import torch
        import torch.distributed

        values = torch.tensor([done if self.is_first else 0.0, float(stop)], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        done, stop = values.tolist()
        return done, int(stop)
