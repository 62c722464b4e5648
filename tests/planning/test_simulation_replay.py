"""A recorded load of the real core, replayed by a simulation: the same calls, tick by tick."""

import contextlib
import random

import pytest

from ttc.errors import InputError
from ttc.planning.simulation.arrivals import OpenLoad, Visit
from ttc.planning.simulation.behaviour import FixedSteps
from ttc.planning.simulation.drive import drive
from ttc.planning.simulation.recording import RecordedCosts, Recorder
from ttc.planning.simulation.server import Server, Simulation
from ttc.runtime.decoding.clock import VirtualClock
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.device import BackendDevice
from ttc.runtime.decoding.modes.table import ModeTable
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.speculative.policy import FixedPolicy
from ttc.runtime.requests import RequestReader

ROOM, CHUNK, LIMITS = 512, 16, CoreLimits(5, 900, 24)


@pytest.fixture(scope="module")
def load(engines):
    """Requests of all modes that can be simulated, and when they come."""
    engine = engines("miniature", "onnxruntime", None)
    reader, rng = RequestReader(engine.runner, engine.tokenizer, ROOM), random.Random(3)
    requests, visits, at = [], [], 0.0
    for number in range(16):
        mode = rng.choice(["diffusion", "diffusion", "ar", "lossless", "mock-ar"])
        prompt = [rng.randrange(4, 300) for _ in range(rng.randint(2, 90))]
        asked = {
            "mode": mode,
            "max_new_tokens": rng.randint(1, 40),
            "temperature": rng.choice([0.0, 0.9]),
            "seed": number,
            "stop_at_eos": rng.random() < 0.7,
        }
        if mode in ("diffusion", "lossless"):
            asked |= {"threshold": rng.choice([0.3, 0.7, 0.99]), "steps": rng.randint(2, 16)}
        if mode == "lossless":
            asked["draft_steps"] = 2
        read = reader.read(prompt, None, asked, None, lambda: 0.0, streams=False)
        requests.append(read.rows[0].request)
        at += rng.expovariate(1000)  # far sooner than one takes, on any machine: rows share calls
        visits.append(Visit(at, len(prompt), 1, mode, number))
    return engine, requests, visits


@pytest.fixture(scope="module")
def recorded(load):
    """The load, run: a clock that runs by what the backend's calls take."""
    engine, requests, visits = load
    clock = VirtualClock()
    recorder = Recorder(BackendDevice(engine.runner, ROOM), clock)
    modes = ModeTable(engine.runner, lambda options: FixedPolicy(options.draft_steps), ROOM)
    core, rows = Core(recorder, modes, LIMITS, CHUNK), []

    def submit(visit):
        rows.append(core.submit(requests[visit.seed]))
        return rows[-1]

    span = drive(core, OpenLoad(visits), submit, lambda until: clock.advance(until - clock.now()))
    return recorder, rows, span


def replay(load, recorded, limits=LIMITS):
    """Simulate the recorded load."""
    engine, requests, visits = load
    recorder, rows, _ = recorded
    did = recorder.close(rows)
    costs = RecordedCosts(recorder.calls)
    simulation = Simulation(
        Server(engine.config, costs, limits, CHUNK, ROOM, ROOM, FixedSteps(16), gpu=False, shares_state=False)
    )
    again, made = Recorder(simulation.device), []
    core = Core(again, simulation.modes, limits, CHUNK)

    def submit(visit):
        row = core.submit(requests[visit.seed])
        simulation.device.behaviours[row.id] = did[row.id]
        made.append(row)
        return row

    clock = simulation.device.clock
    span = None
    with contextlib.suppress(InputError):  # more calls than were recorded
        span = drive(core, OpenLoad(visits), submit, lambda until: clock.advance(until - clock.now()))
    return again, made, span


def calls_of(recorder):
    return [(call.tick, call.ids, call.shape) for call in recorder.calls]


def test_a_replayed_load_makes_the_real_cores_calls(load, recorded):
    recorder, rows, span = recorded
    again, made, other = replay(load, recorded)
    assert len({call.shape.kind for call in recorder.calls}) == 3
    assert max(len(call.ids) for call in recorder.calls) > 1
    assert calls_of(again) == calls_of(recorder)
    for row, one in zip(rows, made, strict=True):
        assert (len(one.tokens), one.finish_reason, one.nfe_per_block) == (
            len(row.tokens),
            row.finish_reason if row.finish_reason != "stop" else "eos",
            row.nfe_per_block,
        )
    assert other.seconds == pytest.approx(span.seconds)
    assert other.ticks == span.ticks


def test_other_limits_make_other_calls(load, recorded):
    again, _, _ = replay(load, recorded, CoreLimits(4, 900, 24))
    assert calls_of(again) != calls_of(recorded[0])
