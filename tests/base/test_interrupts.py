"""A signal within a block is held until the block is over."""

import os
import signal
import threading

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


def interrupted(times, done, fault=None):
    """Interrupt this process within a block so many times, and note how far it got."""
    with interrupts_held():
        for time in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            done.append(f"after interrupt {time}")
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
        interrupted(2, done)
    assert done == ["after interrupt 0"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_are_as_before():
    asked = [signal.SIGINT, signal.SIGTERM]
    before = [signal.getsignal(number) for number in asked]
    with interrupts_held():
        assert signal.getsignal(signal.SIGINT) is not before[0]
        assert signal.getsignal(signal.SIGTERM) is before[1] is signal.SIG_DFL, "not Python's to hold"
    assert [signal.getsignal(number) for number in asked] == before


def test_an_error_of_the_block_comes_first():
    with pytest.raises(ValueError, match="the block's own"):
        interrupted(1, [], ValueError("the block's own"))
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
