"""A signal within a block is held until the block is over."""

import os
import signal
import threading
import time

import pytest

from ttc.base.interrupts import interrupts_held


@pytest.fixture(autouse=True)
def handler():
    """Python's own, whatever the test process has."""
    kinds = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, kind) for number, kind in kinds.items()}
    yield
    for number, kind in before.items():
        signal.signal(number, kind)


def interrupted(times, done, apart_seconds=0.0, fault=None):
    """Interrupt this process within a block so many times, and note how far it got."""
    with interrupts_held():
        for number in range(times):
            time.sleep(apart_seconds)
            os.kill(os.getpid(), signal.SIGINT)
            done.append(f"after interrupt {number}")
        if fault is not None:
            raise fault
    done.append("after the block")


def test_takes_effect_after_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(1, done)
    assert done == ["after interrupt 0"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_takes_effect_at_once():
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(2, done, apart_seconds=0.6)
    assert done == ["after interrupt 0"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_is_sent_twice_is_one():
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(2, done)
    assert done == ["after interrupt 0", "after interrupt 1"]


def test_handlers_are_as_before():
    asked = [signal.SIGINT, signal.SIGTERM]
    before = [signal.getsignal(number) for number in asked]
    with interrupts_held():
        assert signal.getsignal(signal.SIGINT) is not before[0]
        assert signal.getsignal(signal.SIGTERM) is before[1] is signal.SIG_DFL, "not Python's to hold"
    assert [signal.getsignal(number) for number in asked] == before


def test_takes_effect_where_the_block_fails():
    """The fault stands in the interrupt's context."""
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted(1, [], fault=ValueError("the block's own"))
    assert isinstance(caught.value.__context__, ValueError)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_pythons_for_another_signal_is_held_too():
    def end(number, frame):
        raise SystemExit(number)

    signal.signal(signal.SIGTERM, end)
    with pytest.raises(SystemExit), interrupts_held():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is end
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_nothing_is_held():
    seen = []

    def work():
        with interrupts_held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
