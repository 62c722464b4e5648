"""Into how many parts attention splits a context, each for a program of its own (flash decoding, Dao et al.
2023).

The parts are of the row's own length, which only the device knows; how many there are follows from sizes that
the host knows.
"""

from typing import Final

__all__ = ["GRAIN", "splits_of"]

GRAIN: Final = 32  # parts begin at multiples of so many tokens: a step of the walk, and two pages
_PROCESSORS: Final = 132
_TILE: Final = 16  # rows of the smallest tile, of which a row is a token of one query head
_WORTH: Final = 128  # tokens of a part for which one more launch pays


def splits_of(batch: int, tokens: int, heads: int, kv_heads: int, capacity: int) -> int:
    """Return the number of parts, a power of two; 1: a launch fills the processors without, or is short.

    Args:
        batch: rows.
        tokens: of a block.
        heads: of the queries.
        kv_heads: of keys and values.
        capacity: tokens that a row's context may have.
    """
    programs = batch * kv_heads * -(-tokens * (heads // kv_heads) // _TILE)
    most = min(_PROCESSORS // max(programs, 1), capacity // _WORTH)
    return 1 << (max(most, 1).bit_length() - 1)
