"""What is made where memory is short: something idle is given up for it, piece by piece."""

from collections.abc import Callable
from typing import TypeVar

from ttc.errors import DeviceMemoryError

__all__ = ["evict_until_fits"]

T = TypeVar("T")


def evict_until_fits(make: Callable[[], T], make_room: Callable[[], bool]) -> T:
    """Return what `make` returns; where memory is short, room is made until it fits.

    `make` may also be the first run of a work, in which libraries take memory of their own; a run that fails
    for want of it must leave what it reads as it was.

    Args:
        make_room: gives some memory back, if there is any to give; returns whether it did.

    Raises:
        DeviceMemoryError: there is no room, whatever is given back.
    """
    while True:
        try:
            return make()
        except DeviceMemoryError as fault:
            if not make_room():
                raise DeviceMemoryError(f"{fault}; ask for a smaller batch or capacity") from None
