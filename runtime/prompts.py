"""Prompts as users give them → rows: token ids, and the options of each."""

import numbers
import operator
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ttc.errors import InputError
from ttc.formats.strictjson import quoted
from ttc.model.config import ModelConfig
from ttc.runtime.decoding.request import Request

__all__ = [
    "Encode",
    "ManyPrompts",
    "OnePrompt",
    "Prompt",
    "RowPrompt",
    "check_ids",
    "read_fixed",
    "read_ids",
    "split_prompts",
]

# A Request may ask for several texts itself, so that what comes of one is not known here.
OnePrompt = str | Sequence[int]
ManyPrompts = Sequence[str] | Sequence[Request] | Sequence[Sequence[int]]
Prompt = OnePrompt | Request | ManyPrompts | npt.NDArray[np.integer[Any]]
# Text → token ids.
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class RowPrompt:
    """One prompt of a call, and what it was given with."""

    prompt: object
    options: Mapping[str, Any]
    fixed: Mapping[int, int] | None
    what: str


def split_prompts(prompt: Prompt) -> tuple[list[RowPrompt], bool]:
    """Return the prompts of a call one by one, and whether a batch was given."""
    if isinstance(prompt, str | Request):
        return [_row(prompt, "prompt")], False
    if isinstance(prompt, bytes | bytearray | Mapping | Set) or not hasattr(prompt, "__len__"):
        raise InputError(
            f"the prompt is {type(prompt).__name__}; valid: text, token ids, a ttc.Request, "
            "or a sequence of those"
        )
    try:
        items = list(prompt)
    except TypeError:  # an array or tensor without dimensions has a length only in name
        raise InputError(
            "the prompt is a single number; valid: text, token ids, or a sequence of either"
        ) from None
    if not items:
        raise InputError("the prompt is empty; give text or at least one token id")
    if _is_number(items[0]) or isinstance(items[0], bool):
        return [_row(items, "prompt")], False
    return [_row(item, f"prompt {i} of the batch") for i, item in enumerate(items)], True


def read_ids(row: RowPrompt, config: ModelConfig, encode: Encode | None) -> list[int]:
    """Return the token ids of one prompt. Text is encoded by `encode`; None where there is no tokenizer."""
    item, what = row.prompt, row.what
    if isinstance(item, str):
        if encode is None:
            raise InputError(f"{what} is text, but the bundle has no tokenizer.json; give token ids instead")
        if not item:
            raise InputError(f"{what} is empty; give text or at least one token id")
        try:
            item.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{what} is not valid text: {error.reason} at character {error.start}") from None
        return check_ids(encode(item), config, what)
    if isinstance(item, bytes | bytearray) or not hasattr(item, "__len__"):
        raise InputError(f"{what} is {type(item).__name__}; valid: text or a sequence of token ids")
    try:
        ids = list(item)  # type: ignore[call-overload]  # a sequence or array, as checked
    except TypeError:
        raise InputError(f"{what} is a single number; valid: text or a sequence of token ids") from None
    return check_ids(ids, config, what)


def check_ids(ids: Sequence[object], config: ModelConfig, what: str) -> list[int]:
    """Return a non-empty list of ids inside the vocabulary."""
    if not hasattr(ids, "__len__") or isinstance(ids, str | bytes):
        raise InputError(f"{what} is {type(ids).__name__}; valid: a sequence of token ids")
    try:
        count = len(ids)
    except TypeError:
        raise InputError(f"{what} is a single number; valid: a sequence of token ids") from None
    if not count:
        raise InputError(f"{what} is empty; give at least one token id")
    # Of plain numbers, as nearly all prompts are; what is wrong with others is found one by one.
    if set(map(type, ids)) == {int}:
        plain = cast("Sequence[int]", ids)
        if min(plain) >= 0 and max(plain) < config.vocab_size:
            return list(plain)
    checked = []
    for i, token in enumerate(ids):
        if not _is_number(token):
            raise InputError(f"{what}: element {i} is {quoted(token)}; valid: integer token ids")
        value = operator.index(token)  # type: ignore[arg-type]  # as checked
        if not 0 <= value < config.vocab_size:
            raise InputError(
                f"{what}: token id {value} at place {i} is outside the vocabulary; "
                f"valid: 0 to {config.vocab_size - 1}"
            )
        checked.append(value)
    return checked


def read_fixed(row: RowPrompt, config: ModelConfig, mode: str, max_new_tokens: int) -> dict[int, int]:
    """Return the token ids that stand already, by position among the new tokens."""
    if row.fixed is None:
        return {}
    if mode != "diffusion":
        raise InputError(f"{row.what}: fixed does not apply to mode {mode!r}; only 'diffusion' fills in gaps")
    if not isinstance(row.fixed, Mapping):
        raise InputError(f"{row.what}: fixed is {type(row.fixed).__name__}; valid: position → token id")
    checked = {}
    for position, token in row.fixed.items():
        if not _is_number(position) or not 0 <= operator.index(position) < max_new_tokens:
            raise InputError(
                f"{row.what}: fixed has the position {quoted(position)}; valid: 0 to {max_new_tokens - 1} "
                "(of the new tokens)"
            )
        (checked[operator.index(position)],) = check_ids([token], config, f"{row.what}: fixed")
    if config.mask_token_id in checked.values():
        raise InputError(
            f"{row.what}: fixed holds the mask id {config.mask_token_id}; leave the position out"
        )
    return checked


def _row(item: object, what: str) -> RowPrompt:
    if isinstance(item, Request):
        return RowPrompt(item.prompt, item.options, item.fixed, what)
    return RowPrompt(item, {}, None, what)


def _is_number(value: object) -> bool:
    """Return whether it is a whole number: Python's, numpy's, or an integer array without dimensions."""
    if isinstance(value, bool):
        return False
    if isinstance(value, numbers.Integral):
        return True
    if isinstance(value, float) or getattr(value, "shape", None) != ():
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return False
    return "bool" not in str(getattr(value, "dtype", ""))
