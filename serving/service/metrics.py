"""What is counted, for Prometheus. Decides nothing.

What the core counts is read from its snapshot when somebody asks; what a request took is observed when its
updates pass. Labels are bound once. There is no latency per token: blocks come whole.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ttc import __version__
from ttc.base.names import MODES
from ttc.errors import NumericsError
from ttc.runtime.decoding.core import Snapshot
from ttc.runtime.decoding.result import Result
from ttc.serving.wire.errors import CODES, kind_of

__all__ = ["EngineView", "Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_STEPS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16)
_TOKENS_PER_NFE = (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16)
_SUCCESSES = ("eos", "stop", "length")


class EngineView:
    """What the gauges look at. Methods give the present; `snapshot` None while there is no engine."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        heartbeat_age: Callable[[], float],
        up: Callable[[], bool],
        labels: Mapping[str, str],
    ) -> None:
        self.snapshot, self.heartbeat_age, self.up, self.labels = snapshot, heartbeat_age, up, labels


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self, view: EngineView) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_FromSnapshot(view))
        success = self._counter("request_success", "Texts that ended as they should.", "reason")
        self._success = {reason: success.labels(reason) for reason in _SUCCESSES}
        rejected = self._counter("request_rejected", "Requests that ended in an error.", "why")
        # All from the start: a rate over a label that begins to be would miss its first error.
        self._rejected: dict[str, Counter] = {code: rejected.labels(code) for code in CODES}
        self._aborted = self._counter("request_aborted", "Requests whose client left.")
        self._corrupted = self._counter("corrupted_requests", "Requests for which the model gave NaN.")
        self._queue = self._seconds("queue_time_seconds", "Wait for the start of a row.")
        self._first = self._seconds(
            "time_to_first_block_seconds", "From a streaming request to its first block."
        )
        self._between = self._seconds("inter_block_seconds", "Between two blocks of a streaming request.")
        self._whole = self._seconds("e2e_request_latency_seconds", "From a request to the end of its answer.")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._generated = self._counter("generation_tokens", "New tokens.")
        evaluations = self._counter("denoiser_evaluations", "Denoiser evaluations, by row.", "mode")
        self._evaluations: dict[str, Counter] = {mode: evaluations.labels(mode) for mode in MODES}
        self._per_nfe = self._histogram(
            "tokens_per_nfe", "New tokens per denoiser evaluation.", _TOKENS_PER_NFE
        )
        self._steps = self._histogram("steps_per_block", "Denoise steps of a block.", _STEPS)
        self._drafted = self._counter("lossless_drafted_tokens", "Tokens that were drafted.")
        self._accepted = self._counter("lossless_accepted_tokens", "Drafted tokens that were accepted.")

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def rejected(self, error: Exception) -> None:
        """Count a request that ended in an error."""
        self._rejected[kind_of(error).code].inc()
        if isinstance(error, NumericsError):
            self._corrupted.inc()

    def aborted(self) -> None:
        """Count a request whose client left."""
        self._aborted.inc()

    def first_block(self, seconds: float) -> None:
        """Observe the time to a row's first block."""
        self._first.observe(seconds)

    def next_block(self, seconds: float) -> None:
        """Observe the time from a row's block to its next."""
        self._between.observe(seconds)

    def answered(self, seconds: float) -> None:
        """Observe the time of a whole request."""
        self._whole.observe(seconds)

    def ended(self, result: Result) -> None:
        """Take in a row that has ended."""
        stats = result.stats
        if result.finish_reason in self._success:
            self._success[result.finish_reason].inc()
        if stats.queue_seconds is not None:
            self._queue.observe(stats.queue_seconds)
        self._prompt.inc(stats.prompt_tokens)
        self._generated.inc(len(result.token_ids))
        if stats.nfe:
            self._evaluations[stats.mode].inc(stats.nfe)
            self._per_nfe.observe(len(result.token_ids) / stats.nfe)
        if stats.mode == "diffusion":
            for steps in stats.nfe_per_block:
                self._steps.observe(steps)
        if stats.lossless is not None:
            self._drafted.inc(sum(record.drafted for record in stats.lossless.draft_records))
            self._accepted.inc(sum(record.accepted for record in stats.lossless.draft_records))

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"ttc_{name}", says, labels, registry=self.registry)

    def _seconds(self, name: str, says: str) -> Histogram:
        return self._histogram(name, says, _SECONDS)

    def _histogram(self, name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"ttc_{name}", says, buckets=buckets, registry=self.registry)


class _FromSnapshot(Collector):
    """What the core counts itself, and how the engine is."""

    def __init__(self, view: EngineView) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics as they are now."""
        view = self._view
        yield _gauge("engine_up", "Whether the engine takes work.", float(view.up()))
        yield _gauge(
            "engine_heartbeat_age_seconds", "For how long a tick has been due.", view.heartbeat_age()
        )
        build = GaugeMetricFamily("ttc_build_info", "What runs here.", labels=["version", *view.labels])
        build.add_metric([__version__, *view.labels.values()], 1.0)
        yield build
        seen = view.snapshot()
        if seen is None:
            return
        yield _gauge("requests_running", "Rows that run.", seen.running)
        yield _gauge("requests_waiting", "Rows that wait.", seen.waiting)
        yield _gauge("state_bytes", "Size of the states of running rows.", seen.state_bytes)
        yield _gauge("spare_state_bytes", "Size of states kept for rows to come.", seen.spare_bytes)
        counts = seen.counts
        yield _counter("denoiser_calls", "Calls of the denoiser.", counts.denoiser_calls)
        yield _rows_per_call(counts.calls_by_rows)
        widths = CounterMetricFamily("ttc_context_calls", "Calls of the context tower.", labels=["width"])
        for width, calls in sorted(counts.calls_by_width.items()):
            widths.add_metric([str(width)], calls)
        yield widths
        if seen.prefixes is not None:
            yield _counter("prefix_cache_queries", "Prompts that were looked up.", seen.prefixes.queries)
            yield _counter("prefix_cache_hits", "Prompts with a known beginning.", seen.prefixes.hits)
            yield _counter("prefix_cache_hit_tokens", "Tokens that were known.", seen.prefixes.hit_tokens)
            yield _gauge("prefix_cache_bytes", "Size of the prefix cache.", seen.prefixes.bytes)


def _gauge(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ttc_{name}", says, value=value)


def _counter(name: str, says: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"ttc_{name}", says, value=value)


def _rows_per_call(calls_by_rows: Mapping[int, int]) -> HistogramMetricFamily:
    buckets = [(str(float(most)), _calls_up_to(most, calls_by_rows)) for most in _ROWS]
    total = sum(calls_by_rows.values())
    return HistogramMetricFamily(
        "ttc_denoiser_rows_per_call",
        "Rows that share a call of the denoiser.",
        buckets=[*buckets, ("+Inf", total)],
        sum_value=sum(rows * calls for rows, calls in calls_by_rows.items()),
    )


def _calls_up_to(most: int, calls_by_rows: Mapping[int, int]) -> int:
    return sum(calls for rows, calls in calls_by_rows.items() if rows <= most)
