"""Sizes of a generation against what a backend was built for."""

import dataclasses

from ttc.errors import CapacityError, InputError
from ttc.profiles import Profile
from ttc.runtime.interface.backend import Limits

__all__ = ["check_block", "check_rows", "fitting_capacity", "fitting_chunk"]


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
    """The capacity nearest to the wanted one that can be run; `CapacityError` where none holds `needed`."""
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


def fitting_chunk(profile: Profile, limits: Limits | None) -> Profile:
    """The profile with a prefill chunk that can be run."""
    if limits is None or profile.prefill_chunk <= limits.reads[1]:
        return profile
    return dataclasses.replace(profile, prefill_chunk=limits.reads[1])


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
