"""Prompts that were read before: states on a grid of the prompt, so that a shared beginning is read once.

A piece of a prompt is `chunk` tokens, and pieces begin at multiples of it. After every whole piece the state
of the row can be kept: the Mamba state as it is then, and the keys and values of that piece. A piece is found
by the hash of all tokens up to its end, which hashes its parent's in, so the pieces of a prompt form a chain
and prompts with a common beginning share its links. A row that starts takes the longest chain there is and
reads the rest. What it then holds equals, bit for bit, what reading everything would have given: the pieces
are the same.

Pieces of a row that is still reading are fresh: rows that run beside it may take them, and they are kept once
the whole prompt is read. A row that ends before, or whose state has a number in it that is none, leaves
nothing (but a GPU does not look at its numbers). Kept and fresh pieces share a budget in bytes; what was used
longest ago goes first, the end of a chain before its beginning, and what does not fit even then is not taken.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    """One piece. `depth`: its number in the chain; `used`: when last."""

    piece: RowPiece
    depth: int
    used: int


@dataclass(slots=True)
class _Reader:
    """A row that reads its prompt.

    Attributes:
        keys: of the prompt's whole pieces.
        brought: keys of the fresh pieces that are its own.
        brings: whether it brings the pieces that it reads; False once one did not fit, or was no number.
    """

    keys: list[bytes]
    brought: list[bytes] = field(default_factory=list)
    brings: bool = True


class PrefixCache:
    """Keeps pieces of prompts for one backend, up to `limit_bytes`."""

    def __init__(self, backend: Backend, chunk: int, limit_bytes: int) -> None:
        self._backend, self._chunk, self._limit = backend, chunk, limit_bytes
        backend.reserve_pieces(limit_bytes, chunk)
        self._kept: dict[bytes, _Link] = {}
        self._fresh: dict[bytes, _Link] = {}
        self._readers: dict[int, _Reader] = {}
        self._clock = 0
        self.stats = PrefixStats()

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Row `row` is about to read this prompt."""
        self._readers[row] = _Reader(self._keys(prompt))

    def is_brought(self, row: int, tokens: int, older: int, length: int) -> bool:
        """Return whether the piece that another row reads next is one that this row needs as well.

        Args:
            row: it needs the first `tokens` tokens of its prompt.
            older: the other row, which has read `length` tokens.
        """
        mine, other, i = self._readers[row], self._readers[older], length // self._chunk
        return (
            other.brings and i < min(tokens // self._chunk, len(other.keys)) and mine.keys[i] == other.keys[i]
        )

    def restore(self, row: int, tokens: int, seats: Seats, seat: Seat) -> int:
        """Put the longest known beginning of a row's prompt, of at most so many tokens, into its empty seat;
        return its length in tokens.
        """
        self.stats.queries += 1
        links = []
        for key in self._readers[row].keys[: tokens // self._chunk]:
            link = self._kept.get(key) or self._fresh.get(key)
            if link is None:
                break
            links.append(link)
        if not links:
            return 0
        self._clock += 1
        for link in links:
            link.used = self._clock
        state = seats.state(seat.state)
        self._backend.load_row(state, seat.index, [link.piece for link in links])
        self.stats.hits += 1
        self.stats.hit_tokens += links[-1].piece.stop
        return links[-1].piece.stop

    def collect(self, row: int, length: int, seats: Seats, seat: Seat) -> None:
        """Take the piece that a row has just read, up to token `length`, if it is a whole one."""
        reader, i = self._readers[row], length // self._chunk - 1
        if not reader.brings or length % self._chunk or not 0 <= i < len(reader.keys):
            return
        key = reader.keys[i]
        if key in self._kept or key in self._fresh:
            return
        piece = self._backend.save_row(seats.state(seat.state), seat.index, length - self._chunk)
        if not piece.finite:
            self._drop(reader)
        elif self._make_room(piece.nbytes):
            self._fresh[key] = _Link(piece, i, self._clock)
            reader.brought.append(key)
            self.stats.bytes += piece.nbytes
        else:
            reader.brings = False

    def publish(self, row: int) -> None:
        """Row `row` has read its prompt: keep what it brought."""
        self._clock += 1
        for key in self._readers.pop(row).brought:
            self._kept[key] = self._fresh.pop(key)
            self._kept[key].used = self._clock
        self.stats.pieces = len(self._kept)

    def forget(self, row: int) -> None:
        """Row `row` has ended; what it had not published is dropped."""
        reader = self._readers.pop(row, None)
        if reader is not None:
            self._drop(reader)

    def _drop(self, reader: _Reader) -> None:
        for key in reader.brought:
            self.stats.bytes -= self._fresh.pop(key).piece.nbytes
        reader.brought, reader.brings = [], False

    def _make_room(self, nbytes: int) -> bool:
        """Give up kept pieces until so many bytes are free; return whether they are."""
        if nbytes > self._limit:
            return False
        for key, link in sorted(self._kept.items(), key=lambda item: (item[1].used, -item[1].depth)):
            if self.stats.bytes + nbytes <= self._limit:
                break
            del self._kept[key]
            self.stats.bytes -= link.piece.nbytes
        self.stats.pieces = len(self._kept)
        return self.stats.bytes + nbytes <= self._limit

    def _keys(self, prompt: Sequence[int]) -> list[bytes]:
        """Keys of the whole pieces."""
        keys, parent = [], b""
        for start in range(0, len(prompt) - len(prompt) % self._chunk, self._chunk):
            piece = prompt[start : start + self._chunk]
            parent = hashlib.blake2b(parent + struct.pack(f"<{len(piece)}i", *piece), digest_size=16).digest()
            keys.append(parent)
        return keys


def share_of_memory(free: int | None) -> int:
    """Return the bytes that a cache takes unless told otherwise: a sixteenth of the free memory, at most 4
    GiB; 0, which is none, where the system does not say what is free.
    """
    return min((free or 0) // 16, 4 << 30)
