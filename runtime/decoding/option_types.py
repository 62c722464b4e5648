"""The options of a generation as a type checker sees them where they are given by name.

They are those of `GenerationOptions`, which says what they mean; a test holds both together.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypedDict

from ttc.base.names import Mode

__all__ = ["OneTextOptions", "Options"]


class OneTextOptions(TypedDict, total=False):
    """All options but `n`: what is generated with them is one text for each prompt."""

    mode: Mode
    max_new_tokens: int | None
    min_tokens: int
    block_size: int
    steps: int
    threshold: float
    finish_early: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    choice: int
    eos_token_id: int | Collection[int] | None
    stop_at_eos: bool
    stop: str | Sequence[str] | None
    banned_token_ids: Collection[int]
    json_schema: Mapping[str, Any] | str | None
    regex: str | None
    one_of: Sequence[str] | None
    logprobs: bool
    prompt_logprobs: bool
    skip_special_tokens: bool
    split_special_tokens: bool
    draft_steps: int | str
    deadline: float | None


class Options(OneTextOptions, total=False):
    """All options."""

    n: int
