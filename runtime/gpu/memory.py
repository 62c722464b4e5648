"""Does a generation fit? Reckoned before anything is loaded: weights, state and working memory against what
is free.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ttc.errors import DeviceMemoryError
from ttc.formats.prepared_weights import PreparedWeight
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.model.weights import GRAPH_OF
from ttc.runtime.gpu.executor import mamba_specs, new_kv_specs, saved_specs, specs_bytes, state_specs
from ttc.runtime.gpu.weights import weight_bytes

__all__ = ["Gpu", "MemoryPlan", "Need", "need_of", "plan_memory", "row_bytes"]

# What the driver's context, loaded kernels and cuBLAS take, what allocators round up, and torch's scratch
# memory: by the shapes some 110 KB a token of a call at the real size, 28 MB for a piece of a prompt, and in
# the first run of a work 46.8 MiB a row, since new Mamba states stay apart until all layers have run.
RESERVED_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and the memory that is free on it."""

    name: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that a generation takes on the device.

    Attributes:
        weights: tower or graph → bytes of its weights.
        row_bytes: state and buffers of one row at capacity `capacity`, new state included.
        work_bytes: engines and scratch memory, which do not grow with the batch.
        batch: B rows.
        capacity: C tokens that the caches hold.
    """

    weights: Mapping[str, int]
    row_bytes: int
    work_bytes: int
    batch: int
    capacity: int

    @property
    def total(self) -> int:
        """All of it in bytes, with the driver's share."""
        return sum(self.weights.values()) + self.batch * self.row_bytes + self.work_bytes + RESERVED_BYTES


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Whether `need` fits the first of `gpus`, and what else would, one sentence each."""

    need: Need
    gpus: tuple[Gpu, ...]
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return bool(self.gpus) and self.need.total <= self.gpus[0].free_bytes

    def check(self) -> None:
        """Raise `DeviceMemoryError` with the reckoning and the advice unless it fits."""
        if self.fits:
            return
        need, gpu = self.need, self.gpus[0]
        weights = (
            ", ".join(f"{tower} {_gb(size)}" for tower, size in need.weights.items()) or "in the engines"
        )
        raise DeviceMemoryError(
            f"{gpu.name} has {_gb(gpu.free_bytes)} free, {_gb(need.total)} are due: weights {weights}; "
            f"{need.batch} rows at capacity {need.capacity} {_gb(need.batch * need.row_bytes)}; "
            f"work {_gb(need.work_bytes + RESERVED_BYTES)}. What would fit: {'; '.join(self.advice)}"
        )


def row_bytes(config: ModelConfig, dtype: str, capacity: int, block: int, *, in_place: bool) -> int:
    """Return the bytes that one row takes.

    State, a block's saved inputs and logits; where the new state is not written in place also a second Mamba
    state and the block's keys and values.
    """
    logits = 4 * config.vocab_size * (block + 1)
    state = specs_bytes(state_specs(config, dtype, 1, capacity))
    held = state + specs_bytes(saved_specs(config, dtype, 1, block)) + logits
    if in_place:
        return held
    return (
        held + specs_bytes(mamba_specs(config, dtype, 1)) + specs_bytes(new_kv_specs(config, dtype, 1, block))
    )


def need_of(
    bundle: Bundle,
    names: Collection[str],
    *,
    batch: int,
    capacity: int,
    block: int,
    in_place: bool,
    work_bytes: int = 0,
) -> Need:
    """Return what a generation needs.

    Args:
        names: the weights that go to the device.
        batch: B rows.
        capacity: C tokens that the caches hold.
        block: L tokens of a block.
        in_place: as `row_bytes`.
        work_bytes: engines and scratch memory.
    """
    own = {role: bundle.weights_for(tower) for tower, role in GRAPH_OF.items()}
    taken = {
        role: [name for name in names if PreparedWeight.parse(name).weight in weights]
        for role, weights in own.items()
    }
    weights = {role: weight_bytes(bundle, found) for role, found in taken.items() if found}
    row = row_bytes(bundle.config, bundle.compute_dtype, capacity, block, in_place=in_place)
    return Need(weights, row, work_bytes, batch, capacity)


def plan_memory(need: Need, gpus: Sequence[Gpu]) -> MemoryPlan:
    """Compare the need with the first GPU, and look for what would fit: fewer rows, two GPUs, fewer bits."""
    advice: list[str] = []
    if gpus and need.total > gpus[0].free_bytes:
        left = gpus[0].free_bytes - (need.total - need.batch * need.row_bytes)
        if left >= need.row_bytes:
            advice.append(f"a batch of {left // need.row_bytes} at this capacity")
        towers = sorted(need.weights.values(), reverse=True)
        if len(towers) > 1 and left < need.row_bytes:
            most = max(need.weights, key=lambda tower: need.weights[tower])
            alone = towers[0] + need.batch * need.row_bytes + need.work_bytes + RESERVED_BYTES
            where = [gpu.name for gpu in gpus if gpu.free_bytes >= alone]
            advice.append(
                f"two GPUs with {_gb(alone)} free each, one per tower (the larger is {most})"
                + (f"; {' and '.join(where[:2])} have it" if len(where) > 1 else "")
            )
        if not advice or left < need.row_bytes:
            advice.append(f"one GPU with {_gb(need.total)} free")
    return MemoryPlan(need, tuple(gpus), tuple(advice))


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"
