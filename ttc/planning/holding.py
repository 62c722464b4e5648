"""Which machines hold both towers, and which one of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ttc.planning.machines import Machine

__all__ = ["Holding", "holding"]


@dataclass(frozen=True, slots=True)
class Holding:
    """What a machine's memory holds.

    Attributes:
        machine: its name for `--gpu`.
        holds: "both" towers; "one" of them, as of two such GPUs with a tower each; or "none".
        left_bytes: memory left beside what it holds, for state and work; where that is "none", what the
            smaller tower lacks, as a negative number.
    """

    machine: str
    holds: str
    left_bytes: float


def holding(machines: Mapping[str, Machine], towers: Iterable[float]) -> tuple[Holding, ...]:
    """Return what each machine holds.

    Args:
        machines: name → machine.
        towers: bytes of the weights of each tower.
    """
    sizes = sorted(towers)
    return tuple(_holding(name, machine.memory_bytes, sizes) for name, machine in machines.items())


def _holding(name: str, memory: float, sizes: list[float]) -> Holding:
    if memory >= sum(sizes):
        return Holding(name, "both", memory - sum(sizes))
    if memory >= sizes[-1]:
        return Holding(name, "one", memory - sizes[-1])
    return Holding(name, "none", memory - sizes[0])
