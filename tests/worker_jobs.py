"""Work for the workers of util.workers in tests: light to import. Run as a file: workers that sleep, until something ends them."""

import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.workers import map_on_workers


def square_or_die(item):
    """item: a number, its folder, and how many of its first tries kill the worker. Gives its square, and what the worker may use."""
    number, folder, deaths = item
    with (folder / f"{number}.tries").open("a") as file:
        file.write("x")
    if (folder / f"{number}.tries").stat().st_size <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2, os.getpid(), os.environ["HEAD2HEAD_CORES"], os.environ["OPENBLAS_NUM_THREADS"]


def sleep(item):
    item.write_text(str(os.getpid()))
    time.sleep(600)


def sleep_unless_first(item):
    return 0 if item.name == "0" else sleep(item)


if __name__ == "__main__":
    items = [Path(sys.argv[1]) / str(number) for number in range(2)]
    list(map_on_workers(sleep, items, 2))
