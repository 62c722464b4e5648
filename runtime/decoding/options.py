"""The options of a generation, checked once."""

import logging
import math
import numbers
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ttc.base.names import MODES, Mode
from ttc.errors import InputError
from ttc.model.config import ModelConfig

__all__ = ["MAX_BLOCK_SIZE", "Options", "make_options"]

logger = logging.getLogger(__name__)

TRAINED_BLOCK_SIZE = 16
# The scan of a block is exact up to a few hundred tokens (spec § 3), and quadratic in them.
MAX_BLOCK_SIZE = 512
# Below this, logits over temperature leave the range in which float32 tells neighbours apart.
MIN_TEMPERATURE = 1e-3
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options; see `Engine.generate` for their meaning.

    Attributes:
        seed: set whenever something is drawn, also where the user gave none.
        draft_steps: most denoiser evaluations of a draft; None leaves the choice to the policy.
        eos_token_ids: ids that end a row; empty where nothing does.
        notes: warnings that belong into the result, one sentence each.
    """

    mode: Mode
    max_new_tokens: int
    block_size: int
    steps: int
    threshold: float
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    draft_steps: int | None
    eos_token_ids: frozenset[int]
    notes: tuple[str, ...]


def make_options(
    config: ModelConfig,
    *,
    mode: str,
    max_new_tokens: int,
    block_size: int,
    steps: int,
    threshold: float,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    eos_token_id: int | Sequence[int] | None,
    stop_at_eos: bool,
    draft_steps: int | str = "auto",
) -> Options:
    """Check everything a user can get wrong; each refusal is an `InputError` that says what is valid."""
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; valid: {', '.join(MODES)}")
    _integer("max_new_tokens", max_new_tokens, 0, 2**31 - 1)
    _integer("block_size", block_size, 1, MAX_BLOCK_SIZE, "a longer block's scan is not exact")
    _integer("steps", steps, 1, 2**31 - 1)
    _number("threshold", threshold, 0.0, 1.0)
    _number("temperature", temperature, 0.0, 1e4)
    if 0 < temperature < MIN_TEMPERATURE:
        raise InputError(
            f"temperature is {temperature!r}; valid: 0 (greedy), or {MIN_TEMPERATURE:g} to 10000"
        )
    if top_k is not None:
        _integer("top_k", top_k, 1, 2**31 - 1)
    if top_p is not None:
        _number("top_p", top_p, 0.0, 1.0)
    if mode == "diffusion" and (top_k is not None or top_p is not None):
        raise InputError(
            "top_k and top_p do not apply to mode 'diffusion' (the model's rule has neither); "
            "use 'ar' or 'lossless'"
        )
    if seed is not None:
        _integer("seed", seed, 0, _MAX_SEED)
    if draft_steps != "auto":
        if isinstance(draft_steps, str):
            raise InputError(f"draft_steps is {draft_steps!r}; valid: 'auto', or a number of steps")
        _integer("draft_steps", draft_steps, 1, steps, "steps is the most a block may take")
    notes = []
    if temperature == 0 and (top_k is not None or top_p is not None):
        notes.append("top_k and top_p have no effect at temperature 0: greedy decoding takes the best token")
    if mode == "diffusion" and block_size != TRAINED_BLOCK_SIZE:
        notes.append(
            f"block_size is {block_size}: the model was trained on {TRAINED_BLOCK_SIZE}, others lose quality"
        )
    for note in notes:
        logger.warning(note)
    drawn = temperature > 0
    return Options(
        mode=mode,
        max_new_tokens=max_new_tokens,
        block_size=block_size,
        steps=steps,
        threshold=float(threshold),
        temperature=float(temperature),
        top_k=top_k,
        top_p=top_p,
        seed=(secrets.randbits(63) if seed is None else seed) if drawn else None,
        draft_steps=None if isinstance(draft_steps, str) else int(draft_steps),
        eos_token_ids=_eos(config, eos_token_id) if stop_at_eos else frozenset(),
        notes=tuple(notes),
    )


def _eos(config: ModelConfig, eos_token_id: int | Sequence[int] | None) -> frozenset[int]:
    if eos_token_id is None:
        return frozenset(config.eos_token_ids)
    ids = list(eos_token_id) if isinstance(eos_token_id, Sequence) else [eos_token_id]
    for token in ids:
        _integer("eos_token_id", token, 0, config.vocab_size - 1)
    return frozenset(int(token) for token in ids)


def _integer(name: str, value: Any, low: int, high: int, why: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= int(value) <= high:
        raise InputError(
            f"{name} is {value!r}; valid: an integer from {low} to {high}" + (f" ({why})" if why else "")
        )


def _number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(float(value)):
        raise InputError(f"{name} is {value!r}; valid: a number from {low:g} to {high:g}")
    if not low <= float(value) <= high:
        raise InputError(f"{name} is {value!r}; valid: {low:g} to {high:g}")
