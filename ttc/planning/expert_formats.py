"""The experts' formats in a plan: what their weights take in memory, and how fast a kernel can decode them.

A kernel that reads quantised weights spends instructions on each of them: load, decode, its share of the
product. A GPU issues `Machine.instructions_per_second` of those at most, which bounds the weights a second
whatever the memory could deliver. The instructions a weight stand below: the fewest in the inner loops of the
kernels, as assembled for each compute capability (`benchmarks/results/kernel_instructions.json`). They were
counted, not timed; no GPU has run them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ttc.base.quantised import PLAIN, WEIGHT_FORMATS
from ttc.errors import InputError
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.weights import CONTEXT, DENOISER
from ttc.planning.machines import Machine

__all__ = [
    "INSTRUCTIONS",
    "TILE_ROWS",
    "ExpertFormats",
    "decode_rate",
    "expert_matrix_bytes",
    "experts_bytes",
]

# Rows of the kernel's largest tile: an expert with more tokens is decoded once for each tile of them.
TILE_ROWS = 128
# Capability → format → machine instructions a weight.
INSTRUCTIONS: Mapping[tuple[int, int], Mapping[str, float]] = {
    (8, 0): {"int8": 4.33, "fp8": 7.94, "nvfp4": 5.14, "int4": 7.17},
    (8, 6): {"int8": 4.41, "fp8": 9.19, "nvfp4": 5.14, "int4": 5.95},
    (8, 9): {"int8": 4.41, "fp8": 3.81, "nvfp4": 4.73, "int4": 5.95},
    (9, 0): {"int8": 3.81, "fp8": 4.11, "nvfp4": 4.73, "int4": 5.77},
    (10, 0): {"int8": 3.64, "fp8": 4.11, "nvfp4": 4.72, "int4": 5.75},
    (12, 0): {"int8": 3.55, "fp8": 3.98, "nvfp4": 4.55, "int4": 5.56},
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

    A capability that is not listed counts as the nearest lower one of its family (12.1 as 12.0).
    """
    if word == PLAIN or machine.capability is None or machine.instructions_per_second is None:
        return None
    major, minor = (int(part) for part in machine.capability.split("."))
    nearest = max((have for have in INSTRUCTIONS if have[0] == major and have[1] <= minor), default=None)
    instructions = None if nearest is None else INSTRUCTIONS[nearest].get(word)
    return None if instructions is None else machine.instructions_per_second / instructions
