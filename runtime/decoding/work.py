"""What a row needs next from a device, and what came of it. Nothing of it changes: a plan may look at it as
often as it likes.

Named tuples, because every row makes some in every tick, and a frozen dataclass takes three times as long.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ttc.runtime.decoding.result import TokenScore
from ttc.runtime.interface.sampling import RowSampling

__all__ = [
    "NO_CONDITIONING",
    "Advance",
    "Denoise",
    "Denoised",
    "Due",
    "Outcome",
    "Read",
    "Sampled",
    "Scored",
    "Step",
]

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
# A t that switches the denoiser's time conditioning off.
NO_CONDITIONING = -1.0


class Step(NamedTuple):
    """The diffusion step after a denoiser evaluation.

    Attributes:
        threshold, temperature, row_key: of the row.
        draw: which draw of the noise at these positions; the step's number, or 0 in all steps of a draft.
        left: steps left, this one included.
    """

    threshold: float
    temperature: float
    row_key: int
    draw: int
    left: int


class Denoise(NamedTuple):
    """One denoiser evaluation of a block (L,) int32, over what the row has committed.

    Attributes:
        block: the mask id where undecided.
        t: the masked share, or `NO_CONDITIONING`.
        step: what makes the next block of the logits; None where one token is sampled instead.
        sampling: how that token is sampled.
        fresh: whether this is the first step of a block, of which the backend may do all at once.
    """

    block: Ints
    t: float
    step: Step | None
    sampling: RowSampling | None = None
    fresh: bool = False


class Read(NamedTuple):
    """One context call over `tokens`.

    Attributes:
        tokens: what is read.
        commit: how many of them are committed at once; the rest by an `Advance`, when it is known.
        sampling: how tokens are sampled from the logits; None where nobody looks at them.
        draft: the part of `tokens` that is a draft to be verified: AR's tokens are compared with it.
        prompt: whether this is a piece of the prompt, which waits for its share of a tick.
        targets: the tokens after each of `tokens`, where their log-probabilities are wanted; fewer by one
            at the end of what is known.
    """

    tokens: tuple[int, ...]
    commit: int
    sampling: RowSampling | None = None
    draft: tuple[int, ...] = ()
    prompt: bool = False
    targets: tuple[int, ...] = ()


class Advance(NamedTuple):
    """Move the state past the first `commit` tokens of what was just read. `call`: the call that read it."""

    commit: int
    call: int


Due = Denoise | Read | Advance


class Denoised(NamedTuple):
    """A block after a denoise step: next ids (L,), the confidence of each prediction (L,) (+inf where nothing
    was masked), how many positions are still masked, and whether the denoiser gave NaN.
    """

    block: Ints
    confidence: Floats
    masked: int
    is_nan: bool = False


class Sampled(NamedTuple):
    """Tokens that were sampled from logits.

    Attributes:
        accepted: how many drafted tokens AR would have written.
        token: AR's token after them (the bonus token); `INVALID_TOKEN` where the logits hold NaN or infinity,
            `NO_TOKEN` where nothing may be sampled.
        logprobs: of the accepted tokens and the last one, where asked for.
        call: number of the call, for `Advance`.
    """

    accepted: int
    token: int
    logprobs: tuple[float, ...] = ()
    call: int = -1


class Scored(NamedTuple):
    """What came of a `Read` with targets: how probable they were, and the next token where it was sampled."""

    scores: tuple[TokenScore, ...]
    sampled: Sampled | None


# What came of a `Denoise` with a step, of one that samples, of a `Read`, or of anything that only moves the
# state.
Outcome = Denoised | Sampled | Scored | None
