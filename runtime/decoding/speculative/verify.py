"""Verification of drafts: one pass of the context tower reads every row's draft, and what AR would have
written of it is committed.

The pass reads, per row, the pending token and the drafted tokens after it. The logits after each of them say
what AR writes next. The longest drafted prefix that agrees is accepted: it is committed together with the
pending token. What AR writes after it is the bonus token, which becomes the next pending token.

pending token: a row's last token. It is final, but the context tower has not read it: it is not in the state.
bonus token: the token that the verified model itself gives after the accepted prefix: a correction where the
    draft went wrong, a continuation where all of it was accepted. So n accepted tokens give n + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ttc.errors import NumericsError
from ttc.runtime.decoding.generation import Generation
from ttc.runtime.decoding.loop import count_context_call, sampled, sampling_params
from ttc.runtime.decoding.rows import Row
from ttc.runtime.interface.sampling import SampledTokens
from ttc.runtime.interface.state import ContextState

__all__ = ["Verdict", "verify"]

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found, both (B,) int32.

    Attributes:
        accepted: how many of the row's drafted tokens are AR's own text.
        bonus_ids: the row's bonus token.
    """

    accepted: Ints
    bonus_ids: Ints


def verify(
    run: Generation,
    rows: Sequence[Row],
    drafts: Sequence[Sequence[int]],
    state: ContextState,
) -> Verdict:
    """Read every row's pending token and draft, and commit what AR would have written.

    The state must hold the row's prompt and all of its tokens but the last (`row.tokens[-1]`, the pending
    one). Afterwards it holds the pending token and the accepted part of the draft as well; the rows
    themselves are left to the caller, who takes `drafts[r][: accepted[r]]` and `bonus_ids[r]`.

    Args:
        run: the generation, whose options say how AR samples.
        rows: B of its rows, those that are not done.
        drafts: one per row, of any lengths, empty ones included; state.lengths + 1 + the longest must fit
            into the capacity.
        state: of these rows.

    Raises:
        NumericsError: NaN in the logits. The state is as it was, but for one case: a backend on a GPU writes
            it in place, and where nothing was drafted the pending token is in it. The generation ends; the
            engine goes on.
    """
    block = _padded([[row.tokens[-1], *draft] for row, draft in zip(rows, drafts, strict=True)])
    (B, L), before = block.shape, state.snapshot()
    positions = np.tile(np.arange(L, dtype=np.int32), (B, 1))
    # Without any draft the pending tokens are all there is to commit: an AR step.
    known = np.full(B, 1 if L == 1 else 0, np.int32)
    params = sampling_params(rows, run.options)
    samples, saved = run.sample_next(state, block, known, positions, params, save=L > 1)
    count_context_call(rows)
    try:
        verdict = _judge(samples, L, rows, drafts)
    except NumericsError:
        state.restore(before)
        raise
    if L > 1:
        run.advance(state, saved, verdict.accepted + np.int32(1))
    return verdict


def _judge(
    samples: SampledTokens, length: int, rows: Sequence[Row], drafts: Sequence[Sequence[int]]
) -> Verdict:
    """Walk down the drafts with the rows that still agree; nothing is looked at after a disagreement.

    Args:
        samples: AR's tokens after the pending token and after every drafted one.
        length: 1 + the tokens of the longest draft.
        rows: as given to `verify`.
        drafts: as given to `verify`.
    """
    accepted, bonus_ids = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32)
    agreeing = list(range(len(rows)))
    for i in range(length):
        own = sampled(samples, [rows[r] for r in agreeing], agreeing, ahead=i)
        bonus_ids[agreeing] = own
        agreeing = [
            r
            for r, token in zip(agreeing, own.tolist(), strict=True)
            if i < len(drafts[r]) and drafts[r][i] == token
        ]
        accepted[agreeing] += 1
        if not agreeing:
            break
    return Verdict(accepted, bonus_ids)


def _padded(blocks: Sequence[Sequence[int]]) -> Ints:
    """Return the blocks as (B, L) of the longest; what stands after a shorter one is never committed."""
    padded = np.zeros((len(blocks), max(map(len, blocks))), np.int32)
    for r, block in enumerate(blocks):
        padded[r, : len(block)] = block
    return padded
