"""What rows of a pool hold, on the host: under the names of the graphs, keys and values one after another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttc.model.config import ModelConfig
from ttc.model.graphs import is_kv_cache, state_tensors
from ttc.runtime.gpu.executor import page_name
from ttc.runtime.gpu.pinned_staging import PinnedStaging
from ttc.runtime.gpu.pool import Pool
from ttc.runtime.gpu.row_pool import PAGE, pages_of
from ttc.runtime.interface.backend import Floats

__all__ = ["read_rows", "write_rows"]


def read_rows(
    config: ModelConfig,
    pool: Pool,
    staging: PinnedStaging,
    rows: Sequence[int],
    tokens: Sequence[int],
    capacity: int,
) -> dict[str, Floats]:
    """Return name → (B, …) float32.

    Args:
        rows: numbers of the pool's rows.
        tokens: how many keys and values of each; zeros follow them.
        capacity: C, how many there are with those zeros.
    """
    found: dict[str, Floats] = {}
    for name in (tensor.name for tensor in state_tensors(config)):
        if not is_kv_cache(name):
            tensor = pool.memory.rows.tensors[name]
            parts = [staging.read(tensor.part(row, 1)) for row in rows]
            found[name] = np.concatenate(parts).astype(np.float32)
            continue
        tensor = pool.memory.pages[page_name(name)]
        _, heads, _, width = tensor.shape
        cache = found[name] = np.zeros((len(rows), heads, capacity, width), np.float32)
        for i, (row, count) in enumerate(zip(rows, tokens, strict=True)):
            for at, page in enumerate(pool.books.pages_in(row)[: pages_of(count)]):
                start, stop = at * PAGE, min(count, (at + 1) * PAGE)
                cache[i, :, start:stop] = staging.read(tensor.part(page, 1))[0, :, : stop - start]
    return found


def write_rows(
    config: ModelConfig,
    pool: Pool,
    staging: PinnedStaging,
    rows: Sequence[int],
    capacity: int,
    tensors: Mapping[str, Any],
) -> None:
    """Fill empty rows with what `read_rows` gives."""
    pool.cover(np.array(rows, np.int32), np.zeros(len(rows), np.int32), capacity)
    for name in (tensor.name for tensor in state_tensors(config)):
        values = np.asarray(tensors[name])
        if not is_kv_cache(name):
            tensor = pool.memory.rows.tensors[name]
            for i, row in enumerate(rows):
                staging.write(tensor.part(row, 1), values[i : i + 1])
            continue
        tensor = pool.memory.pages[page_name(name)]
        values = np.pad(values, ((0, 0), (0, 0), (0, -capacity % PAGE), (0, 0)))
        for i, row in enumerate(rows):
            for at, page in enumerate(pool.books.pages_in(row)):
                staging.write(tensor.part(page, 1), values[i : i + 1, :, at * PAGE : (at + 1) * PAGE])
