"""A question about a service → figures of every mode, replicas for a load, and where the modes cross."""

import dataclasses
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ttc.base.quoting import quoted
from ttc.errors import InputError
from ttc.planning.forecast import Question
from ttc.planning.holding import holding
from ttc.planning.passes import state_bytes, tower_bytes
from ttc.planning.simulation.arrivals import Asks, ClosedLoop, Visit, poisson, read_trace
from ttc.planning.simulation.behaviour import FixedSteps, PublishedSteps, acceptance_for
from ttc.planning.simulation.costs import MachineCosts
from ttc.planning.simulation.figures import Figures, figures
from ttc.planning.simulation.lengths import Lengths
from ttc.planning.simulation.search import Crossing, at_clients, crossing, replicas_for
from ttc.planning.simulation.server import SIMULATED_MODES, Server, in_turn
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.interface.sizes import GPU_SIZES

__all__ = ["ModePlan", "ServicePlan", "ServiceQuestion", "plan_service"]

# Requests of every client where modes are compared.
_REQUESTS_PER_CLIENT = 4
# From here on a mode takes seconds; a process takes one to start. A search simulates the load several times.
_MANY_REQUESTS, _MANY_CLIENT_MINUTES, _SEARCH = 1000, 32, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceQuestion:
    """How a service is used, and what it may do.

    Attributes:
        rate, clients, trace: requests a second at random times, or so many clients that ask again as soon as
            they are answered, or a file of requests; exactly one of the three.
        minutes: how long requests come (a trace has its own time).
        prompt_tokens, answer_tokens: lengths; what a trace says counts instead.
        max_new_tokens: that every request asks for at most.
        row_tokens: that a row may hold, at most; prompts are cut to what `max_new_tokens` leaves.
        modes: to be compared.
        tokens_per_nfe: of the published steps per block; `steps` where all blocks take as many.
        replicas: of the service.
        rows, prompt_budget: rows at once, and prompt tokens read in a tick, of one replica.
        extend_when: full blocks are read when so many rows wait with one; None for a quarter of the rows.
        p95: seconds within which 95 % of the answers are wanted; None where nothing is to be searched.
        efficiency, call_seconds, tick_seconds: as `MachineCosts` has them.
        seed: of all that is drawn.
    """

    rate: float | None = None
    clients: int | None = None
    trace: Path | None = None
    minutes: float = 2.0
    prompt_tokens: Lengths
    answer_tokens: Lengths
    max_new_tokens: int = 1024
    row_tokens: int = 4096
    modes: tuple[str, ...] = ("ar", "diffusion", "lossless")
    tokens_per_nfe: float = 2.65
    steps: int | None = None
    replicas: int = 1
    rows: int = 32
    prompt_budget: int = 1024
    extend_when: int | None = None
    p95: float | None = None
    efficiency: float = 1.0
    call_seconds: float = 0.0
    tick_seconds: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if [self.rate, self.clients, self.trace].count(None) != 2:
            raise InputError("a load is a rate, a number of clients, or a trace: give one of them")
        if unknown := [mode for mode in self.modes if mode not in SIMULATED_MODES]:
            raise InputError(f"mode {unknown[0]!r}; valid: {', '.join(SIMULATED_MODES)}")
        if self.p95 is not None and self.clients is not None:
            raise InputError("p95 is asked of a rate or a trace")
        for name, value, low, high in (
            ("rate", self.rate, 0.0, 1e5),
            ("clients", self.clients, 0.0, 4096),
            ("minutes", self.minutes, 0.0, 1e4),
            ("replicas", self.replicas, 0.0, 4096),
            ("rows", self.rows, 0.0, 4096),
            ("extend-when", self.extend_when, 0.0, 4096),
            ("prompt budget", self.prompt_budget, 0.0, 1e6),
            ("row-tokens", self.row_tokens, 0.0, 1e6),
            ("max-new-tokens", self.max_new_tokens, 0.0, 1e6),
            ("steps", self.steps, 0.0, 512),
            ("p95", self.p95, 0.0, 1e6),
        ):
            if value is not None and not low < value <= high:
                raise InputError(f"{name} is {quoted(value)}; valid: more than 0, up to {high:g}")


@dataclass(frozen=True, slots=True)
class ModePlan:
    """One mode.

    Attributes:
        figures: of the replicas that were asked about.
        replicas, held: the fewest replicas that hold the load within the p95 and their figures; None where
            none was asked for, or none do.
    """

    figures: Figures
    replicas: int | None = None
    held: Figures | None = None


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What was found.

    Attributes:
        gpus_per_replica: 1 where both towers fit on one, 2 with a tower on each.
        requests: that came.
        modes: mode → its plan.
        by_clients: number of clients → mode → figures, of one replica under a closed loop.
        crossings: of every mode beside AR; empty where AR was not asked about.
    """

    gpus_per_replica: int
    requests: int
    modes: Mapping[str, ModePlan]
    by_clients: Mapping[int, Mapping[str, Figures]]
    crossings: tuple[Crossing, ...]


def plan_service(question: Question, asked: ServiceQuestion, workers: int = 1) -> ServicePlan:
    """Simulate everything that is asked for.

    workers: processes at once, where there are several modes and so much to do that it is worth starting
        them. What is found does not depend on it.
    """
    most_tokens = min(asked.row_tokens, question.config.max_position_embeddings)
    server, gpus = _server(question, asked, most_tokens)
    asks = {mode: _asks(asked, mode, most_tokens) for mode in asked.modes}
    visits = {mode: _visits(asked, asks[mode]) for mode in asked.modes}
    counts = [2**power for power in range(asked.rows.bit_length())] if len(asked.modes) > 1 else []
    known: dict[tuple[str, int], Figures] = {}

    def at(mode: str, clients: int) -> Figures:
        if (mode, clients) not in known:
            known[mode, clients] = at_clients(server, asks[mode], clients, _REQUESTS_PER_CLIENT, asked.seed)
        return known[mode, clients]

    if workers > 1 and len(asked.modes) > 1 and _is_much(asked, max(map(len, visits.values()))):
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(asked.modes)), spawn) as pool:
            modes = dict(
                zip(asked.modes, pool.map(partial(_alone, question, asked), asked.modes), strict=True)
            )
    else:
        modes = {mode: _mode(server, asked, asks[mode], visits[mode]) for mode in asked.modes}
    by_clients = {clients: {mode: at(mode, clients) for mode in asked.modes} for clients in counts}
    others = [mode for mode in asked.modes if mode != "ar" and "ar" in asked.modes]
    return ServicePlan(
        gpus,
        modes[asked.modes[0]].figures.requests,
        modes,
        by_clients,
        tuple(crossing(mode, by_clients, at) for mode in others),
    )


def _is_much(asked: ServiceQuestion, requests: int) -> bool:
    """Return whether a mode takes longer than a process needs to start."""
    if asked.clients is not None:
        return asked.clients * asked.minutes >= _MANY_CLIENT_MINUTES
    return requests * (1 if asked.p95 is None else _SEARCH) >= _MANY_REQUESTS


def _alone(question: Question, asked: ServiceQuestion, mode: str) -> ModePlan:
    """Simulate one mode, in a process of its own."""
    most_tokens = min(asked.row_tokens, question.config.max_position_embeddings)
    server, _ = _server(question, asked, most_tokens)
    asks = _asks(asked, mode, most_tokens)
    return _mode(server, asked, asks, _visits(asked, asks))


def _asks(asked: ServiceQuestion, mode: str, most_tokens: int) -> Asks:
    most_prompt = most_tokens - asked.max_new_tokens
    if most_prompt < 1:
        raise InputError(
            f"max-new-tokens is {asked.max_new_tokens}; valid: below what a row may hold, {most_tokens}"
        )
    return Asks(asked.prompt_tokens, asked.answer_tokens, mode, most_prompt, asked.max_new_tokens)


def _visits(asked: ServiceQuestion, asks: Asks) -> list[Visit]:
    """Return the requests of an open load; none of a closed one."""
    if asked.trace is not None:
        # All of them in this mode, so that modes can be compared.
        read = read_trace(asked.trace, asks.mode, asked.seed)
        return [dataclasses.replace(visit, mode=asks.mode) for visit in read]
    if asked.rate is None:
        return []
    visits = poisson(asked.rate, 60 * asked.minutes, asked.seed, asks)
    if not visits:
        raise InputError(
            f"no request comes within {asked.minutes:g} minutes at {asked.rate:g} a second; ask for more"
        )
    return visits


def _mode(server: Server, asked: ServiceQuestion, asks: Asks, visits: Sequence[Visit]) -> ModePlan:
    if asked.clients is not None:
        counts = [len(range(i, asked.clients, asked.replicas)) for i in range(asked.replicas)]
        # Replicas draw their requests with seeds of their own.
        loads = [
            ClosedLoop(count, partial(_visit, asks, asked.seed + i), 60 * asked.minutes)
            for i, count in enumerate(counts)
        ]
        return ModePlan(figures([server.simulate(load) for load in loads]))
    found = figures(in_turn(server, visits, asked.replicas))
    held = None if asked.p95 is None else replicas_for(server, visits, asked.p95, {asked.replicas: found})
    return ModePlan(found) if held is None else ModePlan(found, *held)


def _visit(asks: Asks, seed: int, number: int, at: float) -> Visit:
    return asks.visit(number, at, seed)


def _server(question: Question, asked: ServiceQuestion, most_tokens: int) -> tuple[Server, int]:
    """Return one replica whose rows hold so many tokens, and its GPUs.

    Raises:
        InputError: the weights of a tower, or the states of the rows, do not fit.
    """
    config, machine = question.config, question.machine
    towers = tower_bytes(config, question.itemsize, question.formats)
    (held,) = holding({"it": machine}, towers.values())
    if held.holds == "none":
        raise InputError(
            f"a tower of {max(towers.values()) / 1e9:.1f} GB does not fit {machine.name}; "
            "take another --gpu, or --experts in a smaller format"
        )
    capacity = min(GPU_SIZES.bucket(most_tokens), config.max_position_embeddings)
    states = state_bytes(config, asked.rows, capacity, question.itemsize)
    if states > held.left_bytes:
        raise InputError(
            f"{asked.rows} rows of {capacity} tokens need {states / 1e9:.1f} GB, {held.left_bytes / 1e9:.1f} "
            f"GB are left beside the weights on {machine.name}; take fewer rows, shorter prompts, or "
            "--experts in a smaller format"
        )
    block, drafts = question.block_size, question.draft_steps
    if drafts != round(drafts) or not 1 <= drafts <= block:
        raise InputError(f"draft-steps is {drafts:g}; valid in a simulation: an integer from 1 to {block}")
    steps = PublishedSteps(asked.tokens_per_nfe, block) if asked.steps is None else FixedSteps(asked.steps)
    return Server(
        config=config,
        costs=MachineCosts(question, asked.efficiency, asked.call_seconds, asked.tick_seconds),
        limits=CoreLimits(asked.rows, None, asked.prompt_budget, extend_when=asked.extend_when),
        chunk=GPU_SIZES.chunk,
        most_tokens=most_tokens,
        max_new_tokens=asked.max_new_tokens,
        steps=steps,
        block_size=block,
        draft_steps=int(drafts),
        acceptance=acceptance_for(question.accepted, block - 1) if block > 1 else 0.0,
    ), 1 if held.holds == "both" else 2
