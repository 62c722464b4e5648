"""The phases of a generation, each as one backend call that can be repeated on the same inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ttc.runtime.interface.backend import Backend, StepInputs
from ttc.runtime.interface.sampling import SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["PHASES", "Phase", "Prepare", "Sizes", "make_calls"]

# Readies what a call changes, and gives the call.
Prepare = Callable[[], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: its name, the graph it runs, the tokens L of its call, and the capacity C of the state."""

    name: str
    role: str
    tokens: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shapes of the calls: batch, prefill chunk, block, tokens already in the context, and capacity."""

    batch: int
    chunk: int
    block: int
    context: int
    capacity: int


# Phase → the graph it runs.
PHASES = {
    "prefill chunk": "context",
    "denoise step": "denoiser",
    "diffusion step": "step",
    "extension": "context",
    "AR step": "context",
}


def make_calls(backend: Backend, sizes: Sizes) -> dict[Phase, Prepare]:
    """Return a call for every phase, to be prepared outside the clock: each starts from a copy of the same
    state of `sizes.context` tokens, which backends on a GPU change in place. The calls are those of the loop
    (`ttc.runtime.decoding.loop`).
    """
    draw = np.random.default_rng(7)
    B, S, V = sizes.batch, sizes.block, backend.config.vocab_size

    def ids(length: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return draw.integers(0, V, (B, length)).astype(np.int32)

    def filled(shape: int | tuple[int, ...], value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return np.full(shape, value, np.int32)

    filled_state = backend.new_state(B, sizes.capacity)
    for start in range(0, sizes.context, sizes.chunk):
        width = min(sizes.chunk, sizes.context - start)
        backend.context(filled_state, ids(width), filled(B, width), filled((B, 1), width - 1))

    def state() -> ContextState:
        """Return the filled state again."""
        return backend.select(filled_state, np.arange(B, dtype=np.int32))

    chunk, block, one = ids(sizes.chunk), ids(S), ids(1)
    half = np.where(draw.random((B, S)) < 0.5, backend.config.mask_token_id, block).astype(np.int32)
    t = np.full(B, 0.5, np.float32)
    held = state()  # the logits may lie beside it
    logits = backend.denoise(held, half, t)
    inputs = StepInputs(
        half,
        np.full(B, 0.9, np.float32),
        np.zeros(B, np.float32),
        np.zeros(B, np.int64),
        filled_state.lengths,
        filled(B, 0),
        filled(B, S),
    )

    def on_state(call: Callable[[ContextState], object]) -> Prepare:
        def prepare() -> Callable[[], object]:
            own = state()
            return lambda: call(own)

        return prepare

    def read(tokens: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> Prepare:
        length = tokens.shape[1]
        return on_state(lambda s: backend.context(s, tokens, filled(B, length), filled((B, 1), length - 1)))

    def commit() -> Callable[[], object]:
        assert held.capacity == sizes.capacity
        return lambda: backend.step(logits, inputs)

    greedy = SamplingParams.greedy(B)
    one_more = on_state(lambda s: backend.sample_next(s, one, filled(B, 1), filled((B, 1), 0), greedy))
    calls: dict[str, tuple[int, Prepare]] = {
        "prefill chunk": (sizes.chunk, read(chunk)),
        "denoise step": (S, on_state(lambda s: backend.denoise(s, half, t))),
        "diffusion step": (S, commit),
        "extension": (S, read(block)),
        "AR step": (1, one_more),
    }
    return {Phase(name, PHASES[name], length, sizes.capacity): call for name, (length, call) in calls.items()}
