"""Prompts to try the miniature with: of each kind the first of its held-out problems."""

import json
from collections.abc import Mapping

from ttc.formats.shipped import shipped_checkpoint

__all__ = ["EXAMPLES", "example"]

# What users call a kind → what the problems call it.
EXAMPLES: Mapping[str, str] = {
    "story": "word",
    "sort": "sort",
    "json": "json",
    "date": "date",
    "copy": "copy",
    "sums": "drill",
}


def example(kind: str) -> str:
    """Return a prompt of a kind, one of `EXAMPLES`."""
    lines = (shipped_checkpoint() / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = (item["prompt"] for item in map(json.loads, lines) if item["task"] == EXAMPLES[kind])
    return str(next(prompts))
