"""Does it fit? Reckoned before anything is loaded: weights, state and working memory against what is free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ttc.base.dtypes import numpy_dtype
from ttc.errors import DeviceMemoryError
from ttc.model.config import ModelConfig
from ttc.runtime.gpu.executor import Specs, mamba_specs, new_kv_specs, saved_specs, state_specs

__all__ = ["Gpu", "MemoryPlan", "Need", "plan_memory", "row_bytes"]

# What the driver's context, loaded kernels and cuBLAS take, and what allocators round up.
RESERVED_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and the memory free on it in bytes."""

    name: str
    free: int


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a generation takes on the device, weights of each tower and step apart.

    weights: tower or graph → bytes.  row: state and buffers of one row at capacity `capacity`, new state
    included.  work: scratch memory that does not grow with the batch.
    """

    weights: Mapping[str, int]
    row: int
    work: int
    batch: int
    capacity: int

    @property
    def total(self) -> int:
        """All of it, with the driver's share."""
        return sum(self.weights.values()) + self.batch * self.row + self.work + RESERVED_BYTES


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Whether `need` fits the first of `gpus`, and what else would, one sentence each."""

    need: Need
    gpus: tuple[Gpu, ...]
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it fits."""
        return bool(self.gpus) and self.need.total <= self.gpus[0].free

    def check(self) -> None:
        """Raise `DeviceMemoryError` with the reckoning and the advice unless it fits."""
        if self.fits:
            return
        need, gpu = self.need, self.gpus[0]
        weights = (
            ", ".join(f"{tower} {_gb(size)}" for tower, size in need.weights.items()) or "in the engines"
        )
        raise DeviceMemoryError(
            f"{gpu.name} has {_gb(gpu.free)} free, {_gb(need.total)} are due: weights {weights}; "
            f"{need.batch} rows at capacity {need.capacity} {_gb(need.batch * need.row)}; "
            f"work {_gb(need.work + RESERVED_BYTES)}. What would fit: {'; '.join(self.advice)}"
        )


def row_bytes(config: ModelConfig, dtype: str, capacity: int, block: int, *, in_place: bool) -> int:
    """Bytes that one row takes: state, a block's saved inputs and logits; where the new state is not written
    in place also a second Mamba state and the block's keys and values.
    """
    logits = 4 * config.vocab_size * (block + 1)
    state = _bytes(state_specs(config, dtype, 1, capacity))
    held = state + _bytes(saved_specs(config, dtype, 1, block)) + logits
    if in_place:
        return held
    return held + _bytes(mamba_specs(config, dtype, 1)) + _bytes(new_kv_specs(config, dtype, 1, block))


def plan_memory(need: Need, gpus: Sequence[Gpu]) -> MemoryPlan:
    """Compare the need with the first GPU, and look for what would fit: fewer rows, two GPUs, fewer bits."""
    advice: list[str] = []
    if gpus and need.total > gpus[0].free:
        left = gpus[0].free - (need.total - need.batch * need.row)
        if left >= need.row:
            advice.append(f"a batch of {left // need.row} at this capacity")
        towers = sorted(need.weights.values(), reverse=True)
        if len(towers) > 1 and left < need.row:
            most = max(need.weights, key=lambda tower: need.weights[tower])
            alone = towers[0] + need.batch * need.row + need.work + RESERVED_BYTES
            where = [gpu.name for gpu in gpus if gpu.free >= alone]
            advice.append(
                f"two GPUs with {_gb(alone)} free each, one per tower (the larger is {most})"
                + (f"; {' and '.join(where[:2])} have it" if len(where) > 1 else "")
            )
        if not advice or left < need.row:
            advice.append(f"one GPU with {_gb(need.total)} free")
    return MemoryPlan(need, tuple(gpus), tuple(advice))


def _bytes(specs: Specs) -> int:
    return sum(
        prod(int(dim) for dim in shape) * numpy_dtype(dtype).itemsize for dtype, shape in specs.values()
    )


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"
