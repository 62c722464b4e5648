"""AR: the context tower alone, one token per call."""

from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.work import Due, Outcome, Read, Sampled

__all__ = ["Autoregressive"]


class Autoregressive:
    """One row of mode "ar"."""

    samples_after_prompt = True

    def prompt(self, row: Row) -> tuple[int, ...]:
        """Return the whole prompt."""
        return row.request.prompt

    def start(self, row: Row, sampled: Sampled | None) -> None:
        assert sampled is not None, "the prompt's next token was asked for"
        take_token(row, sampled)

    def due(self, row: Row) -> Due:
        """Let the last token be read, and the next sampled."""
        return Read((row.tokens[-1],), 1, row.sampling())

    def settle(self, row: Row, due: Due, outcome: Outcome) -> None:
        assert isinstance(outcome, Sampled), "a token was asked for"
        take_token(row, outcome)


def take_token(row: Row, sampled: Sampled) -> None:
    """Append one sampled token to the row."""
    if sampled.token < 0:
        row.end_without(sampled.token)
        return
    index = len(row.tokens)
    taken = row.take((sampled.token,), sampled.logprobs)
    if row.has_listener:
        row.tell(Event.of_tokens(row.request.index, index, 1, taken))
