"""Runs the calls of a scenario on a backend, and keeps what came out of each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ttc.errors import BackendError
from ttc.model.graphs import is_kv_cache
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.state import ContextState
from ttc.verify.scenario import Context, Denoise, Scenario

__all__ = ["Floats", "Observation", "ObservedBackend", "observe"]

Floats = npt.NDArray[np.float32]


class ObservedBackend(Protocol):
    """A backend to observe; `residuals` is filled by each call of a tower: layer → x (B, L, D)."""

    @property
    def backend(self) -> Backend:
        """The backend itself."""

    @property
    def residuals(self) -> Mapping[int, Floats]:
        """Residual streams of the last call; empty where the backend does not show them."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One call: its name and tower, logits (None for `Advance`), the state after it with what counts of it
    only (None where the backend does not show it), and residual streams by layer.
    """

    call: str
    tower: str
    logits: Floats | None
    state: Mapping[str, Floats] | None
    residuals: Mapping[int, Floats]


def observe(
    observed: ObservedBackend, scenario: Scenario, capacity: int, say: Callable[[str], None] = lambda _: None
) -> Iterator[Observation]:
    """Run the calls in order, each observed as it is done."""
    backend, saved = observed.backend, None
    B = scenario.shapes.batch
    state = backend.new_state(B, capacity)
    for call in scenario.calls:
        say(f"{backend.name}: {call.name}")
        logits: Floats | None = None
        residuals: Mapping[int, Floats] = {}
        if isinstance(call, Context):
            L = call.ids.shape[1]
            positions = np.arange(max(0, L - scenario.shapes.positions), L, dtype=np.int32)
            last = np.tile(positions, (B, 1))
            made = backend.context(state, call.ids, call.commit_len, last, call.save)
            logits, saved = backend.fetch(made.logits), made.saved
            residuals = dict(observed.residuals)
        elif isinstance(call, Denoise):
            logits = backend.fetch(backend.denoise(state, call.ids, call.t))
            residuals = dict(observed.residuals)
        else:
            backend.advance(state, saved, call.commit_len)
        yield Observation(call.name, call.tower, logits, _state(backend, state), residuals)


def _state(backend: Backend, state: ContextState) -> dict[str, Floats] | None:
    """Return the state, of caches only what is committed: what lies beyond is never read."""
    try:
        tensors: dict[str, Any] = backend.read_state(state)
    except BackendError:
        return None
    for name, array in tensors.items():
        if is_kv_cache(name):
            counts = np.arange(array.shape[2])[None, None, :, None] < state.lengths[:, None, None, None]
            tensors[name] = np.where(counts, array, np.float32(0))
    return tensors
