"""One row of a batch: its prompt, what it has generated, and when it is done."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ttc.runtime.decoding.options import CheckedOptions
from ttc.runtime.decoding.result import FinishReason
from ttc.runtime.decoding.speculative.stats import DraftRecord, LosslessStats

__all__ = ["Row"]


@dataclass(slots=True)
class Row:
    """State of one row during a generation.

    Attributes:
        index: of the row in the batch.
        prompt: token ids.
        tokens: new token ids, cut after eos and at max_new_tokens.
        nfe_per_block: denoiser evaluations of every finished or running block.
        draft_records: in lossless mode, every round so far.
        lossless: in lossless mode, its figures; set when the batch has ended.
        context_calls: context tower calls that read tokens of this row.
        finish_reason: None while it runs.
    """

    index: int
    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)
    nfe_per_block: list[int] = field(default_factory=list)
    draft_records: list[DraftRecord] = field(default_factory=list)
    lossless: LosslessStats | None = None
    context_calls: int = 0
    finish_reason: FinishReason | None = None

    def extend(self, block: Sequence[int], options: CheckedOptions) -> list[int]:
        """Take a finished block; returns what of it goes into the result and sets `finish_reason` if this was
        the last.
        """
        taken: list[int] = []
        for token in block[: options.max_new_tokens - len(self.tokens)]:
            taken.append(token)
            if token in options.eos_token_ids:
                self.finish_reason = "eos"
                break
        self.tokens += taken
        if self.finish_reason is None and len(self.tokens) >= options.max_new_tokens:
            self.finish_reason = "length"
        return taken
