"""Who comes when: requests at random times, clients that ask again and again, or a recorded trace."""

import heapq
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ttc.base.names import MODES
from ttc.errors import InputError
from ttc.formats.strictjson import parse_json, quoted
from ttc.planning.simulation.lengths import Lengths

__all__ = ["Asks", "ClosedLoop", "Load", "OpenLoad", "Visit", "poisson", "read_trace"]

_MAX_TRACE_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Visit:
    """One request that comes.

    Attributes:
        at: seconds from the start.
        prompt_tokens, answer_tokens: its lengths; the answer ends by eos.
        mode: how it is answered.
        seed: of all that is drawn for this request.
        owner: who asks; the core lets owners share alike.
    """

    at: float
    prompt_tokens: int
    answer_tokens: int
    mode: str
    seed: int
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Asks:
    """What requests are like. `most`: tokens of a prompt, and of an answer, at most."""

    prompt: Lengths
    answer: Lengths
    mode: str
    most_prompt: int
    most_answer: int

    def visit(self, number: int, at: float, seed: int) -> Visit:
        """Return request `number`: the same whenever it comes, and whatever mode answers it."""
        own = seed * 1_000_003 + number
        rng = random.Random(own)
        prompt, answer = self.prompt.draw(rng, self.most_prompt), self.answer.draw(rng, self.most_answer)
        return Visit(at, prompt, answer, self.mode, own)


class Load(Protocol):
    """Gives a core its requests."""

    def take(self, now: float) -> list[Visit]:
        """Return, once, the requests that have come."""

    def next_at(self) -> float | None:
        """Return when the next one comes; None if that depends on others' ends, or nobody does."""

    def ended(self, visit: Visit, now: float) -> None:
        """Hear of a request that was answered."""


class OpenLoad:
    """Requests whose times do not depend on how they are answered."""

    def __init__(self, visits: Iterable[Visit]) -> None:
        self._visits = sorted(visits, key=lambda visit: visit.at)
        self._next = 0

    def take(self, now: float) -> list[Visit]:
        first = self._next
        while self._next < len(self._visits) and self._visits[self._next].at <= now:
            self._next += 1
        return self._visits[first : self._next]

    def next_at(self) -> float | None:
        return self._visits[self._next].at if self._next < len(self._visits) else None

    def ended(self, visit: Visit, now: float) -> None:
        """Nobody waits for it."""


class ClosedLoop:
    """Clients of which each asks again as soon as it was answered."""

    def __init__(
        self,
        clients: int,
        visit: Callable[[int, float], Visit],
        seconds: float = math.inf,
        most: float = math.inf,
    ) -> None:
        """Begin with every client at once.

        Args:
            clients: how many.
            visit: number of a request and when it comes → the request.
            seconds: nobody asks again after that …
            most: … nor when so many requests have come.
        """
        self._visit, self._seconds, self._most = visit, seconds, most
        self._ready = [0.0] * int(min(clients, most))
        self._number = 0

    def take(self, now: float) -> list[Visit]:
        taken = []
        while self._ready and self._ready[0] <= now:
            at = heapq.heappop(self._ready)
            taken.append(self._visit(self._number, at))
            self._number += 1
        return taken

    def next_at(self) -> float | None:
        return self._ready[0] if self._ready else None

    def ended(self, visit: Visit, now: float) -> None:
        if now < self._seconds and self._number + len(self._ready) < self._most:
            heapq.heappush(self._ready, now)


def poisson(rate: float, seconds: float, seed: int, asks: Asks) -> list[Visit]:
    """Return requests at random times, `rate` a second on average."""
    rng, at, visits = random.Random(seed), 0.0, list[Visit]()
    while (at := at + rng.expovariate(rate)) < seconds:
        visits.append(asks.visit(len(visits), at, seed))
    return visits


def read_trace(path: Path, mode: str, seed: int) -> list[Visit]:
    """Return the requests of a file: a JSON object a line with `at_seconds`, `prompt_tokens`,
    `answer_tokens`, and where wanted `mode` and `owner`.

    mode: of lines that name none.
    """
    if not path.is_file() or path.stat().st_size > _MAX_TRACE_BYTES:
        raise InputError(f"trace {path}; valid: a file of at most {_MAX_TRACE_BYTES} bytes")
    visits = []
    for number, line in enumerate(path.read_bytes().splitlines()):
        where = f"{path}, line {number + 1}"
        entry = parse_json(line, where, InputError)
        visits.append(_visit_of(entry, where, mode, seed * 1_000_003 + number))
    if not visits:
        raise InputError(f"trace {path} is empty; valid: a JSON object a line")
    return visits


def _visit_of(entry: Any, where: str, mode: str, seed: int) -> Visit:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: {quoted(entry)}; valid: a JSON object")
    known = {"at_seconds", "prompt_tokens", "answer_tokens", "mode", "owner"}
    if unknown := sorted(set(entry) - known):
        raise InputError(f"{where}: unknown key {quoted(unknown[0])}; valid: {', '.join(sorted(known))}")
    at: Any = entry.get("at_seconds")
    prompt: Any = entry.get("prompt_tokens")
    answer: Any = entry.get("answer_tokens")
    counts = all(type(n) is int and 1 <= n <= 1_000_000 for n in (prompt, answer))
    if type(at) not in (int, float) or not 0 <= at < 1e9 or not counts:
        raise InputError(f"{where}: {quoted(entry)}; valid: at_seconds from 0, tokens from 1")
    own, owner = entry.get("mode", mode), entry.get("owner", "")
    if own not in MODES or not isinstance(owner, str):
        raise InputError(f"{where}: {quoted(entry)}; valid modes: {', '.join(MODES)}; owner is a text")
    return Visit(float(at), prompt, answer, own, seed, owner)
