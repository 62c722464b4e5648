"""Seconds of a call, from what it is: by a machine's bandwidth and arithmetic, or as measured."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ttc.errors import InputError
from ttc.planning.forecast import Forecast, Question, forecast
from ttc.planning.passes import state_bytes

__all__ = ["CallShape", "Costs", "MachineCosts", "MeasuredCosts"]


@dataclass(frozen=True, slots=True)
class CallShape:
    """A call as a cost model sees it.

    Attributes:
        kind: "denoise", "read", or "advance", the move of states past what was verified.
        rows: in the call.
        width: tokens of each row.
        capacity: of the state's caches.
        logits: positions of each row that get logits which somebody looks at.
    """

    kind: Literal["denoise", "read", "advance"]
    rows: int
    width: int
    capacity: int
    logits: int


class Costs(Protocol):
    """What time goes by."""

    def call(self, shape: CallShape) -> float:
        """Return the seconds of a call."""

    def move(self, capacity: int) -> float:
        """Return the seconds of copying one row from place to place."""

    def tick(self, rows: int) -> float:
        """Return the seconds of a tick outside its calls."""


@dataclass(slots=True)
class MachineCosts:
    """The floors of `ttc.planning.forecast`: what a call must read and compute on this machine.

    Attributes:
        question: model, machine, formats, routing; its context and block size do not matter here.
        efficiency: the share of the floors' speed that calls reach.
        call_seconds, tick_seconds: what every call, and every tick, costs beside.
    """

    question: Question
    efficiency: float = 1.0
    call_seconds: float = 0.0
    tick_seconds: float = 0.0
    _known: dict[CallShape, float] = field(default_factory=dict)
    _moves: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.001 <= self.efficiency <= 1:
            raise InputError(f"efficiency is {self.efficiency:g}; valid: 0.001 to 1")
        if not (0 <= self.call_seconds < 1 and 0 <= self.tick_seconds < 1):
            raise InputError(f"{self.call_seconds:g} s a call, {self.tick_seconds:g} s a tick; valid: 0 to 1")

    def call(self, shape: CallShape) -> float:
        """Return it. Attention counts the capacity. The move of a verified state stands in its read."""
        seconds = self._known.get(shape)
        if seconds is None:
            seconds = self.call_seconds
            if shape.kind != "advance":
                seconds += self._floor(shape) / self.efficiency
            self._known[shape] = seconds
        return seconds

    def move(self, capacity: int) -> float:
        """Return it: a row is read and written once."""
        seconds = self._moves.get(capacity)
        if seconds is None:
            question = self.question
            nbytes = 2 * state_bytes(question.config, 1, capacity, question.itemsize)
            seconds = nbytes / question.machine.bytes_per_second / self.efficiency
            self._moves[capacity] = seconds
        return seconds

    def tick(self, rows: int) -> float:
        return self.tick_seconds

    def _floor(self, shape: CallShape) -> float:
        question = dataclasses.replace(
            self.question, block_size=shape.width, context=shape.capacity, accepted=1.0
        )
        found: Forecast = forecast(question, shape.rows, ())
        if shape.kind == "denoise":
            return found.nfe.seconds
        if shape.width == 1:
            return found.ar_step.seconds
        return (found.verification if shape.logits > 1 else found.extension).seconds


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """Seconds as measured on one machine: between measured numbers of rows, and beyond them, on a line.

    Attributes:
        calls: (kind, width, more than one position with logits) → rows → seconds.
        moves: seconds of copying a row.
        ticks: rows → seconds of a tick outside its calls.
    """

    calls: Mapping[tuple[str, int, bool], Mapping[int, float]]
    ticks: Mapping[int, float]
    moves: float = 0.0

    def call(self, shape: CallShape) -> float:
        """Return it; of a width that was not measured, on the line through the two nearest that were.

        Raises:
            InputError: no call of this kind was measured.
        """
        of_kind = {
            width: rows
            for (kind, width, several), rows in self.calls.items()
            if kind == shape.kind and several == (shape.logits > 1)
        }
        # Of a width that was seen with one number of rows, nothing is known of others.
        of_kind = {w: rows for w, rows in of_kind.items() if shape.rows in rows or len(rows) > 1} or of_kind
        if not of_kind:
            raise InputError(f"no call like {shape} was measured; measure a load that makes some")
        return _on_line({width: _on_line(rows, shape.rows) for width, rows in of_kind.items()}, shape.width)

    def move(self, capacity: int) -> float:
        return self.moves

    def tick(self, rows: int) -> float:
        return _on_line(self.ticks, rows)


def _on_line(points: Mapping[int, float], at: int) -> float:
    """Return the value at a place, on the line through the nearest two known ones; never below a tenth of
    the lowest.
    """
    if at in points:
        return points[at]
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]]
    after = next((i for i, place in enumerate(known) if place > at), len(known) - 1)
    low, high = known[max(after, 1) - 1], known[max(after, 1)]
    slope = (points[high] - points[low]) / (high - low)
    return max(points[low] + slope * (at - low), 0.1 * min(points.values()))
