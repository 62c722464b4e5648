"""What a generation gives: results, their statistics, and the events on the way."""

from dataclasses import dataclass, field
from typing import Literal

from ttc.errors import TtcError
from ttc.runtime.decoding.draft_stats import DraftRecord, LosslessStats

__all__ = ["Event", "FinishReason", "Result", "Stats", "TokenScore"]

FinishReason = Literal["eos", "length", "stop", "error", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenScore:
    """How probable the context tower held a token of the prompt, after those before it.

    Attributes:
        token, logprob: the token and the natural log of its probability at temperature 1.
        top, top_logprob: the same of the most probable token there.
    """

    token: int
    logprob: float
    top: int
    top_logprob: float


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one row's generation.

    Attributes:
        mode, backend: how and where.
        prompt_tokens: tokens of the prompt.
        nfe: denoiser evaluations this row needed; 0 in AR.
        nfe_per_block: the same, block by block; in lossless mode round by round, after a 0 for the prompt's
            next token.
        tokens_per_nfe: new tokens per denoiser evaluation; None in AR.
        context_calls: context tower calls this row took part in.
        seconds: wall time of the whole call, shared by the rows of a batch.
        tokens_per_second: this row's new tokens over `seconds`.
        backend_seconds: the part of `seconds` spent inside backend calls.
        graph_level: 0 no CUDA graphs, 1 one per step, 2 one per block; None where the backend has none.
        seed: the seed that reproduces a sampled run; None where nothing was sampled.
        lossless: of lossless mode, the rounds and what the drafting policy went by; None in other modes.
        notes: what was not as asked (fallbacks, conversions), one sentence each.
        choice: which of the texts of this seed.
        cached_prompt_tokens: tokens of the prompt that the prefix cache knew.
        queue_seconds: how long the row waited for its start; None if it never started.
    """

    mode: str
    backend: str
    prompt_tokens: int
    nfe: int
    nfe_per_block: tuple[int, ...]
    tokens_per_nfe: float | None
    context_calls: int
    seconds: float
    tokens_per_second: float
    backend_seconds: float
    graph_level: int | None
    seed: int | None
    lossless: LosslessStats | None
    notes: tuple[str, ...]
    choice: int = 0
    cached_prompt_tokens: int = 0
    queue_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One row's generation.

    Attributes:
        token_ids: new tokens only; the eos that ended it is included.
        text: the new tokens decoded, without that eos; None where the bundle has no tokenizer.
        finish_reason: "eos", "length", "stop" (a stop text), "cancelled", or, for a row of a batch, "error".
        logprobs: of every new token, at the moment it was committed; None where not asked for.
        error: what the row ended by.
        prompt_scores: of every token of the prompt but the first; None where not asked for.
    """

    token_ids: tuple[int, ...]
    text: str | None
    finish_reason: FinishReason
    stats: Stats
    logprobs: tuple[float, ...] | None = None
    error: TtcError | None = None
    prompt_scores: tuple[TokenScore, ...] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One denoise step of a block, or a finished block, of one row.

    Attributes:
        row: index of the prompt in the batch.
        block_index: block of the row, from 0. In AR and mock-AR every token is a block of one; in lossless
            mode block 0 is the prompt's next token and the others are the rounds.
        step: denoise step of the block, from 0; on a finished block the number of steps it took.
        token_ids: the block after the step, the mask id where undecided (in lossless mode the first is the
            row's last token, already final); of a finished block what goes into the result (cut after eos and
            at max_new_tokens).
        masked: per position of token_ids, whether it is undecided.
        confidence: per position, the probability of the prediction the step made there; None where it made
            none (position already filled) and for a finished block.
        committed: True for a finished block.
        text: of a finished block, the text it adds; None without a tokenizer and for steps.
        draft_record: of a finished round of lossless mode, how its draft was planned and came out: the first
            `draft_record.accepted` of token_ids were drafted, the one after them is the bonus token. None for
            all else.
        rejected: of a finished round of lossless mode, the drafted tokens that AR would not have written.
        finish_reason, result: of a row's last event, how it ended and what `generate` returns for it.
        logprobs: of a finished block's tokens, where asked for.
    """

    row: int
    block_index: int
    step: int
    token_ids: tuple[int, ...]
    masked: tuple[bool, ...]
    confidence: tuple[float | None, ...] | None
    committed: bool
    text: str | None
    draft_record: DraftRecord | None = None
    rejected: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    result: "Result | None" = field(default=None, compare=False)
    logprobs: tuple[float, ...] = ()

    @classmethod
    def of_tokens(
        cls,
        row: int,
        block_index: int,
        step: int,
        tokens: tuple[int, ...],
        record: DraftRecord | None = None,
        rejected: tuple[int, ...] = (),
    ) -> "Event":
        """Return the event of a finished block whose tokens went into the result."""
        masked = (False,) * len(tokens)
        return cls(
            row,
            block_index,
            step,
            tokens,
            masked,
            None,
            committed=True,
            text=None,
            draft_record=record,
            rejected=rejected,
        )
