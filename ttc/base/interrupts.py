"""Interrupts that wait until a library is done with a piece of work."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["interrupts_held"]

_HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let a signal that ends the process take effect after the block; a second one takes effect at once.

    An exception that a signal raises within Python code that C++ called, as in torch's dispatcher, can end
    the process with std::terminate. For blocks of about a second. Elsewhere than in the main thread, to
    which Python gives all signals, nothing is held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Only what raises: by the system's default the process ends without an exception, held or not.
    handlers = {number: handler for number in _HELD if callable(handler := signal.getsignal(number))}
    came: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if came:
            restore()
            handlers[number](number, frame)
        came.append(number)

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        restore()
    if came:
        handlers[came[0]](came[0], None)
