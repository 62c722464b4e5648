"""Capturing, before the first request, the CUDA graphs of all calls over a pool.

Every work of every number of rows is run twice, on the row that is nobody's: once on its own, once captured.
The largest come first, since all calls share the memory of the largest.
"""

from typing import Any

from ttc.runtime.gpu.executor import DENOISER_INPUTS, POOL_INPUTS, STEP_INPUTS
from ttc.runtime.gpu.lengths import padded_length, row_bucket
from ttc.runtime.gpu.pool import Pool
from ttc.runtime.gpu.row_pool import pages_of
from ttc.runtime.gpu.sampling import SAMPLE_NOTHING

__all__ = ["warm_up"]


def warm_up(pool: Pool, batch: int, capacity: int, block_size: int, chunk: int) -> None:
    """Make the pool large enough and capture what rows up to `batch` need.

    Args:
        capacity: tokens of each row.
        block_size: of the denoiser's blocks, and of the drafts that the context tower verifies.
        chunk: tokens of a prompt that are read at once.
    """
    # A draft is read with the token before it.
    longest, verified = _padded(max(chunk, block_size + 1)), _padded(block_size + 1)
    pool.have(batch, batch * pages_of(capacity), pages_of(capacity + longest))
    lengths = [1 << power for power in reversed(range(longest.bit_length()))]
    for rows in _buckets(batch):
        for length in lengths:
            for positions in (0, 1):
                _context(pool, rows, length, positions, save=False)
            if 1 < length <= verified:
                _context(pool, rows, length, length, save=True)
                _advance(pool, rows, length)
        _block(pool, rows, block_size)


def _padded(length: int) -> int:
    return padded_length(length, 2 * length, None)


def _buckets(batch: int) -> list[int]:
    return sorted({row_bucket(rows) for rows in range(1, batch + 1)}, reverse=True)


def _context(pool: Pool, rows: int, length: int, positions: int, *, save: bool) -> None:
    call = pool.lane(None).context(rows, length, positions, save)
    small = dict.fromkeys(("input_ids", "lengths", "commit_len", "logit_positions", *POOL_INPUTS), 0)
    call.inputs.upload(**small, **SAMPLE_NOTHING)
    for _ in range(2):
        pool.run(call, call.step)


def _advance(pool: Pool, rows: int, length: int) -> None:
    call = pool.lane(None).advance(rows, length)
    call.inputs.upload(**dict.fromkeys(("commit_len", *POOL_INPUTS), 0))
    for _ in range(2):
        pool.run(call, call.step)


def _block(pool: Pool, rows: int, length: int) -> None:
    call = pool.lane(None).block(rows, length)
    # Nothing is masked, so a whole block is one step.
    small: dict[str, Any] = dict.fromkeys((*STEP_INPUTS, *DENOISER_INPUTS, *POOL_INPUTS), 0)
    for work in (call.fill, call.denoise, call.sample, call.commit):
        for _ in range(2):
            call.inputs.upload(**small | {"steps_left": 1})
            pool.run(call, work)
    if call.loop is not None:
        call.loop.warm_up(stepped=call.fill.warm)
        if call.loop.ready:
            call.inputs.upload(**small | {"steps_left": 1})
            call.loop.run(1)
