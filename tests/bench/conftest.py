"""A report with every field, for the tests of the schema and the page."""

import json
from pathlib import Path

import pytest

from ttc.bench.schema import (
    Answers,
    CaseRecord,
    Conditions,
    Latency,
    Machine,
    Model,
    Quality,
    Report,
    Score,
    Speed,
    Work,
)
from ttc.model.config import ModelConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_model() -> ModelConfig:
    return ModelConfig.from_hf(json.loads((ROOT / "tests/golden/tiny_a/config.json").read_text()))


@pytest.fixture
def report() -> Report:
    """A report with every kind of content, numbers made up."""
    ar = Answers(
        100, 0, None, 90, 1.0, 0.0, 1.0, 0.25, (), (), None,
        Quality(8, 10, 0.8, (0.5, 0.95), 1.0, {"word": Score(8, 10)}), False, (), ("aa", "bb"),
    )  # fmt: skip
    diffusion = Answers(
        96, 24, 4.0, 12, 0.5, 0.1, 0.5, None, (3.0, 2.5), ((0.5, 0.25), (0.5, 0.75)), 0.5,
        Quality(2, 10, 0.2, (0.05, 0.5), 0.25, {"word": Score(2, 10)}), True, ("keeps 25% of <AR>",),
        ("aa", "cc"),
    )  # fmt: skip
    fast, slow = Latency(0.01, 0.02), Latency(0.02, 0.04)
    speeds = [
        Speed(
            1, 2, 20, 0, 0.2, (0.19, 0.2, 0.25), 0.1, 100.0, 1.0, 1.0, None, None, fast, slow, slow,
            None, None, 0.009,
        ),
        Speed(
            1, 2, 20, 5, 0.1, (0.09, 0.1, 0.1), 0.05, 200.0, 2.0, 2.0, 4.0, 2.0, fast, fast, None,
            0.015, 0.01, None,
        ),
    ]  # fmt: skip
    return Report(
        Machine("a CPU", 2, 2**33, (), "Linux", "3.11.7", "0.1.0", None, {"numpy": "2.4.6"}),
        Conditions("2026-01-02T03:04:05+00:00", 0.25, 1.5),
        Model("mini.bundle", "ab" * 32, "float32", "M*E", 8, "onnxruntime", "cpu", 2, ("a note",)),
        Work("tasks.jsonl", 10, "cd" * 32, 2, 96, 0.0, 0, 3, (1,)),
        (
            CaseRecord("ar", "ar", None, None, None, ar, (speeds[0],)),
            CaseRecord("diffusion γ0.9", "diffusion", 0.9, 16, 16, diffusion, (speeds[1],)),
        ),
        (0.95, 0.5),
    )
