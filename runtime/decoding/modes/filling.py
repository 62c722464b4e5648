"""Filling one block, denoise step after denoise step: for text (diffusion) and for drafts (lossless)."""

import math

import numpy as np
import numpy.typing as npt

from ttc.errors import NumericsError
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.work import Denoise, Denoised, Step

__all__ = ["BlockFilling"]

Ints = npt.NDArray[np.int32]


class BlockFilling:
    """A block on its way from masks to tokens.

    Attributes:
        block: (L,) int32, the mask id where undecided.
        step: denoise steps taken.
        logprobs: of every position, from the step that committed it; 0 for what stood there from the start.
    """

    def __init__(self, block: Ints, steps: int, mask_id: int, *, redraw: bool = True) -> None:
        """redraw: with a temperature, draw anew in every step; otherwise every step uses the noise that AR
        uses at these positions.
        """
        self.block, self.step = block, 0
        self.logprobs = [0.0] * len(block)
        # A step commits at least one token, so more steps than positions change nothing; the ops are spared
        # numbers with which int32 arithmetic overflows.
        self._steps = min(steps, len(block))
        self._mask_id, self._redraw = mask_id, redraw
        self._masked = int((block == mask_id).sum())

    @property
    def full(self) -> bool:
        """Whether nothing is masked."""
        return self._masked == 0

    def due(self, row: Row) -> Denoise:
        """Return the next denoise step."""
        options = row.request.options
        step = Step(
            options.threshold,
            options.temperature,
            row.request.row_key,
            self.step if self._redraw else 0,
            self._steps - self.step,
        )
        share = np.float32(self._masked / len(self.block))
        return Denoise(self.block, float(share), step, fresh=self.step == 0 and self._redraw)

    def settle(self, row: Row, outcome: Denoised) -> None:
        """Take in a denoise step; a NaN is the row's error."""
        if outcome.is_nan:
            where = f"block {len(row.nfe_per_block) - 1}, denoise step {self.step}"
            row.fail(
                NumericsError(
                    f"the denoiser gave NaN in {where}; check the weights (ttc inspect) and the dtype"
                )
            )
            return
        if row.request.options.logprobs:
            for i in np.flatnonzero(
                (self.block == self._mask_id) & (outcome.block != self._mask_id)
            ).tolist():
                self.logprobs[i] = math.log(max(float(outcome.confidence[i]), 1e-38))
        self.block, self._masked = outcome.block, outcome.masked
        row.nfe_per_block[-1] += 1
        if row.has_listener:
            row.tell(self._event(row, outcome))
        self.step += 1

    def _event(self, row: Row, outcome: Denoised) -> Event:
        tokens = tuple(outcome.block.tolist())
        return Event(
            row.request.index,
            len(row.nfe_per_block) - 1,
            self.step,
            tokens,
            tuple(token == self._mask_id for token in tokens),
            tuple(None if c == np.inf else c for c in outcome.confidence.tolist()),
            committed=False,
            text=None,
        )
