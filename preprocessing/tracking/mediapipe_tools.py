"""Starts MediaPipe's native graphs without the remarks that they print on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from util.cli import UserError
from util.installation import TRACKER, this_interpreter


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Drop what native code writes to file descriptor 2; Python's exceptions are printed later and stay visible."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(nothing)
        os.close(kept)


def load_solutions() -> ModuleType:
    """mediapipe.solutions. Raises: UserError when MediaPipe is not installed or too new to have them."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # errors only
    try:
        with silent_stderr():
            import mediapipe

        return mediapipe.solutions
    except (ImportError, AttributeError) as e:
        fix = f"install it with: pip install --no-deps {TRACKER.lower().replace(' ', '==')}"
        if not this_interpreter().has_tracker():
            fix = f"{TRACKER} has no package for {this_interpreter()}: take Python 3.10 to 3.12 on macOS, or on x86-64 Linux or Windows"
        raise UserError(f"MediaPipe cannot be used ({e}); {fix}") from None
