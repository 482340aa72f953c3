"""Functions compiled by numba, which is imported only when the first of them is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(function: Callable, signature: Any = None, **options: Any) -> Callable:
    """`function` in machine code that does not hold the interpreter's lock, kept on disk for the next process.

    signature: numba's, to compile now (default: at the first call). options: further ones of numba.njit.
    """
    from numba import njit

    def compile(**how: Any) -> Callable:
        return njit(signature, nogil=True, **how, **options)(function) if signature else njit(nogil=True, **how, **options)(function)

    try:
        return compile(cache=True)
    except RuntimeError:  # numba finds no folder to write to, neither beside the file nor in the home
        return compile()
