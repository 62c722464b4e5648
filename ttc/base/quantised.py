"""The formats of quantised weights by the words that users type and files hold, each listed only here.

A format says what a matrix (N, K), N outputs and K inputs, is stored as. `ttc.formats.quantised` encodes and
decodes it, `ttc.plugins` has the ops that compute with it.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

__all__ = ["PLAIN", "WEIGHT_FORMATS", "WRITTEN_FORMATS", "Family", "WeightFormat"]

PLAIN: Final = "plain"  # not quantised: float32, float16 or bfloat16

# The ops that take it: one scale for each output, or one for each block of inputs of each output.
Family = Literal["scaled", "blocked"]


class WeightFormat(NamedTuple):
    """What one format stores.

    Attributes:
        word: "int8", "fp8", "nvfp4", "int4" or "mxfp4".
        bits: of a code.
        group: inputs that share a scale; 0: all of an output's.
        codes: dtype of a code in the graphs. Four-bit codes are two a byte, the low half first.
        scales: dtype of the scales in the graphs; None: the compute dtype.
        family: the ops that take it; None: it is decoded while a checkpoint is read.
        algorithm: ModelOpt's word for it, weights only, in the files that we write; None: we only read it.
    """

    word: str
    bits: int
    group: int
    codes: str
    scales: str | None
    family: Family | None
    algorithm: str | None

    def bytes_per_weight(self, inputs: int) -> float:
        """Return the bytes of a weight, scales included, of a matrix with so many inputs."""
        scale_bytes = {"float32": 4, None: 2, "float8_e4m3fn": 1, "float8_e8m0fnu": 1}[self.scales]
        return self.bits / 8 + scale_bytes / (self.group or inputs)


_FORMATS: Final = (
    WeightFormat("int8", 8, 0, "int8", "float32", "scaled", "W8A16"),
    WeightFormat("fp8", 8, 0, "float8_e4m3fn", "float32", "scaled", "FP8_PER_CHANNEL_PER_TOKEN"),
    WeightFormat("nvfp4", 4, 16, "float4_e2m1fn", "float8_e4m3fn", "blocked", "W4A16_NVFP4"),
    WeightFormat("int4", 4, 32, "int4", None, "blocked", "W4A16"),
    WeightFormat("mxfp4", 4, 32, "float4_e2m1fn", "float8_e8m0fnu", None, None),
)
WEIGHT_FORMATS: Final[Mapping[str, WeightFormat]] = {each.word: each for each in _FORMATS}
# Those that `ttc quantize` writes.
WRITTEN_FORMATS: Final = tuple(each.word for each in _FORMATS if each.algorithm is not None)
