"""Values kept in memory up to a common limit, each made once however many threads ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Budget:
    """Bytes that several caches share."""

    def __init__(self, nbytes: float):
        self._left = nbytes
        self._lock = Lock()

    def take(self, nbytes: int) -> bool:
        """Take so many bytes, or none if fewer are left."""
        with self._lock:
            if nbytes > self._left:
                return False
            self._left -= nbytes
            return True

    def give_back(self, nbytes: int) -> None:
        with self._lock:
            self._left += nbytes


class KeyedLocks(Generic[Key]):
    """A lock for each key: work on different keys goes on side by side."""

    def __init__(self) -> None:
        self._locks: dict[Key, Lock] = {}
        self._guard = Lock()

    def __getitem__(self, key: Key) -> Lock:
        with self._guard:
            return self._locks.setdefault(key, Lock())


class OnceCache(Generic[Key, Value]):
    """Values by key, kept while the budget has room for them; for several threads.

    Nothing is evicted. Training goes round all sequences, so what was used longest ago is what comes next: replacing it (LRU) would lose
    every value just before it is needed, while what came first and stays is found in every round.
    """

    def __init__(self, budget: Budget):
        self._budget = budget
        self._values: dict[Key, Value] = {}
        self._locks: KeyedLocks[Key] = KeyedLocks()

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def peek(self, key: Key) -> Value | None:
        """The value, if it is kept."""
        return self._values.get(key)

    def get(self, key: Key, nbytes: int, make: Callable[[], Value]) -> Value | None:
        """The value, made now if it is not kept yet; None, and nothing made, when the budget has no room for its `nbytes`."""
        if key in self._values:
            return self._values[key]
        with self._locks[key]:
            if key in self._values:
                return self._values[key]
            if not self._budget.take(nbytes):
                return None
            try:
                self._values[key] = make()
            except BaseException:
                self._budget.give_back(nbytes)
                raise
            return self._values[key]

    def get_or_make(self, key: Key, make: Callable[[], Value], nbytes: Callable[[Value], int]) -> Value:
        """The value, made now if it is not kept; kept if the budget has room for its `nbytes`."""
        if key in self._values:
            return self._values[key]
        with self._locks[key]:
            if key in self._values:
                return self._values[key]
            value = make()
            if self._budget.take(nbytes(value)):
                self._values[key] = value
            return value


def quarter_of_memory() -> float:
    """A quarter of the memory that this machine, or the container, has; at most 16 GB. In bytes."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        total = 8e9
    with suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(total / 4, 16e9)
