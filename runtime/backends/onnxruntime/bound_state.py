"""A state, the calls that are bound to its memory, and the memory that these need beside it.

All of it is kept with the state, since a row's calls are the same ones over and over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ttc.model.graphs import new_name
from ttc.runtime.backends.onnxruntime.binding import Array, Binding
from ttc.runtime.interface.backend import Ints
from ttc.runtime.interface.state import ContextState, lazy_zeros

__all__ = ["BoundState", "Key", "Span", "bound", "new_mamba_of", "part_of"]

# Rows as `as_span` gives them; role and sizes of a call.
Span = slice | Ints
Key = tuple[Any, ...]
# Bindings that a state keeps; of more, the oldest are made anew when they are needed.
_MOST_BINDINGS = 64


@dataclass(slots=True)
class BoundState(ContextState):
    """A state, and the calls that are bound to its memory.

    Attributes:
        bindings: role, sizes and rows → the call.
        mamba: first row and the one after the last → what calls of these rows write the new Mamba state to.
        parts: cache → (rows, …) memory for the part of it that the denoiser reads.
    """

    bindings: dict[Key, Binding] = field(default_factory=dict)
    mamba: dict[tuple[int, int], dict[str, Array]] = field(default_factory=dict)
    parts: dict[str, Array] = field(default_factory=dict)

    @property
    def held_bytes(self) -> int:
        """Size of the memory that it may have from the system, with that of its calls."""
        given = sum(array.nbytes for arrays in self.mamba.values() for array in arrays.values())
        own = sum(binding.nbytes for binding in self.bindings.values())
        row_bytes = self._row_bytes + sum(array.nbytes // len(array) for array in self.parts.values())
        return row_bytes * self.most_rows + given + own

    def forget(self) -> None:
        """Drop all calls: the state has moved, or has room for more rows."""
        self.bindings.clear()
        self.parts.clear()


def bound(
    state: ContextState, span: Span, key: Key, make: Callable[[ContextState, Span, Key], Binding]
) -> Binding:
    """Return the binding of a call; that of neighbours, whose memory it is bound to, is kept.

    key: role, and the sizes that the call's arrays have.
    """
    if not isinstance(span, slice) or not isinstance(state, BoundState):
        return make(state, span, key)
    whole = (*key, span.start, span.stop)
    binding = state.bindings.get(whole)
    if binding is None:
        if len(state.bindings) >= _MOST_BINDINGS:
            # The oldest; from a list, since another thread may be adding a binding of other rows.
            state.bindings.pop(next(iter(list(state.bindings))), None)
        binding = state.bindings[whole] = make(state, span, key)
    return binding


def new_mamba_of(state: ContextState, span: Span, mamba: Mapping[str, Array]) -> dict[str, Array]:
    """Return arrays for the new Mamba state that a call on these rows gives. It is used before the next call
    on them, so that all of them share one.
    """
    if not isinstance(span, slice) or not isinstance(state, BoundState):
        return {new_name(name): np.empty_like(array) for name, array in mamba.items()}
    rows = span.start, span.stop
    arrays = state.mamba.get(rows)
    if arrays is None:
        if len(state.mamba) >= _MOST_BINDINGS:
            state.mamba.clear()
        arrays = {new_name(name): np.empty_like(array) for name, array in mamba.items()}
        state.mamba[rows] = arrays
    return {name: array[...] for name, array in arrays.items()}


def part_of(state: ContextState, span: Span, name: str, seen: int) -> Array:
    """Return memory for the first `seen` tokens of these rows' cache, which calls on the same rows share."""
    cache = state.tensors[name]
    _, heads, capacity, width = cache.shape
    if not isinstance(span, slice) or not isinstance(state, BoundState):
        return np.empty((len(cache[span]), heads, seen, width), cache.dtype)
    if name not in state.parts:
        state.parts[name] = lazy_zeros((len(cache), heads * capacity * width), cache.dtype)
    rows = span.stop - span.start
    own = state.parts[name][span].reshape(-1)[: rows * heads * seen * width]
    return own.reshape(rows, heads, seen, width)
