"""What a round of lossless decoding costs here, measured before the first one."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from ttc.base.clock import passed
from ttc.runtime.decoding.draft_stats import Costs, LinearCost
from ttc.runtime.interface.backend import Backend, StepInputs
from ttc.runtime.interface.sampling import SamplingParams

__all__ = ["elementwise_min", "measure"]


def measure(backend: Backend, batch: int, capacity: int, block_size: int, turns: int, warm_up: bool) -> Costs:
    """Time the calls of a round on a state of their own, in turn; the best of `turns` turns counts.

    In turn and at best, because the machine may have other things to do, and the policy needs the relation of
    the costs. Attention runs over the whole capacity whatever the state holds, so an empty state costs what a
    full one does; the tokens read differ from each other, so that they need as many experts as a text does.
    """
    state = backend.new_state(batch, capacity)
    one, none = np.ones(batch, np.int32), np.zeros(batch, np.int32)
    greedy = SamplingParams.greedy(batch)

    def rewound_block(width: int) -> npt.NDArray[np.int32]:
        state.lengths[:] = 0
        return np.tile(np.arange(width, dtype=np.int32) % backend.config.vocab_size, (batch, 1))

    def ar_step() -> None:
        ids = rewound_block(1)
        backend.sample_next(state, ids, one, np.zeros((batch, 1), np.int32), greedy)

    def verify(width: int) -> None:
        positions = np.tile(np.arange(width, dtype=np.int32), (batch, 1))
        _, saved = backend.sample_next(state, rewound_block(width), none, positions, greedy, save=True)
        backend.advance(state, saved, one)

    def draft_step(width: int) -> None:
        # As wide as a draft would be; see `ttc.runtime.decoding.modes.table`.
        any_width = backend.limits is None and backend.graph_level is None
        block = rewound_block(width if any_width else block_size)
        width = block.shape[1]
        block[:, 1:] = backend.config.mask_token_id
        threshold, temperature = np.full(batch, 0.9, np.float32), np.zeros(batch, np.float32)
        keys = np.zeros(batch, np.int64)
        inputs = StepInputs(block, threshold, temperature, keys, state.lengths, none, one)
        backend.denoise_step(state, np.full(batch, (width - 1) / width, np.float32), inputs)

    narrow, wide = min(2, capacity), min(max(block_size, 2), capacity)
    two_widths = [partial(call, width) for call in (verify, draft_step) for width in (narrow, wide)]
    calls: list[Callable[[], None]] = [ar_step, *two_widths]
    if warm_up:
        for call in calls:
            call()
    seconds = np.array([[_seconds(call) for call in calls] for _ in range(turns)])
    backend.release(state)
    ar_seconds, *of_costs = seconds.min(0).tolist()
    return Costs(ar_seconds, LinearCost(narrow, wide, *of_costs[:2]), LinearCost(narrow, wide, *of_costs[2:]))


def elementwise_min(one: Costs, other: Costs) -> Costs:
    """Return the lower of two measurements of the same calls, call by call."""
    return Costs(
        min(one.ar_step, other.ar_step),
        _lower(one.verify, other.verify),
        _lower(one.draft_step, other.draft_step),
    )


def _lower(one: LinearCost, other: LinearCost) -> LinearCost:
    narrow_seconds = min(one.narrow_seconds, other.narrow_seconds)
    return replace(one, narrow_seconds=narrow_seconds, wide_seconds=min(one.wide_seconds, other.wide_seconds))


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return passed(start, time.perf_counter())
