"""The generation loops (spec § 5), one backend call after another.

Every loop is a generator of events and fills the rows it is given. Rows are independent: each has its own t,
its own number of steps and its own end; a row that is done leaves the batch before the context is extended.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from ttc.errors import NumericsError
from ttc.plugins.counter_rng import row_key
from ttc.runtime.decoding.options import CheckedOptions
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.interface.backend import Backend, BlockInputs, StepOutputs
from ttc.runtime.interface.sampling import INVALID_TOKEN, SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = [
    "Stopwatch",
    "autoregress",
    "count_context_call",
    "diffuse",
    "drop_finished",
    "fill_block",
    "mock_autoregress",
    "prefill",
    "row_keys",
    "sampled",
    "sampling_params",
]

P = ParamSpec("P")
T = TypeVar("T")
NO_CONDITIONING = -1.0


class Stopwatch:
    """Adds up the time spent in the calls made through it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` and return what it returns."""
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


def diffuse(
    backend: Backend,
    timed: Stopwatch,
    rows: Sequence[Row],
    options: CheckedOptions,
    capacity: int,
    chunk: int,
) -> Iterator[Event]:
    """Mask diffusion: fill block after block, each in as many denoiser evaluations as the commit rule
    needs.
    """
    state, _ = prefill(backend, timed, rows, [row.prompt for row in rows], capacity, chunk)
    active = list(rows)
    while active:
        empty = _full((len(active), options.block_size), backend.config.mask_token_id)
        block = yield from fill_block(backend, timed, active, empty, options.steps, options, state)
        for row, tokens in zip(active, block.tolist(), strict=True):
            yield _committed(
                row, tokens, options, steps=row.nfe_per_block[-1], block_index=len(row.nfe_per_block) - 1
            )
        state, active, kept = drop_finished(backend, timed, state, active)
        if active:
            everything, last = (
                _full(len(active), options.block_size),
                _full((len(active), 1), options.block_size - 1),
            )
            timed(backend.context, state, block[kept], everything, last)
            count_context_call(active)


def autoregress(
    backend: Backend,
    timed: Stopwatch,
    rows: Sequence[Row],
    options: CheckedOptions,
    capacity: int,
    chunk: int,
) -> Iterator[Event]:
    """AR: the context tower alone, one token per call."""
    state, tokens = prefill(backend, timed, rows, [row.prompt for row in rows], capacity, chunk, options)
    active = list(rows)
    while True:
        yield from _take_tokens(active, tokens, options)
        state, active, kept = drop_finished(backend, timed, state, active)
        if not active:
            return
        one, first = _full(len(active), 1), _full((len(active), 1), 0)
        how = sampling_params(active, options)
        choices, _ = timed(backend.sample_next, state, tokens[kept, None], one, first, how)
        count_context_call(active)
        tokens = sampled(choices, active, range(len(active)))


def mock_autoregress(
    backend: Backend,
    timed: Stopwatch,
    rows: Sequence[Row],
    options: CheckedOptions,
    capacity: int,
    chunk: int,
) -> Iterator[Event]:
    """Mock-AR: the denoiser, unconditioned, reads the last token over the state before it and gives the
    next.
    """
    state, _ = prefill(backend, timed, rows, [row.prompt[:-1] for row in rows], capacity, chunk)
    active = list(rows)
    current = np.array([row.prompt[-1] for row in rows], np.int32)
    while True:
        unconditioned = np.full(len(active), NO_CONDITIONING, np.float32)
        logits = timed(backend.denoise, state, current[:, None], unconditioned)
        for row in active:
            row.nfe_per_block.append(1)
        choices = timed(backend.sample, logits, sampling_params(active, options))
        tokens = sampled(choices, active, range(len(active)))
        yield from _take_tokens(active, tokens, options)
        state, active, kept = drop_finished(backend, timed, state, active)
        if not active:
            return
        one, first = _full(len(active), 1), _full((len(active), 1), 0)
        timed(backend.context, state, current[kept, None], one, first)
        count_context_call(active)
        current = tokens[kept]


def prefill(
    backend: Backend,
    timed: Stopwatch,
    rows: Sequence[Row],
    prompts: Sequence[Sequence[int]],
    capacity: int,
    chunk: int,
    options: CheckedOptions | None = None,
) -> tuple[ContextState, npt.NDArray[np.int32]]:
    """Read prompts of any lengths, chunk by chunk.

    Returns the state and, where `options` say how to choose it, every row's next token (B,): logits are
    looked at only in calls in which some prompt ends.
    """
    counts = np.array([len(prompt) for prompt in prompts], np.int32)
    state = timed(backend.new_state, len(prompts), capacity)
    tokens = np.full(len(prompts), INVALID_TOKEN, np.int32)
    for start in range(0, int(counts.max()), chunk):
        width = min(chunk, int(counts.max()) - start)
        ids = np.zeros(
            (len(prompts), width), np.int32
        )  # what stands behind a short row's end is never committed
        for r, prompt in enumerate(prompts):
            piece = prompt[start : start + width]
            ids[r, : len(piece)] = piece
        commit_len = np.clip(counts - start, 0, width).astype(np.int32)
        last = np.maximum(commit_len - 1, 0)[:, None]
        end_here = np.flatnonzero((commit_len > 0) & (counts <= start + width))
        if options is not None and len(end_here):
            how = sampling_params(rows, options)
            choices, _ = timed(backend.sample_next, state, ids, commit_len, last, how)
            tokens[end_here] = sampled(choices, [rows[r] for r in end_here.tolist()], end_here)
        else:
            timed(backend.context, state, ids, commit_len, last)
        count_context_call([row for row, count in zip(rows, commit_len, strict=True) if count])
    return state, tokens


def fill_block(
    backend: Backend,
    timed: Stopwatch,
    rows: Sequence[Row],
    block: npt.NDArray[np.int32],
    steps: int,
    options: CheckedOptions,
    state: ContextState,
    *,
    redraw: bool = True,
) -> Generator[Event, None, npt.NDArray[np.int32]]:
    """Fill the masked places of every row's block in at most `steps` denoiser evaluations.

    Yields an event per row and step, returns the full blocks (B, S).

    Args:
        block: (B, S), the mask id where a place is open. t is the masked share of the row's block, so a
            partly filled one starts below 1.
        redraw: with a temperature, draw anew in every step; otherwise every step uses the noise AR uses at
            these places.
    """
    B = len(rows)
    mask_id = backend.config.mask_token_id
    masked_count = (block == mask_id).sum(-1).astype(np.int32)
    threshold, temperature = _floats(B, options.threshold), _floats(B, options.temperature)
    for row in rows:
        row.nfe_per_block.append(0)
    inputs = BlockInputs(block, steps, threshold, temperature, row_keys(rows, options), redraw)
    outputs_of_steps, step = backend.fill_block(state, inputs), 0
    while (outputs := timed(next, outputs_of_steps, None)) is not None:
        if np.isnan(outputs.confidence).any():
            where = f"block {len(rows[0].nfe_per_block) - 1}, denoise step {step}"
            raise NumericsError(
                f"the denoiser gave NaN in {where}; check the weights (ttc inspect) and the dtype"
            )
        live = masked_count > 0
        block, masked_count = outputs.next_block_ids, outputs.masked_count
        for r in np.flatnonzero(live).tolist():
            rows[r].nfe_per_block[-1] += 1
            yield _step_event(rows[r], step, r, outputs, mask_id)
        step += 1
    return block


def _step_event(row: Row, step: int, r: int, outputs: StepOutputs, mask_id: int) -> Event:
    tokens = tuple(outputs.next_block_ids[r].tolist())
    confidence = tuple(None if c == np.inf else c for c in outputs.confidence[r].tolist())
    masked = tuple(token == mask_id for token in tokens)
    return Event(
        row.index, len(row.nfe_per_block) - 1, step, tokens, masked, confidence, committed=False, text=None
    )


def _committed(
    row: Row, tokens: Sequence[int], options: CheckedOptions, *, steps: int, block_index: int
) -> Event:
    taken = tuple(row.extend(tokens, options))
    return Event(row.index, block_index, steps, taken, (False,) * len(taken), None, committed=True, text=None)


def _take_tokens(
    rows: Sequence[Row], tokens: npt.NDArray[np.int32], options: CheckedOptions
) -> Iterator[Event]:
    for row, token in zip(rows, tokens.tolist(), strict=True):
        yield _committed(row, [token], options, steps=1, block_index=len(row.tokens))


def sampling_params(rows: Sequence[Row], options: CheckedOptions) -> SamplingParams:
    """How AR chooses every row's next token, and those behind it."""
    position = np.array([len(row.prompt) + len(row.tokens) for row in rows], np.int32)
    keys = row_keys(rows, options) if options.temperature else np.zeros(len(rows), np.int64)
    return SamplingParams(options.temperature, options.top_k, options.top_p, keys, position)


def sampled(
    choices: SampledTokens, rows: Sequence[Row], places: npt.ArrayLike, ahead: int = 0
) -> npt.NDArray[np.int32]:
    """AR's own token (B,) int32 for the next place of these rows, or for the place `ahead` tokens further.

    places: of the rows in the batch that was computed.

    Raises:
        NumericsError: NaN among the logits of one of them; on a GPU, whose choices show it by the
            probability of what was chosen, infinite logits too.
    """
    tokens = choices.at(places, ahead)
    if (tokens == INVALID_TOKEN).any():
        raise NumericsError(
            f"the model gave NaN logits for new token {len(rows[0].tokens) + ahead} (on a GPU infinite ones "
            "count as such); check the weights (ttc inspect) and the dtype"
        )
    return tokens


def drop_finished(
    backend: Backend, timed: Stopwatch, state: ContextState, rows: Sequence[Row]
) -> tuple[ContextState, list[Row], npt.NDArray[np.int32]]:
    """State and rows of those that go on, and their places in the batch so far."""
    kept = np.array([r for r, row in enumerate(rows) if row.finish_reason is None], np.int32)
    if 0 < len(kept) < len(rows):
        state = timed(backend.select, state, kept)
    return state, [rows[r] for r in kept.tolist()], kept


def row_keys(rows: Sequence[Row], options: CheckedOptions) -> npt.NDArray[np.int64]:
    """The generator's keys of these rows: (B,)."""
    return np.array([row_key(options.seed or 0, row.index) for row in rows], np.int64)


def count_context_call(rows: Sequence[Row]) -> None:
    """Note that the context tower has read tokens of these rows."""
    for row in rows:
        row.context_calls += 1


def _full(shape: int | tuple[int, ...], value: int) -> npt.NDArray[np.int32]:
    return np.full(shape, value, np.int32)


def _floats(size: int, value: float) -> npt.NDArray[np.float32]:
    return np.full(size, value, np.float32)
