"""The same prompts generated on both sides, token by token."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttc.base.names import Mode
from ttc.model.config import ModelConfig
from ttc.runtime.decoding.result import Result
from ttc.runtime.engine import Engine
from ttc.verify.report import GenerationCheck
from ttc.verify.tolerances import Tolerances

__all__ = ["MODE_OPTIONS", "built_in_prompts", "check_generation", "generate_all", "reference_modes"]

# One token per call, a block in a few, and drafts that are taken in part: between them all that decides
# tokens is run.
MODE_OPTIONS: Mapping[Mode, Mapping[str, Any]] = {
    "ar": {},
    "diffusion": {"threshold": 0.9},
    "lossless": {"draft_steps": 2},
}
# Whose text the text of a mode must be, where it is another's.
_SAME_TEXT: Mapping[str, str] = {"lossless": "ar"}
_SEED = 20262
_LENGTHS = (1, 5, 29)


def built_in_prompts(config: ModelConfig) -> list[list[int]]:
    """Return prompts of several lengths, their ids drawn evenly: the same for the same model."""
    draw = np.random.default_rng(_SEED)
    return [draw.integers(0, config.vocab_size, length).tolist() for length in _LENGTHS]


def reference_modes() -> list[Mode]:
    """Return the modes whose text is their own."""
    return [mode for mode in MODE_OPTIONS if mode not in _SAME_TEXT]


def generate_all(
    engine: Engine, prompts: Sequence[Any], max_new_tokens: int, modes: Sequence[Mode]
) -> dict[str, list[Result]]:
    """Generate after every prompt in these modes, greedily; eos ends nothing, so that all can be compared."""
    found: dict[str, list[Result]] = {}
    for mode in modes:
        options = MODE_OPTIONS[mode]
        results = [
            engine.generate(prompt, mode=mode, max_new_tokens=max_new_tokens, stop_at_eos=False, **options)
            for prompt in prompts  # one by one: engines may be built for one row
        ]
        found[mode] = [result for result in results if isinstance(result, Result)]
    return found


def check_generation(
    reference: Engine,
    expected: Mapping[str, Sequence[Result]],
    got: Mapping[str, Sequence[Result]],
    prompts: Sequence[Sequence[int]],
    tolerances: Tolerances,
) -> list[GenerationCheck]:
    """Compare results mode by mode and prompt by prompt; `expected` are those of `reference_modes`."""
    home = {mode: _SAME_TEXT.get(mode, mode) for mode in got}
    return [
        _check(
            reference,
            mode,
            number,
            prompts[number],
            expected[home[mode]][number],
            results[number],
            tolerances,
        )
        for mode, results in got.items()
        for number in range(len(prompts))
    ]


def _check(
    reference: Engine,
    mode: str,
    number: int,
    prompt: Sequence[int],
    expected: Result,
    got: Result,
    tolerances: Tolerances,
) -> GenerationCheck:
    a, b = expected.token_ids, got.token_ids
    total = max(len(a), len(b))
    equal = [x == y for x, y in zip(a, b, strict=False)]
    agreement = sum(equal) / total if total else 1.0
    if len(a) == len(b) and all(equal):
        return GenerationCheck(mode, number, total, agreement, None, None, None, None, passed=True)
    position = equal.index(False) if False in equal else len(equal)
    margin, limit = _margin(reference, mode, [*prompt, *a[:position]], tolerances)
    tie = margin is not None and margin <= limit
    return GenerationCheck(
        mode,
        number,
        total,
        agreement,
        position,
        a[position] if position < len(a) else None,
        b[position] if position < len(b) else None,
        margin,
        passed=tie or not tolerances.tokens_equal,
    )


def _margin(
    reference: Engine, mode: str, before: Sequence[int], tolerances: Tolerances
) -> tuple[float | None, float]:
    """Return how far the two best logits are apart where AR chose, and below what distance either may win.

    In diffusion a token depends on the steps before it, so there is no such figure.
    """
    if _SAME_TEXT.get(mode, mode) != "ar":
        return None, 0.0
    logits = reference.context_logits(before)[-1].astype(np.float64)
    best = np.sort(logits)[-2:]
    return float(best[1] - best[0]), 2 * tolerances.context * max(1.0, float(np.abs(logits).max()))
