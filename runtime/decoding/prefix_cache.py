"""Prompts that were read before: states on a grid of the prompt, so that a shared beginning is read once.

A piece of a prompt is `chunk` tokens, and pieces begin at multiples of it. After every whole piece the state
of
the row can be kept: the Mamba state as it is then, and the keys and values of that piece. A piece is found by
    the hash of all tokens up to its end, which hashes its parent's in, so the pieces of a prompt form a chain
    and prompts with a common beginning share its links. A row that starts takes the longest chain there is
    and reads the rest.
What it then holds equals, bit for bit, what reading everything would have given: the pieces are the same.

Kept pieces have a budget in bytes; what was used longest ago goes first, the end of a chain before its
beginning. Only rows that read their whole prompt bring pieces, and none with a number in it that is none.
"""

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ttc.runtime.decoding.seats import Seat, Seats
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.state import RowPiece

__all__ = ["PrefixCache", "PrefixStats", "share_of_memory"]


@dataclass(slots=True)
class PrefixStats:
    """Figures of a cache: lookups, how many found something, tokens found, and what it holds now."""

    queries: int = 0
    hits: int = 0
    hit_tokens: int = 0
    bytes: int = 0
    pieces: int = 0


@dataclass(slots=True)
class _Link:
    """One kept piece. `depth`: its number in the chain; `used`: when last."""

    piece: RowPiece
    depth: int
    used: int


class PrefixCache:
    """Keeps pieces of prompts for one backend, up to `limit_bytes`."""

    def __init__(self, backend: Backend, chunk: int, limit_bytes: int) -> None:
        self._backend, self._chunk, self._limit = backend, chunk, limit_bytes
        self._links: dict[bytes, _Link] = {}
        # Of rows that are still reading: by row number, key → piece and its number in the chain.
        self._pending: dict[int, dict[bytes, tuple[RowPiece, int]]] = {}
        self._clock = 0
        self.stats = PrefixStats()

    def restore(self, prompt: Sequence[int], seats: Seats, seat: Seat, *, keep_last: bool) -> int:
        """Put the longest known beginning of the prompt into an empty seat; return its length in tokens.

        keep_last: leave at least the last token to be read, whose logits are wanted.
        """
        self.stats.queries += 1
        links = []
        for key in self._keys(prompt, len(prompt) - (1 if keep_last else 0)):
            link = self._links.get(key)
            if link is None:
                break
            links.append(link)
        if not links:
            return 0
        self._clock += 1
        for link in links:
            link.used = self._clock
        state = seats.state(seat.capacity)
        self._backend.load_row(state, seat.index, [link.piece for link in links])
        self.stats.hits += 1
        self.stats.hit_tokens += links[-1].piece.stop
        return links[-1].piece.stop

    def collect(self, row: int, prompt: Sequence[int], length: int, seats: Seats, seat: Seat) -> None:
        """Take the piece that row `row` has just read, if it is a whole one; it counts when the prompt is
        read.
        """
        if length % self._chunk or length == 0 or length > len(prompt):
            return
        key = self._keys(prompt, length)[-1]
        if key not in self._links:
            piece = self._backend.save_row(seats.state(seat.capacity), seat.index, length - self._chunk)
            self._pending.setdefault(row, {})[key] = (piece, length // self._chunk - 1)

    def publish(self, row: int) -> None:
        """Row `row` has read its prompt: keep what it brought, unless a number in it is none."""
        pending = self._pending.pop(row, {})
        if not all(piece.finite for piece, _ in pending.values()):
            return
        self._clock += 1
        for key, (piece, depth) in pending.items():
            if key not in self._links:
                self._links[key] = _Link(piece, depth, self._clock)
                self.stats.bytes += piece.nbytes
        self._shrink()

    def forget(self, row: int) -> None:
        """Row `row` has ended; what it had not published is dropped."""
        self._pending.pop(row, None)

    def shares_piece(self, one: Sequence[int], other: Sequence[int], start: int) -> bool:
        """Return whether two prompts are equal up to the end of the piece that begins at `start`."""
        stop = start - start % self._chunk + self._chunk
        return len(one) >= stop and len(other) >= stop and tuple(one[:stop]) == tuple(other[:stop])

    def _shrink(self) -> None:
        for key, link in sorted(self._links.items(), key=lambda item: (item[1].used, -item[1].depth)):
            if self.stats.bytes <= self._limit:
                break
            del self._links[key]
            self.stats.bytes -= link.piece.nbytes
        self.stats.pieces = len(self._links)

    def _keys(self, prompt: Sequence[int], length: int) -> list[bytes]:
        """Keys of the whole pieces within the first `length` tokens."""
        keys, parent = [], b""
        for start in range(0, length - length % self._chunk, self._chunk):
            piece = prompt[start : start + self._chunk]
            parent = hashlib.blake2b(parent + struct.pack(f"<{len(piece)}i", *piece), digest_size=16).digest()
            keys.append(parent)
        return keys


def share_of_memory() -> int:
    """Return the bytes that a cache takes unless told otherwise: a sixteenth of the free memory, at most 4
    GiB.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(free // 16, 4 << 30)
