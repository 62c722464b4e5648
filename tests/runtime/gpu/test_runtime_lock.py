"""What is dropped while the lock is held is given back when it is not."""

import gc
import sys
import threading

import pytest

from ttc.runtime.gpu.runtime_lock import RuntimeLock


class Dropped:
    """Says where it is given back: in a cycle, so that only the collector finds it."""

    def __init__(self, lock, found):
        self.own, self.give_back = self, lambda: lock.drop(lambda: found.append(threading.get_ident()))

    def __del__(self):
        self.give_back()


@pytest.fixture
def lock():
    return RuntimeLock()


def test_at_once_where_it_is_free(lock):
    found = []
    Dropped(lock, found)
    gc.collect()
    assert found == [threading.get_ident()]


def test_after_the_outermost_block_of_its_holder(lock):
    found = []
    with lock:
        with lock:
            Dropped(lock, found)
            gc.collect()
        assert found == []
    assert found == [threading.get_ident()]


def test_by_the_holder_where_that_is_another_thread(lock):
    found = []
    with lock:
        thread = threading.Thread(target=lambda: lock.drop(lambda: found.append(threading.get_ident())))
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "it does not wait"
        assert found == []
    assert found == [threading.get_ident()]


def test_what_giving_back_drops_comes_after_it(lock):
    order = []

    def outer():
        lock.drop(lambda: order.append("inner"))
        order.append("outer")

    lock.drop(outer)
    assert order == ["outer", "inner"]


def test_a_fault_of_one_leaves_the_lock_free(lock):
    order = []
    with pytest.raises(ZeroDivisionError):
        lock.drop(lambda: 1 / 0)
    lock.drop(lambda: order.append("next"))
    assert order == ["next"]


def test_none_is_lost_and_none_comes_twice(lock):
    """Four threads that drop and hold, switched as often as can be."""
    rounds, count, interval = 2000, 0, sys.getswitchinterval()

    def give_back():
        nonlocal count
        count += 1  # only one thread at a time is here

    def work():
        for _ in range(rounds):
            lock.drop(give_back)
            with lock:
                lock.drop(give_back)

    threads = [threading.Thread(target=work) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert count == 4 * 2 * rounds
