"""The options of a generation: one type from the command line to the loop, checked once."""

import logging
import math
import numbers
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ttc.base.names import MODES
from ttc.errors import InputError
from ttc.model.config import ModelConfig

__all__ = ["MAX_BLOCK_SIZE", "TRAINED_BLOCK_SIZE", "CheckedOptions", "GenerationOptions", "check_options"]

logger = logging.getLogger(__name__)

TRAINED_BLOCK_SIZE = 16
# The closed form of a block's scan is exact up to a few hundred tokens, and quadratic in them (docs/model.md,
# Mixers).
MAX_BLOCK_SIZE = 512
# Below this, logits over temperature leave the range in which float32 tells neighbours apart.
MIN_TEMPERATURE = 1e-3
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How to generate. Every option has a default; `Engine.generate` checks them for its model.

    Attributes:
        mode: "diffusion", "ar" or "mock-ar" (docs/model.md, Generation); "lossless": AR's text, drafted by
            the denoiser, verified by the context tower (docs/lossless.md); "prompt-lookup": AR's text,
            drafted from what followed the same tokens before.
        max_new_tokens: new tokens at most, 0 or more; need not be a multiple of the block.
        block_size: tokens of a block, 1 to 512 (not in AR and mock-AR).
        steps: denoiser evaluations that fill a block at most, 1 or more.
        threshold: a denoise step commits every prediction more probable than this, 0 to 1.
        temperature: 0 is greedy; 0.001 to 10000 samples.
        top_k: sample from the k most probable tokens only; not in diffusion. None: from all.
        top_p: sample from the smallest set of most probable tokens that reaches this probability, 0 to 1; not
            in diffusion. None: from all.
        seed: makes a sampled run repeatable; None draws one, which the statistics tell.
        eos_token_id: the id, or ids, that end a row; None takes the model's own.
        stop_at_eos: False generates on after eos.
        draft_steps: of lossless mode: 1 to `steps` denoiser evaluations for a draft that fills the block, or
            "auto", which chooses a draft's length and its evaluations by what they cost and what they bring.
    """

    mode: str = "diffusion"
    max_new_tokens: int = 128
    block_size: int = TRAINED_BLOCK_SIZE
    steps: int = 16
    threshold: float = 0.9
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    stop_at_eos: bool = True
    draft_steps: int | str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedOptions(GenerationOptions):
    """Options that are valid for one model, with everything decided that was left open.

    Attributes:
        seed: set whenever something is drawn, None otherwise.
        eos_token_ids: ids that end a row, by `eos_token_id` and `stop_at_eos`; empty where nothing does.
        notes: warnings that belong into the result, one sentence each.
    """

    eos_token_ids: frozenset[int]
    notes: tuple[str, ...]


def check_options(options: GenerationOptions, config: ModelConfig) -> CheckedOptions:
    """Return the options made ready for a model.

    Raises:
        InputError: an option is not valid; the message says what is.
    """
    o = options
    if o.mode not in MODES:
        raise InputError(f"unknown mode {o.mode!r}; valid: {', '.join(MODES)}")
    _check_integer("max_new_tokens", o.max_new_tokens, 0, 2**31 - 1)
    _check_integer("block_size", o.block_size, 1, MAX_BLOCK_SIZE, "a longer block's scan is not exact")
    _check_integer("steps", o.steps, 1, 2**31 - 1)
    _check_number("threshold", o.threshold, 0.0, 1.0)
    _check_number("temperature", o.temperature, 0.0, 1e4)
    if 0 < o.temperature < MIN_TEMPERATURE:
        raise InputError(
            f"temperature is {o.temperature!r}; valid: 0 (greedy), or {MIN_TEMPERATURE:g} to 10000"
        )
    if o.top_k is not None:
        _check_integer("top_k", o.top_k, 1, 2**31 - 1)
    if o.top_p is not None:
        _check_number("top_p", o.top_p, 0.0, 1.0)
    filters = o.top_k is not None or o.top_p is not None
    if o.mode == "diffusion" and filters:
        raise InputError(
            "top_k and top_p do not apply to mode 'diffusion' (the model's rule has neither); "
            "use 'ar' or 'lossless'"
        )
    if o.seed is not None:
        _check_integer("seed", o.seed, 0, _MAX_SEED)
    if o.draft_steps != "auto":
        if isinstance(o.draft_steps, str):
            raise InputError(f"draft_steps is {o.draft_steps!r}; valid: 'auto', or a number of steps")
        _check_integer("draft_steps", o.draft_steps, 1, o.steps, "steps is the most a block may take")
    notes = []
    if o.temperature == 0 and filters:
        notes.append("top_k and top_p have no effect at temperature 0: greedy decoding takes the best token")
    if o.mode == "diffusion" and o.block_size != TRAINED_BLOCK_SIZE:
        notes.append(
            f"block_size is {o.block_size}: the model was trained on {TRAINED_BLOCK_SIZE}, "
            "others lose quality"
        )
    for note in notes:
        logger.warning(note)
    seed = secrets.randbits(63) if o.seed is None else o.seed
    given = {field.name: getattr(o, field.name) for field in fields(GenerationOptions)}
    decided = {
        "threshold": float(o.threshold),
        "temperature": float(o.temperature),
        "seed": seed if o.temperature > 0 else None,
        "eos_token_ids": _eos_token_ids(o, config),
        "notes": tuple(notes),
    }
    return CheckedOptions(**(given | decided))


def _eos_token_ids(options: GenerationOptions, config: ModelConfig) -> frozenset[int]:
    if not options.stop_at_eos:
        return frozenset()
    given = options.eos_token_id
    if given is None:
        return frozenset(config.eos_token_ids)
    ids = list(given) if isinstance(given, Sequence) else [given]
    for token in ids:
        _check_integer("eos_token_id", token, 0, config.vocab_size - 1)
    return frozenset(int(token) for token in ids)


def _check_integer(name: str, value: Any, low: int, high: int, why: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= int(value) <= high:
        raise InputError(
            f"{name} is {value!r}; valid: an integer from {low} to {high}" + (f" ({why})" if why else "")
        )


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(float(value)):
        raise InputError(f"{name} is {value!r}; valid: a number from {low:g} to {high:g}")
    if not low <= float(value) <= high:
        raise InputError(f"{name} is {value!r}; valid: {low:g} to {high:g}")
