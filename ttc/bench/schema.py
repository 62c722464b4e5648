"""What a bench writes down: the JSON of `ttc bench --json`, as dataclasses. This page is the format,
version 3.

Version 3 holds what runs of other weights are compared by: each answer's digest and the denoiser's
confidences; a run of version 2 is read with null there. Since version 2 a run says when and beside what it
was measured (`Conditions`), and `Model.device` and `Model.threads` are what the engine said, not what was
asked.

Times are seconds. "Share" is 0 to 1. A key that does not apply holds null. A change of a key's name or
meaning raises `SCHEMA_VERSION`; a reader refuses versions that it does not know.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ttc.base.quoting import escaped
from ttc.errors import InputError
from ttc.formats.strictjson import Fields, quoted, read_json

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "Answers",
    "CaseRecord",
    "Conditions",
    "Latency",
    "Machine",
    "Model",
    "Quality",
    "Report",
    "Score",
    "Speed",
    "Work",
    "read_report",
]

SCHEMA, SCHEMA_VERSION = "ttc-bench", 3
_READ_VERSIONS = (2, SCHEMA_VERSION)
_MAX_BYTES = 64 * 2**20
# Of every number, and of a rate that others are divided by.
_LARGEST, _SMALLEST = 1e18, 1e-9
_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured. `commit`: of the ttc that measured, null where it is not a checkout; "+changes"
    is added where files differ from it.
    """

    cpu: str
    cores: int | None
    memory_bytes: int | None
    gpus: tuple[str, ...]
    system: str
    python: str
    ttc_version: str
    commit: str | None
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Conditions:
    """When it was measured, and what else the machine did.

    Attributes:
        started: UTC, ISO 8601.
        load_at_start, load_at_end: the system's load average over a minute, null where it tells none. At the
            start the run itself is not in it; at the end it is, with about the threads it used.
    """

    started: str
    load_at_start: float | None
    load_at_end: float | None


@dataclass(frozen=True, slots=True)
class Model:
    """What was measured, and on what of the machine.

    `weights_sha256`: see `ttc.bench.identity`. `device`: "cpu", "cuda:N" or a GPU's name, as the engine says.
    `threads`: of the CPU for one call, null where a GPU computes.
    """

    bundle: str
    weights_sha256: str
    compute_dtype: str
    pattern: str
    hidden_size: int
    backend: str
    device: str
    threads: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """What was asked of it.

    `tasks`: name of the task file, null for random prompts. `problems` are answered once each, untimed, by
    every case; `timed_prompts` of them, evenly spread, are what the speed is measured on.
    """

    tasks: str | None
    problems: int
    prompts_sha256: str
    timed_prompts: int
    max_new_tokens: int
    temperature: float
    seed: int
    repeats: int
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of one task."""

    correct: int
    problems: int


@dataclass(frozen=True, slots=True)
class Quality:
    """Right answers. `interval`: 95 %, Wilson. `of_ar`: accuracy over AR's; null where AR has none right."""

    correct: int
    problems: int
    accuracy: float
    interval: tuple[float, float]
    of_ar: float | None
    by_task: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a case wrote, over all problems.

    Attributes:
        tokens, nfe, context_calls: sums over the problems.
        tokens_per_nfe: null without a denoiser.
        ended_by_eos: share.
        looping: share that ran into a loop.
        same_as_ar: share whose tokens are AR's.
        context_nll: −log p of the new tokens under the model's own context tower, nats per token, mean over
            the timed prompts.
        steps_per_block: mean number of denoise steps of the first, second, … block.
        commit_order: [step][position] share of full blocks that committed the position at that step.
        left_to_right: Kendall's τ-b between commit step and position, mean over full blocks.
        broken: this case does not do what AR does; why_broken says by what.
        digests: of each answer's tokens, in the order of the problems: 16 digits of their SHA-256. Null in
            runs of version 2.
    """

    tokens: int
    nfe: int
    tokens_per_nfe: float | None
    context_calls: int
    ended_by_eos: float
    looping: float
    same_as_ar: float
    context_nll: float | None
    steps_per_block: tuple[float, ...]
    commit_order: tuple[tuple[float, ...], ...]
    left_to_right: float | None
    quality: Quality | None
    broken: bool
    why_broken: tuple[str, ...]
    digests: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Latency:
    """50th and 95th percentile."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a case was at one batch size, over the timed prompts.

    Attributes:
        seconds: of all timed prompts, median over the repeats; `seconds_of_repeats` has each.
        tokens, nfe: of one repeat. Lossless drafting goes by the clock, so its NFE are those of the last.
        seconds_per_answer: `seconds` over the number of calls: what the row of a batch waits for.
        tokens_per_second: of all rows together.
        over_ar: tokens per second over AR's at this batch size: `tokens_per_nfe` / `nfe_in_ar_steps`.
        answer_over_ar: AR's seconds over these, for the same prompts.
        tokens_per_nfe: new tokens per denoiser evaluation of a row; of diffusion only.
        nfe_in_ar_steps: time per denoiser evaluation, everything else in it, over time per AR token.
        first_output: from the call to the first final tokens.
        first_block: from the call to a block's worth of final tokens (16 where the mode has no block), or to
            the end.
        between_blocks: from each block's worth to the next.
        denoise_step, extension, ar_step: of one call for the whole batch, median, seen from outside.
    """

    batch: int
    prompts: int
    tokens: int
    nfe: int
    seconds: float
    seconds_of_repeats: tuple[float, ...]
    seconds_per_answer: float
    tokens_per_second: float
    over_ar: float
    answer_over_ar: float
    tokens_per_nfe: float | None
    nfe_in_ar_steps: float | None
    first_output: Latency
    first_block: Latency
    between_blocks: Latency | None
    denoise_step: float | None
    extension: float | None
    ar_step: float | None


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """One case: what it was, what it wrote, how fast it was.

    steps: most denoiser evaluations for a block; of lossless for a draft, null where it chose them itself.
    """

    name: str
    mode: str
    threshold: float | None
    steps: int | None
    block_size: int | None
    answers: Answers
    speed: tuple[Speed, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of a run.

    Attributes:
        confidences: of the denoiser at each position of the first block after each of at most 200 evenly
            spread prompts, see `ttc.bench.confidence`. Null in runs of version 2.
    """

    machine: Machine
    conditions: Conditions
    model: Model
    work: Work
    cases: tuple[CaseRecord, ...]
    confidences: tuple[float, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION} | dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: object, where: str) -> "Report":
        """Read what `to_dict` gave, through JSON; raise `InputError` for anything that is not as it should
        be.
        """
        fields = Fields(value, where, InputError)
        if (schema := fields.take("schema")) != SCHEMA:
            fields.refuse("schema", schema, repr(SCHEMA))
        if (version := fields.take("schema_version")) not in _READ_VERSIONS:
            valid = " or ".join(map(str, _READ_VERSIONS))
            fields.refuse("schema_version", version, f"{valid} (measure again with this ttc)")
        assert isinstance(value, dict)
        rest = {key: item for key, item in value.items() if key not in ("schema", "schema_version")}
        if version == 2:
            _from_version_2(rest)
        return _record(cls, rest, where)


def read_report(path: Path) -> Report:
    """Return the report in a file that `ttc bench --json` or `-o` wrote."""
    return Report.from_dict(read_json(path, _MAX_BYTES, InputError), str(path))


def _from_version_2(report: dict[str, Any]) -> None:
    """Put null where version 3 holds what version 2 had not."""
    report.setdefault("confidences", None)
    cases = report.get("cases")
    for case in cases if isinstance(cases, list) else ():
        if isinstance(case, dict) and isinstance(case.get("answers"), dict):
            case["answers"] = case["answers"] | {"digests": None}


def _record(cls: type[_Record], value: object, where: str) -> _Record:
    fields = Fields(value, where, InputError)
    hints = typing.get_type_hints(cls)
    known = {name: _value(hint, fields.take(name), f"{where}: {name}") for name, hint in hints.items()}
    fields.end()
    record = cls(**known)
    if isinstance(record, Speed):
        _check_speed(record, where)
    return record


def _check_speed(speed: Speed, where: str) -> None:
    """Raise `InputError` for a speed that nothing can be compared with."""
    if speed.tokens_per_second < _SMALLEST:
        raise InputError(
            f"{where}: tokens_per_second is {speed.tokens_per_second:g}; valid: at least {_SMALLEST:g}"
        )
    if not speed.seconds_of_repeats:
        raise InputError(f"{where}: seconds_of_repeats is empty; valid: one number a repeat")


def _value(hint: Any, value: object, where: str) -> Any:
    """`value` as the type of a field: the plain types, None, tuples, mappings and records of them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        inner = next(kind for kind in arguments if kind is not types.NoneType)
        return None if value is None else _value(inner, value, where)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], item, where) for item in value)
        if len(value) == len(arguments):
            return tuple(_value(kind, item, where) for kind, item in zip(arguments, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {
            key: _value(arguments[1], item, f"{where}: {escaped(key)[:100]}") for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= _LARGEST:
            raise InputError(f"{where} is {quoted(value)}; valid: a number of at most {_LARGEST:g}")
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise InputError(f"{where} is {json.dumps(value)[:80]}, {getattr(hint, '__name__', hint)} is due")
