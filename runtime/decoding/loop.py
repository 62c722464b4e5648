"""The generation loops (docs/model.md, Generation), one backend call after another.

Every loop is a generator of events and fills the rows of the generation it is given. Rows are independent:
each has its own t, its own number of steps and its own end; a row that is done leaves the batch before the
context is extended.
"""

from collections.abc import Generator, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ttc.errors import NumericsError
from ttc.plugins.counter_rng import row_key
from ttc.runtime.decoding.generation import Generation
from ttc.runtime.decoding.options import CheckedOptions
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.interface.backend import BlockInputs, StepOutputs
from ttc.runtime.interface.sampling import INVALID_TOKEN, SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = [
    "NO_CONDITIONING",
    "autoregress",
    "count_context_call",
    "diffuse",
    "fill_block",
    "mock_autoregress",
    "prefill",
    "sampled",
    "sampling_params",
]

NO_CONDITIONING = -1.0


def diffuse(run: Generation) -> Iterator[Event]:
    """Fill block after block, each in as many denoiser evaluations as the commit rule needs."""
    options = run.options
    state, _ = prefill(run, [row.prompt for row in run.rows])
    active = list(run.rows)
    while active:
        empty = _full((len(active), options.block_size), run.config.mask_token_id)
        block = yield from fill_block(run, active, empty, options.steps, state)
        for row, tokens in zip(active, block.tolist(), strict=True):
            yield _committed(
                row, tokens, options, steps=row.nfe_per_block[-1], block_index=len(row.nfe_per_block) - 1
            )
        state, active, kept = run.drop_finished(state, active)
        if active:
            everything = _full(len(active), options.block_size)
            last = _full((len(active), 1), options.block_size - 1)
            run.context(state, block[kept], everything, last)
            count_context_call(active)


def autoregress(run: Generation) -> Iterator[Event]:
    """Generate with the context tower alone, one token per call (AR)."""
    state, tokens = prefill(run, [row.prompt for row in run.rows], sample=True)
    active = list(run.rows)
    while True:
        yield from _take_tokens(active, tokens, run.options)
        state, active, kept = run.drop_finished(state, active)
        if not active:
            return
        one, first = _full(len(active), 1), _full((len(active), 1), 0)
        params = sampling_params(active, run.options)
        samples, _ = run.sample_next(state, tokens[kept, None], one, first, params)
        count_context_call(active)
        tokens = sampled(samples, active, range(len(active)))


def mock_autoregress(run: Generation) -> Iterator[Event]:
    """Generate with the denoiser, unconditioned, which reads the last token over the state before it and
    gives the next (mock-AR).
    """
    rows = run.rows
    state, _ = prefill(run, [row.prompt[:-1] for row in rows])
    active = list(rows)
    current = np.array([row.prompt[-1] for row in rows], np.int32)
    while True:
        unconditioned = np.full(len(active), NO_CONDITIONING, np.float32)
        logits = run.denoise(state, current[:, None], unconditioned)
        for row in active:
            row.nfe_per_block.append(1)
        samples = run.sample(logits, sampling_params(active, run.options))
        tokens = sampled(samples, active, range(len(active)))
        yield from _take_tokens(active, tokens, run.options)
        state, active, kept = run.drop_finished(state, active)
        if not active:
            return
        one, first = _full(len(active), 1), _full((len(active), 1), 0)
        run.context(state, current[kept, None], one, first)
        count_context_call(active)
        current = tokens[kept]


def prefill(
    run: Generation, prompts: Sequence[Sequence[int]], *, sample: bool = False
) -> tuple[ContextState, npt.NDArray[np.int32]]:
    """Read prompts of any lengths, chunk by chunk.

    Args:
        prompts: one for each of the generation's rows.
        sample: also sample every row's next token. Logits are looked at only in calls in which some prompt
            ends.

    Returns:
        The state, and the next tokens (B,) int32, `INVALID_TOKEN` where none was asked for.
    """
    counts = np.array([len(prompt) for prompt in prompts], np.int32)
    state = run.new_state(len(prompts))
    tokens = np.full(len(prompts), INVALID_TOKEN, np.int32)
    for start in range(0, int(counts.max()), run.chunk):
        width = min(run.chunk, int(counts.max()) - start)
        # What stands after a short row's end is never committed.
        ids = np.zeros((len(prompts), width), np.int32)
        for r, prompt in enumerate(prompts):
            piece = prompt[start : start + width]
            ids[r, : len(piece)] = piece
        commit_len = np.clip(counts - start, 0, width).astype(np.int32)
        last = np.maximum(commit_len - 1, 0)[:, None]
        end_here = np.flatnonzero((commit_len > 0) & (counts <= start + width))
        if sample and len(end_here):
            params = sampling_params(run.rows, run.options)
            samples, _ = run.sample_next(state, ids, commit_len, last, params)
            tokens[end_here] = sampled(samples, [run.rows[r] for r in end_here.tolist()], end_here)
        else:
            run.context(state, ids, commit_len, last)
        count_context_call([row for row, count in zip(run.rows, commit_len, strict=True) if count])
    return state, tokens


def fill_block(
    run: Generation,
    rows: Sequence[Row],
    block: npt.NDArray[np.int32],
    steps: int,
    state: ContextState,
    *,
    redraw: bool = True,
) -> Generator[Event, None, npt.NDArray[np.int32]]:
    """Fill the masked positions of every row's block, and yield an event per row and step.

    Args:
        rows: of the generation, B of them.
        block: (B, L) int32, the mask id where a position is open. t is the masked share of the row's block,
            so a partly filled one starts below 1.
        steps: denoiser evaluations at most.
        state: of these rows.
        redraw: with a temperature, draw anew in every step; otherwise every step uses the noise AR uses at
            these positions.

    Returns:
        The full blocks (B, L).

    Raises:
        NumericsError: the denoiser gave NaN.
    """
    B, mask_id = len(rows), run.config.mask_token_id
    masked_count = (block == mask_id).sum(-1).astype(np.int32)
    threshold, temperature = _floats(B, run.options.threshold), _floats(B, run.options.temperature)
    for row in rows:
        row.nfe_per_block.append(0)
    inputs = BlockInputs(block, steps, threshold, temperature, _row_keys(rows, run.options), redraw)
    for step, outputs in enumerate(run.denoise_steps(state, inputs)):
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
    """Return how AR samples every row's next token, and those after it."""
    position = np.array([len(row.prompt) + len(row.tokens) for row in rows], np.int32)
    keys = _row_keys(rows, options) if options.temperature else np.zeros(len(rows), np.int64)
    return SamplingParams(options.temperature, options.top_k, options.top_p, keys, position)


def sampled(
    samples: SampledTokens, rows: Sequence[Row], indices: npt.ArrayLike, ahead: int = 0
) -> npt.NDArray[np.int32]:
    """Return AR's token (B,) int32 for the next position of these rows, or for `ahead` positions further.

    Args:
        samples: of the batch that was computed.
        rows: B of its rows.
        indices: (B,), theirs in the batch.
        ahead: positions after the next one.

    Raises:
        NumericsError: NaN among the logits of one of them; on a GPU, whose samples show it by the
            probability of what was sampled, infinite logits too.
    """
    tokens = samples.at(indices, ahead)
    if (tokens == INVALID_TOKEN).any():
        raise NumericsError(
            f"the model gave NaN logits for new token {len(rows[0].tokens) + ahead} (on a GPU infinite ones "
            "count as such); check the weights (ttc inspect) and the dtype"
        )
    return tokens


def _row_keys(rows: Sequence[Row], options: CheckedOptions) -> npt.NDArray[np.int64]:
    """Return the random generator's keys (B,) of these rows."""
    return np.array([row_key(options.seed or 0, row.index) for row in rows], np.int64)


def count_context_call(rows: Sequence[Row]) -> None:
    """Count a call in which the context tower read tokens of these rows."""
    for row in rows:
        row.context_calls += 1


def _full(shape: int | tuple[int, ...], value: int) -> npt.NDArray[np.int32]:
    return np.full(shape, value, np.int32)


def _floats(size: int, value: float) -> npt.NDArray[np.float32]:
    return np.full(size, value, np.float32)
