"""A result of `ttc generate` as JSON and as one line."""

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttc.runtime.decoding.draft_stats import LosslessStats
    from ttc.runtime.decoding.result import Result

__all__ = ["result_json", "summary"]


def result_json(result: "Result") -> dict[str, Any]:
    """Return a result as the one flat object of `--json`."""
    stats = result.stats
    return {
        "token_ids": list(result.token_ids),
        "text": result.text,
        "finish_reason": result.finish_reason,
        "prompt_tokens": stats.prompt_tokens,
        "nfe": stats.nfe,
        "nfe_per_block": list(stats.nfe_per_block),
        "tokens_per_nfe": stats.tokens_per_nfe,
        "context_calls": stats.context_calls,
        "seconds": stats.seconds,
        "tokens_per_second": stats.tokens_per_second,
        "backend_seconds": stats.backend_seconds,
        "graph_level": stats.graph_level,
        "backend": stats.backend,
        "mode": stats.mode,
        "seed": stats.seed,
        "lossless": None if stats.lossless is None else _lossless_json(stats.lossless),
        "notes": list(stats.notes),
    }


def _lossless_json(stats: "LosslessStats") -> dict[str, Any]:
    """Return the statistics under the keys that stored records have."""
    stored = {
        "draft_records": "rounds",
        "mean_acceptance_length": "tokens_per_round",
        "acceptance_rate_per_position": "acceptance_by_place",
    }
    return {stored.get(name, name): value for name, value in dataclasses.asdict(stats).items()}


def summary(result: "Result") -> str:
    """Return the line of statistics that follows a text."""
    stats, tokens = result.stats, len(result.token_ids)
    parts = [f"{tokens} tokens in {stats.seconds:.2f} s"]
    if tokens:
        parts[0] += f" ({stats.tokens_per_second:.1f} tokens/s)"
    if stats.nfe:
        parts.append(f"{stats.nfe} NFE, {stats.tokens_per_nfe:.2f} tokens/NFE")
    if stats.lossless and stats.lossless.draft_records:
        rounds, each = len(stats.lossless.draft_records), stats.lossless.mean_acceptance_length
        parts.append(f"{rounds} rounds, {each:.2f} tokens/round")
    parts.append(f"{stats.context_calls} context calls")
    ends = {"eos": "ended by eos", "stop": "ended where its grammar ends"}
    parts.append(ends.get(result.finish_reason, "ended by length"))
    return "; ".join(parts)
