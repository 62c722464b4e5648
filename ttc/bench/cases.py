"""What is run: the modes, and diffusion over thresholds, steps and block sizes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ttc.base.quoting import quoted
from ttc.errors import InputError
from ttc.runtime.decoding.options import MAX_BLOCK_SIZE, TRAINED_BLOCK_SIZE

__all__ = ["BENCH_MODES", "Case", "make_cases"]

BENCH_MODES = ("ar", "diffusion", "lossless", "prompt-lookup")


@dataclass(frozen=True, slots=True)
class Case:
    """One way to generate. Threshold and block size are of diffusion, None elsewhere.

    steps: most denoiser evaluations for a block, or for a draft of lossless; None leaves those to it.
    """

    mode: str
    threshold: float | None = None
    steps: int | None = None
    block_size: int | None = None

    @property
    def name(self) -> str:
        """Unique in a run; says only what is not usual."""
        words = [self.mode]
        if self.threshold is not None:
            words.append(f"γ{self.threshold:g}")
        if self.steps is not None and self.steps != self.block_size:
            words.append(f"steps {self.steps}")
        if self.block_size is not None and self.block_size != TRAINED_BLOCK_SIZE:
            words.append(f"block {self.block_size}")
        return " ".join(words)

    def options(self) -> dict[str, Any]:
        """Return the case as options of `Engine.generate`."""
        steps = "draft_steps" if self.mode == "lossless" else "steps"
        given = {"threshold": self.threshold, steps: self.steps, "block_size": self.block_size}
        return {"mode": self.mode} | {key: value for key, value in given.items() if value is not None}


def make_cases(
    modes: Sequence[str],
    thresholds: Sequence[float],
    steps: Sequence[int] | None,
    block_sizes: Sequence[int],
    grid: bool = False,
    draft_steps: int | None = None,
) -> tuple[Case, ...]:
    """Return the cases of a run; AR is always among them and comes first, for everything is compared with it.

    Args:
        modes: of `BENCH_MODES`.
        thresholds, steps, block_sizes: of diffusion. The first of each is the base, which the other two lists
            are tried with; with `grid` every combination is tried.
        steps: None allows as many as the block has tokens.
        draft_steps: of lossless; None leaves them to it.
    """
    for name, values in (("thresholds", thresholds), ("block sizes", block_sizes), ("steps", steps)):
        if values is not None and (not values or len(set(values)) < len(values)):
            raise InputError(f"{name} are {list(values)}; valid: at least one, none of them twice")
    if unknown := [mode for mode in modes if mode not in BENCH_MODES]:
        raise InputError(f"mode {unknown[0]!r} is not measured; valid: {', '.join(BENCH_MODES)}")
    for threshold in thresholds:
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}; valid: 0 to 1")
    for block in block_sizes:
        if not 1 <= block <= MAX_BLOCK_SIZE:
            raise InputError(f"block size is {block}; valid: 1 to {MAX_BLOCK_SIZE}")
    for step in steps or ():
        if not 1 <= step <= MAX_BLOCK_SIZE:
            raise InputError(f"steps is {quoted(step)}; valid: 1 to {MAX_BLOCK_SIZE}")
    if draft_steps is not None and not 1 <= draft_steps <= TRAINED_BLOCK_SIZE:
        raise InputError(f"draft steps are {draft_steps}; valid: 1 to {TRAINED_BLOCK_SIZE}")
    cases = [Case("ar")]
    for mode in dict.fromkeys(modes):
        if mode == "diffusion":
            cases += _sweep(mode, thresholds, steps or (None,), block_sizes, grid)
        elif mode != "ar":
            cases.append(Case(mode, steps=draft_steps if mode == "lossless" else None))
    return tuple(dict.fromkeys(cases))


def _sweep(
    mode: str,
    thresholds: Sequence[float],
    steps: Sequence[int | None],
    block_sizes: Sequence[int],
    grid: bool,
) -> list[Case]:
    if grid:
        chosen = list(itertools.product(thresholds, steps, block_sizes))
    else:
        threshold, step, block = thresholds[0], steps[0], block_sizes[0]
        chosen = [(each, step, block) for each in thresholds]
        chosen += [(threshold, each, block) for each in steps]
        chosen += [(threshold, step, each) for each in block_sizes]
    return [
        Case(mode, threshold, block if step is None else step, block) for threshold, step, block in chosen
    ]
