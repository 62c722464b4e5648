"""The run: every case answers every problem once, then all cases take turns against the clock.

Answers and times are apart. What a case writes does not depend on the clock, so all problems are answered
once, in batches. The clock runs over `timed_prompts` of them, evenly spread: one call of each case at each
batch size to warm up, then `repeats` rounds in which the cases take turns, each round starting with another
case, and at last one round in which the events are watched for latencies.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ttc.base.clock import passed
from ttc.base.quoting import quoted
from ttc.bench.answers import Written, judge
from ttc.bench.cases import Case
from ttc.bench.problems import Problem
from ttc.bench.schema import CaseRecord, Speed, Work
from ttc.bench.trace import Trace, latency, watch
from ttc.errors import InputError
from ttc.runtime.decoding.options import TRAINED_BLOCK_SIZE
from ttc.runtime.engine import Engine

__all__ = ["Plan", "run_cases"]

Say = Callable[[str], None]
Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, checked.

    Attributes:
        prompts: token ids; `problems` says what is right, None where nothing is.
        timed_prompts: how many of the prompts are timed.
    """

    cases: Sequence[Case]
    prompts: Prompts
    problems: Sequence[Problem] | None
    timed_prompts: int
    batch_sizes: Sequence[int]
    repeats: int
    max_new_tokens: int
    temperature: float
    seed: int

    def __post_init__(self) -> None:
        for name, value, most in (
            ("repeats", self.repeats, 10**6),
            ("max_new_tokens", self.max_new_tokens, 2**31 - 1),
        ):
            if not 1 <= value <= most:
                raise InputError(f"{name} is {quoted(value)}; valid: 1 to {most}")
        sizes = self.batch_sizes
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise InputError(
                f"batch sizes are {list(sizes)}; valid: at least one, from 1, none of them twice"
            )
        if not max(sizes) <= self.timed_prompts <= len(self.prompts):
            raise InputError(
                f"{self.timed_prompts} timed prompts; valid: from the largest batch size ({max(sizes)}) "
                f"to the number of problems ({len(self.prompts)})"
            )

    @property
    def timed(self) -> list[int]:
        """Return the indices of the timed prompts: evenly spread, since a task file may be sorted by task."""
        return [i * len(self.prompts) // self.timed_prompts for i in range(self.timed_prompts)]

    def options(self, case: Case) -> dict[str, Any]:
        """Of `Engine.generate`."""
        return case.options() | {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    def work(self, tasks: str | None, digest: str) -> Work:
        """As it is written down."""
        return Work(
            tasks=tasks,
            problems=len(self.prompts),
            prompts_sha256=digest,
            timed_prompts=self.timed_prompts,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            repeats=self.repeats,
            batch_sizes=tuple(self.batch_sizes),
        )


def run_cases(engine: Engine, plan: Plan, say: Say = lambda line: None) -> tuple[CaseRecord, ...]:
    """Run everything; `say` is told what comes next."""
    written = _answer(engine, plan, say)
    clocks = _time(engine, plan, say)
    answers = judge(engine, plan.cases, written, plan.prompts, plan.problems, plan.timed)
    records = []
    for case in plan.cases:
        speeds = [_speed(clocks, case, plan.cases[0], batch) for batch in plan.batch_sizes]
        records.append(
            CaseRecord(
                case.name,
                case.mode,
                case.threshold,
                case.steps,
                case.block_size,
                answers[case.name],
                tuple(speeds),
            )
        )
    return tuple(records)


@dataclass(slots=True)
class _Clock:
    """What the clock saw of one case at one batch size."""

    batch: int
    prompts: int
    seconds: list[float]
    tokens: int
    nfe: int
    traces: list[Trace]


def _answer(engine: Engine, plan: Plan, say: Say) -> dict[str, Written]:
    """Return every case's answers to all problems, in batches."""
    size, written = max(plan.batch_sizes), {}
    for case in plan.cases:
        traces = []
        for start in range(0, len(plan.prompts), size):
            if start % (64 * size) == 0:
                say(f"{case.name}: answering problem {start + 1} of {len(plan.prompts)}")
            traces.append(watch(engine, plan.prompts[start : start + size], plan.options(case)))
        written[case.name] = Written(
            [result for trace in traces for result in trace.results],
            [row for trace in traces for row in trace.rows],
        )
    return written


def _time(engine: Engine, plan: Plan, say: Say) -> dict[tuple[str, int], _Clock]:
    clocks = {}
    for case, batch in _pairs(plan, 0):
        say(f"{case.name}, batch {batch}: warming up")
        group = _groups(plan, batch)[0]
        engine.generate(list(group), **plan.options(case))
        clocks[case.name, batch] = _Clock(batch, len(_groups(plan, batch)) * batch, [], 0, 0, [])
    for turn in range(plan.repeats):
        for case, batch in _pairs(plan, turn):
            say(f"{case.name}, batch {batch}: turn {turn + 1} of {plan.repeats}")
            _take_turn(engine, plan, case, clocks[case.name, batch])
    for case, batch in _pairs(plan, 0):
        say(f"{case.name}, batch {batch}: latencies")
        clock = clocks[case.name, batch]
        clock.traces = [watch(engine, group, plan.options(case)) for group in _groups(plan, batch)]
    return clocks


def _take_turn(engine: Engine, plan: Plan, case: Case, clock: _Clock) -> None:
    tokens = nfe = 0
    seconds = 0.0
    for group in _groups(plan, clock.batch):
        start = time.perf_counter()
        results = engine.generate(list(group), **plan.options(case))
        seconds += passed(start, time.perf_counter())
        assert isinstance(results, list), "a batch was given"
        tokens += sum(len(result.token_ids) for result in results)
        nfe += sum(result.stats.nfe for result in results)
    clock.seconds.append(seconds)
    clock.tokens, clock.nfe = tokens, nfe


def _pairs(plan: Plan, turn: int) -> Iterator[tuple[Case, int]]:
    """Yield all cases at all batch sizes; every turn starts with another case."""
    first = turn % len(plan.cases)
    for batch in plan.batch_sizes:
        for case in (*plan.cases[first:], *plan.cases[:first]):
            yield case, batch


def _groups(plan: Plan, batch: int) -> list[Prompts]:
    """Return the timed prompts in full batches; what does not fill one is left out."""
    timed = [plan.prompts[i] for i in plan.timed]
    return [timed[start : start + batch] for start in range(0, len(timed) // batch * batch, batch)]


def _speed(clocks: dict[tuple[str, int], _Clock], case: Case, ar: Case, batch: int) -> Speed:
    clock, base = clocks[case.name, batch], clocks[ar.name, batch]
    seconds, base_seconds = statistics.median(clock.seconds), statistics.median(base.seconds)
    per_token = base_seconds / base.tokens
    fills_blocks = case.mode == "diffusion"  # elsewhere evaluations are not what the time goes into
    rows = [row for trace in clock.traces for row in trace.rows]
    first_output = latency([row.outputs[0][0] for row in rows])
    arrivals = [row.arrivals(case.block_size or TRAINED_BLOCK_SIZE) for row in rows]
    first_block = latency([times[0] for times in arrivals])
    assert first_output is not None, "every row writes something"
    assert first_block is not None
    denoise = _median(clock.traces, lambda trace: trace.denoise_steps)
    extended = _median(clock.traces, lambda trace: trace.extensions)
    return Speed(
        batch=batch,
        prompts=clock.prompts,
        tokens=clock.tokens,
        nfe=clock.nfe,
        seconds=seconds,
        seconds_of_repeats=tuple(clock.seconds),
        seconds_per_answer=seconds / len(clock.traces),
        tokens_per_second=clock.tokens / seconds,
        over_ar=clock.tokens / seconds * per_token,
        answer_over_ar=base_seconds / seconds,
        tokens_per_nfe=clock.tokens / clock.nfe if fills_blocks else None,
        nfe_in_ar_steps=seconds / clock.nfe / per_token if fills_blocks else None,
        first_output=first_output,
        first_block=first_block,
        between_blocks=latency(_gaps(arrivals)),
        denoise_step=denoise,
        extension=None if denoise is None or extended is None else max(extended - denoise, 0.0),
        ar_step=_median(clock.traces, lambda trace: trace.ar_steps),
    )


def _median(traces: Sequence[Trace], of: Callable[[Trace], Sequence[float]]) -> float | None:
    values = [value for trace in traces for value in of(trace)]
    return statistics.median(values) if values else None


def _gaps(arrivals: Sequence[Sequence[float]]) -> list[float]:
    return [after - before for times in arrivals for before, after in itertools.pairwise(times)]
