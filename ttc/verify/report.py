"""What `ttc verify` found, as frozen dataclasses; `to_dict` makes it ready for JSON."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = [
    "BackendReport",
    "Comparison",
    "Finding",
    "GenerationCheck",
    "NativeCheck",
    "Report",
    "WeightsCheck",
]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor of one call against one reference.

    Attributes:
        reference: dtype that the reference computed in.
        call, tower: where in the scenario.
        tensor: "logits", "residual" or a state tensor's kind ("conv_state", …).
        layer: its number, None for logits.
        distance, tolerance: as `ttc.verify.tolerances` measures.
        top1: share of positions where the most probable token is the same; None for anything but logits.
    """

    reference: str
    call: str
    tower: str
    tensor: str
    layer: int | None
    distance: float
    tolerance: float
    top1: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it is near enough; NaN is not."""
        return self.distance <= self.tolerance


@dataclass(frozen=True, slots=True)
class Finding:
    """Where it went wrong first: the layer and its kind (None: outside the layers), in which call, and by
    which tensor it shows.
    """

    call: str
    tower: str
    layer: int | None
    kind: str | None
    tensor: str
    distance: float
    tolerance: float

    def __str__(self) -> str:
        where = "outside the layers" if self.layer is None else f"layer {self.layer} ({self.kind})"
        return (
            f"{self.tower} tower, {where}: its {self.tensor} is off by {self.distance:.3g} "
            f"(tolerance {self.tolerance:g}) in the call {self.call!r}"
        )


@dataclass(frozen=True, slots=True)
class GenerationCheck:
    """One prompt in one mode, token by token.

    Attributes:
        mode, prompt: prompt as its number in the list.
        tokens: compared.
        agreement: share of equal ones.
        first_difference: index of the first token that differs, None where all are the same.
        due, got: the token there on either side, None where one side had ended.
        margin: how much more the reference's logits favour its own token there over the next best.
        passed: equal, or not required to be, or a tie within the tolerance of the logits.
    """

    mode: str
    prompt: int
    tokens: int
    agreement: float
    first_difference: int | None
    due: int | None
    got: int | None
    margin: float | None
    passed: bool


@dataclass(frozen=True, slots=True)
class WeightsCheck:
    """Contents of the weights: what was read, and what is wrong with it, one sentence each."""

    tensors: int
    bytes: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    shards: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class NativeCheck:
    """The context tower against transformers' own model: the largest difference of logits over the
    reference's largest, in float32.
    """

    version: str
    distance: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether it is near enough; NaN is not."""
        return self.distance <= self.tolerance


@dataclass(frozen=True, slots=True)
class BackendReport:
    """One backend: where it ran, every comparison, where it went wrong first, and its text."""

    name: str
    device: str
    version: str
    computes_in: str
    comparisons: tuple[Comparison, ...]
    finding: Finding | None
    generation: tuple[GenerationCheck, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every comparison and every generation did."""
        near = all(comparison.passed for comparison in self.comparisons)
        return near and all(check.passed for check in self.generation)

    @property
    def worst(self) -> Comparison | None:
        """The comparison nearest to its tolerance, or furthest beyond it."""
        return max(self.comparisons, key=lambda c: _ratio(c.distance, c.tolerance), default=None)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything.

    Attributes:
        skipped: backends that were not asked for and cannot run here, with the reason.
        recorded: paths of the records that were written.
        stale: why what was verified has no record where there may be another, a sentence each.
    """

    bundle: str
    model: str
    compute_dtype: str
    backends: tuple[BackendReport, ...]
    skipped: Mapping[str, str]
    weights: WeightsCheck | None
    native: NativeCheck | None
    recorded: tuple[str, ...]
    stale: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """The verdict."""
        rest = [check for check in (self.weights, self.native) if check is not None]
        return bool(self.backends) and all(part.passed for part in (*self.backends, *rest))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds: every field, and `passed` wherever there is a verdict; NaN becomes null."""
        found = _plain(self)
        assert isinstance(found, dict)
        return {"passed": self.passed, **found}


@runtime_checkable
class _Judged(Protocol):
    """Anything with a verdict."""

    @property
    def passed(self) -> bool:
        """The verdict."""


def _ratio(distance: float, tolerance: float) -> float:
    return distance / tolerance if distance == distance else float("inf")


def _plain(value: object) -> Any:
    if isinstance(value, _Judged):
        return {"passed": value.passed} | _fields(value)
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _fields(value: Any) -> dict[str, Any]:
    return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
