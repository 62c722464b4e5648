"""What went by → the figures that one asks of a service."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ttc.planning.simulation.drive import Span

__all__ = ["Figures", "figures", "percentile"]


@dataclass(frozen=True, slots=True)
class Figures:
    """One service under one load, over all of its replicas.

    Attributes:
        requests, failed: how many were answered, and how many ended by an error.
        seconds: from the first arrival to the last answer.
        tokens_per_second: new tokens, over `seconds`.
        first_p50, first_p95: seconds from arrival to the first tokens.
        whole_p50, whole_p95: seconds from arrival to the whole answer.
        rows_mean, rows_most: rows in use, of one replica.
        queue_mean, queue_most: requests waiting, of one replica.
        backlog: requests waiting when the last one came.
        tokens_per_nfe: new tokens per denoiser evaluation; None without one.
        ticks: of all replicas.
    """

    requests: int
    failed: int
    seconds: float
    tokens_per_second: float
    first_p50: float
    first_p95: float
    whole_p50: float
    whole_p95: float
    rows_mean: float
    rows_most: int
    queue_mean: float
    queue_most: int
    backlog: int
    tokens_per_nfe: float | None
    ticks: int


def figures(spans: Sequence[Span]) -> Figures:
    """Return the figures of replicas that ran beside each other."""
    served = [one for span in spans for one in span.served]
    good = [one for one in served if one.error is None]
    seconds = max((span.seconds for span in spans), default=0.0)
    tokens, nfe = sum(one.tokens for one in served), sum(one.nfe for one in served)
    first = [one.began - one.visit.at for one in good if one.began is not None]
    whole = [one.ended - one.visit.at for one in good]
    spent = sum(span.seconds for span in spans)
    return Figures(
        requests=len(good),
        failed=len(served) - len(good),
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        first_p50=percentile(first, 50),
        first_p95=percentile(first, 95),
        whole_p50=percentile(whole, 50),
        whole_p95=percentile(whole, 95),
        rows_mean=sum(span.row_seconds for span in spans) / spent if spent else 0.0,
        rows_most=max((span.most_rows for span in spans), default=0),
        queue_mean=sum(span.queue_seconds for span in spans) / spent if spent else 0.0,
        queue_most=max((span.most_queue for span in spans), default=0),
        backlog=sum(span.backlog for span in spans),
        tokens_per_nfe=tokens / nfe if nfe else None,
        ticks=sum(span.ticks for span in spans),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` percent of them do not exceed; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[max(math.ceil(len(values) * share / 100), 1) - 1]
