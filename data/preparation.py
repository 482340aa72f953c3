"""The preparation of training: optical flow and masks of persons, computed once per identity and cached on disk.

What computes flow and masks comes from outside as factories, so that this module knows neither networks nor MediaPipe.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache

import cv2

from data.integrity import check_steps, training_sequences
from util.ahead import usable_cores
from util.caches.flow import Estimate, ensure_flows
from util.caches.persons import PersonMask, ensure_persons
from util.cli import UserError, be_quiet, progress
from util.layout import Dataset
from util.layout import Sequence as FrameSequence

NO_MEDIAPIPE = (
    "moving heads in training needs MediaPipe to find the person in the frames; install it with: "
    "pip install --no-deps mediapipe==0.10.21, or train with --move_heads 0"
)
_MIN_ITEMS_FOR_WORKERS = 8  # worker processes pay from here on: each takes seconds to start, and one process uses all cores for flow
_ALIVE_INTERVAL_S = 1.0  # between two calls of `done` while worker processes work
_MAX_NAMED = 5  # failed identities named in the error


def no_segmenter() -> None:
    """For mattes that are all there. (A lambda could not be handed to worker processes.)"""


@dataclass(frozen=True)
class Recipe:
    """What is to be computed, and with what. With worker processes the factories must be picklable, and are called in the workers."""

    size: int  # side of the frames in training, pixels
    flow: str | None = None  # name of the method, as in the cache's path; None: no flow
    flow_made_from: str = ""  # digest of the method's checkpoint
    make_estimate: Callable[[], Estimate] | None = None  # builds the method; not called when all flow is there
    heads: bool = False  # masks, for heads that are moved
    # builds the segmenter, or gives None where there is none; not called when all masks are there
    make_mask: Callable[[], PersonMask | None] = no_segmenter


@dataclass(frozen=True)
class Item:
    """What one process prepares of one identity."""

    dataset: Dataset
    name: str
    sequences: tuple[FrameSequence, ...]  # whose flow
    heads: bool = True  # masks too


def share_items(dataset: Dataset, names: Sequence[str], rank: int = 0, size: int = 1) -> list[Item]:
    """What process `rank` of `size` prepares: every size-th sequence's flow, and every size-th identity's masks."""
    items, number = [], 0
    for i, name in enumerate(names):
        sequences = dataset.sequences("train", name)
        own = tuple(s for k, s in enumerate(sequences, number) if k % size == rank)
        number += len(sequences)
        if own or i % size == rank:
            items.append(Item(dataset, name, own, i % size == rank))
    return items


def choose_workers(items: int, processes: int = 1) -> int:
    """Number of worker processes for `items` items, when `processes` on this machine prepare as many each; 0: work in this process."""
    return min(usable_cores() // processes, items) if items >= _MIN_ITEMS_FOR_WORKERS else 0


def prepare(items: Sequence[Item], recipe: Recipe, *, workers: int = 0, done: Callable[[], object] = lambda: None) -> None:
    """Compute and cache what is missing of all items; what is there, made from the same frames, is left as it is.

    workers: processes that share the items; 0: this process alone.
    done: called again and again while work goes on, to tell others that this process is alive.
    Raises: UserError, at the end, that names the identities that failed and why; the others are complete then.
    """
    single = len(items) == 1
    work = _in_processes(items, recipe, workers, done) if workers and not single else _in_this_process(items, recipe, done)
    failed: dict[str, str] = {}
    bar = None if single else progress(desc="preparing", total=len(items), unit="person")
    for name, error in work:
        if error:
            failed[name] = error
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
    if failed:
        raise UserError(_summary(failed, len(items)))


def prepare_item(item: Item, recipe: Recipe, done: Callable[[], object] = lambda: None) -> None:
    """Prepare one identity. Raises: UserError when its files are incomplete or damaged, or the segmenter is missing."""
    check_steps(item.dataset, item.name)
    training_sequences(item.dataset, item.name)  # says what is incomplete
    if recipe.flow and item.sequences:
        ensure_flows(item.sequences, recipe.flow, recipe.size, recipe.make_estimate, recipe.flow_made_from, done)
    if recipe.heads and item.heads:
        if not ensure_persons(item.dataset, item.name, recipe.make_mask, done):
            raise UserError(NO_MEDIAPIPE)
        done()


def _summary(failed: dict[str, str], count: int) -> str:
    (name, error), *others = failed.items()
    if count == 1:
        return error
    if all(e == error for _, e in others):
        names = ", ".join(list(failed)[:_MAX_NAMED]) + (", ..." if len(failed) > _MAX_NAMED else "")
        return f"{len(failed)} of {count} identities could not be prepared ({names}): {error}"
    shown = [f"{n}: {e}" for n, e in list(failed.items())[:_MAX_NAMED]] + (["..."] if len(failed) > _MAX_NAMED else [])
    return f"{len(failed)} of {count} identities could not be prepared; " + "; ".join(shown)


# Each yields an identity's name and what went wrong with it ('' if nothing), in any order.


def _in_this_process(items: Sequence[Item], recipe: Recipe, done: Callable[[], object]) -> Iterator[tuple[str, str]]:
    once = _build_once(recipe)
    for item in items:
        yield item.name, _attempt(item, once, done)


def _in_processes(items: Sequence[Item], recipe: Recipe, workers: int, done: Callable[[], object]) -> Iterator[tuple[str, str]]:
    """On a pool of processes. If one dies (of memory, mostly) all work of the pool is lost: that is done again, item by item."""
    unfinished = []
    for item, error in _in_pool(items, recipe, workers, done):
        if error is None:
            unfinished.append(item)
        else:
            yield item.name, error
    for item in unfinished:
        for _, error in _in_pool([item], recipe, 1, done):
            yield item.name, "its worker process died, perhaps for want of memory" if error is None else error


def _in_pool(items: Sequence[Item], recipe: Recipe, workers: int, done: Callable[[], object]) -> Iterator[tuple[Item, str | None]]:
    """Yields items with their errors; None: the pool broke before the item was finished."""
    others = set(multiprocessing.active_children())
    # spawn: a forked copy of a process with threads, MediaPipe or CUDA hangs or crashes
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (recipe,))
    try:
        waiting: dict[Future[str], Item] = {}
        try:
            waiting |= {pool.submit(_work, item): item for item in items}
        except BrokenProcessPool:
            yield from ((item, None) for item in items)
            return
        while waiting:
            finished, _ = wait(waiting, timeout=_ALIVE_INTERVAL_S, return_when=FIRST_COMPLETED)
            done()
            for future in finished:
                item = waiting.pop(future)
                yield item, None if isinstance(future.exception(), BrokenProcessPool) else future.result()
        pool.shutdown()
    except BaseException:  # Ctrl-C, for one: caches are written whole or not at all, so workers may be stopped anywhere
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise


_recipe: Recipe | None = None  # of a worker process


def _start_worker(recipe: Recipe) -> None:
    global _recipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    be_quiet()
    cv2.setNumThreads(1)  # the other cores have workers of their own
    _recipe = _build_once(recipe)


def _work(item: Item) -> str:
    return _attempt(item, _recipe)


def _attempt(item: Item, recipe: Recipe, done: Callable[[], object] = lambda: None) -> str:
    """Prepare an item. Returns: what went wrong, '' if nothing."""
    try:
        prepare_item(item, recipe, done)
    except Exception as e:  # one identity stops none of the others
        return str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}"
    return ""


def _build_once(recipe: Recipe) -> Recipe:
    """The recipe with factories that build at their first call, and then give the same again."""
    make = recipe.make_estimate
    return replace(recipe, make_estimate=cache(make) if make else None, make_mask=cache(recipe.make_mask))
