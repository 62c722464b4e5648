"""What a GPU found on a machine does with quantised experts: `ttc doctor`'s part of planning."""

from dataclasses import dataclass

from ttc.base.quantised import PLAIN, WRITTEN_FORMATS
from ttc.model.config import ModelConfig
from ttc.planning.expert_formats import ExpertFormats
from ttc.planning.holding import holding
from ttc.planning.machines import Machine
from ttc.planning.models import released_config
from ttc.planning.passes import tower_bytes

__all__ = ["FormatOnGpu", "formats_on_gpu"]

# The first compute capability with instructions that turn a format into floats (int8: integer to float;
# fp8 and e2m1: PTX ISA, cvt). int4 has none anywhere.
_NATIVE_FROM = {PLAIN: (8, 0), "int8": (7, 5), "fp8": (8, 9), "nvfp4": (10, 0)}


@dataclass(frozen=True, slots=True)
class FormatOnGpu:
    """One format of routed experts on one GPU.

    Attributes:
        native: whether the GPU has an instruction that decodes it; elsewhere kernels do so bit by bit.
        both_bytes: weights of both towers of the released model.
        holds: "both" towers, "one" or "none" of the released model fit.
        left_bytes: as `ttc.planning.holding` says.
    """

    format: str
    native: bool
    both_bytes: float
    holds: str
    left_bytes: float


def formats_on_gpu(capability: str, memory_bytes: float) -> tuple[FormatOnGpu, ...]:
    """Return what a GPU of this compute capability ("9.0") and memory does with each format."""
    major, minor = (int(part) for part in capability.split("."))
    config = ModelConfig.from_hf(released_config())
    # Only the memory counts here.
    gpu = Machine("gpu", 1.0, 1.0, memory_bytes, "this machine")
    found = []
    for word in (PLAIN, *WRITTEN_FORMATS):
        towers = tower_bytes(config, 2, ExpertFormats(word, word)).values()
        (held,) = holding({"gpu": gpu}, towers)
        native = word in _NATIVE_FROM and (major, minor) >= _NATIVE_FROM[word]
        found.append(FormatOnGpu(word, native, sum(towers), held.holds, held.left_bytes))
    return tuple(found)
