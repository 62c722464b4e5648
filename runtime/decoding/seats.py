"""The books of device places: which row sits where, and how large its caches are.

Rows in one state share calls. Where a call costs as much as it has rows, there is a state for every capacity
in use, and a row sits in the smallest that holds it: so a row's attention runs over what the row needs,
whatever its neighbours need. A row that outgrows its caches moves to the next state; nobody else is touched.

Where a call reads the weights once for all of its rows, all but very long ones sit in one *shared* state,
whose capacity is what the longest of them needs: it is made anew, and every row copied, when one comes or
grows that needs more, or when a quarter would do for all. Longer rows have a state per capacity there too, so
that nobody pays for caches of a size that only one row needs. Where rows take memory by the page, a state's
capacity is a number that can be changed, and all rows sit in one, long or short.

In a state the rows in use come first. A row that leaves makes a hole, which the next one to join takes; only
where none comes does the last row move into it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ttc.errors import DeviceMemoryError
from ttc.runtime.decoding.limits import fitting_capacity
from ttc.runtime.interface.backend import Limits
from ttc.runtime.interface.sizes import UsualSizes
from ttc.runtime.interface.state import ContextState

__all__ = ["Places", "Seat", "Seats"]

# The number of the shared state; that of any other is its capacity.
_SHARED = 0
# The shared state shrinks when so much of it is enough: seldom, since every row is copied.
_ENOUGH = 1 / 4


class Places(Protocol):
    """The part of a backend that keeps states: `ttc.runtime.interface.backend.Backend` says what each call
    means.
    """

    limits: Limits | None

    @property
    def sizes(self) -> UsualSizes:
        """What suits the processor."""

    @property
    def spare_bytes(self) -> int:
        """Size of the states that were released and are kept."""

    def new_state(self, batch: int, capacity: int) -> ContextState:
        """Return an empty state."""

    def release(self, state: ContextState) -> None:
        """Take back a state that nobody will use any more."""

    def resize(self, state: ContextState, batch: int) -> None:
        """Change the number of rows."""

    def clear_rows(self, state: ContextState, rows: npt.NDArray[np.int32]) -> None:
        """Make rows empty again."""

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        """Copy one row."""

    def move_row(self, state: ContextState, row: int, to: int) -> None:
        """Move one row into an empty one, and leave it empty."""

    def extend(self, state: ContextState, capacity: int) -> bool:
        """Give a state another capacity where that copies no row; return whether it has it now."""


@dataclass(slots=True, eq=False)
class Seat:
    """A row's place: the number of its state, its own number in there, and how many tokens it must hold."""

    state: int
    index: int
    tokens: int


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

    @property
    def taken(self) -> int:
        return len(self.seats) - self.seats.count(None)


class Seats:
    """Gives rows places in the states of one backend, or of what stands for one.

    Attributes:
        limit: most tokens that a row may hold.
        moves: rows copied so far, because they grew or filled a hole.
    """

    def __init__(self, places: Places, limit: int, shared: int = 0) -> None:
        """shared: the largest capacity of the shared state; 0 for none, so that there is a state per
        capacity.
        """
        self._places, self.limit, self._shared = places, limit, shared
        self._rooms: dict[int, _Room] = {}
        self._capacities: dict[int, int] = {}
        self.moves = 0

    def expect(self, tokens: Sequence[int]) -> None:
        """Make places at once for rows that are about to join, each of so many tokens."""
        coming: dict[int, list[int]] = {}
        for each in tokens:
            coming.setdefault(self._number(each), []).append(self.capacity_for(each))
        for number, capacities in coming.items():
            room = self._rooms.get(number)
            if room is None:
                self._rooms[number] = _Room(self._places.new_state(len(capacities), max(capacities)))
                continue
            if max(capacities) > room.state.capacity:
                self._remake(room, max(capacities))
            if (batch := room.taken + len(capacities)) > room.state.batch:
                self._places.resize(room.state, batch)

    def join(self, tokens: int) -> Seat:
        """Return an empty seat that holds so many tokens."""
        number, capacity = self._number(tokens), self.capacity_for(tokens)
        room = self._rooms.get(number)
        if room is None:
            room = self._rooms[number] = _Room(self._places.new_state(1, capacity))
        elif capacity > room.state.capacity:
            self._remake(room, capacity)
        seat = Seat(number, len(room.seats), tokens)
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
        room = self._rooms[seat.state]
        room.vacate(seat.index)
        if not room.seats:
            self._places.release(self._rooms.pop(seat.state).state)
        else:
            self._places.clear_rows(room.state, np.array([seat.index], np.int32))

    def holds(self, seat: Seat, tokens: int) -> bool:
        """Return whether the seat holds so many tokens as it is."""
        capacity = self._rooms[seat.state].state.capacity
        if self._places.limits is None:  # then a state of some row's capacity fits all that it has room for
            return tokens <= capacity
        return self.capacity_for(tokens) <= capacity

    def grow(self, seat: Seat, tokens: int) -> None:
        """Make the seat hold so many tokens: by a move if it does not yet, of a shared state by all rows'."""
        if tokens <= seat.tokens:
            return
        fits, seat.tokens = self.holds(seat, tokens), tokens
        if fits:
            return
        number = self._number(tokens)
        if number == seat.state:
            self._remake(self._rooms[number], self.capacity_for(tokens))
            return
        new = self.join(tokens)
        source, target = self._rooms[seat.state].state, self._rooms[new.state].state
        self._places.copy_row(source, seat.index, target, new.index)
        self.moves += 1
        self.leave(seat)
        self._rooms[new.state].seats[new.index] = seat
        seat.state, seat.index = new.state, new.index

    def compact(self) -> None:
        """Fill every hole by the last row of its state: the rows in use are all that there are. Make the
        shared state smaller where its rows need much less.
        """
        for room in self._rooms.values():
            while None in room.seats:
                hole, last = room.seats.index(None), room.seats.pop()
                assert last is not None, "the last seat of a room is taken"
                self._places.move_row(room.state, last.index, hole)
                self.moves += 1
                last.index = hole
                room.seats[hole] = last
                room.trim()
            if len(room.seats) < room.state.batch:
                self._places.resize(room.state, len(room.seats))
        shared = self._rooms.get(_SHARED)
        if shared is not None:
            needed = self.capacity_for(max(seat.tokens for seat in shared.seats if seat is not None))
            if needed <= _ENOUGH * shared.state.capacity:
                # Both have to fit for a moment; where they do not, the large one serves as well.
                with contextlib.suppress(DeviceMemoryError):
                    self._remake(shared, needed)

    def state(self, number: int) -> ContextState:
        """Return the state of this number."""
        return self._rooms[number].state

    @property
    def in_use(self) -> int:
        """Number of rows that sit somewhere."""
        return sum(room.taken for room in self._rooms.values())

    @property
    def nbytes(self) -> int:
        """Size of all states."""
        return sum(room.state.nbytes for room in self._rooms.values())

    @property
    def spare_bytes(self) -> int:
        """Size of states in which nobody sits, and which are kept for those who come."""
        return self._places.spare_bytes

    @property
    def seated(self) -> int:
        """How many rows have a seat."""
        return sum(room.taken for room in self._rooms.values())

    def capacity_for(self, tokens: int) -> int:
        """Return the capacity that a row of so many tokens needs.

        Raises:
            CapacityError: more than the engines were built for.
        """
        known = self._capacities.get(tokens)
        if known is None:
            wanted = max(min(self._places.sizes.bucket(tokens), self.limit), tokens)
            known = self._capacities[tokens] = fitting_capacity(self._places.limits, tokens, wanted)
        return known

    def close(self) -> None:
        """Forget all states."""
        self._rooms.clear()

    def _number(self, tokens: int) -> int:
        """Return the number of the state in which a row of so many tokens sits."""
        capacity = self.capacity_for(tokens)
        return _SHARED if capacity <= self._shared else capacity

    def _remake(self, room: _Room, capacity: int) -> None:
        """Give a room a state of another capacity, with what its rows hold."""
        if self._places.extend(room.state, capacity):
            return
        new = self._places.new_state(room.state.batch, capacity)
        for seat in room.seats:
            if seat is not None:
                self._places.copy_row(room.state, seat.index, new, seat.index)
                self.moves += 1
        # Not before every row is in it: where that fails, the old one still holds them.
        old, room.state = room.state, new
        self._places.release(old)
