"""The experts' formats in a plan: what their weights take in memory, and how fast a kernel can decode them.

A kernel that reads quantised weights spends instructions on each of them: load, decode, its share of the
product. A GPU issues `Machine.instructions_per_second` of those at most, which bounds the weights a second
whatever the memory could deliver. The instructions a weight stand below: counted in the loop of a kernel like
`ttc`'s (tile 16×64×64, NVFP4 16×128×64) assembled by Triton 3.9 for each compute capability. They were
counted, not timed; no GPU has run them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ttc.base.quantised import PLAIN, WEIGHT_FORMATS
from ttc.errors import InputError
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.weights import CONTEXT, DENOISER
from ttc.planning.machines import Machine

__all__ = ["TILE_ROWS", "ExpertFormats", "decode_rate", "expert_matrix_bytes", "experts_bytes"]

# Rows of the kernel's largest tile: an expert with more tokens is decoded once for each tile of them.
TILE_ROWS = 128
# Capability → format → machine instructions a weight. fp8 is cast by the GPU from 8.9 on, by bits before.
_INSTRUCTIONS: Mapping[tuple[int, int], Mapping[str, float]] = {
    (8, 0): {"int8": 5.1, "fp8": 8.9, "nvfp4": 5.1, "int4": 7.0},
    (9, 0): {"int8": 5.0, "fp8": 4.6, "nvfp4": 4.7, "int4": 6.0},
    (12, 0): {"int8": 4.4, "fp8": 4.3, "nvfp4": 4.6, "int4": 5.7},
}


@dataclass(frozen=True, slots=True)
class ExpertFormats:
    """How the routed experts of each tower are stored: "plain" (the compute dtype) or a quantised format."""

    context: str = PLAIN
    denoiser: str = PLAIN

    def __post_init__(self) -> None:
        for tower, word in ((CONTEXT, self.context), (DENOISER, self.denoiser)):
            if word not in (PLAIN, *WEIGHT_FORMATS):
                raise InputError(
                    f"experts of {tower} in {word!r}; valid: {', '.join((PLAIN, *WEIGHT_FORMATS))}"
                )

    def of(self, tower: str) -> str:
        """Return the format of a tower, "context_tower" or "denoiser_tower"."""
        return self.context if tower == CONTEXT else self.denoiser

    def __str__(self) -> str:
        if self.context == self.denoiser:
            return self.context
        return f"{self.context} (context tower) and {self.denoiser} (denoiser tower)"


def expert_matrix_bytes(word: str, outputs: int, inputs: int, itemsize: int) -> float:
    """Return the bytes of one expert's matrix (outputs, inputs) in a format, its scales included."""
    if word == PLAIN:
        return float(outputs * inputs * itemsize)
    return outputs * inputs * WEIGHT_FORMATS[word].bytes_per_weight(inputs)


def experts_bytes(config: ModelConfig, word: str, itemsize: int) -> float:
    """Return the bytes of the weights of all routed experts of a tower."""
    inner, hidden = config.moe_intermediate_size, config.hidden_size
    pair = expert_matrix_bytes(word, inner, hidden, itemsize) + expert_matrix_bytes(
        word, hidden, inner, itemsize
    )
    return len(config.layers_of(LayerKind.MOE)) * config.n_routed_experts * pair


def decode_rate(word: str, machine: Machine) -> float | None:
    """Return how many weights a second a kernel can decode at most; None where it is not known or no limit.

    A capability within a family counts as the family's first (12.1 as 12.0).
    """
    if word == PLAIN or machine.capability is None or machine.instructions_per_second is None:
        return None
    major, minor = (int(part) for part in machine.capability.split("."))
    known = [have for have in _INSTRUCTIONS if have[0] == major and have[1] <= minor]
    exact = (major, minor) if (major, minor) in _INSTRUCTIONS else max(known, default=None)
    if exact is None or (word == "fp8" and exact == (8, 0) and minor >= 9):
        return None
    instructions = _INSTRUCTIONS[exact].get(word)
    return None if instructions is None else machine.instructions_per_second / instructions
