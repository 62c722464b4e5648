"""Requests of all modes on both sides of the capacities, served by one core."""

import random
from collections.abc import Sequence
from typing import Any

from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.device import BackendDevice
from ttc.runtime.decoding.modes.table import ModeTable
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.policy import DraftPolicies
from ttc.runtime.interface.backend import Backend
from ttc.runtime.requests import RequestReader

# On both sides of 128 and of 256 tokens; those below a bound grow beyond it while they write.
PROMPTS = (5, 119, 150, 250)
ROOM = 1024

Asked = tuple[list[int], dict[str, Any]]


def of_all_lengths(vocab: int, modes: Sequence[str], prompts: Sequence[int] = PROMPTS) -> list[Asked]:
    """A request of every mode at every length of prompt."""
    rng = random.Random(5)
    return [
        (
            [rng.randrange(4, vocab) for _ in range(length)],
            {
                "mode": mode,
                "max_new_tokens": rng.randint(9, 16),
                "temperature": rng.choice([0.0, 0.8]),
                "seed": rng.randrange(99),
                "stop_at_eos": False,
            }
            | ({"draft_steps": 2} if mode == "lossless" else {}),
        )
        for length in prompts
        for mode in modes
    ]


def serve_all(backend: Backend, asked: Sequence[Asked], chunk: int = 64) -> tuple[list[Row], BackendDevice]:
    """Serve the requests, four more in each tick; return their rows, and the device that was asked."""
    device = BackendDevice(backend, ROOM)
    table = ModeTable(backend, DraftPolicies(backend, ROOM).policy, ROOM)
    core = Core(device, table, CoreLimits(16, None, 256), chunk)
    reader = RequestReader(backend, None, ROOM)
    requests = [
        reader.read(prompt, None, options, None, device.clock.now, streams=False).rows[0].request
        for prompt, options in asked
    ]
    rows: list[Row] = []
    for _ in range(1000):
        rows += [core.submit(each) for each in requests[len(rows) : len(rows) + 4]]
        core.tick()
        if len(rows) == len(requests) and core.idle:
            return rows, device
    raise AssertionError("some row never ended")
