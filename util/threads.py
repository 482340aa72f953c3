"""How threads share the processor while many of them are at work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

TURN_S = 0.0005  # after which Python's lock goes to another thread; with the default of 5 ms a short task waits that long for every turn


@contextmanager
def short_turns() -> Iterator[None]:
    """Inside, threads that wait for Python's lock get it soon: for short tasks beside long ones. Of the whole process."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Inside, OpenCV computes in the thread that calls it: where work is shared out to threads already. Of the whole process."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
