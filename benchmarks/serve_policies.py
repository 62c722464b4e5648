"""The scheduler's policy, tried on the simulated service of `ttc plan --serve`: nothing here is measured.

    python -m benchmarks.serve_policies            three tables in Markdown, as docs/plan.md shows them

The released model on one H200, floors of every call, 200 µs of the host a tick; diffusion with the published
steps per block; prompts of 512 tokens in the middle, answers of 200 on average.

- *extension*: 32 clients that ask again at once. Full blocks are read at once, or when k rows wait with one;
  rows sit in a state per capacity, as the core seats them on a CPU, or in one that they share, as on a GPU.
- *prompts*: 4 requests a second of AR, prompts of 2048 tokens in the middle: prompt tokens read in a tick.
- *fairness*: one owner sends 100 requests of 1024 tokens, and a second later another sends 10 of 64: as if
  they were nobody's, with the core's turns of the owners, and with a bound on the rows of an owner.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from ttc.model.config import ModelConfig
from ttc.planning.forecast import Question
from ttc.planning.machines import load_machine
from ttc.planning.models import released_config
from ttc.planning.simulation.arrivals import Asks, ClosedLoop, OpenLoad, Visit, poisson
from ttc.planning.simulation.behaviour import PublishedSteps
from ttc.planning.simulation.costs import MachineCosts
from ttc.planning.simulation.drive import Served
from ttc.planning.simulation.figures import figures, percentile
from ttc.planning.simulation.lengths import Lengths
from ttc.planning.simulation.server import Server
from ttc.runtime.decoding.plan import CoreLimits

ROWS, NEW, ROOM, CLIENTS = 32, 1024, 4096, 32
REQUESTS, SECONDS = 160, 40.0
LONG, SHORT = 1024, 64
_SAID = {1: "at once", None: "when a quarter of the rows wait"}


def main() -> None:
    """Print the tables."""
    question = Question(ModelConfig.from_hf(released_config()), load_machine("h200"))
    server = Server(
        question.config,
        MachineCosts(question, tick_seconds=200e-6),
        CoreLimits(ROWS, None, 1024, extend_when=None),
        64,
        ROOM,
        NEW,
        PublishedSteps(2.65),
    )
    for head, rows in (
        (("blocks are read", "states", "tokens/s", "first block p95, s", "answer p95, s"), extension(server)),
        (("prompt tokens a tick", "tokens/s", "first token p95, s", "answer p95, s"), prompts(server)),
        (("admitted", "short answers p95, s", "over alone", "long answers p95, s"), fairness(server)),
    ):
        print("\n".join(table(head, list(rows))) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Give the lines of a table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(row) + " |"


def extension(server: Server) -> Iterator[tuple[str, ...]]:
    """When full blocks are read."""
    asks = Asks(Lengths.parse("lognormal:512,0.7"), Lengths.parse("exp:200"), "diffusion", ROOM - NEW, NEW)
    for shares in (False, True):
        for count in (1, 2, 4, 8, 16, None):
            limits = dataclasses.replace(server.limits, extend_when=count)
            tried = dataclasses.replace(server, shares_state=shares, limits=limits)
            load = ClosedLoop(CLIENTS, lambda number, at: asks.visit(number, at, 0), most=REQUESTS)
            found = figures([tried.simulate(load)])
            yield (
                _SAID.get(count, f"when {count} wait"),
                "shared" if shares else "per capacity",
                f"{found.tokens_per_second:.0f}",
                f"{found.first_p95:.2f}",
                f"{found.whole_p95:.2f}",
            )


def prompts(server: Server) -> Iterator[tuple[str, ...]]:
    """How much of the prompts is read in a tick."""
    asks = Asks(Lengths.parse("lognormal:2048,0.5"), Lengths.parse("exp:200"), "ar", ROOM - NEW, NEW)
    visits = poisson(4.0, SECONDS, 0, asks)
    for budget in (64, 256, 1024, 4096):
        tried = dataclasses.replace(server, limits=dataclasses.replace(server.limits, prompt_tokens=budget))
        found = figures([tried.simulate(OpenLoad(visits))])
        yield (
            str(budget),
            f"{found.tokens_per_second:.0f}",
            f"{found.first_p95:.2f}",
            f"{found.whole_p95:.2f}",
        )


def fairness(server: Server) -> Iterator[tuple[str, ...]]:
    """Who is admitted."""
    long = [Visit(0.0, 512, LONG, "diffusion", i, "long") for i in range(100)]
    short = [Visit(1.0, 512, SHORT, "diffusion", 100 + i, "short") for i in range(10)]
    nobodys = [dataclasses.replace(visit, owner="") for visit in (*long, *short)]
    for name, visits, most in (
        ("in order of arrival", nobodys, None),
        ("owners share alike", [*long, *short], None),
        ("at most 24 rows an owner", [*long, *short], 24),
        ("at most 16 rows an owner", [*long, *short], 16),
    ):
        limits = dataclasses.replace(server.limits, owner_rows=most)
        tried = dataclasses.replace(server, limits=limits)
        alone = p95_of(tried.simulate(OpenLoad(short)).served, SHORT)
        served = tried.simulate(OpenLoad(visits)).served
        mine = p95_of(served, SHORT)
        yield name, f"{mine:.2f}", f"{mine / alone:.1f}", f"{p95_of(served, LONG):.2f}"


def p95_of(served: Sequence[Served], answer_tokens: int) -> float:
    """Return the p95 of the answers of this length."""
    return percentile(
        [one.ended - one.visit.at for one in served if one.visit.answer_tokens == answer_tokens], 95
    )


if __name__ == "__main__":
    main()
