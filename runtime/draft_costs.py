"""What a round of lossless decoding costs here, measured before the first one."""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ttc.runtime.backends.base import Backend, StepInputs
from ttc.runtime.rounds import Costs, Line

__all__ = ["measure"]

_REPEATS = 3


def measure(backend: Backend, batch: int, capacity: int, block_size: int) -> Costs:
    """Time the calls on a state of their own: the best of a few, after one that does not count.

    Attention runs over the whole capacity whatever the state holds, so an empty state costs what a full one
    does; the tokens read differ from each other, so that they need as many experts as a text does.
    """
    state, nothing_read = backend.new_state(batch, capacity), np.zeros(batch, np.int32)
    one, none = np.ones(batch, np.int32), np.zeros(batch, np.int32)

    def rewound_block(width: int) -> npt.NDArray[np.int32]:
        state.lengths = nothing_read
        return np.tile(np.arange(width, dtype=np.int32) % backend.config.vocab_size, (batch, 1))

    def ar_step() -> None:
        backend.context(state, rewound_block(1), one, np.zeros((batch, 1), np.int32))

    def verify(width: int) -> None:
        places = np.tile(np.arange(width, dtype=np.int32), (batch, 1))
        call = backend.context(state, rewound_block(width), none, places, save=True)
        backend.advance(state, call.saved, one)

    def draft_step(width: int) -> None:
        block = rewound_block(width)
        block[:, 1:] = backend.config.mask_token_id
        logits = backend.denoise(state, block, np.full(batch, (width - 1) / width, np.float32))
        threshold, temperature = np.full(batch, 0.9, np.float32), np.zeros(batch, np.float32)
        keys = np.zeros(batch, np.int64)
        backend.step(logits, StepInputs(block, threshold, temperature, keys, state.lengths, none, one))

    narrow, wide = min(2, capacity), min(max(block_size, 2), capacity)

    def line(call: Callable[[int], None]) -> Line:
        return Line(narrow, wide, _best_seconds(lambda: call(narrow)), _best_seconds(lambda: call(wide)))

    return Costs(_best_seconds(ar_step), line(verify), line(draft_step))


def _best_seconds(call: Callable[[], None]) -> float:
    call()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
