"""What a bench generates after: problems from a task file, or random prompts where there is none.

A task file is JSONL, one object per line:

    prompt   text
    answer   what is right; a pattern for "regex", a JSON text for "json"
    check    "answer" | "exact" | "regex" | "json": see `ttc.bench.quality`
    task     what it is counted under (optional)
    stop     list of texts; what the model writes from the first of them on is not looked at (optional)
    text     a right answer in full, for readers; not used (optional)
"""

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttc.base.files import read_bounded
from ttc.errors import InputError
from ttc.formats.strictjson import Fields, parse_json, quoted
from ttc.model.config import ModelConfig

__all__ = ["CHECKS", "Problem", "load_problems", "prompts_digest", "random_prompts"]

CHECKS = ("answer", "exact", "regex", "json")
_MAX_BYTES = 64 * 2**20
_MAX_PATTERN = 10_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of a task file; the module's text says what the fields mean."""

    prompt: str
    answer: str
    check: str
    task: str = "all"
    stop: tuple[str, ...] = ()


def load_problems(path: Path, limit: int | None = None) -> tuple[Problem, ...]:
    """`limit` problems of a task file, evenly spread over it (None: all); `InputError` names the line that is
    wrong.
    """
    lines = read_bounded(path, _MAX_BYTES, InputError).splitlines()
    found = [_problem(line, f"{path} line {at}") for at, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"{path}: no problems in it; a task file has one JSON object per line")
    if limit is None:
        return tuple(found)
    if not 1 <= limit <= len(found):
        raise InputError(f"{limit} problems asked for; valid: 1 to {len(found)}, as many as {path} has")
    return tuple(found[i * len(found) // limit] for i in range(limit))


def random_prompts(config: ModelConfig, count: int, tokens: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return prompts of random token ids, the mask id and eos left out: for speed where there is no task."""
    banned = {config.mask_token_id, *config.eos_token_ids}
    allowed = np.array([token for token in range(config.vocab_size) if token not in banned])
    drawn = np.random.default_rng(seed).choice(allowed, (count, tokens))
    return tuple(tuple(row) for row in drawn.tolist())


def prompts_digest(prompts: Sequence[Sequence[int]], problems: Sequence[Problem] | None) -> str:
    """sha256 of what the model is asked, as token ids, and of what counts as right."""
    asked: list[object] = [list(map(int, prompt)) for prompt in prompts]
    if problems is not None:
        asked.append([[p.answer, p.check, p.task, list(p.stop)] for p in problems])
    return hashlib.sha256(json.dumps(asked, separators=(",", ":")).encode()).hexdigest()


def _problem(line: bytes, where: str) -> Problem:
    fields = Fields(parse_json(line, where, InputError), where, InputError)
    optional = fields.left()
    problem = Problem(
        prompt=fields.string("prompt"),
        answer=fields.string("answer"),
        check=fields.string("check"),
        task=fields.string("task") if "task" in optional else "all",
        stop=fields.strings("stop") if "stop" in optional else (),
    )
    if "text" in optional:
        fields.string("text")
    fields.end()
    if problem.check not in CHECKS:
        fields.refuse("check", problem.check, f"one of {', '.join(CHECKS)}")
    if problem.check == "regex":
        if len(problem.answer) > _MAX_PATTERN:
            raise InputError(f"{where}: a pattern of {len(problem.answer)} characters; valid: {_MAX_PATTERN}")
        try:
            with warnings.catch_warnings(action="ignore"):
                re.compile(problem.answer)
        except (re.error, ValueError, RecursionError, OverflowError, MemoryError) as fault:
            raise InputError(
                f"{where}: the pattern {quoted(problem.answer)} is not valid: {quoted(str(fault))}"
            ) from None
    if problem.check == "json":
        parse_json(problem.answer.encode(), f"{where}: answer", InputError)
    return problem
