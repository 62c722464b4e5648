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

from ttc.model.config import ModelConfig
from ttc.runtime.interface.backend import Limits

__all__ = ["Advance", "Context", "Denoise", "Scenario", "Shapes", "make_scenario"]

_SEED = 20261

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Context:
    """Read ids (B, L), commit commit_len (B,) of them; logits at every position. `save` keeps the block for
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
class Shapes:
    """Rows, tokens of a block, most tokens of a context call, and most positions that it gives logits for."""

    batch: int = 2
    block: int = 16
    chunk: int = 24
    positions: int = 24

    @classmethod
    def within(cls, limits: Limits | None) -> "Shapes":
        """Return the usual shapes, lowered or raised to what a backend can run."""
        if limits is None:
            return cls()
        usual = cls()
        batch, block, chunk, positions = (
            min(max(size, low), high)
            for size, (low, high) in (
                (usual.batch, limits.batch),
                (usual.block, limits.block),
                (usual.chunk, limits.reads),
                (usual.positions, limits.positions),
            )
        )
        return cls(batch, block, chunk, positions)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Calls in order, and the tokens that the state must have room for."""

    shapes: Shapes
    calls: tuple[Call, ...]
    tokens: int


def make_scenario(config: ModelConfig, shapes: Shapes | None = None) -> Scenario:
    """Return the built-in calls for a model: the same for the same model and shapes."""
    shapes = shapes or Shapes()
    block, chunk, B = shapes.block, shapes.chunk, shapes.batch
    draw = np.random.default_rng(_SEED)

    def ids(length: int) -> Ints:
        return draw.integers(0, config.vocab_size, (B, length)).astype(np.int32)

    def partly_masked(share: float) -> Ints:
        tokens = ids(block)
        tokens[draw.random(tokens.shape) < share] = config.mask_token_id
        return tokens

    def counts(*values: int) -> Ints:
        return np.array(values[:B], np.int32)

    def times(*values: float) -> Any:
        return np.array(values[:B], np.float32)

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
    return Scenario(shapes, calls, chunk + short + 2 * block + 1 + block)
