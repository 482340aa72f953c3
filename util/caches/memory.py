"""In-memory caches with a common limit; each value is computed once, whichever threads ask for it."""

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
    """A number of bytes that several caches share."""

    def __init__(self, nbytes: float):
        self._left = nbytes
        self._lock = Lock()

    def take(self, nbytes: int) -> bool:
        """Take `nbytes`. Returns False, and takes none, if fewer are left."""
        with self._lock:
            if nbytes > self._left:
                return False
            self._left -= nbytes
            return True

    def give_back(self, nbytes: int) -> None:
        with self._lock:
            self._left += nbytes


class KeyedLocks(Generic[Key]):
    """A lock for each key, so that work on different keys runs in parallel."""

    def __init__(self) -> None:
        self._locks: dict[Key, Lock] = {}
        self._guard = Lock()

    def __getitem__(self, key: Key) -> Lock:
        with self._guard:
            return self._locks.setdefault(key, Lock())


class OnceCache(Generic[Key, Value]):
    """Values by key, cached while the budget has room. Thread-safe.

    Nothing is evicted. Training cycles through all sequences, so the least recently used value is the next one needed: LRU would evict
    every value just before its use, while values that stay are hits in every cycle.
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
        """The value if it is cached, else None."""
        return self._values.get(key)

    def get(self, key: Key, nbytes: int, make: Callable[[], Value]) -> Value | None:
        """The value, computed now if it is not cached; None, and nothing is computed, when the budget has no room for its `nbytes`."""
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
        """The value, computed now if it is not cached; cached if the budget has room for its `nbytes`."""
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
    """A quarter of the memory of this machine or container, at most 16 GB; in bytes."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        total = 8e9
    with suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(total / 4, 16e9)
