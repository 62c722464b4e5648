"""What the stages that measure single kernels work on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_reckoning as reckoning
from benchmarks.gpu_timing import Ceilings, Timer
from ttc.model.config import ModelConfig
from ttc.plugins.ops import OpSpec

__all__ = ["Bed", "Case", "Lines"]

Lines = Iterator[dict[str, Any]]
# Name, op, inputs, bytes that must move, attributes.
Case = tuple[str, OpSpec, Callable[[], list[Tensor]], float, dict[str, Any]]
# Sets of inputs that calls rotate through, so that a kernel does not find its own in the L2.
SETS = 8


@dataclass(frozen=True, slots=True)
class Bed:
    """What the stages work on.

    Attributes:
        config: the model.
        timer: of the device.
        ceilings: of this run.
        small: few and small cases, in the interpreter.
    """

    config: ModelConfig
    timer: Timer
    ceilings: Ceilings
    small: bool

    @property
    def sets(self) -> int:
        """How many sets of inputs calls rotate through."""
        return 1 if self.small else SETS

    def randn(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Return numbers of order one."""
        return torch.randn(*shape, device=self.timer.device).to(dtype)

    def full(self, shape: Sequence[int], value: float, dtype: torch.dtype) -> Tensor:
        """Return equal numbers."""
        return torch.full(tuple(shape), value, dtype=dtype, device=self.timer.device)

    def routed(self, tokens: int, distinct: int, seed: int) -> dict[str, Tensor]:
        """Return routing that hits so many experts, others with every seed."""
        E = self.config.n_routed_experts
        made = reckoning.routing(self.config, tokens, distinct)
        order = torch.randperm(E, generator=torch.Generator().manual_seed(seed))[:distinct].sort().values
        ids = order[torch.from_numpy(made["expert_ids"]).long()].int()
        counts = torch.bincount(ids.flatten().long(), minlength=E).cumsum(0)
        moved = {"expert_ids": ids, "expert_offsets": torch.cat([counts.new_zeros(1), counts]).int()}
        given = {name: torch.from_numpy(array) for name, array in made.items()} | moved
        return {name: tensor.to(self.timer.device) for name, tensor in given.items()}
