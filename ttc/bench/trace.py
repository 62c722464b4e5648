"""One generation watched from outside: when its tokens came, and which step committed each position."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ttc.bench.schema import Latency
from ttc.runtime.decoding.result import Event, Result
from ttc.runtime.engine import Engine

__all__ = ["RowTrace", "Trace", "latency", "quantile", "watch"]


@dataclass(slots=True)
class RowTrace:
    """One row.

    Attributes:
        outputs: (seconds since the call, final tokens so far), one per output.
        commit_steps: per block, the step in which each position was committed; the last block may be cut in
            the output, it is not cut here.
    """

    outputs: list[tuple[float, int]] = field(default_factory=list)
    commit_steps: list[list[int]] = field(default_factory=list)

    def feed(self, event: Event, seconds: float) -> None:
        """Take the next event of this row."""
        if event.committed:
            before = self.outputs[-1][1] if self.outputs else 0
            self.outputs.append((seconds, before + len(event.token_ids)))
            return
        if event.step == 0:
            self.commit_steps.append([-1] * len(event.masked))
        steps = self.commit_steps[-1]
        for position, masked in enumerate(event.masked):
            if not masked and steps[position] < 0:
                steps[position] = event.step

    def arrivals(self, tokens: int) -> list[float]:
        """When the first, second, … `tokens` new tokens were there; the end stands for the last ones."""
        found, wanted = [], tokens
        for seconds, count in self.outputs:
            if count >= wanted:
                found.append(seconds)
                wanted = (count // tokens + 1) * tokens
        if self.outputs and (not found or found[-1] < self.outputs[-1][0]):
            found.append(self.outputs[-1][0])
        return found


@dataclass(frozen=True, slots=True)
class Trace:
    """One call for a batch.

    Attributes:
        results, rows: one per prompt.
        denoise_steps, extensions, ar_steps: seconds of calls as the gaps between events. An extension's gap
            holds the next block's first denoise step too.
    """

    results: tuple[Result, ...]
    rows: tuple[RowTrace, ...]
    denoise_steps: tuple[float, ...]
    extensions: tuple[float, ...]
    ar_steps: tuple[float, ...]


def watch(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    options: dict[str, Any],
    clock: Callable[[], float] = time.perf_counter,
) -> Trace:
    """Generate after a batch of prompts and watch it.

    clock: seconds from some start on. `time.thread_time` counts the work of this thread alone, which is all
        the work of a backend with one thread, and leaves out what else the machine does.
    """
    rows = tuple(RowTrace() for _ in prompts)
    gaps: dict[str, list[float]] = {"denoise": [], "extend": [], "ar": []}
    events = engine.stream(list(prompts), **options)
    start, last, last_time = clock(), None, 0.0
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            outcome: Result | list[Result] = end.value
            break
        now = max(clock() - start, last_time)
        # The rows of a batch tell the same step one after another; only the first of them waited for it.
        mark = (event.block_index, event.step, event.committed)
        if mark != last:
            if last is not None and (kind := _kind(last, mark, options["mode"])):
                gaps[kind].append(now - last_time)
            last, last_time = mark, now
        rows[event.row].feed(event, now)
    results = tuple(outcome) if isinstance(outcome, list) else (outcome,)
    return Trace(results, rows, tuple(gaps["denoise"]), tuple(gaps["extend"]), tuple(gaps["ar"]))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed, between neighbours in proportion."""
    ordered = sorted(values)
    rank = share * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def latency(values: Sequence[float]) -> Latency | None:
    """Return the median and the 95th percentile; None of nothing."""
    return Latency(statistics.median(values), quantile(values, 0.95)) if values else None


def _kind(before: tuple[int, int, bool], after: tuple[int, int, bool], mode: str) -> str | None:
    """Return what was computed between two events; None where it was not one call."""
    if mode == "ar":
        return "ar" if after[0] == before[0] + 1 else None
    if mode != "diffusion" or after[2]:
        return None
    if before[2]:
        return "extend" if after[1] == 0 else None
    return "denoise" if after[0] == before[0] and after[1] == before[1] + 1 else None
