"""A model without weights: AR is a Markov chain, and the denoiser is right as often as one likes."""

from typing import Any

import numpy as np

from tests.support.recording import Scripted
from ttc.runtime.interface.backend import ContextCall, Floats, Ints
from ttc.runtime.interface.state import ContextState


class Chain(Scripted):
    """The context tower says logits[token] after any token. The denoiser continues the chain greedily from a
    block's first token, and at each place is right with probability `quality`.

    Attributes:
        logits: (V, V).
        right: per denoiser call, (B, L − 1) whether each drafted place was meant to be right.
        widths: tokens per row of every context call.
    """

    def __init__(self, config: Any, logits: Floats, quality: float, seed: int = 0) -> None:
        super().__init__(config, [])
        self.logits, self.quality = logits, quality
        self.right: list[Any] = []
        self.widths: list[int] = []
        self._rng = np.random.default_rng(seed)

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        rows: Ints | None = None,
    ) -> ContextCall:
        which, L = state.rows(rows), input_ids.shape[1]
        assert (state.lengths[which] + L <= state.capacity).all(), "the caller keeps inside the capacity"
        self.widths.append(L)
        state.lengths[which] += commit_len
        return ContextCall(self.logits[np.take_along_axis(input_ids, logit_positions, 1)], None)

    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        state.lengths[state.rows(rows)] += commit_len

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None) -> Floats:
        B, L = block_ids.shape
        V = self.config.vocab_size
        right = self._rng.random((B, L - 1)) < self.quality
        self.right.append(right)
        said = np.zeros((B, L, V), np.float32)
        token = block_ids[:, 0]
        for place in range(1, L):
            token = self.logits[token].argmax(-1)
            wrong = (token + 1 + (token + 1 == self.config.mask_token_id)) % V
            said[np.arange(B), place, np.where(right[:, place - 1], token, wrong)] = 50.0
        return said
