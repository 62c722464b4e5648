"""Work that ends when its client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

__all__ = ["ClientGone", "left", "unless_gone"]

_Value = TypeVar("_Value")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def left(receive: Receive) -> None:
    """Return when the client has gone; what else it sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _Value]) -> _Value:
    """Return what `work` gives; cancel it when the client leaves.

    The work is done in the caller's task, from here on and not in a turn of its own: of many requests that
    come at once, each is refused or queued before the next one is looked at.

    Raises:
        ClientGone: the client left.
    """
    task, gone = asyncio.current_task(), asyncio.ensure_future(left(receive))
    assert task is not None, "called in a task"
    working, cancelled = True, False

    def leave(_: object) -> None:
        nonlocal cancelled
        if working and not gone.cancelled():
            cancelled = True
            task.cancel()

    gone.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        # Somebody else may have cancelled the task as well; then it stays cancelled.
        if cancelled and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        working = False
        gone.cancel()
