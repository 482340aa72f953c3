"""Writes checkpoints on a thread while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from models.checkpoints import write_tensors
from models.training.run_state import latest_networks, write_iteration
from util.cli import UserError
from util.layout import Run


class CheckpointWriter:
    """Writes checkpoints on a thread of its own, one at a time; leaving the context waits for the last."""

    def __init__(self, files: Run):
        self._files = files
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
        self._wait()

    def check(self) -> None:
        """Raise the exception of the last write if it has failed by now."""
        if self._writing is not None and self._writing.done():
            self._wait()

    def _wait(self) -> None:
        try:
            if self._writing is not None:
                self._writing.result()
        except UserError as e:
            rest = "nothing of this run is saved yet"
            if self._files.state_path.is_file():
                rest = "the checkpoint before is whole, and training goes on from it"
            raise type(e)(f"{e} ({rest})") from None

    def write(self, state: dict[str, Any], epoch: int | None = None, outdated: Sequence[int] = ()) -> None:
        """Write all files of the checkpoint 'latest'. Raises the exception of the previous write, if it failed.

        state: the complete state on the CPU, which nobody changes any more.
        epoch: write the networks under this number as well. outdated: epochs whose numbered checkpoints are removed then.
        """
        self._wait()
        self._writing = self._thread.submit(self._write, state, epoch, outdated)

    def _write(self, state: dict[str, Any], epoch: int | None, outdated: Sequence[int]) -> None:
        networks = latest_networks(state)
        # The state alone says where the run stands, and is complete in itself: last, so that all files agree, but first where there is
        # none: networks without one are taken for somebody's, and the same command does not go on from them.
        is_first = not self._files.state_path.is_file()
        if is_first:
            write_tensors(self._files.state_path, state)
        for name in ("latest",) if epoch is None else ("latest", epoch):
            for label, weights in networks.items():
                write_tensors(self._files.network_path(label, name), weights)
        for old in outdated:
            for label in networks:
                self._files.network_path(label, old).unlink(missing_ok=True)
        write_iteration(self._files, state)
        if not is_first:
            write_tensors(self._files.state_path, state)
