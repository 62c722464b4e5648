"""What a profile holds, and how its parts are added up."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttc.model.config import kind_label
from ttc.plugins.costs import Cost

__all__ = ["Expensive", "LoopTime", "Part", "PhaseProfile", "Profile", "Total", "totals"]


@dataclass(frozen=True, slots=True)
class Part:
    """Time of one op in one place.

    Attributes:
        place: "layers.3", "embedding", "time", "head", "step", "state" (copies of it on a GPU),
            "layers.3 + layers.4" where an engine fused them, or "other" where the backend does not say.
        layer: its number, None outside the layers.
        kind: the layer's, or the place.
        op: "ttc::MambaScan", or an operator of the backend.
        seconds: in one call of the phase, with what the library spends until the next op begins.
        kernel: the part of it that the op itself computed.
        calls: how often in the phase's call.
        cost: least bytes and arithmetic of all calls together.
    """

    place: str
    layer: int | None
    kind: str
    op: str
    seconds: float
    kernel: float
    calls: int
    cost: Cost

    @property
    def label(self) -> str:
        """The kind's name for people."""
        return kind_label(self.kind)


@dataclass(frozen=True, slots=True)
class PhaseProfile:
    """One phase: the fastest of its repeated calls, which the rest of the machine disturbed least.

    Attributes:
        name: of the phase.
        tokens: L of its call.
        seconds: around the backend call, as the loop sees it.
        unprofiled: the fastest call without the profiler, which takes time of its own.
        median, slowest: of the repeated calls.
        parts: everything that was attributed.
    """

    name: str
    tokens: int
    seconds: float
    unprofiled: float
    median: float
    slowest: float
    parts: tuple[Part, ...]

    @property
    def explained(self) -> float:
        """Share of `seconds` that parts with a place account for."""
        return sum(part.seconds for part in self.parts if part.place != "other") / self.seconds


@dataclass(frozen=True, slots=True)
class LoopTime:
    """One generation: all of it, and the part inside backend calls; the rest is the host's loop."""

    mode: str
    new_tokens: int
    seconds: float
    backend_seconds: float


@dataclass(frozen=True, slots=True)
class Total:
    """Parts with something in common, added up.

    `share` is that of the kernels' time: a profiler's own time lies between the kernels and would count nodes
    rather than work. `of_limit` is the least possible time over that of the kernels.
    """

    name: str
    seconds: float
    kernel: float
    share: float
    calls: int
    flops: float
    bytes: float
    of_limit: float | None


@dataclass(frozen=True, slots=True)
class Expensive:
    """The op that takes the most time: in which phase, how much there, and `share_of_all`.

    That is its share of the kernels of one call of every phase together; a generation calls some phases more
    often than others.
    """

    phase: str
    total: Total
    share_of_all: float

    def __str__(self) -> str:
        time = f"{self.total.kernel * 1e3:.3f} ms in one call of the {self.phase}"
        shares = f"{self.total.share:.0%} of its kernels, {self.share_of_all:.0%} of all phases' kernels"
        return f"most expensive: {self.total.name}, {time} ({shares})"


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile of one bundle on one backend.

    Attributes:
        limits: floating-point operations and bytes per second that this machine reached when measured, or
            that the user gave; empty where neither is known.
        loops: generations, for the time outside the backend.
        notes: what was not as asked.
    """

    bundle: str
    backend: str
    device: str
    version: str
    batch: int
    context: int
    repeats: int
    limits: Mapping[str, float]
    phases: tuple[PhaseProfile, ...]
    loops: tuple[LoopTime, ...]
    notes: tuple[str, ...]

    @property
    def most_expensive(self) -> "Expensive":
        """The op whose kernels take the most time in one call of a phase; some phase must have parts."""
        found = [(phase, self.by(phase, _op)[0]) for phase in self.phases if phase.parts]
        phase, total = max(found, key=lambda item: item[1].kernel)
        whole = sum(part.kernel for each in self.phases for part in each.parts)
        return Expensive(phase.name, total, total.kernel / whole if whole else 0.0)

    def by(self, phase: PhaseProfile, key: Callable[[Part], str]) -> list[Total]:
        """Return the phase's parts added up by a key, the longest first."""
        return totals(phase.parts, key, self.limits)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds: every field, and each phase's parts added up by kind, layer and op."""
        found: dict[str, Any] = dataclasses.asdict(self)
        for plain, phase in zip(found["phases"], self.phases, strict=True):
            plain["explained"] = phase.explained
            for name, key in (("by_kind", _kind), ("by_layer", _place), ("by_op", _op)):
                plain[name] = [dataclasses.asdict(total) for total in self.by(phase, key)]
        most = self.most_expensive
        found["most_expensive"] = {
            "phase": most.phase,
            **dataclasses.asdict(most.total),
            "share_of_all": most.share_of_all,
        }
        return found


def totals(parts: Sequence[Part], key: Callable[[Part], str], limits: Mapping[str, float]) -> list[Total]:
    """Return the parts added up by a key, the one with the longest kernels first."""
    whole = sum(part.kernel for part in parts)
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(key(part), []).append(part)
    found = []
    for name, own in groups.items():
        seconds = sum(part.seconds for part in own)
        cost = sum((part.cost for part in own), Cost(0, 0))
        kernel = sum(part.kernel for part in own)
        of_limit = None
        if limits and kernel and (cost.flops or cost.bytes):
            least = cost.seconds_at_least(limits["flops_per_second"], limits["bytes_per_second"])
            of_limit = least / kernel
        calls = sum(part.calls for part in own)
        found.append(
            Total(
                name,
                seconds,
                kernel,
                kernel / whole if whole else 0.0,
                calls,
                cost.flops,
                cost.bytes,
                of_limit,
            )
        )
    return sorted(found, key=lambda total: -total.kernel)


def _kind(part: Part) -> str:
    return part.label


def _place(part: Part) -> str:
    return part.place


def _op(part: Part) -> str:
    return part.op
