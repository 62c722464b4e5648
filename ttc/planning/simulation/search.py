"""How many replicas hold a load, and from how many clients on which mode is ahead."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ttc.planning.simulation.arrivals import Asks, ClosedLoop, Visit
from ttc.planning.simulation.figures import Figures, figures
from ttc.planning.simulation.server import Server, in_turn

__all__ = ["Crossing", "at_clients", "crossing", "replicas_for"]

_MOST_REPLICAS = 4096


def replicas_for(
    server: Server, visits: Sequence[Visit], p95: float, known: Mapping[int, Figures] | None = None
) -> tuple[int, Figures] | None:
    """Return the smallest number of replicas, and their figures, with which 95 % of the answers take at most
    `p95` seconds; None where even a replica for every request does not.

    The replicas get the requests in turn. More of them are taken to be never slower.

    known: number of replicas → their figures, as far as they have been simulated.
    """
    tried = dict(known or {})

    def holds(replicas: int) -> bool:
        if replicas not in tried:
            tried[replicas] = figures(in_turn(server, visits, replicas))
        return tried[replicas].whole_p95 <= p95 and not tried[replicas].failed

    most = min(len(visits), _MOST_REPLICAS)
    low, high = 0, 1
    while not holds(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high, tried[high]


def at_clients(server: Server, asks: Asks, clients: int, requests: int, seed: int) -> Figures:
    """Return the figures of one replica whose clients ask again as soon as they are answered.

    requests: of every client, on average.
    """
    load = ClosedLoop(
        clients, lambda number, at: asks.visit(number, at, seed), most=float(clients * requests)
    )
    return figures([server.simulate(load)])


@dataclass(frozen=True, slots=True)
class Crossing:
    """From `first` clients on, up to the most that were looked at, a mode gives more tokens a second than AR;
    None: at none of the numbers that were looked at.
    """

    mode: str
    first: int | None


def crossing(
    mode: str, by_clients: Mapping[int, Mapping[str, Figures]], at: Callable[[str, int], Figures]
) -> Crossing:
    """Find where a mode overtakes AR for good.

    Args:
        mode: another than AR.
        by_clients: number of clients → mode → figures.
        at: mode and number of clients → figures.
    """
    looked_at = sorted(by_clients)
    ahead = [n for n in looked_at if _ahead(by_clients[n][mode], by_clients[n]["ar"])]
    high = None
    for n in reversed(looked_at):
        if n not in ahead:
            break
        high = n
    if high is None:
        return Crossing(mode, None)
    low = max((n for n in looked_at if n < high), default=0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _ahead(at(mode, middle), at("ar", middle)) else (middle, high)
    return Crossing(mode, high)


def _ahead(one: Figures, other: Figures) -> bool:
    return one.tokens_per_second > other.tokens_per_second
