"""The books of device places: which row sits where, and how large its caches are.

There is a state for every capacity in use, and a row sits in the smallest that holds it: so a row's attention
runs over what the row needs, whatever its neighbours need. A row that outgrows its caches moves to the next
state; nobody else is touched. In a state the rows in use come first. A row that leaves makes a hole, which
the next one to join takes; only where none comes does the last row move into it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ttc.runtime.decoding.limits import capacity_bucket, fitting_capacity
from ttc.runtime.interface.backend import Limits
from ttc.runtime.interface.state import ContextState

__all__ = ["Places", "Seat", "Seats"]


class Places(Protocol):
    """The part of a backend that keeps states: `ttc.runtime.interface.backend.Backend` says what each call
    means.
    """

    limits: Limits | None

    def new_state(self, batch: int, capacity: int) -> ContextState:
        """Return an empty state."""

    def resize(self, state: ContextState, batch: int) -> None:
        """Change the number of rows."""

    def clear_rows(self, state: ContextState, rows: npt.NDArray[np.int32]) -> None:
        """Make rows empty again."""

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        """Copy one row."""


@dataclass(slots=True)
class Seat:
    """A row's place: the capacity of its state, and its number in there."""

    capacity: int
    index: int


@dataclass(slots=True)
class _Room:
    """One state. `seats`: by row number, None for a hole."""

    state: ContextState
    seats: list[Seat | None] = field(default_factory=list)

    def vacate(self, index: int) -> None:
        self.seats[index] = None
        self.trim()

    def trim(self) -> None:
        while self.seats and self.seats[-1] is None:
            self.seats.pop()


class Seats:
    """Gives rows places in the states of one backend, or of what stands for one.

    Attributes:
        limit: most tokens that a row may hold.
        moves: rows copied so far, because they grew or filled a hole.
    """

    def __init__(self, places: Places, limit: int) -> None:
        self._places, self.limit = places, limit
        self._rooms: dict[int, _Room] = {}
        self._capacities: dict[int, int] = {}
        self.moves = 0

    def expect(self, tokens: Sequence[int]) -> None:
        """Make places at once for rows that are about to join, each of so many tokens."""
        for capacity, count in Counter(map(self.capacity_for, tokens)).items():
            room = self._rooms.get(capacity)
            if room is None:
                self._rooms[capacity] = _Room(self._places.new_state(count, capacity))
            elif (batch := len(room.seats) - room.seats.count(None) + count) > room.state.batch:
                self._places.resize(room.state, batch)

    def join(self, tokens: int) -> Seat:
        """Return an empty seat that holds so many tokens."""
        capacity = self.capacity_for(tokens)
        room = self._rooms.get(capacity)
        if room is None:
            room = self._rooms[capacity] = _Room(self._places.new_state(1, capacity))
        seat = Seat(capacity, len(room.seats))
        if None in room.seats:
            seat.index = room.seats.index(None)
            room.seats[seat.index] = seat
        else:
            if seat.index == room.state.batch:
                self._places.resize(room.state, room.state.batch + 1)
            room.seats.append(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """Empty the seat and give it back; a state in which nobody sits is given back whole."""
        room = self._rooms[seat.capacity]
        room.vacate(seat.index)
        if not room.seats:
            del self._rooms[seat.capacity]
        else:
            self._places.clear_rows(room.state, np.array([seat.index], np.int32))

    def grow(self, seat: Seat, tokens: int) -> None:
        """Make the seat hold so many tokens, by a move if it does not yet."""
        if self.capacity_for(tokens) <= seat.capacity:
            return
        new = self.join(tokens)
        source, target = self._rooms[seat.capacity].state, self._rooms[new.capacity].state
        self._places.copy_row(source, seat.index, target, new.index)
        self.moves += 1
        self.leave(seat)
        self._rooms[new.capacity].seats[new.index] = seat
        seat.capacity, seat.index = new.capacity, new.index

    def compact(self) -> None:
        """Fill every hole by the last row of its state: the rows in use are all that there are."""
        for room in self._rooms.values():
            while None in room.seats:
                hole, last = room.seats.index(None), room.seats.pop()
                assert last is not None, "the last seat of a room is taken"
                self._places.copy_row(room.state, last.index, room.state, hole)
                self._places.clear_rows(room.state, np.array([last.index], np.int32))
                self.moves += 1
                last.index = hole
                room.seats[hole] = last
                room.trim()
            if len(room.seats) < room.state.batch:
                self._places.resize(room.state, len(room.seats))

    def state(self, capacity: int) -> ContextState:
        """Return the state of this capacity."""
        return self._rooms[capacity].state

    @property
    def in_use(self) -> int:
        """Number of rows that sit somewhere."""
        return sum(len(room.seats) - room.seats.count(None) for room in self._rooms.values())

    @property
    def nbytes(self) -> int:
        """Size of all states."""
        return sum(room.state.nbytes for room in self._rooms.values())

    def seated(self, capacity: int) -> int:
        """Return how many rows sit in the state of this capacity."""
        seats = self._rooms[capacity].seats
        return len(seats) - seats.count(None)

    def capacity_for(self, tokens: int) -> int:
        """Return the capacity of the state in which a row of so many tokens sits.

        Raises:
            CapacityError: more than the engines were built for.
        """
        known = self._capacities.get(tokens)
        if known is None:
            wanted = max(min(capacity_bucket(tokens), self.limit), tokens)
            known = self._capacities[tokens] = fitting_capacity(self._places.limits, tokens, wanted)
        return known

    def close(self) -> None:
        """Forget all states."""
        self._rooms.clear()
