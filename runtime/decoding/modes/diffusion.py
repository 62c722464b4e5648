"""Mask diffusion: fill a block, committing in every denoise step what the denoiser is sure of; let the
context tower read the block; begin the next.
"""

import numpy as np

from ttc.runtime.decoding.modes.filling import BlockFilling
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.work import Denoise, Denoised, Due, Outcome, Read, Sampled

__all__ = ["Diffusion"]


class Diffusion:
    """One row of mode "diffusion"."""

    samples_after_prompt = False

    def __init__(self, mask_id: int) -> None:
        self._mask_id = mask_id
        self._filling: BlockFilling | None = None
        self._unread: tuple[int, ...] | None = None

    def prompt(self, row: Row) -> tuple[int, ...]:
        """Return the whole prompt."""
        return row.request.prompt

    def start(self, row: Row, sampled: Sampled | None) -> None:
        self._begin_block(row)

    def due(self, row: Row) -> Due:
        """Return a denoise step, or the reading of the block that is full."""
        if self._unread is not None:
            return Read(self._unread, len(self._unread))
        assert self._filling is not None, "a block is being filled, or waits to be read"
        return self._filling.due(row)

    def settle(self, row: Row, due: Due, outcome: Outcome) -> None:
        if isinstance(due, Read):
            self._unread = None
            self._begin_block(row)
            return
        assert isinstance(due, Denoise), "a diffusion row denoises and reads"
        assert isinstance(outcome, Denoised), "a denoise step gives a block"
        assert self._filling is not None, "a block is being filled"
        self._filling.settle(row, outcome)
        if row.finish_reason is None and (self._filling.full or self._final_early(row)):
            self._end_block(row)

    def _begin_block(self, row: Row) -> None:
        """Open a block of masks, but for what the request fixes in it; it may be full at once."""
        size, first = row.request.options.block_size, len(row.tokens)
        block = np.full(size, self._mask_id, np.int32)
        for position, token in row.request.fixed.items():
            if first <= position < first + size:
                block[position - first] = token
        self._filling = BlockFilling(block, row.request.options.steps, self._mask_id)
        row.nfe_per_block.append(0)
        if self._filling.full or self._final_early(row):
            self._end_block(row)

    def _end_block(self, row: Row) -> None:
        """Commit the block; if the row goes on, the context tower reads it next."""
        filling = self._filling
        assert filling is not None, "a block has been filled"
        tokens = filling.block.tolist()
        if not filling.full:
            tokens = tokens[: tokens.index(self._mask_id)]
        taken = row.take(tokens, filling.logprobs)
        if row.has_listener:
            index = len(row.nfe_per_block) - 1
            row.tell(Event.of_tokens(row.request.index, index, row.nfe_per_block[-1], taken))
        self._filling = None
        if row.finish_reason is None:
            self._unread = tuple(tokens)

    def _final_early(self, row: Row) -> bool:
        """Return whether every token that will be kept is committed: those up to the row's length, or to an
        eos or a stop text that nothing undecided stands before.
        """
        if not row.request.options.finish_early:
            return False
        assert self._filling is not None, "a block is being filled"
        block, left = self._filling.block.tolist(), row.request.max_new_tokens - len(row.tokens)
        decided = block.index(self._mask_id) if self._mask_id in block else len(block)
        if decided >= left or any(token in row.request.options.eos_token_ids for token in block[:decided]):
            return True
        ending = row.request.ending
        return ending is not None and ending.would_end(block[:decided])
