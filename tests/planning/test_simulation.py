"""Parts of the simulated service: what is drawn, what calls cost, what comes of a load."""

import dataclasses
import random
from collections import Counter

import pytest

from ttc.errors import InputError
from ttc.model.config import ModelConfig
from ttc.planning.forecast import Question, forecast
from ttc.planning.machines import Machine
from ttc.planning.models import released_config
from ttc.planning.simulation.arrivals import (
    Asks,
    ClosedLoop,
    OpenLoad,
    Visit,
    poisson,
    read_trace,
)
from ttc.planning.simulation.behaviour import Drawn, FixedSteps, MeasuredSteps, PublishedSteps, acceptance_for
from ttc.planning.simulation.costs import CallShape, MachineCosts, MeasuredCosts
from ttc.planning.simulation.figures import figures, percentile
from ttc.planning.simulation.lengths import Lengths
from ttc.planning.simulation.recording import Recorder
from ttc.planning.simulation.search import at_clients, crossing, replicas_for
from ttc.planning.simulation.server import Server, Simulation, in_turn
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.plan import CoreLimits

REAL = ModelConfig.from_hf(released_config())
QUESTION = Question(REAL, Machine("round numbers", 1e12, 1e14, 2e11, "made up"))
# A second a call, whatever it is: time is then a count of calls.
SECOND = MeasuredCosts(
    {
        ("denoise", 1, False): {1: 1.0},
        ("denoise", 16, True): {1: 1.0},
        ("read", 16, False): {1: 1.0},
        ("read", 16, True): {1: 1.0},
        ("advance", 0, False): {1: 0.0},
    },
    {1: 0.0},
)


def server(**changed):
    """A replica of four rows, every call a second."""
    plain = Server(REAL, SECOND, CoreLimits(4, None, 64), 64, 1024, 512, FixedSteps(4))
    return dataclasses.replace(plain, **changed)


def visits(count, mode="diffusion", prompt=16, answer=64, apart=0.0, owner=""):
    return [Visit(i * apart, prompt, answer, mode, i, owner) for i in range(count)]


def served(done):
    """What became of the requests, in the order of their seeds."""
    return sorted(done.served, key=lambda one: one.visit.seed)


def test_an_answer_takes_the_calls_that_it_must() -> None:
    # The prompt, four blocks of four steps; each but the last is read.
    (one,) = server().simulate(OpenLoad(visits(1))).served
    assert (one.tokens, one.nfe) == (64, 16)
    # The first tokens come with the first full block, at the end of a tick that also reads it.
    assert (one.began, one.ended) == (1 + 4 + 1, 1 + 16 + 3)
    # AR: the prompt brings the first token; 63 more.
    (one,) = server().simulate(OpenLoad(visits(1, "ar"))).served
    assert (one.tokens, one.nfe, one.began, one.ended) == (64, 0, 1, 64)


def test_a_lossless_round_takes_its_drafts_and_a_verification() -> None:
    (one,) = server(acceptance=1.0).simulate(OpenLoad(visits(1, "lossless", answer=33))).served
    # The prompt's token, and two rounds of 15 accepted tokens and AR's own.
    assert (one.tokens, one.nfe, one.ended) == (33, 2 * 2, 1 + 2 * (2 + 1))
    (one,) = server(acceptance=0.0).simulate(OpenLoad(visits(1, "lossless", answer=4))).served
    assert (one.tokens, one.nfe, one.ended) == (4, 3 * 2, 1 + 3 * (2 + 1))


@pytest.mark.parametrize("mode", ["ar", "diffusion", "lossless", "mock-ar"])
def test_what_a_request_needs_does_not_depend_on_its_company(mode: str) -> None:
    asks = Asks(Lengths.parse("1-200"), Lengths.parse("exp:60"), mode, 400, 512)
    asked = poisson(0.05, 400.0, 5, asks)
    drawn = server(steps=PublishedSteps(2.65), acceptance=0.8)
    together = served(drawn.simulate(OpenLoad(asked)))
    alone = [drawn.simulate(OpenLoad([visit])).served[0] for visit in asked]
    assert [(one.tokens, one.nfe) for one in together] == [(one.tokens, one.nfe) for one in alone]
    assert [one.tokens for one in together] == [visit.answer_tokens for visit in asked]
    assert together == served(drawn.simulate(OpenLoad(asked)))
    assert max(one.ended - one.visit.at for one in together) > max(one.ended - one.visit.at for one in alone)


def test_rows_wait_for_each_other() -> None:
    done = server().simulate(OpenLoad(visits(8)))
    first = served(done)
    assert {one.ended for one in first[:4]} == {20.0}
    assert {one.ended for one in first[4:]} == {40.0}
    assert (done.most_rows, done.most_queue, done.seconds) == (4, 8, 40.0)
    assert done.row_seconds == 4 * 40
    assert done.queue_seconds == 4 * 20
    found = figures([done])
    assert (found.tokens_per_second, found.whole_p50, found.whole_p95) == (8 * 64 / 40, 20.0, 40.0)
    assert found.tokens_per_nfe == 4


def test_published_steps_have_their_mean() -> None:
    for rate in (1.4, 2.65, 8.0):
        drawn = [
            PublishedSteps(rate).draw(random.Random(seed * 13 + block), block, 13)
            for seed in range(300)
            for block in range(13)
        ]
        assert 16 * len(drawn) / sum(drawn) == pytest.approx(rate, rel=0.02)
        assert set(drawn) <= {2, 10, 11, 12, 13}
    first = [PublishedSteps(2.65).draw(random.Random(seed), 0, 13) for seed in range(50)]
    assert min(first) >= 10, "blocks at the beginning are the slow ones"
    with pytest.raises(InputError, match=r"12 tokens per NFE .* valid .* 1.39 to 8.00"):
        PublishedSteps(12.0)


def test_measured_steps_are_those_of_their_block() -> None:
    measured, rng = MeasuredSteps(({9: 3, 7: 1}, {2: 5})), random.Random(0)
    drawn = Counter(measured.draw(rng, 0, 4) for _ in range(4000))
    assert drawn[9] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {measured.draw(rng, block, 4) for block in (1, 2, 3)} == {2}


def test_a_block_takes_the_steps_that_were_drawn() -> None:
    for steps in range(1, 17):
        masked, taken = 16, 0
        drawn = Drawn(0, 16, 16, FixedSteps(steps), 0.0)
        while masked:
            masked -= drawn.commits(0, taken, masked, 16 - taken)
            taken += 1
        assert taken == steps
    assert Drawn(0, 16, 16, FixedSteps(9), 0.0).commits(0, 0, 16, 1) == 16, "the limit is the request's"


def test_accepted_drafts_have_their_mean() -> None:
    rate = acceptance_for(8.0, 15)
    drawn = Drawn(1, 16, 16, None, rate)
    kept = [1 + drawn.accepts(15) for _ in range(4000)]
    assert sum(kept) / len(kept) == pytest.approx(8.0, rel=0.03)
    with pytest.raises(InputError, match="valid: 1 to 16"):
        acceptance_for(16.5, 15)


@pytest.mark.parametrize(
    ("text", "mean"), [("7", 7), ("10-20", 15), ("exp:50", 50), ("lognormal:40,0.5", 45.3)]
)
def test_lengths_have_their_mean(text: str, mean: float) -> None:
    rng, lengths = random.Random(0), Lengths.parse(text)
    drawn = [lengths.draw(rng, 10_000) for _ in range(8000)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.03)
    assert min(drawn) >= 1
    assert max(Lengths.parse(text).draw(rng, 5) for _ in range(50)) <= 5


@pytest.mark.parametrize("text", ["", "0", "9-3", "exp:", "exp:0", "lognormal:5", "gamma:3", "x", "exp:nan"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="valid: N, A-B"):
        Lengths.parse(text)


def test_requests_come_as_asked(tmp_path) -> None:
    asks = Asks(Lengths.parse("9"), Lengths.parse("5"), "ar", 100, 100)
    assert len(poisson(20.0, 100.0, 0, asks)) == pytest.approx(2000, abs=150)
    done = server().simulate(ClosedLoop(3, lambda number, at: asks.visit(number, at, 0), most=10))
    assert len(done.served) == 10
    assert done.most_rows == 3
    until = server().simulate(ClosedLoop(3, lambda number, at: asks.visit(number, at, 0), seconds=12.0))
    assert Counter(one.visit.at for one in until.served) == {0.0: 3, 5.0: 3, 10.0: 3}
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at_seconds": 2, "prompt_tokens": 3, "answer_tokens": 4, "owner": "x"}\n')
    assert read_trace(trace, "ar", 0) == [Visit(2.0, 3, 4, "ar", 0, "x")]
    for wrong, said in (
        ("[]", "valid: a JSON object"),
        ('{"at_seconds": -1, "prompt_tokens": 3, "answer_tokens": 4}', "at_seconds from 0"),
        ('{"at_seconds": 1, "prompt_tokens": true, "answer_tokens": 4}', "tokens from 1"),
        ('{"at": 1}', "unknown key 'at'"),
        ("{", "line 1"),
        ("", "is empty"),
    ):
        trace.write_text(wrong)
        with pytest.raises(InputError, match=said):
            read_trace(trace, "ar", 0)


def test_a_machines_calls_cost_what_its_passes_do() -> None:
    found = forecast(QUESTION, 8, [])
    costs = MachineCosts(QUESTION, efficiency=0.5, call_seconds=0.25)
    for shape, one in (
        (CallShape("denoise", 8, 16, 1024, 16), found.nfe),
        (CallShape("read", 8, 16, 1024, 0), found.extension),
        (CallShape("read", 8, 16, 1024, 16), found.verification),
        (CallShape("read", 8, 1, 1024, 1), found.ar_step),
    ):
        assert costs.call(shape) == pytest.approx(0.25 + 2 * one.seconds)
    assert costs.call(CallShape("advance", 8, 0, 1024, 0)) == 0.25
    with pytest.raises(InputError, match="efficiency is 2"):
        MachineCosts(QUESTION, efficiency=2.0)


def test_measured_calls_lie_on_lines() -> None:
    costs = MeasuredCosts({("read", 1, False): {1: 1.0, 4: 4.0, 8: 6.0}, ("read", 16, False): {1: 16.0}}, {})
    seconds = {rows: costs.call(CallShape("read", rows, 1, 128, 1)) for rows in (1, 2, 6, 10)}
    assert seconds == pytest.approx({1: 1.0, 2: 2.0, 6: 5.0, 10: 7.0})
    assert costs.call(CallShape("read", 1, 8, 128, 0)) == pytest.approx(8.0)
    assert costs.call(CallShape("read", 4, 16, 128, 0)) == pytest.approx(4.0), "no row but one is known at 16"
    with pytest.raises(InputError, match="no call like"):
        costs.call(CallShape("denoise", 1, 16, 128, 16))


@pytest.mark.parametrize("when", [3, None])
def test_waiting_blocks_are_read_together(when) -> None:
    """As many blocks, in fewer calls; for None of a quarter, here of up to twelve rows."""

    def blocks_in_calls(limits):
        simulation = Simulation(server(limits=limits, steps=PublishedSteps(4.0)))
        recorder = Recorder(simulation.device)
        simulation.core = Core(recorder, simulation.modes, limits, 64)
        simulation.run(OpenLoad(visits(24, apart=3.0)))
        return [
            len(call.ids) for call in recorder.calls if (call.shape.kind, call.shape.logits) == ("read", 0)
        ]

    limits = CoreLimits(12, None, 64)
    at_once, together = (blocks_in_calls(dataclasses.replace(limits, extend_when=each)) for each in (1, when))
    assert sum(together) == sum(at_once)
    assert len(together) < len(at_once)


def test_owners_share_alike() -> None:
    """The core's own rule: a load of many requests does not keep an owner of few waiting."""
    busy = visits(40, answer=256, owner="long")
    few = [dataclasses.replace(v, at=1.0, seed=v.seed + 40, owner="short") for v in visits(4, answer=16)]
    nobodys = [dataclasses.replace(v, owner="") for v in (*busy, *few)]
    bound = server(limits=CoreLimits(4, None, 64, owner_rows=2))
    late, soon, bounded = (
        max(one.ended for one in run.simulate(OpenLoad(asked)).served if one.visit.answer_tokens == 16)
        for run, asked in ((server(), nobodys), (server(), [*busy, *few]), (bound, [*busy, *few]))
    )
    assert bounded < soon < late / 3


def test_the_fewest_replicas_that_hold_a_load() -> None:
    asked = visits(40, apart=2.0)
    replicas, held = replicas_for(server(), asked, 30.0)
    assert held.whole_p95 <= 30
    assert replicas > 1
    assert figures(in_turn(server(), asked, replicas - 1)).whole_p95 > 30
    assert figures(in_turn(server(), asked, replicas)) == held
    assert replicas_for(server(), asked, 19.0) is None, "one alone takes 20"


def test_where_a_mode_overtakes_ar() -> None:
    # An AR call costs as much as its rows, a denoise step costs the same for all.
    costs = MeasuredCosts(
        {
            ("read", 1, False): {1: 1.0, 2: 2.0},
            ("read", 16, False): {1: 4.0},
            ("denoise", 16, True): {1: 8.0},
        },
        {1: 0.0},
    )
    asks = {
        mode: Asks(Lengths.parse("16"), Lengths.parse("64"), mode, 100, 512) for mode in ("ar", "diffusion")
    }
    replica = server(costs=costs, limits=CoreLimits(16, None, 4096))

    def at(mode, clients):
        return at_clients(replica, asks[mode], clients, 3, 0)

    looked_at = {clients: {mode: at(mode, clients) for mode in asks} for clients in (1, 4, 16)}
    found = crossing("diffusion", looked_at, at)
    assert found.first is not None
    assert 1 < found.first < 16
    assert at("diffusion", found.first).tokens_per_second > at("ar", found.first).tokens_per_second
    before = found.first - 1
    assert at("diffusion", before).tokens_per_second <= at("ar", before).tokens_per_second
    only_low = {1: looked_at[1]}
    assert crossing("diffusion", only_low, at).first is None


def test_percentiles() -> None:
    values = list(range(1, 101))
    assert (percentile(values, 50), percentile(values, 95), percentile([3.0], 95)) == (50, 95, 3.0)
    assert percentile([], 95) == 0.0


def test_requests_that_cannot_be_simulated() -> None:
    with pytest.raises(InputError, match="mode 'prompt-lookup' cannot be simulated"):
        server().simulate(OpenLoad(visits(1, "prompt-lookup")))
    with pytest.raises(InputError, match="a row may hold 1024"):
        server().simulate(OpenLoad(visits(1, prompt=600)))
