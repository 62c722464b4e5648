"""A context state whose rows lie in a pool."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ttc.errors import BackendError
from ttc.runtime.interface.backend import Ints
from ttc.runtime.interface.state import ContextState

__all__ = ["PoolRows", "PooledState", "pooled"]


class PoolRows:
    """Rows of a pool in use; dropping the last reference gives them back.

    Attributes:
        numbers: of the pool's rows, by row of the state.
    """

    def __init__(self, numbers: Sequence[int], give_back: Callable[[Sequence[int]], None]) -> None:
        self.numbers, self._give_back = list(numbers), give_back

    def of(self, rows: Ints) -> Ints:
        """Return where these rows of the state lie: (n,) numbers of the pool's rows."""
        return np.array([self.numbers[row] for row in rows.tolist()], np.int32)

    def __del__(self) -> None:
        self._give_back(self.numbers)


@dataclass(slots=True)
class PooledState(ContextState):
    """The state has no tensors of its own: `tensors` is empty.

    Attributes:
        places: its rows' places.
        bytes_of: returns the size of the pool's rows with these numbers, and of their pages.
    """

    places: PoolRows
    bytes_of: Callable[[Sequence[int]], int]

    @property
    def nbytes(self) -> int:
        return self.bytes_of(self.places.numbers)

    @property
    def held_bytes(self) -> int:
        return self.nbytes


def pooled(state: ContextState) -> PooledState:
    """Return the state as one of a pool. Raises `BackendError` for one of another backend."""
    if not isinstance(state, PooledState):
        raise BackendError("a state of another backend; make one with new_state")
    return state
