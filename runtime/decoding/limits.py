"""What a backend was built for, and the nearest sizes that it can run."""

import numbers

from ttc.errors import CapacityError, InputError
from ttc.runtime.interface.backend import Limits

__all__ = [
    "SHARED_CAPACITY",
    "check_block",
    "check_rows",
    "fitting_capacity",
    "fitting_chunk",
    "is_count",
]

# The most that rows in one state have. Of the released model such a cache is half as large as the Mamba state
# beside it (24 and 47 MiB a row); a longer row would make all others larger than that.
SHARED_CAPACITY = 4096


def is_count(value: object) -> bool:
    """Whether this is an integer of at least 1; numpy's integers are, truth values are not."""
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) > 0


def check_rows(limits: Limits | None, rows: int) -> None:
    """Raise `InputError` unless a batch of this size can be run."""
    if limits is not None and not limits.batch[0] <= rows <= limits.batch[1]:
        raise InputError(
            f"a batch of {rows}; the engines were built for {_range(limits.batch)}; "
            "split the batch, or build with another --max-shapes batch:N"
        )


def check_block(limits: Limits | None, tokens: int) -> None:
    """Raise `InputError` unless the denoiser can be given a block of this size."""
    if limits is not None and not limits.block[0] <= tokens <= limits.block[1]:
        raise InputError(
            f"a block of {tokens} tokens; the engines were built for {_range(limits.block)}; "
            "take such a block_size, or build with other --min-shapes and --max-shapes block:N "
            "(mock-ar takes blocks of 1)"
        )


def fitting_capacity(limits: Limits | None, needed: int, wanted: int) -> int:
    """Return the nearest capacity that can be run; `CapacityError` where none holds `needed`."""
    if limits is None:
        return wanted
    low, high = limits.capacity
    # A call that reads a fixed number of tokens writes as many to the cache, though fewer are committed.
    spare = max(limits.lengths, default=1) - 1
    if needed + spare > high:
        fixed = f", of which calls over {limits.lengths[-1]} tokens keep {spare} free" if spare else ""
        raise CapacityError(
            f"{needed} tokens are due, the engines were built for a capacity of "
            f"{_range(limits.capacity)}{fixed}; "
            "shorten the prompt, ask for fewer, or build with another --max-shapes capacity:N"
        )
    return min(max(wanted, needed + spare, low), high)


def fitting_chunk(limits: Limits | None, wanted: int) -> int:
    """Return the wanted number of prompt tokens for one context call, or as many as the call can read."""
    return wanted if limits is None else min(wanted, limits.reads[1])


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
