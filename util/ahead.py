"""Computes results on threads, a bounded number ahead of the consumer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may run on; in a worker process (util.workers) its share of them, which $HEAD2HEAD_CORES says."""
    if share := os.environ.get("HEAD2HEAD_CORES"):
        return int(share)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 2, depth: int = 4) -> Iterator[Result]:
    """Like map, on threads, with up to `depth` calls ahead of the consumer. Results and exceptions come in order.

    `items` is read at most `depth` ahead, so memory stays bounded. Calls that have not begun are cancelled after an exception, or when
    the consumer stops.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_ahead(items: Iterable[Item], depth: int = 4) -> Iterator[Item]:
    """The items, computed on a thread of their own up to `depth` ahead of the consumer."""
    end, iterator = object(), iter(items)
    found = map_ahead(lambda _: next(iterator, end), repeat(None), threads=1, depth=depth)
    for item in found:
        if item is end:
            found.close()
            return
        yield item
