"""The golden checkpoints and their recorded numbers."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from ttc.model.config import ModelConfig

FOLDER = Path(__file__).parents[1] / "golden"
CHECKPOINTS = ("tiny_a", "tiny_b", "tiny_c")
Vectors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Golden:
    """One folder of tests/golden: its vectors and the parameters of its cases."""

    name: str
    vectors: Vectors
    cases: Mapping[str, Mapping[str, Any]]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @functools.cached_property
    def config(self) -> ModelConfig:
        return ModelConfig.from_hf(json.loads((self.folder / "config.json").read_text()))

    def cases_of(self, prefix: str) -> dict[str, Mapping[str, Any]]:
        """Cases whose name starts with the prefix."""
        return {name: case for name, case in self.cases.items() if name.startswith(prefix)}

    def prompt(self, case: Mapping[str, Any]) -> npt.NDArray[np.int32]:
        """Prompt rows (B, S) of a case."""
        rows = self.vectors[case["prompt"] if "/" in case["prompt"] else f"prompt/{case['prompt']}"]
        return rows if case.get("row") is None else rows[case["row"] : case["row"] + 1]


@functools.cache
def golden(name: str) -> Golden:
    """The golden folder of that name, read once."""
    folder = FOLDER / name
    cases = json.loads((folder / "cases.json").read_text())
    return Golden(name, load_file(folder / "vectors.safetensors"), cases)
