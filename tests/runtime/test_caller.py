"""A caller's side of a call: what waits for a slow reader."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ttc.errors import NumericsError
from ttc.runtime.caller import Call, Mailbox, Update
from ttc.runtime.decoding.request import Cancel

FAULT = NumericsError("NaN in the logits")
# Of a row that ended by the fault.
FAILED = SimpleNamespace(error=FAULT)


class Nobody:
    """Asked for nothing in particular."""

    def also_cancelled_by(self, cancel: Cancel) -> "Nobody":
        return self


def block(row, text, result=None):
    return Update("committed", row, text, (row,), result=result)


def heard(*letters):
    """What a reader hears who comes when all these are there."""

    async def read():
        call = Call(Nobody(), Mailbox(), streams=True, provisional=False)
        for updates in letters:
            call.take(updates, None)
        call.take([], FAULT)
        async for update in call.updates():
            found.append(update)  # noqa: PERF401  # it ends by raising

    found = []
    with pytest.raises(NumericsError, match="NaN in the logits"):
        asyncio.run(read())
    return found


def test_blocks_of_a_row_come_as_one():
    (both,) = heard([block(0, "a")], [block(0, "b")])
    assert (both.text, both.token_ids) == ("ab", (0, 0))


def test_a_rows_failure_comes_after_what_others_have():
    """Who stops at it has heard the rest."""
    found = heard([block(0, "a"), block(1, "b")], [replace(block(0, ""), result=FAILED)], [block(2, "c")])
    assert [(update.row, update.text) for update in found] == [(1, "b"), (2, "c"), (0, "a")]
    assert found[-1].result is FAILED
