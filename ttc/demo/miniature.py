"""The demonstration's work: the miniature that comes with `ttc`, its problems, and diffusion against AR."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttc.base.names import Mode
from ttc.errors import InputError
from ttc.runtime.decoding.result import Result
from ttc.runtime.engine import Engine

__all__ = [
    "MAX_NEW_TOKENS",
    "RUNS",
    "THRESHOLD",
    "Problem",
    "Total",
    "measure",
    "problems",
    "total",
]

_MODES: tuple[Mode, ...] = ("diffusion", "ar")
RUNS = 5
THRESHOLD = 0.9
MAX_NEW_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem the miniature was not trained on: prompt, and the answer it should give."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Total:
    """Figures of one mode, added up over the prompts.

    Attributes:
        mode: of the generations.
        tokens: new tokens.
        nfe: denoiser evaluations.
        context_calls: calls of the context tower.
        seconds: wall time.
        tokens_per_nfe: None in AR.
        tokens_per_second: tokens over seconds.
    """

    mode: str
    tokens: int
    nfe: int
    context_calls: int
    seconds: float
    tokens_per_nfe: float | None
    tokens_per_second: float


def problems(checkpoint: Path, count: int) -> list[Problem]:
    """Return the first `count` problems that lie beside the miniature, of all kinds as they come."""
    lines = (checkpoint / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    if not 1 <= count <= len(lines):
        raise InputError(
            f"--prompts is {count}; valid: 1 to {len(lines)}, as many as come with the miniature"
        )
    chosen = (json.loads(line) for line in lines[:count])
    return [Problem(item["prompt"], item["text"]) for item in chosen]


def measure(engine: Engine, prompts: Sequence[str]) -> dict[str, list[Result]]:
    """Generate after every prompt in every mode, greedily, the modes in turn, several times over.

    Returns:
        Of each mode the results of the run over all prompts that took the median time: a prompt takes
        milliseconds, in which anything else that the machine does shows. One run to warm up is not counted.
    """
    runs: dict[str, list[list[Result]]] = {mode: [] for mode in _MODES}
    for _ in range(1 + RUNS):
        for mode in _MODES:
            runs[mode].append([_generate(engine, prompt, mode) for prompt in prompts])
    return {mode: _median_run(of_mode[1:]) for mode, of_mode in runs.items()}


def _median_run(runs: Sequence[list[Result]]) -> list[Result]:
    return sorted(runs, key=lambda run: sum(result.stats.seconds for result in run))[len(runs) // 2]


def total(mode: str, results: Sequence[Result]) -> Total:
    """Return the sums of one mode's results."""
    tokens = sum(len(result.token_ids) for result in results)
    nfe = sum(result.stats.nfe for result in results)
    seconds = sum(result.stats.seconds for result in results)
    return Total(
        mode=mode,
        tokens=tokens,
        nfe=nfe,
        context_calls=sum(result.stats.context_calls for result in results),
        seconds=seconds,
        tokens_per_nfe=tokens / nfe if nfe else None,
        tokens_per_second=tokens / seconds,
    )


def _generate(engine: Engine, prompt: str, mode: Mode) -> Result:
    return engine.generate(prompt, mode=mode, max_new_tokens=MAX_NEW_TOKENS, threshold=THRESHOLD)
