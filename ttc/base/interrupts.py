"""Interrupts that wait until a library is done with a piece of work."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

__all__ = ["interrupts_held"]

# Held first and let go last: an interrupt.
_HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# Who forwards a signal that the terminal has sent already does so within this time.
_TWICE_SECONDS = 0.5


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let a signal that ends the process take effect after the block, whatever the block raises; a second
    one, half a second later at least, takes effect at once.

    An exception that a signal raises within Python code that C++ called, as in torch's dispatcher, can end
    the process with std::terminate. For blocks of about a second. Elsewhere than in the main thread, to
    which Python gives all signals, nothing is held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Only what raises: by the system's default the process ends without an exception, held or not.
    handlers = {number: handler for number in _HELD if callable(handler := signal.getsignal(number))}
    came: list[tuple[int, float]] = []

    def hold(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if came and now - came[0][1] > _TWICE_SECONDS:
            handlers[number](number, frame)
        came.append((number, now))

    try:
        with contextlib.ExitStack() as restoring:
            for number, handler in handlers.items():
                restoring.callback(signal.signal, number, handler)
                signal.signal(number, hold)
            yield
    finally:
        if came:
            number = came[0][0]
            handlers[number](number, None)
