"""Results → the JSON that clients of OpenAI's API read."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from ttc.runtime.decoding.result import Result

__all__ = ["Head", "TokenNames", "chat_logprobs", "completion_logprobs", "finish_reason", "new_head", "usage"]

# How a row ended → OpenAI's word for it.
_FINISH = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Head:
    """What all answers to one request have in common."""

    id: str
    object: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def answer(self, choices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """Return an answer, or one chunk of it."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
            **more,
        }


def new_head(prefix: str, kind: str, model: str) -> Head:
    """Return the head of a new answer: its id begins with `prefix`."""
    return Head(f"{prefix}-{secrets.token_hex(12)}", kind, model)


def finish_reason(result: Result) -> str:
    """Return OpenAI's word for how a row ended."""
    return _FINISH[result.finish_reason]


def usage(results: Sequence[Result], n: int) -> dict[str, Any]:
    """Return the counts of a whole request; the prompt of n texts counts once.

    results: all rows, the texts of one prompt side by side.
    """
    stats = [result.stats for result in results]
    prompt_tokens = sum(each.prompt_tokens for each in stats[::n])
    completion_tokens = sum(len(result.token_ids) for result in results)
    cached = sum(each.cached_prompt_tokens for each in stats)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(each.cached_prompt_tokens for each in stats[::n])},
        "ttc": {
            "nfe": sum(each.nfe for each in stats),
            "blocks": sum(1 for each in stats for nfe in each.nfe_per_block if nfe),
            "context_calls": sum(each.context_calls for each in stats),
            "cached_prompt_tokens": cached,
        },
    }


class TokenNames:
    """Tokens as clients see them one by one. A token of a part of a character is named by its bytes."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        """Return the token's text, or what stands for it."""
        if token not in self._known:
            self._known[token] = self._name(token)
        return self._known[token]

    def _name(self, token: int) -> str:
        if self._tokenizer is None:
            return f"token_id:{token}"
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        if not text or "\ufffd" in text:
            return f"token_id:{token}"
        return text


def completion_logprobs(
    names: TokenNames,
    tokens: Sequence[int],
    logprobs: Sequence[float | None],
    top: Sequence[tuple[int, float] | None],
    offset: int,
) -> dict[str, Any]:
    """Return the `logprobs` of a completion's choice.

    Args:
        names: of tokens.
        tokens: in order.
        logprobs: of each; None where there is none, as of a prompt's first.
        top: the most probable token at each place with its log-probability, where it is known to be another
            than the token itself; else None.
        offset: where in the text the first token begins.
    """
    written = [names(token) for token in tokens]
    offsets = []
    for name in written:
        offsets.append(max(offset, 0))
        offset += len(name)
    tops: list[dict[str, float] | None] = []
    for name, logprob, other in zip(written, logprobs, top, strict=True):
        best = {} if other is None else {names(other[0]): other[1]}
        tops.append(None if logprob is None else {name: logprob} | best)
    return {
        "tokens": written,
        "token_logprobs": list(logprobs),
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def chat_logprobs(names: TokenNames, tokens: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any]:
    """Return the `logprobs` of a chat's choice."""
    content = []
    for token, logprob in zip(tokens, logprobs, strict=True):
        one = {"token": names(token), "logprob": logprob, "bytes": list(names(token).encode())}
        content.append({**one, "top_logprobs": [one]})
    return {"content": content, "refusal": None}
