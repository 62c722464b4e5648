"""What is dropped while somebody holds the lock is taken back by whoever next looks."""

import gc
import sys
import threading

import pytest

from ttc.runtime.gpu.dropped import Dropped


class Cycle:
    """Only the collector finds it; it says which thread gives it back."""

    def __init__(self, dropped, found):
        self.own = self
        self.give_back = lambda: dropped.drop(lambda: found.append(threading.get_ident()))

    def __del__(self):
        self.give_back()


@pytest.fixture
def dropped():
    return Dropped()


def is_free(dropped):
    """Whether another thread gets the lock."""
    got = []
    thread = threading.Thread(target=lambda: got.append(dropped.lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    return got == [True]


def test_at_once_where_the_lock_is_free(dropped):
    found = []
    Cycle(dropped, found)
    gc.collect()
    assert found == [threading.get_ident()]
    assert is_free(dropped)


def test_not_within_what_its_holder_does(dropped):
    found = []
    with dropped.lock:
        with dropped.lock:
            Cycle(dropped, found)
            gc.collect()
        assert found == []
        dropped.take_back()
        assert found == [threading.get_ident()]


def test_another_thread_does_not_wait(dropped):
    found = []
    with dropped.lock:
        thread = threading.Thread(target=lambda: dropped.drop(lambda: found.append(threading.get_ident())))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert found == []
    dropped.drop(lambda: found.append("next"))
    assert found == [threading.get_ident(), "next"]
    assert is_free(dropped)


def test_what_giving_back_drops_comes_after_it(dropped):
    order = []

    def outer():
        dropped.drop(lambda: order.append("inner"))
        order.append("outer")

    dropped.drop(outer)
    assert order == ["outer", "inner"]


def test_a_fault_of_one_is_logged_and_the_rest_follows(dropped, caplog):
    order = []
    with dropped.lock:
        dropped.drop(lambda: 1 / 0)
        dropped.drop(lambda: order.append("next"))
        dropped.take_back()
    assert order == ["next"]
    assert "ZeroDivisionError" in caplog.text
    assert is_free(dropped)


def test_none_is_lost_and_none_comes_twice(dropped):
    """Four threads that drop and hold, switched as often as can be."""
    rounds, count, interval = 2000, 0, sys.getswitchinterval()

    def give_back():
        nonlocal count
        count += 1  # only one thread at a time is here

    def work():
        for _ in range(rounds):
            dropped.drop(give_back)
            with dropped.lock:
                dropped.drop(give_back)

    threads = [threading.Thread(target=work) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    dropped.drop(give_back)
    assert count == 4 * 2 * rounds + 1
