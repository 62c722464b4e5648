"""Prompts as users give them → token ids."""

import numbers
from collections.abc import Mapping, Sequence, Set

from tokenizers import Tokenizer

from ttc.errors import InputError
from ttc.model.config import ModelConfig

__all__ = ["Prompt", "check_ids", "read_prompts"]

Prompt = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]


def read_prompts(
    prompt: Prompt, config: ModelConfig, tokenizer: Tokenizer | None
) -> tuple[list[list[int]], bool]:
    """Token ids of every prompt, and whether a batch was given. Text is encoded exactly as tokenizer.json
    says.
    """
    if isinstance(prompt, str):
        return [_read_one(prompt, config, tokenizer, "prompt")], False
    if isinstance(prompt, (bytes, bytearray, Mapping, Set)) or not hasattr(prompt, "__len__"):
        raise InputError(
            f"the prompt is {type(prompt).__name__}; valid: text, token ids, or a sequence of either"
        )
    try:
        items = list(prompt)
    except TypeError:  # an array without dimensions has a length only in name
        raise InputError(
            "the prompt is a single number; valid: text, token ids, or a sequence of either"
        ) from None
    if not items:
        raise InputError("the prompt is empty; give text or at least one token id")
    if isinstance(items[0], numbers.Integral):
        return [check_ids(items, config, "prompt")], False
    return [
        _read_one(item, config, tokenizer, f"prompt {i} of the batch") for i, item in enumerate(items)
    ], True


def check_ids(ids: Sequence[object], config: ModelConfig, what: str) -> list[int]:
    """A non-empty list of ids inside the vocabulary."""
    if not hasattr(ids, "__len__") or isinstance(ids, (str, bytes)):
        raise InputError(f"{what} is {type(ids).__name__}; valid: a sequence of token ids")
    if not len(ids):
        raise InputError(f"{what} is empty; give at least one token id")
    checked = []
    for i, token in enumerate(ids):
        if isinstance(token, bool) or not isinstance(token, numbers.Integral):
            raise InputError(f"{what}: element {i} is {token!r}; valid: integer token ids")
        if not 0 <= int(token) < config.vocab_size:
            raise InputError(
                f"{what}: token id {token} at place {i} is outside the vocabulary; "
                f"valid: 0 to {config.vocab_size - 1}"
            )
        checked.append(int(token))
    return checked


def _read_one(item: object, config: ModelConfig, tokenizer: Tokenizer | None, what: str) -> list[int]:
    if isinstance(item, str):
        if tokenizer is None:
            raise InputError(f"{what} is text, but the bundle has no tokenizer.json; give token ids instead")
        if not item:
            raise InputError(f"{what} is empty; give text or at least one token id")
        try:
            item.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{what} is not valid text: {error.reason} at character {error.start}") from None
        return check_ids(tokenizer.encode(item).ids, config, what)
    if isinstance(item, (bytes, bytearray)) or not (isinstance(item, Sequence) or hasattr(item, "__len__")):
        raise InputError(f"{what} is {type(item).__name__}; valid: text or a sequence of token ids")
    return check_ids(list(item), config, what)  # type: ignore[call-overload]  # a sequence or array, as checked
