"""The calls that both sides are asked, one after another, on the same inputs.

Two rows of different lengths are read in two chunks, so that the second chunk starts from a state; a block is
denoised with and without time conditioning, reads the state and must not change it; a block is extended, one
row taking in all of it and the other a part; one token is read as AR does; and a block is read first and
committed afterwards, as verification of drafts does. Every graph but the step, which tokens cover, so runs
from an empty and from a filled state.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.config import ModelConfig

__all__ = ["BATCH", "Advance", "Context", "Denoise", "Scenario", "make_scenario"]

BATCH = 2
_SEED = 20261

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Context:
    """Read ids (B, L), commit commit_len (B,) of them; logits at every place. `save` keeps the block for
    `Advance`.
    """

    name: str
    ids: Ints
    commit_len: Ints
    save: bool = False
    tower = "context"


@dataclass(frozen=True, slots=True)
class Denoise:
    """Evaluate the denoiser on ids (B, L) at t (B,), negative for a row without conditioning."""

    name: str
    ids: Ints
    t: npt.NDArray[np.float32]
    tower = "denoiser"


@dataclass(frozen=True, slots=True)
class Advance:
    """Move the state past commit_len (B,) tokens of the block read last."""

    name: str
    commit_len: Ints
    tower = "context"


Call = Context | Denoise | Advance


@dataclass(frozen=True, slots=True)
class Scenario:
    """Calls in order, and the tokens that the state must have room for."""

    calls: tuple[Call, ...]
    tokens: int


def make_scenario(config: ModelConfig, block: int = 16, chunk: int = 24, seed: int = _SEED) -> Scenario:
    """The built-in calls for a model: the same for the same model and seed.

    block: tokens of a block.  chunk: tokens of a prefill call.
    """
    draw = np.random.default_rng(seed)

    def ids(length: int) -> Ints:
        return draw.integers(0, config.vocab_size, (BATCH, length)).astype(np.int32)

    def partly_masked(share: float) -> Ints:
        tokens = ids(block)
        tokens[draw.random(tokens.shape) < share] = config.mask_token_id
        return tokens

    def counts(*values: int) -> Ints:
        return np.array(values, np.int32)

    def times(*values: float) -> Any:
        return np.array(values, np.float32)

    some = max(1, block - 5)
    short = max(1, chunk // 3)
    calls: tuple[Call, ...] = (
        Context("prefill, first chunk", ids(chunk), counts(chunk, chunk - 1)),
        Context("prefill, second chunk", ids(short), counts(short, max(1, short - 2))),
        Denoise("denoise, all masked", partly_masked(1.0), times(1.0, -1.0)),
        Denoise("denoise, half masked", partly_masked(0.5), times(0.5, 0.3125)),
        Context("extend", ids(block), counts(block, some)),
        Context("one token", ids(1), counts(1, 1)),
        Context("read a block", ids(block), counts(0, 0), save=True),
        Advance("commit it", counts(some, 1)),
        Denoise("denoise, last", partly_masked(0.25), times(0.25, -1.0)),
    )
    return Scenario(calls, chunk + short + 2 * block + 1 + block)
