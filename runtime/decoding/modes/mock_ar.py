"""Mock-AR: the denoiser, unconditioned, reads the last token over the state before it and gives the next."""

import numpy as np

from ttc.runtime.decoding.modes.ar import take_token
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.work import NO_CONDITIONING, Denoise, Due, Outcome, Read, Sampled

__all__ = ["MockAutoregressive"]


class MockAutoregressive:
    """One row of mode "mock-ar"."""

    samples_after_prompt = False

    def __init__(self) -> None:
        # The last token: not in the state while the denoiser reads it.
        self._current = 0
        self._unread = False

    def prompt(self, row: Row) -> tuple[int, ...]:
        """Return the prompt but its last token, which the denoiser reads."""
        return row.request.prompt[:-1]

    def start(self, row: Row, sampled: Sampled | None) -> None:
        self._current = row.request.prompt[-1]

    def due(self, row: Row) -> Due:
        """Let the denoiser give a token, then the context tower read the one before it."""
        if self._unread:
            return Read((self._current,), 1)
        return Denoise(np.array([self._current], np.int32), NO_CONDITIONING, None, row.sampling())

    def settle(self, row: Row, due: Due, outcome: Outcome) -> None:
        if isinstance(due, Read):
            self._current, self._unread = row.tokens[-1], False
            return
        assert isinstance(outcome, Sampled), "a token was asked for"
        row.nfe_per_block.append(1)
        take_token(row, outcome)
        self._unread = True
