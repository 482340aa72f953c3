"""util/ahead.py and util/threads.py: results computed ahead of the consumer, and how threads share the processor."""

import itertools
import sys
import threading

import cv2
import pytest

from util.ahead import map_ahead, read_ahead
from util.threads import TURN_S, one_opencv_thread, short_turns


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads):
    assert list(map_ahead(lambda x: x * x, range(50), threads=threads, depth=5)) == [x * x for x in range(50)]
    assert list(map_ahead(str, [])) == []


def test_it_reads_no_further_ahead_than_asked():
    taken = itertools.count()
    results = map_ahead(lambda x: x, taken, depth=3)
    assert [next(results) for _ in range(10)] == list(range(10))
    results.close()
    assert next(taken) == 13


def test_an_exception_comes_in_place_of_its_result():
    results = map_ahead(lambda x: 1 / x, [2, 1, 0, 4], depth=8)
    assert [next(results), next(results)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_items_are_read_ahead_in_order_on_another_thread():
    def items():
        for i in range(20):
            yield i, threading.get_ident()

    found = list(read_ahead(items(), depth=3))
    assert [i for i, _ in found] == list(range(20))
    assert {thread for _, thread in found} != {threading.get_ident()}
    assert list(read_ahead([])) == []


def test_reading_ahead_is_bounded_and_passes_exceptions_on():
    taken = []

    def items():
        for i in range(9):
            taken.append(i)
            yield 12 // (4 - i)

    found = read_ahead(items(), depth=2)
    assert next(found) == 3 and len(taken) <= 4
    assert [next(found), next(found), next(found)] == [4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_settings_of_threads_hold_inside_and_come_back_after_an_error():
    before = sys.getswitchinterval(), cv2.getNumThreads()
    with pytest.raises(ValueError), short_turns(), one_opencv_thread():
        assert (sys.getswitchinterval(), cv2.getNumThreads()) == (pytest.approx(TURN_S), 1)
        raise ValueError
    assert (sys.getswitchinterval(), cv2.getNumThreads()) == before
