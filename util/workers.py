"""Maps a function over items on worker processes, of which each may die: that costs its item only, which is tried again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import TypeVar

from util.ahead import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
TRIES = 3  # of an item whose worker dies
_END_S = 5.0  # that a worker has to end before it is killed


@dataclass(frozen=True)
class Died:
    """In place of an item's result: its worker died."""

    reason: str
    final: bool = True  # False: the item is tried again, and something else comes of it later


def thread_limits(cores: int) -> dict[str, str]:
    """Environment of a process that is to use this many cores. Numerical libraries read it when they are loaded."""
    names = ("HEAD2HEAD_CORES", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    # BLAS: always one, as in preprocessing/reconstruct.py, so that the number of workers changes no sum's order
    return dict.fromkeys(names, str(cores)) | {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def choose_workers(items: int, worker_bytes: float) -> int:
    """A sensible number of workers for `items` items: one a core, as far as free memory goes, at least one."""
    return max(1, min(items, usable_cores(), int(free_memory() / worker_bytes)))


def free_memory() -> float:
    """Memory that can be had without swapping on this machine, or in this container; bytes, infinite where nothing tells."""
    free = float("inf")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * float(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError):  # no such file, or "max"
        group = Path("/sys/fs/cgroup")
        free = min(free, float((group / "memory.max").read_text()) - float((group / "memory.current").read_text()))
    return free


def map_on_workers(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result | Died]]:
    """Items with their results, as they are finished, and with a Died that is not final before an item is tried again.

    work: picklable, called in the workers; what it raises ends its worker. workers: number of processes, which share the cores.
    The workers end with the iterator, and when this process ends, however it does. Ctrl-C is for this process alone.
    """
    waiting, deaths = deque(range(len(items))), Counter[int]()
    busy: dict[connection.Connection, tuple[multiprocessing.Process, int]] = {}
    ending: list[multiprocessing.Process] = []
    limits = thread_limits(max(1, usable_cores() // max(1, workers)))

    def give(own: connection.Connection, process: multiprocessing.Process) -> None:
        """Give a worker the next item; where there is none, the closed pipe tells it to end."""
        if not waiting:
            own.close()
            ending.append(process)
            return
        busy[own] = process, waiting.popleft()
        with suppress(OSError):  # it has died meanwhile: the pipe's end is seen below
            own.send(items[busy[own][1]])

    try:
        for _ in range(min(workers, len(items))):
            give(*_start(work, limits))
        while busy:
            for own in connection.wait(list(busy)):
                process, item = busy.pop(own)
                try:
                    result = own.recv()
                except (EOFError, OSError):
                    own.close()
                    process.join(_END_S)
                    deaths[item] += 1
                    final = deaths[item] == TRIES
                    if not final:
                        waiting.append(item)  # last: others may need less memory
                    if waiting:
                        give(*_start(work, limits))
                    times = f"{TRIES} times" if final else "and it is tried again"
                    yield items[item], Died(f"its worker process died {times} ({_cause(process.exitcode)})", final)
                else:
                    give(own, process)
                    yield items[item], result
    finally:
        for own, (process, _) in busy.items():
            process.terminate()
            own.close()
        for process in [*ending, *(process for process, _ in busy.values())]:
            process.join(_END_S)
            if process.is_alive():
                process.kill()


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"{name}: memory may have run out, fewer workers need less" if name == "SIGKILL" else name
    return f"signal {-code}"


def _start(work: Callable, limits: dict[str, str]) -> tuple[connection.Connection, multiprocessing.Process]:
    """A new worker, and our end of its pipe."""
    context = multiprocessing.get_context("spawn")  # a forked copy of a process with threads or MediaPipe hangs or crashes
    own, other = context.Pipe()
    process = context.Process(target=_serve, args=(other, work), daemon=True)
    with _environment(limits), _without_interrupts():
        process.start()
    other.close()  # so that our end sees when the worker's is closed
    return own, process


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C, not even before their first line runs; this one sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # or it would be started in the block, and lift the mask
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _serve(pipe: connection.Connection, work: Callable) -> None:
    """The whole life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send(work(item))


def _end_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
